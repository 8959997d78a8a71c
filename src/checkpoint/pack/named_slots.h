/* Which slots of its swap file a description names, each once. Pure. */
#pragma once

#include "checkpoint/image.pb-c.h"
#include "base/types.h"

struct named_slots {
	uint64_t *bits;
	uint32_t end; /* all are below */
	uint64_t nr;
};

/* Of a description that makes sense (validate.h). 0 or -ENOMEM. */
int named_slots_of(const Image__Image *image, struct named_slots *ret);
void named_slots_release(struct named_slots *slots);

/* As if it were not named. */
void named_slots_drop(struct named_slots *slots, slot_t slot);

bool named_slots_have(const struct named_slots *slots, slot_t slot);

/* The first run of neighbours from `from` on, at most max of them: how many (0: there is none any more) and *ret_first. */
uint32_t named_slots_next_run(const struct named_slots *slots, slot_t from, uint32_t max, slot_t *ret_first);
