/*
 * A container that stands still: all members held until further notice, for `park` and for the OOM policy `stop`. A frozen container is not
 * stalled or adopted into; its tick only samples and lets reclaim work. Container thread.
 */
#pragma once

#include "base/types.h"

struct container;

/* Who wants it. The members go on when nobody does any more. */
enum freezer {
	FREEZER_PARK = 1,
	FREEZER_OOM = 2,
	FREEZER_CHECKPOINT = 4,
};

/*
 * Holds every thread of every member until container_thaw. 0, also when it is frozen already; -EBUSY with nothing held: a thread is in a state in which
 * it cannot be held just now (a parent in vfork), to be tried again at the next tick.
 */
int container_freeze(struct container *c, enum freezer who);

void container_thaw(struct container *c, enum freezer who);

/* For the end: whoever wanted it. */
void container_thaw_all(struct container *c);

bool container_is_frozen_by(const struct container *c, enum freezer who);
