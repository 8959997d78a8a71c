/*
 * swapon and swapoff while the container runs (LINEAGE B2 to B4). A container has one swap file at most; while one is being taken away no other is
 * taken on. Container thread.
 */
#pragma once

#include "base/types.h"
#include "swap/swap.h"

struct container;

/*
 * Gives the container a swap file; size 0: as the file system gives. 0; -EBUSY: it has one, or one is just leaving; else as swap_open. *error is
 * filled; nothing is left behind.
 */
int container_swapon(struct container *c, const char *path, uint64_t size_bytes, struct swap_error *error);

/*
 * Begins to bring every page back. 0; -ENOENT: there is no swap file; -EBUSY: it is leaving already, or the container is parked or squeezed;
 * -ENOSPC: the limit does not leave room for what is in it. Nothing has changed then.
 */
int container_swapoff_begin(struct container *c);

/*
 * -EINPROGRESS; 0: the container has no swap file any more, the file is unlocked and empty; -ENOSPC: the members have grown meanwhile and
 * there is no room left, the swap file stays in use.
 */
int container_swapoff_step(struct container *c);
