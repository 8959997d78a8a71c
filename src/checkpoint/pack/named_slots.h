/* Which slots of its swap file a description names, each once. Pure. */
#pragma once

#include "checkpoint/image.pb-c.h"
#include "base/types.h"

struct named_slots {
	uint64_t *bits;
	uint32_t end; /* all are below */
	uint64_t nr;
};

/* None, and room for those below end. 0 or -ENOMEM. */
int named_slots_new(uint32_t end, struct named_slots *ret);

/* Of a description that makes sense (validate.h). 0 or -ENOMEM. */
int named_slots_of(const Image__Image *image, struct named_slots *ret);

/* Of these, those of pages that have to be there before the processes can be made (first_pages.h). */
int named_slots_of_first_pages(const Image__Image *image, struct named_slots *ret);
void named_slots_release(struct named_slots *slots);

/* All of them are below the end. */
void named_slots_add(struct named_slots *slots, slot_t first, uint32_t nr);

/* As if it were not named. */
void named_slots_drop(struct named_slots *slots, slot_t slot);

bool named_slots_have(const struct named_slots *slots, slot_t slot);

/* One behind the last that is named; 1: there is none. */
slot_t named_slots_end(const struct named_slots *slots);

/* The first run of neighbours from `from` on, at most max of them: how many (0: there is none any more) and *ret_first. */
uint32_t named_slots_next_run(const struct named_slots *slots, slot_t from, uint32_t max, slot_t *ret_first);
