/*
 * Some members leave the container, which goes on with the others: every page of theirs back in memory, nothing of membox left in them. For `release` with a
 * pid, which is how a process is attached to another container. Container thread.
 *
 * From the beginning they count no longer: what comes back for them never waits for room, and the rest of the container gets the room that they had.
 */
#pragma once

#include "base/types.h"

struct container;

/*
 * Begins for this member and those below it. 0; -ESRCH: it is no member; -EXDEV: the container has namespaces of its own, which a process cannot leave;
 * -ENOMEM: the system has not enough memory available for what is evicted; -EBUSY: others leave just now, or something is under way that holds,
 * evicts or brings back all members, or the container is being killed.
 */
int container_leave_begin(struct container *c, pid_t pid);

/* Does some of the work, for a millisecond or a few. -EINPROGRESS; 0: they have departed, or ended meanwhile. */
int container_leave_step(struct container *c);
