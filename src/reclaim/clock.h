/*
 * The replacement policy, pure: a generalised CLOCK (GCLOCK) over the pages of an address space in address order, fed by what is
 * visible from outside. The kernel shows no accessed bits of another process, so there are two pieces of evidence of use. One is the refault: a
 * page that comes back before as many pages were evicted as fit into memory was evicted wrongly and would have been a hit with a little
 * more room (refault distance, mm/workingset.c). Such a page joins the active list: its age is the number of times the hand passes it by. The
 * other is the write: the hand write-protects what it passes (asynchronously, the kernel lifts it without asking), and a page written to
 * since then is passed once more, as by the reference bit of CLOCK. Counting references, most interpreters write wherever they read.
 *
 *   inactive: age 0, evicted when the hand comes        active: age 1..3, the hand only takes one off
 *
 * Address order keeps neighbours together: long runs make MOVE, the slots and later readahead cheap.
 */
#pragma once

#include "base/types.h"

/* Epochs count evictions in units of an eighth of memory, modulo 256, so a distance of one memory size is 8 epochs. */
#define CLOCK_EPOCHS_PER_MEMORY 8u

/* The age of a page that was evicted in epoch `evicted` and comes back in epoch `now`. */
unsigned clock_age_at_refault(uint8_t evicted, uint8_t now);

/* The hand passes a page of this age: true when it is to be evicted, else *ret_age is its new age. */
bool clock_hand_passes(unsigned age, bool written, unsigned *ret_age);

/*
 * Watermarks in pages: reclaim runs from below `start` free pages until `stop` are free, and takes at least `batch` at a time: what an
 * eviction costs besides its pages (locks, the agent's wake-up, the write) is shared by that many.
 */
struct watermarks {
	uint64_t start, stop, batch;
};

struct watermarks clock_watermarks(uint64_t limit_pages);
