/*
 * Where the memory that a program takes from now on comes from: the policy of each of its threads (set_mempolicy(2)), which only the thread itself can set, so
 * it does while it is held. What it starts later inherits the policy; what it has decided for single mappings (mbind(2)) stays. Container thread.
 */
#pragma once

#include "base/types.h"
#include "platform/numa.h"

/* Of one process; zero at first. */
struct placement {
	pid_t *done; /* threads that have the policy */
	uint32_t nr_done, capacity;
	pid_t last_tried;
	uint32_t tries;
};

/*
 * Sets the policy for threads of the process, for about 3 ms; each is held for its own calls only, the others run on. 0: all have it; -EAGAIN: to be called again; or -errno: it cannot be set (-EACCES: a seccomp
 * filter; -EPERM: a debugger; -ESRCH: the process is gone; -ETIMEDOUT: a thread could not be held for long; -EBUSY: it stands still, and may go on later).
 */
int placement_step(struct placement *placement, pid_t pid, const struct node_set *nodes);

void placement_release(struct placement *placement);
