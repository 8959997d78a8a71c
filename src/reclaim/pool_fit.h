/*
 * How much of its memory a container should give to compressed pages, pure. A page in the pool takes half of its memory or less and costs a fault of some
 * 20 us where the file costs 80; but the pool's memory is taken from what could be resident, which costs nothing. Each page that comes back from the
 * pool says which of both it was: when less was evicted since it left than the pool takes, it would be resident if there were no pool; otherwise
 * it would be in the file. After every so many the share is moved towards what has cost less.
 *
 * Any thread may note; the shares are hints, so a lost update does no harm.
 */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

#define POOL_FIT_WHOLE 1024u
#define POOL_FIT_LEAST 16u /* some pages go on telling how they would fare */

struct pool_fit {
	_Atomic uint32_t spared; /* in this round: would have been read from the file */
	_Atomic uint32_t pushed; /* in this round: would have been resident */
	_Atomic uint32_t share;  /* of what the pool may take at most, in parts of POOL_FIT_WHOLE */
};

void pool_fit_init(struct pool_fit *fit);

/* A page came back from a pool of that size, distance_pages evictions after its own. */
void pool_fit_note(struct pool_fit *fit, uint64_t distance_pages, uint64_t pool_pages);

/* Of most_pages. */
uint64_t pool_fit_pages(const struct pool_fit *fit, uint64_t most_pages);
