/*
 * A container that stands still for a checkpoint: no member runs, nothing is evicted, and whatever is out of memory is in the swap file. Container thread.
 */
#pragma once

#include "base/types.h"

struct container;

/*
 * track: all members are adopted, so that another checkpoint knows what has been saved.
 * 0; -EBUSY: a member cannot be held just now, to be tried again; -EIO: the pool cannot be written to the swap file. Then nothing is held.
 */
int container_save_point_begin(struct container *c, bool track);

/* Writes the pool, and what is on the way there, to the swap file; with the reclaim thread paused. 0 or -EIO. */
int container_settle_pool(struct container *c);

/* Lets everything go on. */
void container_save_point_end(struct container *c);
