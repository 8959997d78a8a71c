#include "container/hold.h"

#include <errno.h>
#include <limits.h>

#include "container/traced.h"
#include "pager/file_pages.h"

#define WORTH_ADOPTING 64 /* anonymous pages of a member */

void hold_members(struct container *c, struct hold *hold)
{
	uint32_t told = 0;
	hold->nr = 0;
	hold->complete = c->members.nr <= MAX_HELD;
	for (uint32_t i = 0; i < c->members.nr && told < MAX_HELD; i++) {
		int r = c->members.items[i].resident ? world_interrupt(c->members.items[i].pid, &hold->worlds[told]) : -ESRCH;
		told += r == 0;
		hold->complete &= r == 0 || r == -ESRCH;
	}
	for (uint32_t i = 0; i < told; i++) {
		struct world *world = hold->worlds[i];
		int r = world_wait(world, WORLD_STOP_TIMEOUT_US);
		if (r == 0)
			hold->complete &= world_is_complete(hold->worlds[hold->nr++] = world);
		else if (r != -ESRCH && r != -EBUSY)
			hold->complete = false;
	}
}

void hold_release(struct hold *hold)
{
	while (hold->nr)
		world_resume(hold->worlds[--hold->nr]);
}

void hold_expire_removed(struct container *c, const struct hold *hold)
{
	for (struct address_space *as = c->spaces; hold->complete && as; as = as->next)
		address_space_expire_removed(as);
	if (hold->complete && c->pager.forkless)
		traced_forget_past(c);
}

void hold_drop_file_pages(struct container *c, const struct hold *hold)
{
	for (struct address_space *as = c->spaces; hold->complete && as; as = as->next) {
		int64_t pages = atomic_load(&as->leaves) ? 0 : file_pages_drop(as); /* -ESRCH: not adopted, or gone */
		if (pages > 0)
			stat_add(&c->stats, rss_reclaimed, (uint64_t)pages);
	}
}

void hold_adopt(struct container *c, const struct hold *hold, int max)
{
	for (uint32_t i = 0; i < hold->nr && max > 0; i++) {
		struct member *member = members_find(&c->members, world_pid(hold->worlds[i]));
		if (member && container_is_worth_adopting(c, member))
			max -= container_adopt_held(c, member, hold->worlds[i]) == 0;
	}
}

/* A member that has called exec since the last upkeep has its old memory's address space still: its new memory could not be adopted, and would be taken for full. */
void hold_cover(struct container *c, const struct hold *hold)
{
	container_upkeep(c);
	hold_adopt(c, hold, INT_MAX);
	for (struct address_space *as = c->spaces; as; as = as->next)
		if (as->agent && !atomic_load(&as->dead) && !atomic_load(&as->leaves))
			address_space_register_new(as, INT_MAX, true);
	c->uncovered = 0;
}

void hold_reach_everything(struct container *c, const struct hold *hold)
{
	c->adopt_threshold = WORTH_ADOPTING;
	hold_expire_removed(c, hold);
	hold_cover(c, hold);
	hold_drop_file_pages(c, hold);
}
