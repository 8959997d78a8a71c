/*
 * Who else can be there while members leave:
 *
 *   A fork. The child of an adopted member gets its table, and that it leaves, from its parent under the parent's layout lock, and is newborn before
 *   that lock is dropped; its process is found by the sentinel as always and leaves because its memory does. The child of one that is not adopted
 *   leaves because it is found below a member that leaves. So when, in one step, all tables are empty, no address space that leaves is on the
 *   list, there is no newborn, and no process that leaves is under a userfaultfd, nothing of ours is in any of them or in what they
 *   fork from then on: the children of one that has departed are not looked for. A child whose parent is not adopted and ends before
 *   anybody saw it stays behind where the keeper is its reaper.
 *
 *   Exit and exec: the memory is gone and its address space is buried as always; the process, if there still is one, leaves with its new memory.
 *
 *   An eviction that has begun before: what it takes is brought back in a later step, because letting go refuses as long as a page is out.
 *
 *   The keeper is killed: until a process has departed the guardian knows it, by its pidfd, and kills it. Its pages are in a file that nobody reads any
 *   more, so that is all that can be done.
 *
 *   A second request for the same process: -EBUSY while it leaves, -ESRCH afterwards.
 */
#include "container/leave.h"

#include <errno.h>

#include "base/log.h"
#include "container/bring_back.h"
#include "container/container.h"
#include "container/release.h"
#include "container/squeeze.h"
#include "platform/process.h"

/* A member leaves with its memory, and the other way round: each may be the first that is known to. */
static void mark_spaces(struct container *c)
{
	for (uint32_t i = 0; i < c->members.nr; i++) {
		struct member *member = &c->members.items[i];
		struct address_space *as = container_space_of(c, member);
		if (!as || member->leaves == atomic_load(&as->leaves))
			continue;
		lock_take(&c->members.lock); /* the reclaim thread looks at it */
		member->leaves = true;
		lock_drop(&c->members.lock);
		lock_take(&as->layout); /* a fork copies it */
		atomic_store(&as->leaves, true);
		lock_drop(&as->layout);
	}
}

static void unmark_spaces(struct container *c)
{
	for (struct address_space *as = c->spaces; as; as = as->next) {
		lock_take(&as->layout);
		atomic_store(&as->leaves, false);
		lock_drop(&as->layout);
	}
}

static void end_leaving(struct container *c)
{
	members_stay(&c->members);
	unmark_spaces(c);
	container_upkeep(c); /* newborn ones have it from a parent that was still marked */
	unmark_spaces(c);
	bring_back_free(c->leave);
	c->leave = NULL;
}

static bool is_busy(const struct container *c)
{
	return c->leave || container_is_releasing(c) || atomic_load(&c->killed) || c->swapoff || c->parking != PARKING_NOT ||
	       atomic_load(&c->squeeze_to) != NO_SQUEEZE;
}

int container_leave_begin(struct container *c, pid_t pid)
{
	if (is_busy(c))
		return -EBUSY;
	if (c->isolation.init)
		return -EXDEV;
	container_refresh_members(c);
	container_upkeep(c);
	if (!members_find(&c->members, pid))
		return -ESRCH;
	int r = bring_back_new(c, true, &c->leave);
	if (r < 0)
		return r;
	members_leave(&c->members, pid);
	mark_spaces(c);
	if (!release_has_room(bring_back_left(c, true))) {
		end_leaving(c);
		return -ENOMEM;
	}
	pager_wake(&c->pager); /* faults that wait for room */
	return 0;
}

/* True when no address space that leaves is left on the list. */
static bool let_spaces_go(struct container *c)
{
	bool all = true;
	for (struct address_space *as = c->spaces, *next; as; as = next) {
		next = as->next;
		if (atomic_load(&as->leaves))
			all &= release_let_go(c, as);
	}
	return all && !atomic_load(&c->newborn);
}

/* Nothing of ours is in it. A task on its way out cannot be asked: its end is waited for. */
static bool is_clean(const struct member *member)
{
	return (member->pidfd >= 0 && pidfd_has_exited(member->pidfd)) || !address_space_is_inherited(member->task);
}

static bool processes_are_clean(struct container *c)
{
	for (uint32_t i = 0; i < c->members.nr; i++)
		if (c->members.items[i].leaves && !is_clean(&c->members.items[i]))
			return false;
	return world_collect_late() == 0; /* nobody is traced any more */
}

/* What is shown as the first process of an attached container is one of those that are left. One that `run` has started stays its program. */
static void depart(struct container *c)
{
	for (uint32_t i = 0; i < c->members.nr; i++)
		if (c->members.items[i].leaves)
			backstop_leave(&c->backstop, c->members.items[i].pid);
	int n = members_depart(&c->members);
	if (n < 0)
		return;
	log_debug("%d processes have left container %s", n, c->config->name);
	if (c->config->attach && c->members.nr && !members_find(&c->members, c->program))
		c->program = c->members.items[0].pid;
	end_leaving(c);
}

int container_leave_step(struct container *c)
{
	uint64_t left;
	if (!c->leave)
		return 0;
	container_refresh_members(c);
	container_upkeep(c);
	mark_spaces(c);
	if (bring_back_step(c->leave, &left) == 0 && let_spaces_go(c) && processes_are_clean(c))
		depart(c);
	return c->leave ? -EINPROGRESS : 0;
}
