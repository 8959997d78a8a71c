/*
 * Two-stage charging of a container (LINEAGE A3): prepare before a page exists, then commit when it is mapped, or cancel when somebody
 * else mapped it first. Pure: no system calls, no clock. Units are pages. Thread-safe by one lock of rank LOCK_CHARGE.
 *
 *   usage = sampled + committed since the sample + reserved - uncharged since the sample + what the keeper holds (the pool and what is on the way there)
 *
 * What the program maps without asking (mappings that are not registered yet, copy-on-write after fork, file pages) shows up in the
 * next sample. A sample is taken in two halves around reading the kernel's figures so that a page committed meanwhile is counted
 * twice for one sample at most, and a page uncharged meanwhile is not subtracted twice: usage errs to the high side.
 */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "base/types.h"

/* What the keeper holds of the container's pages, outside of the members' memory. */
enum charge_held {
	CHARGE_POOL,
	CHARGE_BATCHES, /* on their way to the pool or the swap file */
	CHARGE_NR_HELD,
};

struct charge {
	struct lock lock;
	uint64_t limit;     /* pages */
	uint64_t sampled;   /* the kernel's figure at the last sample */
	uint64_t reserved;  /* prepared, neither committed nor cancelled */
	uint64_t committed; /* ever */
	uint64_t uncharged; /* ever */
	uint64_t committed_at_sample, uncharged_at_sample;
	uint64_t failcnt;   /* prepares that hit the limit */
	const _Atomic uint64_t *held[CHARGE_NR_HELD]; /* pages that the keeper holds for the container; NULL: none */
};

void charge_init(struct charge *charge, uint64_t limit_pages);
/* Counts from now on; the number (NULL: nothing) may change at any time. */
void charge_watch(struct charge *charge, enum charge_held what, const _Atomic uint64_t *held_pages);
/* Pages of usage that the keeper holds. */
uint64_t charge_held(struct charge *charge, enum charge_held what);

void charge_set_limit(struct charge *charge, uint64_t limit_pages);

/*
 * Reserves up to `want` pages, at least `need`; returns how many (0: the limit does not leave room for `need`, counted in failcnt when
 * count_failure). The caller owns the reservation until commit or cancel.
 */
uint64_t charge_prepare(struct charge *charge, uint64_t need, uint64_t want, bool count_failure);

/* Usage when what is on its way to the pool or the file is there: as a rule it takes half of its memory in the pool, and none in the file. */
uint64_t charge_usage_to_come(struct charge *charge);

/* True when that leaves less than `pages` below the limit: there is something to do for reclaim. */
bool charge_is_near_limit(struct charge *charge, uint64_t pages);

/* Reserves without looking at the limit: for the agent's own faults and for progress when nothing more can be reclaimed. */
void charge_prepare_forced(struct charge *charge, uint64_t pages);

void charge_commit(struct charge *charge, uint64_t pages);
void charge_cancel(struct charge *charge, uint64_t pages);

/* Pages left memory by eviction. */
void charge_uncharge(struct charge *charge, uint64_t pages);

struct charge_sample {
	uint64_t committed;
};

struct charge_sample charge_sample_begin(struct charge *charge);

/*
 * rss_pages was read between the two calls. Returns by how many pages usage differs from what charging had expected: growth that nobody asked
 * for. What is under way (pages put in and not committed yet, pages gone and not uncharged yet) makes one sample differ one way and the next
 * the other way: only sums of several mean something.
 */
int64_t charge_sample_end(struct charge *charge, struct charge_sample sample, uint64_t rss_pages);

uint64_t charge_usage(struct charge *charge);
uint64_t charge_limit(struct charge *charge);
