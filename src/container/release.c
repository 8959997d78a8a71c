#include "container/release.h"

#include <errno.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/units.h"
#include "container/bring_back.h"
#include "container/squeeze.h"
#include "container/traced.h"
#include "inject/ward.h"
#include "platform/granted_memory.h"

#define NO_LIMIT_BYTES ((uint64_t)1 << 62)
#define RESERVE_BYTES ((uint64_t)64 << 20) /* the system keeps at least this */

bool release_has_room(uint64_t pages)
{
	uint64_t available;
	return available_memory(&available) < 0 || available >= (pages << PAGE_SHIFT) + RESERVE_BYTES;
}

bool container_is_releasing(const struct container *c)
{
	return c->release == RELEASE_BRINGS_BACK || c->release == RELEASE_LETS_GO;
}

int container_release_start(struct container *c)
{
	if (container_is_releasing(c))
		return 0;
	if (atomic_load(&c->killed) || c->swapoff || c->leave)
		return -EBUSY;
	container_upkeep(c);
	if (!release_has_room(bring_back_left(c, false)))
		return -ENOMEM;
	int r = bring_back_new(c, false, &c->bring_back);
	if (r < 0)
		return r;
	if (c->parking != PARKING_NOT)
		container_unpark(c);
	atomic_store(&c->squeeze_to, NO_SQUEEZE);
	atomic_store(&c->swap_leaves, true);
	container_set_limit(c, NO_LIMIT_BYTES);
	c->closed = false;
	c->release = RELEASE_BRINGS_BACK;
	FAULT_POINT("release.begun");
	return 0;
}

/* The process of an address space; of a fork's child that has no agent it has to be found among the members. 0: not known (yet). */
static pid_t process_of(struct container *c, struct address_space *as)
{
	if (as->agent)
		return as->pid;
	for (uint32_t i = 0; i < c->members.nr; i++)
		if (!c->members.items[i].as && address_space_matches(as, c->members.items[i].pid))
			return c->members.items[i].pid;
	return 0;
}

bool release_let_go(struct container *c, struct address_space *as)
{
	struct world *world;
	pid_t pid = process_of(c, as);
	if (!pid || world_stop(pid, WORLD_STOP_TIMEOUT_US, &world) < 0)
		return false;
	FAULT_POINT("release.held");
	int r = !c->pager.forkless || world_is_complete(world) ? address_space_let_go(as, world) : -EAGAIN;
	FAULT_POINT("release.let_go");
	if (r == 0)
		ward_drop(world);
	world_resume(world);
	if (r == 0)
		container_forget_space(c, as);
	else
		log_debug("process %d is not released yet: %s", pid, strerror(-r));
	return r == 0;
}

/* A fork copies nothing that is evicted any more; a child that comes now is let go of like the others. */
static bool let_all_go(struct container *c)
{
	container_upkeep(c);
	for (struct address_space *as = c->spaces, *next; as; as = next) {
		next = as->next;
		release_let_go(c, as);
	}
	return !c->spaces && !atomic_load(&c->newborn) && traced_end() && world_collect_late() == 0;
}

int container_release_step(struct container *c, uint64_t *ret_left)
{
	uint64_t left = 0;
	int r;
	switch (c->release) {
	case RELEASE_NOT:
		return -EINVAL;
	case RELEASE_BRINGS_BACK:
		r = bring_back_step(c->bring_back, &left);
		if (r == 0) {
			bring_back_free(c->bring_back);
			c->bring_back = NULL;
			c->release = RELEASE_LETS_GO;
			FAULT_POINT("release.back");
		}
		break;
	case RELEASE_LETS_GO:
		if (!let_all_go(c))
			break;
		atomic_store(&c->swap_leaves, false);
		c->release = RELEASE_DONE;
		break;
	case RELEASE_DONE:
		break;
	}
	if (ret_left)
		*ret_left = left;
	return c->release == RELEASE_DONE ? 0 : -EINPROGRESS;
}
