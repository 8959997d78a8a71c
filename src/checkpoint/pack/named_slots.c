#include "checkpoint/pack/named_slots.h"

#include <errno.h>
#include <stdlib.h>

#include "checkpoint/first_pages.h"

void named_slots_add(struct named_slots *slots, slot_t first, uint32_t nr)
{
	for (slot_t slot = first; slot < first + nr; slot++) {
		uint64_t bit = UINT64_C(1) << slot % 64;
		slots->nr += !(slots->bits[slot / 64] & bit);
		slots->bits[slot / 64] |= bit;
	}
}

static void add(struct named_slots *slots, Image__Extent *const *extents, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		named_slots_add(slots, extents[i]->slot, extents[i]->nr_pages);
}

int named_slots_new(uint32_t end, struct named_slots *ret)
{
	struct named_slots slots = {.end = end};
	slots.bits = calloc(end / 64 + 1, sizeof(*slots.bits));
	if (!slots.bits)
		return -ENOMEM;
	*ret = slots;
	return 0;
}

static void add_all_pages(struct named_slots *slots, const Image__Process *process, const Image__Mapping *m)
{
	add(slots, m->extents, m->n_extents);
}

static void add_first_pages(struct named_slots *slots, const Image__Process *process, const Image__Mapping *m)
{
	struct first_pages first;
	for (size_t i = 0; i < m->n_extents; i++) {
		const Image__Extent *extent = m->extents[i];
		if (!pages_come_as_faults(m)) {
			named_slots_add(slots, extent->slot, extent->nr_pages);
			continue;
		}
		first_pages_find(process, extent, &first);
		for (uint32_t k = 0; first.nr && k < extent->nr_pages; k++)
			if (first_pages_have(&first, extent->start + (uint64_t)k * PAGE_BYTES))
				named_slots_add(slots, extent->slot + k, 1);
	}
}

/* Of each mapping what add_pages chooses, and of what is shared all. */
static int collect(const Image__Image *image, void (*add_pages)(struct named_slots *, const Image__Process *, const Image__Mapping *), struct named_slots *ret)
{
	struct named_slots slots;
	if (named_slots_new(image->pages->nr_slots, &slots) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < image->n_processes; i++)
		for (size_t k = 0; image->processes[i]->memory && k < image->processes[i]->memory->n_mappings; k++)
			add_pages(&slots, image->processes[i], image->processes[i]->memory->mappings[k]);
	for (size_t i = 0; i < image->n_objects; i++)
		add(&slots, image->objects[i]->extents, image->objects[i]->n_extents);
	*ret = slots;
	return 0;
}

int named_slots_of(const Image__Image *image, struct named_slots *ret)
{
	return collect(image, add_all_pages, ret);
}

int named_slots_of_first_pages(const Image__Image *image, struct named_slots *ret)
{
	return collect(image, add_first_pages, ret);
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

slot_t named_slots_end(const struct named_slots *slots)
{
	slot_t end = slots->end;
	while (end > 1 && !named_slots_have(slots, end - 1))
		end -= slots->bits[(end - 1) / 64] ? 1 : (end - 1) % 64 + 1;
	return MAX_OF(end, 1u);
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
