/*
 * The replacement policy, pure: a CLOCK with four ages over the pages of an address space in address order, fed by what is visible from outside.
 *
 * The kernel shows no accessed bits of another process, so the evidence of use is the refault: how many pages left between a page's eviction and
 * its return (refault distance, mm/workingset.c). What that means is told by Little's law: when `out` pages are out, they return after `out`
 * evictions on average. A page that returns much sooner is hot. One that returns later is as good as any other: of those only every 32nd is kept,
 * chosen by chance, so that a loop over more than memory, or a scan, finds a part of its pages again instead of none, and cannot push out the hot ones.
 *
 *   age 0: evicted when the hand comes         age 1..3: the hand passes, and one time in 8, 8, 32 takes one off
 *
 * Chance instead of counting needs no room in the table and nothing written when a page is passed, and ages do not run out for all at once. It is
 * drawn for groups of neighbours: what they share stays together, so that MOVE, slots and readahead work on long runs.
 *
 * The other evidence is the write: the hand write-protects what it passes (asynchronously, the kernel lifts it without asking), and a page written to
 * since then is passed once more, as by the reference bit of CLOCK. Counting references, most interpreters write wherever they read.
 *
 * Figures for all of this: docs/policy.md.
 */
#pragma once

#include "base/types.h"

/* Epochs count evictions in units of a 32nd of memory, modulo 256. */
#define CLOCK_EPOCHS_PER_MEMORY 32u
#define CLOCK_AGE_MAX 3u
/* Pages whose fate is decided together, as a power of two: as many as the largest window of readahead. */
#define CLOCK_GROUP_SHIFT 7

/*
 * How many epochs evicted pages stay out on average while out_pages of them are out. More than one and a half memory sizes do not count: a
 * heap may hold any amount that is never asked for again.
 */
uint32_t clock_typical_distance(uint64_t out_pages, uint64_t memory_pages);

/* The age of a page that was evicted in epoch `evicted` and comes back in epoch `now`. */
unsigned clock_age_at_refault(remote_addr_t page, uint8_t evicted, uint8_t now, uint32_t typical);

struct clock_hand {
	uint32_t revolution; /* counted up */
	uint32_t idle;       /* revolutions in which nothing could leave: then all that was passed loses one, and writes are no evidence */
};

/* The hand comes to a page: true when it is to be evicted, else it is passed and *ret_age is its new age. */
bool clock_hand_passes(const struct clock_hand *hand, remote_addr_t page, unsigned age, bool written, unsigned *ret_age);

/* Idle revolutions after which clock_hand_passes has let every page go. */
#define CLOCK_IDLE_MAX 6u

/*
 * Watermarks in pages: reclaim runs from below `start` free pages until `stop` are free, and takes at least `batch` at a time: what an
 * eviction costs besides its pages (locks, the agent's wake-up, the write) is shared by that many.
 */
struct watermarks {
	uint64_t start, stop, batch;
};

struct watermarks clock_watermarks(uint64_t limit_pages);
