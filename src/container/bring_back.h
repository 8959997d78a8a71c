/*
 * Every evicted page of a container back into memory while its members run: for `swapoff` and for `release`. Begun, then asked once a tick how far
 * it has come; a step takes a millisecond at most and never waits for the disk. Container thread.
 *
 * The caller sees to it that nothing is evicted meanwhile (a limit with room for everything), or it never ends. Pages are charged like those
 * of a fault.
 */
#pragma once

#include "base/types.h"

struct bring_back;
struct container;

/* With only_leaving, of address spaces that leave (leave.h) and of no others. 0 or -errno. */
int bring_back_new(struct container *c, bool only_leaving, struct bring_back **ret);

/* What is under way is given up: those pages stay evicted. NULL is allowed. */
void bring_back_free(struct bring_back *b);

/*
 * -EINPROGRESS, or 0: no page of any member is in a slot (pages in memory may still keep the slot that they were read from:
 * address_space_drop_clean_slots), or -ENOSPC: the limit leaves no room just now; to be called again or given up. *ret_left: pages that
 * are still evicted.
 */
int bring_back_step(struct bring_back *b, uint64_t *ret_left);

/* Evicted pages of all address spaces, or of those that leave. */
uint64_t bring_back_left(struct container *c, bool only_leaving);
