/*
 * What a checkpoint would have to write while the members stand still is written while they run, in rounds until little is left or it does not get less (how and why
 * that is right: pager/precopy.h). The members are held for a moment several times: to be adopted, and once in each round.
 *
 *   container thread   adopts ─▶ asks for PROTECT ─▶ barrier ─▶ asks for COPY ─▶ enough? ─ no ─▶ PROTECT ...
 *   reclaim thread               goes through all address spaces, a chunk at a time, and evicts in between as always
 */
#pragma once

#include "base/types.h"

struct container;
struct precopy;

/* Container thread. 0, or -ENOMEM. The container has a swap file, and nobody takes it away meanwhile. */
int precopy_new(struct container *c, struct precopy **ret);

/* Container thread. NULL is allowed. */
void precopy_free(struct precopy *precopy);

/*
 * Container thread. -EINPROGRESS; 0: the members may be held now for the rest; or -errno: -ENOSPC, or what else kept the swap file from taking more; -EBUSY: the members
 * have been stopped for something else; -ETIMEDOUT: a process could not be held.
 */
int precopy_step(struct precopy *precopy);

/* Pages written so far. */
uint64_t precopy_written(const struct precopy *precopy);

/* Reclaim thread. Does a bit of what has been asked for; true when there is more. */
bool precopy_work(struct precopy *precopy);
