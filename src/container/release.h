/*
 * The opposite of limiting: every page back in memory, nothing of membox left in the members, which go on alone. Container thread.
 *
 *   RELEASE_NOT ──start──▶ RELEASE_BRINGS_BACK ──▶ RELEASE_LETS_GO ──▶ RELEASE_DONE
 *
 * The keeper of an attached container ends then. That of a program that membox has started is its parent: it waits for its end, and the limit
 * is off until somebody sets one again.
 */
#pragma once

#include "container/container.h"

/*
 * Begins. 0, also when it is under way; -ENOMEM: the system has not enough memory available for what is evicted; -EBUSY: the container is being
 * killed, or a swapoff is under way. The limit is lifted and nothing is evicted any more; a parked container goes on.
 */
int container_release_start(struct container *c);

/* Does some of the work, for a millisecond or a few. -EINPROGRESS; 0: done; -EINVAL: was not begun. *ret_left: pages that are still evicted; may be NULL. */
int container_release_step(struct container *c, uint64_t *ret_left);

/* True when the system has memory available for so many pages, and some to spare. */
bool release_has_room(uint64_t pages);

/*
 * Lets go of one address space, of which nothing is evicted. True when it is off the list. A process that cannot be held just now, because job control
 * has stopped it, has to wait.
 */
bool release_let_go(struct container *c, struct address_space *as);

/* True between the beginning and the end: nothing else may change limit, usage or swap file. */
bool container_is_releasing(const struct container *c);
