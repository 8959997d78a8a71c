/*
 * Which members are adopted when, and what becomes of their address spaces when they fork, exec and end. Container thread: it is the
 * only one that uses ptrace.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "container/traced.h"
#include "inject/ward.h"
#include "pager/writeback.h"
#include "platform/process.h"

#define SHORTAGES_MAX 100

bool container_is_agent(pid_t pid, void *context)
{
	struct container *c = context;
	bool found = pid == c->isolation.init || pid == c->helper;
	lock_take(&c->spaces_lock);
	for (struct address_space *as = c->spaces; as && !found; as = as->next)
		found = as->agent && as->agent->pid == pid;
	lock_drop(&c->spaces_lock);
	if (found)
		return true;
	/* One that was let go and has not ended yet; its name says what it is, its memory was never the container's own. */
	struct process_info info;
	return process_info_read(pid, &info) == 0 && !strcmp(info.name, "membox-agent");
}

/* What init has inherited comes last: what changes its place during the walk goes there. */
int container_refresh_members(struct container *c)
{
	const pid_t roots[] = {getpid(), c->isolation.init};
	return members_refresh(&c->members, roots, c->isolation.init ? 2 : 1, container_is_agent, container_member_gone, c);
}

void container_add_space(struct container *c, struct address_space *as)
{
	lock_take(&c->spaces_lock);
	as->next = c->spaces;
	c->spaces = as;
	lock_drop(&c->spaces_lock);
}

static void take_newborn(struct container *c)
{
	struct address_space *as = atomic_exchange(&c->newborn, NULL);
	while (as) {
		struct address_space *next = as->next;
		container_add_space(c, as);
		as = next;
	}
}

/* A fork's child whose process was not known: is it this one? */
static struct address_space *find_inherited(struct container *c, pid_t pid)
{
	take_newborn(c);
	for (struct address_space *as = c->spaces; as; as = as->next)
		if (!as->agent && !atomic_load(&as->dead) && address_space_matches(as, pid))
			return as;
	return NULL;
}

struct address_space *container_space_of(struct container *c, const struct member *member)
{
	return member->as ? member->as : find_inherited(c, member->pid);
}

static void refuse(struct container *c, struct member *member, int error, const char *what)
{
	struct process_info info = {.name = "?"};
	/* Going, or not to be stopped just now: later, if it is still there. */
	if (error == -ESRCH || error == -ETIMEDOUT || error == -EBUSY || error == -EPIPE || (error == -ENOMEM && !process_has_memory(member->pid)))
		return;
	/* Its own limits may be the reason (of addresses, mappings, descriptors), or a shortage that passes. */
	if ((error == -ENOMEM || error == -EMFILE || error == -ENFILE || error == -EAGAIN) && member->adopt_shortages < SHORTAGES_MAX) {
		member->adopt_shortages++;
		return;
	}
	member->unadoptable = true;
	process_info_read(member->pid, &info);
	log_error("process %d (%s) of container %s cannot be limited: %s: %s", member->pid, info.name, c->config->name, what,
		  strerror(-error));
}

int container_adopt_held(struct container *c, struct member *member, struct world *world)
{
	struct address_space *as = NULL;
	const char *what = "finding out about its memory";
	uint64_t begin = monotonic_ns();
	int r = process_check_owner(member->pid);
	FAULT_POINT("adopt.held");
	if (r < 0) { /* CAP_SYS_PTRACE is membox's, not the user's who has the swap file */
		refuse(c, member, r, "it has other rights than the user who has started membox");
		return r;
	}
	struct address_space *inherited = find_inherited(c, member->pid);
	int sharers = c->pager.forkless ? traced_begin(c, member, world) : 0;
	if (sharers < 0)
		r = sharers;
	/* A child that is not matched yet (its FORK event or one of its own is being worked on) is asked again at the next tick. */
	else if (!inherited && address_space_is_inherited(member->pid))
		r = -EBUSY;
	else
		r = address_space_adopt(&c->pager, world, BATCH_PAGES, inherited, &as, &what);
	if (r < 0) {
		if (sharers >= 0 && c->pager.forkless && !inherited)
			ward_drop(world);
		refuse(c, member, r, what);
		return r;
	}
	if (sharers > 0)
		atomic_store(&as->sharers, true);
	if (!inherited)
		container_add_space(c, as);
	member->as = as;
	FAULT_POINT("adopt.done");
	log_debug("adopted process %d in %llu us", member->pid, (unsigned long long)(monotonic_ns() - begin) / 1000);
	return 0;
}

bool container_is_worth_adopting(const struct container *c, const struct member *member)
{
	return !member->as && !member->unadoptable && !member->same_memory && !member->leaves &&
	       member->resident - member->file >= c->adopt_threshold;
}

bool container_may_adopt_more(const struct container *c)
{
	for (uint32_t i = 0; i < c->members.nr; i++)
		if (container_is_worth_adopting(c, &c->members.items[i]))
			return true;
	return false;
}

void container_forget_space(struct container *c, struct address_space *as)
{
	lock_take(&c->spaces_lock);
	struct address_space **link = &c->spaces;
	while (*link && *link != as)
		link = &(*link)->next;
	if (*link)
		*link = as->next;
	lock_drop(&c->spaces_lock);
	for (uint32_t i = 0; i < c->members.nr; i++)
		if (c->members.items[i].as == as)
			c->members.items[i].as = NULL;
	address_space_bury(as);
	address_space_put(as);
}

/*
 * Has the process that was adopted let go of this memory, by its end or by exec? The leader of a process whose other threads go on is a zombie
 * without memory: that is neither.
 */
static bool has_left_memory(struct container *c, const struct address_space *as)
{
	struct process_info info;
	if (process_has_ended(as->pid))
		return true;
	if (pidfd_has_exited(as->agent->pidfd)) {
		if (process_has_ended(as->pid))
			return true;
		if (as->released)
			return false;
		container_kill(c, "the agent of a process was killed: its evicted pages cannot be kept safe without it");
		return false;
	}
	if (process_info_read(as->pid, &info) < 0 || info.state == 'Z')
		return false;
	/*
	 * Different memories: an exec, or one of the two tasks is ending and has none any more. The second says nothing about the threads that
	 * are left. Asked in this order: who has memory now had it when they were compared.
	 */
	return process_same_memory(as->pid, as->agent->pid) == 0 && process_has_memory(as->pid) && process_has_memory(as->agent->pid);
}

/*
 * The memory may be another process's too (clone with CLONE_VM): the address space stays like that of a forked child that was not found yet, which
 * it is when it is adopted next. Without such a process the memory ends with the agent.
 */
static void abandon_space(struct container *c, struct address_space *as)
{
	for (uint32_t i = 0; i < c->members.nr; i++) {
		struct member *member = &c->members.items[i];
		if (member->as != as)
			continue;
		member->as = NULL;
		as->oom_killed |= member->oom_killed;
	}
	address_space_abandon(as);
}

/* Only then may its userfaultfd be closed. */
static bool is_gone(struct address_space *as)
{
	return !as->agent && (atomic_load(&as->dead) || address_space_child_is_gone(as));
}

void container_upkeep(struct container *c)
{
	take_newborn(c);
	for (struct address_space *as = c->spaces, *next; as; as = next) {
		next = as->next;
		if (as->agent && has_left_memory(c, as))
			abandon_space(c, as);
		if (is_gone(as))
			container_forget_space(c, as);
	}
}

void container_member_gone(struct member *member, void *context)
{
	struct container *c = context;
	if (member->as && !c->was_sent)
		abandon_space(c, member->as);
}
