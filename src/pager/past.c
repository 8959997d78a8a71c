#include "pager/past.h"

#include <errno.h>
#include <stdlib.h>

void past_init(struct past *past, void (*put)(void *context, slot_t slot), void *context)
{
	*past = (struct past){.put = put, .context = context};
}

static void put_slots(struct past *past, const struct past_item *item, uint32_t first, uint32_t nr)
{
	if (item->kind != PAST_SLOT)
		return;
	for (uint32_t i = first; i < first + nr; i++)
		past->put(past->context, item->first_slot + i);
	past->slots -= nr;
}

void past_release(struct past *past)
{
	past_forget(past, UINT64_MAX);
	free(past->items);
	past->items = NULL;
	past->capacity = 0;
}

static bool continues(const struct past_item *last, const struct past_item *item)
{
	return last->kind == item->kind && last->until == item->until && last->start + last->nr_pages * PAGE_BYTES == item->start &&
	       (item->kind != PAST_SLOT || last->first_slot + last->nr_pages == item->first_slot);
}

static bool append(struct past *past, const struct past_item *item)
{
	if (past->nr && continues(&past->items[past->nr - 1], item)) {
		past->items[past->nr - 1].nr_pages += item->nr_pages;
		return true;
	}
	if (past->nr == past->capacity) {
		uint32_t capacity = past->capacity ? past->capacity * 2 : 64;
		struct past_item *items = reallocarray(past->items, capacity, sizeof(*items));
		if (!items)
			return false;
		past->items = items;
		past->capacity = capacity;
	}
	past->items[past->nr++] = *item;
	return true;
}

void past_add(struct past *past, const struct past_item *item)
{
	past->slots += item->kind == PAST_SLOT ? item->nr_pages : 0;
	if (append(past, item))
		return;
	put_slots(past, item, 0, item->nr_pages);
	past->floor = MAX_OF(past->floor, item->until + 1);
}

/* The part of an item from page `first` on. */
static struct past_item tail(const struct past_item *item, uint32_t first)
{
	struct past_item rest = *item;
	rest.start += first * PAGE_BYTES;
	rest.nr_pages -= first;
	rest.first_slot += item->kind == PAST_SLOT ? first : 0;
	return rest;
}

/* An item in whose middle something was cut out becomes two. */
static void insert(struct past *past, uint32_t at, const struct past_item *item)
{
	struct past_item last = past->items[past->nr - 1];
	if (!append(past, &last)) { /* one page table's worth of memory is not there */
		put_slots(past, item, 0, item->nr_pages);
		past->floor = MAX_OF(past->floor, item->until + 1);
		return;
	}
	for (uint32_t i = past->nr - 1; i > at; i--)
		past->items[i] = past->items[i - 1];
	past->items[at] = *item;
}

bool past_cut(struct past *past, remote_addr_t start, remote_addr_t end)
{
	bool had_slots = false;
	uint32_t kept = 0;
	for (uint32_t i = 0; i < past->nr; i++) {
		struct past_item item = past->items[i];
		remote_addr_t item_end = item.start + item.nr_pages * PAGE_BYTES;
		if (item_end <= start || item.start >= end) {
			past->items[kept++] = item;
			continue;
		}
		uint32_t first = start > item.start ? (uint32_t)((start - item.start) / PAGE_BYTES) : 0;
		uint32_t after = end < item_end ? (uint32_t)((end - item.start) / PAGE_BYTES) : item.nr_pages;
		had_slots |= item.kind != PAST_ZEROS;
		put_slots(past, &item, first, after - first);
		struct past_item rest = tail(&item, after);
		item.nr_pages = first;
		if (first)
			past->items[kept++] = item;
		if (!rest.nr_pages)
			continue;
		if (kept <= i) {
			past->items[kept++] = rest;
		} else { /* `first` pages took this place: the rest goes behind it, and is looked at once more, in vain */
			insert(past, kept, &rest);
		}
	}
	past->nr = kept;
	return had_slots;
}

void past_forget(struct past *past, uint64_t stamp)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < past->nr; i++) {
		if (past->items[i].until < stamp)
			put_slots(past, &past->items[i], 0, past->items[i].nr_pages);
		else
			past->items[kept++] = past->items[i];
	}
	past->nr = kept;
	past->floor = MAX_OF(past->floor, stamp);
}

int past_visit(const struct past *past, uint64_t stamp, void (*visit)(const struct past_item *item, void *context), void *context)
{
	if (stamp < past->floor)
		return -ESTALE;
	for (uint32_t i = past->nr; i > 0; i--)
		if (past->items[i - 1].until >= stamp)
			visit(&past->items[i - 1], context);
	return 0;
}
