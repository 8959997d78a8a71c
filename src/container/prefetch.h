/*
 * The working set of a restored container: what was in memory when it was saved comes back in the background, in large reads, as long as there is room below the limit. A
 * fault goes first: while there are any, one read is under way at a time, and the thread gives way to everybody. It ends by itself when all is there or there is no room, and
 * for good when anything else is done with the container.
 */
#pragma once

#include "pager/address_space.h"

struct container;
struct prefetch;

/* NULL: no memory. */
struct prefetch *prefetch_new(struct container *c);

/* Evicted pages that were in memory then, in the order in which they are to come. One that does not fit any more is left out. */
void prefetch_add(struct prefetch *p, struct address_space *as, remote_addr_t start, uint64_t nr_pages);

/* Container thread. The prefetch is the container's from now on. */
void prefetch_start(struct prefetch *p);

/* One that was not started. NULL is allowed. */
void prefetch_free(struct prefetch *p);

/* Container thread. What is under way is given up. */
void container_end_prefetch(struct container *c);
