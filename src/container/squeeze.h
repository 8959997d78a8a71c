/*
 * Usage brought down on request: a lower limit, `reclaim`, `park`. Each is begun and then asked, once a tick, how far it has come. Container thread.
 */
#pragma once

#include "base/types.h"

struct container;

/* A new limit in bytes, up or down. 0, or -EINVAL: below what can work. Usage follows: see container_is_within_limit. */
int container_set_limit(struct container *c, uint64_t bytes);

/* What the compressed pool may take in bytes, or POOL_AUTO. A pool that is larger is written to the file meanwhile. */
void container_set_pool(struct container *c, uint64_t bytes);
bool container_is_within_limit(const struct container *c);

struct squeeze {
	uint64_t want;  /* pages */
	uint64_t begun; /* pages reclaimed ever, at the beginning */
	uint32_t seq;   /* of reclaim's statements that nothing is left, at the beginning */
};

/*
 * Begins to free `bytes` (UINT64_MAX: all) although there is room. 0, or -EBUSY: another squeeze is under way. Goes on until
 * container_squeeze_step has returned something else than -EINPROGRESS.
 */
int container_squeeze_begin(struct container *c, uint64_t bytes, struct squeeze *ret_squeeze);

/* -EINPROGRESS, or 0: done, or nothing more can be freed. *ret_pages: freed so far. */
int container_squeeze_step(struct container *c, const struct squeeze *squeeze, uint64_t *ret_pages);

/*
 * Parking: all members are frozen, then everything that can leave memory does. Signals but SIGKILL wait, as do clients, until unpark. 0, or -ENOENT: there is no
 * swap file; -EBUSY: a squeeze is under way.
 */
int container_park_begin(struct container *c);

/* -EINPROGRESS; 0: parked; or -ENOSPC (the swap file is full), -EIO (it has failed), -ETIMEDOUT (a process could not be held): the members go on. */
int container_park_step(struct container *c);

/* 0, or -EINVAL: it is neither parked nor being parked. Pages come back when they are touched. */
int container_unpark(struct container *c);
