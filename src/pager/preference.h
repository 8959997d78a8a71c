/*
 * The nodes on which the keeper's threads allocate: UFFDIO_COPY takes memory where the policy of its caller says, so what comes back to the program lands
 * there. The kernel keeps a policy for each thread, which only the thread itself can change; so each looks, as its loop comes round, whether
 * there is a new one.
 */
#pragma once

#include <stdatomic.h>

#include "platform/numa.h"

/* Zero: the system's own policy. */
struct preference {
	_Atomic uint64_t words[NUMA_NODES_MAX / 64];
	_Atomic uint32_t seq;
};

/* Container thread. */
void preference_set(struct preference *preference, const struct node_set *nodes);

/* The calling thread takes over what is wanted; one load when it has done so. Returns the seq that it follows. */
uint32_t preference_follow(const struct preference *preference);
