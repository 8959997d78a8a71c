#include "checkpoint/pack/named_slots.h"

#include <errno.h>
#include <stdlib.h>

static void add(struct named_slots *slots, Image__Extent *const *extents, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		for (slot_t slot = extents[i]->slot; slot < extents[i]->slot + extents[i]->nr_pages; slot++) {
			uint64_t bit = UINT64_C(1) << slot % 64;
			slots->nr += !(slots->bits[slot / 64] & bit);
			slots->bits[slot / 64] |= bit;
		}
}

int named_slots_of(const Image__Image *image, struct named_slots *ret)
{
	struct named_slots slots = {.end = image->pages->nr_slots};
	slots.bits = calloc(slots.end / 64 + 1, sizeof(*slots.bits));
	if (!slots.bits)
		return -ENOMEM;
	for (size_t i = 0; i < image->n_processes; i++)
		for (size_t k = 0; image->processes[i]->memory && k < image->processes[i]->memory->n_mappings; k++)
			add(&slots, image->processes[i]->memory->mappings[k]->extents, image->processes[i]->memory->mappings[k]->n_extents);
	for (size_t i = 0; i < image->n_objects; i++)
		add(&slots, image->objects[i]->extents, image->objects[i]->n_extents);
	*ret = slots;
	return 0;
}

void named_slots_release(struct named_slots *slots)
{
	free(slots->bits);
	*slots = (struct named_slots){0};
}

void named_slots_drop(struct named_slots *slots, slot_t slot)
{
	slots->nr -= named_slots_have(slots, slot);
	slots->bits[slot / 64] &= ~(UINT64_C(1) << slot % 64);
}

bool named_slots_have(const struct named_slots *slots, slot_t slot)
{
	return slot < slots->end && slots->bits[slot / 64] >> slot % 64 & 1;
}

uint32_t named_slots_next_run(const struct named_slots *slots, slot_t from, uint32_t max, slot_t *ret_first)
{
	uint32_t nr = 0;
	for (; from < slots->end && !named_slots_have(slots, from); from += slots->bits[from / 64] ? 1 : 64 - from % 64)
		;
	while (nr < max && named_slots_have(slots, from + nr))
		nr++;
	*ret_first = from;
	return nr;
}
