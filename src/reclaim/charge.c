#include "reclaim/charge.h"

#include <assert.h>

void charge_init(struct charge *charge, uint64_t limit_pages)
{
	*charge = (struct charge){.limit = limit_pages};
	lock_init(&charge->lock, LOCK_CHARGE);
}

/* Of the members. */
static uint64_t resident_locked(const struct charge *charge)
{
	uint64_t up = charge->sampled + charge->committed - charge->committed_at_sample + charge->reserved;
	uint64_t down = charge->uncharged - charge->uncharged_at_sample;
	return up > down ? up - down : 0;
}

static uint64_t held_locked(const struct charge *charge, enum charge_held what)
{
	return charge->held[what] ? atomic_load_explicit(charge->held[what], memory_order_relaxed) : 0;
}

static uint64_t usage_locked(const struct charge *charge)
{
	return resident_locked(charge) + held_locked(charge, CHARGE_POOL) + held_locked(charge, CHARGE_BATCHES);
}

void charge_watch(struct charge *charge, enum charge_held what, const _Atomic uint64_t *held_pages)
{
	lock_take(&charge->lock);
	charge->held[what] = held_pages;
	lock_drop(&charge->lock);
}

uint64_t charge_held(struct charge *charge, enum charge_held what)
{
	lock_take(&charge->lock);
	uint64_t held = held_locked(charge, what);
	lock_drop(&charge->lock);
	return held;
}

void charge_set_limit(struct charge *charge, uint64_t limit_pages)
{
	lock_take(&charge->lock);
	charge->limit = limit_pages;
	lock_drop(&charge->lock);
}

uint64_t charge_prepare(struct charge *charge, uint64_t need, uint64_t want, bool count_failure)
{
	uint64_t granted = 0;
	lock_take(&charge->lock);
	uint64_t usage = usage_locked(charge);
	uint64_t room = usage < charge->limit ? charge->limit - usage : 0;
	if (room >= need)
		granted = MIN_OF(room, want);
	else if (count_failure)
		charge->failcnt++;
	charge->reserved += granted;
	lock_drop(&charge->lock);
	return granted;
}

static uint64_t usage_to_come_locked(const struct charge *charge)
{
	uint64_t usage = usage_locked(charge);
	return usage - MIN_OF(held_locked(charge, CHARGE_BATCHES) / 2, usage);
}

uint64_t charge_usage_to_come(struct charge *charge)
{
	lock_take(&charge->lock);
	uint64_t usage = usage_to_come_locked(charge);
	lock_drop(&charge->lock);
	return usage;
}

bool charge_is_near_limit(struct charge *charge, uint64_t pages)
{
	lock_take(&charge->lock);
	bool near = usage_to_come_locked(charge) + pages > charge->limit;
	lock_drop(&charge->lock);
	return near;
}

void charge_prepare_forced(struct charge *charge, uint64_t pages)
{
	lock_take(&charge->lock);
	charge->reserved += pages;
	lock_drop(&charge->lock);
}

void charge_commit(struct charge *charge, uint64_t pages)
{
	lock_take(&charge->lock);
	assert(charge->reserved >= pages);
	charge->reserved -= pages;
	charge->committed += pages;
	lock_drop(&charge->lock);
}

void charge_cancel(struct charge *charge, uint64_t pages)
{
	lock_take(&charge->lock);
	assert(charge->reserved >= pages);
	charge->reserved -= pages;
	lock_drop(&charge->lock);
}

void charge_uncharge(struct charge *charge, uint64_t pages)
{
	lock_take(&charge->lock);
	charge->uncharged += pages;
	lock_drop(&charge->lock);
}

struct charge_sample charge_sample_begin(struct charge *charge)
{
	lock_take(&charge->lock);
	struct charge_sample sample = {.committed = charge->committed};
	lock_drop(&charge->lock);
	return sample;
}

int64_t charge_sample_end(struct charge *charge, struct charge_sample sample, uint64_t rss_pages)
{
	lock_take(&charge->lock);
	uint64_t expected = resident_locked(charge);
	charge->sampled = rss_pages;
	charge->committed_at_sample = sample.committed;
	charge->uncharged_at_sample = charge->uncharged;
	uint64_t now = resident_locked(charge);
	lock_drop(&charge->lock);
	return (int64_t)(now - expected);
}

uint64_t charge_usage(struct charge *charge)
{
	lock_take(&charge->lock);
	uint64_t usage = usage_locked(charge);
	lock_drop(&charge->lock);
	return usage;
}

uint64_t charge_limit(struct charge *charge)
{
	lock_take(&charge->lock);
	uint64_t limit = charge->limit;
	lock_drop(&charge->lock);
	return limit;
}
