/*
 * How much of its memory a container should give to compressed pages, pure. A page in the pool takes half of its memory or less and costs a fault of some
 * 20 us where the file costs 80; but the pool's memory is taken from what could be resident, which costs nothing. Each page that comes back says
 * which of both it was: when less was evicted since it left than the pool takes, it would be resident if there were no pool, from wherever it
 * comes; otherwise one from the pool would be in the file. After every so many the share is moved towards what has cost less. A pool full of what nobody
 * asks for shrinks by the pages that come back from the file soon.
 *
 * Any thread may note; the shares are hints, so a lost update does no harm.
 */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

#define POOL_FIT_WHOLE 1024u
#define POOL_FIT_LEAST 16u /* some pages go on telling how they would fare */

struct pool_fit {
	_Atomic uint32_t spared; /* cost in this round of what would have been read from the file, in faults of pages in the pool */
	_Atomic uint32_t pushed; /* and of what would have been resident */
	_Atomic uint32_t share;  /* of what the pool may take at most, in parts of POOL_FIT_WHOLE */
};

void pool_fit_init(struct pool_fit *fit);

/* A page came back from the pool or from the file, distance_pages evictions after its own; pool_pages: memory that the pool takes. */
void pool_fit_note(struct pool_fit *fit, bool from_pool, uint64_t distance_pages, uint64_t pool_pages);

/* Of most_pages. */
uint64_t pool_fit_pages(const struct pool_fit *fit, uint64_t most_pages);
