/*
 * Holding every member for a moment: for reclaim to catch up with a program that outruns it, for REMOVE events to come to rest, and
 * for the certainty that nothing can be evicted before somebody is killed for it. Container thread.
 */
#include <time.h>

#include "base/log.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "container/hold.h"
#include "container/reclaimer.h"

#define ADOPTIONS_AT_ONCE 4 /* bounds how long the members are held for them */
#define DROP_INTERVAL_NS 50000000ull
#define GROWTH_PAGES 1024 /* more than is put in or taken out at a time */
#define STALL_SLICE_NS 200000
#define STALL_MAX_NS 2000000000ull
/* The statement under way when the members were held may have looked before; the next one is about held members only. */
#define STATEMENTS 2

/* Enough for the effort of letting them go. */
bool container_file_pages_are_many(const struct container *c)
{
	return stat_get(&c->stats, file) / PAGE_BYTES > charge_limit((struct charge *)&c->charge) / 16;
}

/* Those in use are back soon: other memory has to go in turn. */
static bool drop_file_pages_when_due(struct container *c, const struct hold *hold)
{
	uint64_t now = monotonic_ns();
	if (!container_file_pages_are_many(c) || now - c->last_drop_ns < DROP_INTERVAL_NS)
		return false;
	c->last_drop_ns = now;
	hold_drop_file_pages(c, hold);
	return true;
}

void container_barrier(struct container *c)
{
	struct hold hold;
	hold_members(c, &hold);
	hold_expire_removed(c, &hold);
	drop_file_pages_when_due(c, &hold);
	hold_release(&hold);
}

void container_adopt_members(struct container *c)
{
	struct hold hold;
	hold_members(c, &hold);
	hold_adopt(c, &hold, ADOPTIONS_AT_ONCE);
	hold_release(&hold);
}

/* True when reclaim has stated that it found nothing more, looking at held members only. Somebody who could not be held and grows ends the wait. */
static bool wait_for_reclaim(struct container *c, const struct hold *hold)
{
	uint64_t begin = monotonic_ns();
	uint64_t limit = charge_limit(&c->charge), room = container_stall_room(c), least = UINT64_MAX;
	uint32_t seq = atomic_load(&c->exhausted_seq);
	bool exhausted = false;
	atomic_store(&c->room_wanted, room);
	while (!exhausted && monotonic_ns() - begin < STALL_MAX_NS && !atomic_load(&c->killed)) {
		struct charge_sample sample = charge_sample_begin(&c->charge);
		charge_sample_end(&c->charge, sample, members_sample(&c->members));
		uint64_t usage = charge_usage(&c->charge);
		least = MIN_OF(least, usage);
		if (usage + room <= limit || (!hold->complete && usage > least + GROWTH_PAGES))
			break;
		reclaimer_kick(c->reclaimer);
		struct timespec nap = {.tv_nsec = STALL_SLICE_NS};
		nanosleep(&nap, NULL);
		exhausted = atomic_load(&c->exhausted_seq) - seq >= STATEMENTS;
	}
	atomic_store(&c->room_wanted, 0);
	return exhausted;
}

bool container_stall(struct container *c)
{
	struct hold hold;
	uint64_t begin = monotonic_ns();
	stat_add(&c->stats, stalls, 1);
	hold_members(c, &hold);
	hold_expire_removed(c, &hold);
	hold_cover(c, &hold);
	bool dropped = drop_file_pages_when_due(c, &hold);
	bool exhausted = wait_for_reclaim(c, &hold);
	if (exhausted && !dropped) {
		hold_drop_file_pages(c, &hold);
		exhausted = members_sample(&c->members) > charge_limit(&c->charge);
	}
	hold_release(&hold);
	log_debug("stall of %llu us%s%s", (unsigned long long)(monotonic_ns() - begin) / 1000, exhausted ? ", nothing left" : "",
		  hold.complete ? "" : ", not all held");
	return exhausted && hold.complete;
}
