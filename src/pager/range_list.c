#include "pager/range_list.h"

#include <stdlib.h>
#include <string.h>

/* Index of the first range that ends above addr. */
static uint32_t lower_bound(const struct range_list *list, remote_addr_t addr)
{
	uint32_t low = 0, high = list->nr;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (list->items[middle].end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct range *range_list_find(const struct range_list *list, remote_addr_t addr)
{
	uint32_t i = lower_bound(list, addr);
	return i < list->nr && list->items[i].start <= addr ? &list->items[i] : NULL;
}

static bool reserve(struct range_list *list, uint32_t more)
{
	if (list->nr + more <= list->capacity)
		return true;
	uint32_t capacity = MAX_OF(list->capacity * 2, 64u);
	struct range *items = reallocarray(list->items, capacity, sizeof(*items));
	if (!items)
		return false;
	list->items = items;
	list->capacity = capacity;
	return true;
}

/* Replaces `out` ranges at index i by the nr_in given ones; there is room. */
static void splice(struct range_list *list, uint32_t i, uint32_t out, const struct range *in, uint32_t nr_in)
{
	memmove(list->items + i + nr_in, list->items + i + out, (list->nr - i - out) * sizeof(*list->items));
	memcpy(list->items + i, in, nr_in * sizeof(*in));
	list->nr += nr_in - out;
}

bool range_list_cut(struct range_list *list, remote_addr_t start, remote_addr_t end)
{
	struct range left[2];
	uint32_t i = lower_bound(list, start), last = i, nr_left = 0;
	while (last < list->nr && list->items[last].start < end)
		last++;
	if (last == i)
		return true;
	if (list->items[i].start < start)
		left[nr_left++] = (struct range){list->items[i].start, start};
	if (list->items[last - 1].end > end)
		left[nr_left++] = (struct range){end, list->items[last - 1].end};
	bool fits = nr_left <= last - i || reserve(list, 1);
	splice(list, i, last - i, left, fits ? nr_left : 0);
	return fits;
}

bool range_list_put(struct range_list *list, remote_addr_t start, remote_addr_t end)
{
	if (!range_list_cut(list, start, end) || !reserve(list, 1))
		return false;
	splice(list, lower_bound(list, start), 0, &(struct range){start, end}, 1);
	return true;
}

bool range_list_copy(struct range_list *to, const struct range_list *from)
{
	struct range *items = from->nr ? reallocarray(NULL, from->nr, sizeof(*items)) : NULL;
	if (from->nr && !items)
		return false;
	*to = (struct range_list){.items = items, .nr = from->nr, .capacity = from->nr};
	if (from->nr)
		memcpy(items, from->items, from->nr * sizeof(*items));
	return true;
}

void range_list_release(struct range_list *list)
{
	free(list->items);
	*list = (struct range_list){0};
}
