#include "container/squeeze.h"

#include <errno.h>

#include "base/fault.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "container/freeze.h"
#include "container/hold.h"
#include "container/reclaimer.h"

#define FREEZE_PATIENCE_NS 5000000000ull
#define STATEMENTS 2      /* the first may be about an earlier look */

int container_set_limit(struct container *c, uint64_t bytes)
{
	if (bytes < CONTAINER_MIN_LIMIT_BYTES)
		return -EINVAL;
	charge_set_limit(&c->charge, bytes >> PAGE_SHIFT);
	stat_set(&c->stats, rss_limit, page_floor(bytes));
	backstop_follow(&c->backstop, bytes);
	atomic_store(&c->exhaustion, EXHAUSTED_NOT);
	pager_wake(&c->pager); /* faults that wait for room */
	reclaimer_kick(c->reclaimer);
	return 0;
}

void container_set_pool(struct container *c, uint64_t bytes)
{
	atomic_store(&c->pool_most, bytes);
	reclaimer_kick(c->reclaimer);
}

bool container_is_within_limit(const struct container *c)
{
	return c->members.resident + charge_held((struct charge *)&c->charge, CHARGE_POOL) <= charge_limit((struct charge *)&c->charge);
}

static uint64_t reclaimed_pages(const struct container *c)
{
	return stat_get(&c->stats, rss_reclaimed);
}

int container_squeeze_begin(struct container *c, uint64_t bytes, struct squeeze *ret_squeeze)
{
	uint64_t usage = charge_usage(&c->charge), pages = MIN_OF(bytes >> PAGE_SHIFT, usage);
	struct hold hold;
	if (atomic_load(&c->squeeze_to) != NO_SQUEEZE || c->swapoff)
		return -EBUSY;
	*ret_squeeze = (struct squeeze){.want = pages, .begun = reclaimed_pages(c)};
	if (!c->frozen) {
		hold_members(c, &hold);
		hold_reach_everything(c, &hold);
		hold_release(&hold);
	}
	ret_squeeze->seq = atomic_load(&c->exhausted_seq);
	atomic_store(&c->squeeze_to, usage - pages);
	reclaimer_kick(c->reclaimer);
	return 0;
}

static bool is_exhausted_since(const struct container *c, uint32_t seq)
{
	return atomic_load(&c->exhausted_seq) - seq >= STATEMENTS;
}

int container_squeeze_step(struct container *c, const struct squeeze *squeeze, uint64_t *ret_pages)
{
	*ret_pages = reclaimed_pages(c) - squeeze->begun;
	if (*ret_pages < squeeze->want && !is_exhausted_since(c, squeeze->seq)) {
		reclaimer_kick(c->reclaimer);
		return -EINPROGRESS;
	}
	atomic_store(&c->squeeze_to, NO_SQUEEZE);
	return 0;
}

int container_park_begin(struct container *c)
{
	if (!c->swap)
		return -ENOENT;
	if (c->parking != PARKING_NOT)
		return 0;
	if (atomic_load(&c->squeeze_to) != NO_SQUEEZE || c->swapoff)
		return -EBUSY;
	c->parking = PARKING_HOLDS;
	c->park_since_ns = monotonic_ns();
	return 0;
}

static void end_parking(struct container *c)
{
	atomic_store(&c->squeeze_to, NO_SQUEEZE);
	container_thaw(c, FREEZER_PARK);
	c->parking = PARKING_NOT;
}

static int park_hold(struct container *c)
{
	int r = container_freeze(c, FREEZER_PARK);
	if (r < 0 && monotonic_ns() - c->park_since_ns > FREEZE_PATIENCE_NS) {
		end_parking(c);
		return -ETIMEDOUT;
	}
	if (r < 0)
		return -EINPROGRESS;
	hold_reach_everything(c, c->frozen);
	FAULT_POINT("park.held");
	c->park_seq = atomic_load(&c->exhausted_seq);
	c->parking = PARKING_EVICTS;
	atomic_store(&c->squeeze_to, 0);
	reclaimer_kick(c->reclaimer);
	return -EINPROGRESS;
}

static int park_evict(struct container *c)
{
	if (!is_exhausted_since(c, c->park_seq)) {
		reclaimer_kick(c->reclaimer);
		return -EINPROGRESS;
	}
	int why = atomic_load(&c->exhaustion);
	if (why == EXHAUSTED_SWAP_FULL || why == EXHAUSTED_SWAP_FAILED) {
		end_parking(c);
		return why == EXHAUSTED_SWAP_FULL ? -ENOSPC : -EIO;
	}
	hold_drop_file_pages(c, c->frozen);
	atomic_store(&c->squeeze_to, NO_SQUEEZE);
	c->parking = PARKING_DONE;
	FAULT_POINT("park.done");
	return 0;
}

int container_park_step(struct container *c)
{
	switch (c->parking) {
	case PARKING_HOLDS:
		return park_hold(c);
	case PARKING_EVICTS:
		return park_evict(c);
	case PARKING_DONE:
		return 0;
	case PARKING_NOT:
		break;
	}
	return -ECANCELED;
}

int container_unpark(struct container *c)
{
	if (c->parking == PARKING_NOT)
		return -EINVAL;
	end_parking(c);
	return 0;
}
