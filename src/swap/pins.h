/*
 * Slots that a checkpoint refers to: they stay as they are, whatever becomes of the pages that were in them. A set is collected while the checkpoint is made, and
 * counts when that is complete. Private to swap/; not thread-safe, but for what swap.h says.
 */
#pragma once

#include "base/types.h"

struct pins {
	uint64_t *bits; /* of each slot */
	uint32_t words;
	uint32_t nr;    /* set bits */
};

bool pins_has(const struct pins *pins, slot_t slot);
int pins_add(struct pins *pins, slot_t slot); /* 1: it is new; 0: it was there; -ENOMEM */

/* Calls visit for each. */
void pins_for_each(const struct pins *pins, void (*visit)(slot_t slot, void *context), void *context);
void pins_clear(struct pins *pins);
