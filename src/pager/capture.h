/*
 * Step 6 of an eviction (evict.c): the pages in stage 2 are read into their batch and looked at. To read memory that was written a while ago takes longer
 * than all the rest of the reclaim thread's work, so the store thread takes a share when it has nothing else to do: both take one piece after the other
 * until none is left. Who else can be there: nobody. Faults are told to ask again until the batch is captured, and the agent lock, which
 * the reclaim thread holds, keeps stage 2 as it is; the batch is not another one's before the store thread has left it.
 */
#pragma once

#include <stdatomic.h>

#include "inject/agent.h"
#include "pager/writeback.h"

struct capture { /* of a struct writeback */
	struct batch *batch; /* guarded by writeback.lock; NULL: there is none */
	const struct agent *agent;
	bool is_shared; /* guarded by writeback.lock: the store thread is in it */
	_Atomic uint32_t next; /* page of the batch that nobody has taken */
	_Atomic int error;     /* -errno */
};

/* Reclaim thread, agent lock held. 0 or -errno: pages could not be read. */
int capture_batch(struct writeback *wb, const struct agent *agent, struct batch *batch);

/* Store thread. Takes pieces of what is being captured, if anything is. */
void capture_help(struct writeback *wb);
