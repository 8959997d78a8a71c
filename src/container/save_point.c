#include "container/save_point.h"

#include <errno.h>

#include "container/container.h"
#include "container/freeze.h"
#include "container/hold.h"
#include "container/reclaimer.h"
#include "pager/writeback.h"

#define WORTH_TRACKING 64 /* anonymous pages of a member */

/* The reclaim thread is the only one that evicts, and stands still. */
int container_settle_pool(struct container *c)
{
	struct pager *pager = &c->pager;
	atomic_store(&pager->pool_target, 0);
	writeback_drain(pager->writeback);
	bool is_settled = !writeback_has_failed(pager->writeback) && (!pager->pool || !atomic_load(pool_memory(pager->pool)));
	return is_settled ? 0 : -EIO;
}

int container_save_point_begin(struct container *c, bool track)
{
	int r = container_freeze(c, FREEZER_CHECKPOINT);
	if (r < 0)
		return r;
	if (track) {
		c->adopt_threshold = WORTH_TRACKING;
		hold_cover(c, c->frozen);
	}
	reclaimer_pause(c->reclaimer);
	r = container_settle_pool(c);
	if (r < 0)
		container_save_point_end(c);
	return r;
}

void container_save_point_end(struct container *c)
{
	reclaimer_resume(c->reclaimer);
	reclaimer_kick(c->reclaimer); /* which gives the pool its share again */
	container_thaw(c, FREEZER_CHECKPOINT);
}
