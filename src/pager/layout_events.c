#include "pager/layout_events.h"

#include <stdlib.h>
#include <string.h>

#define WORDS (LAYOUT_EVENTS_MAX / 64)

struct plan {
	const struct layout_events *events;
	bool is_final;
	uint64_t before[LAYOUT_EVENTS_MAX][WORDS]; /* for each event: those that come before it, as bits */
};

bool layout_events_add(struct layout_events *events, const struct layout_event *event)
{
	for (uint32_t i = 0; event->kind == LAYOUT_UNMAPPED && i < events->nr; i++) {
		struct layout_event *move = &events->items[i];
		if (move->kind != LAYOUT_MOVED || move->is_unmapped || move->start != event->start ||
		    move->end != event->end)
			continue;
		move->is_unmapped = true;
		return true;
	}
	if (!events->items)
		events->items = reallocarray(NULL, LAYOUT_EVENTS_MAX, sizeof(*events->items));
	if (!events->items || events->nr == LAYOUT_EVENTS_MAX)
		return false;
	events->items[events->nr++] = *event;
	return true;
}

static bool is_move_to(const struct layout_event *e, remote_addr_t start, remote_addr_t end)
{
	return e->kind == LAYOUT_MOVED && e->to < end && start < e->to + (e->end - e->start);
}

static bool touches(const struct layout_event *e, remote_addr_t start, remote_addr_t end)
{
	return (e->start < end && start < e->end) || is_move_to(e, start, end);
}

static bool overlap(const struct layout_event *a, const struct layout_event *b)
{
	return touches(a, b->start, b->end) ||
	       (b->kind == LAYOUT_MOVED && touches(a, b->to, b->to + (b->end - b->start)));
}

/* Nothing is left in [start, end) after it. */
static bool leaves(const struct plan *plan, const struct layout_event *e)
{
	return e->kind == LAYOUT_UNMAPPED || (e->kind == LAYOUT_MOVED && (e->is_unmapped || !plan->is_final));
}

/* True when event j, which leaves a place, happened before event i, which was read earlier and arrived there. */
static bool is_late(const struct plan *plan, uint32_t i, uint32_t j, layout_is_registered_t is_registered,
		    void *context)
{
	const struct layout_event *items = plan->events->items;
	remote_addr_t place = MAX_OF(items[i].to, items[j].start);
	uint32_t nr_arrivals = 0, nr_leaves = 0, arrival = 0, leave = 0;
	for (uint32_t k = 0; k < plan->events->nr; k++) {
		if (items[k].is_applied)
			continue;
		if (is_move_to(&items[k], place, place + 1)) {
			arrival = k == i ? nr_arrivals : arrival;
			nr_arrivals++;
		} else if (leaves(plan, &items[k]) && items[k].start <= place && place < items[k].end) {
			leave = k == j ? nr_leaves : leave;
			nr_leaves++;
		}
	}
	if (nr_leaves > nr_arrivals || (nr_leaves == nr_arrivals && is_registered(context, place)))
		return leave <= arrival;
	return leave < arrival;
}

static void set_before(struct plan *plan, uint32_t first, uint32_t second)
{
	plan->before[second][first / 64] |= 1ull << first % 64;
}

/* Of two events, i read before j. */
static void compare(struct plan *plan, uint32_t i, uint32_t j, layout_is_registered_t is_registered, void *context)
{
	const struct layout_event *a = &plan->events->items[i], *b = &plan->events->items[j];
	if (!overlap(a, b))
		return;
	if (leaves(plan, b) && is_move_to(a, b->start, b->end) && is_late(plan, i, j, is_registered, context))
		set_before(plan, j, i);
	else if (
		a->kind !=
		LAYOUT_DISCARDED) /* what discards comes after the arrival that it belongs to, whatever leaves were read later */
		set_before(plan, i, j);
}

/* The first event in the order of reading that waits for none of the others; should they all wait, the first. */
static uint32_t choose(const struct plan *plan, const uint64_t left[WORDS])
{
	uint32_t first = LAYOUT_EVENTS_MAX;
	for (uint32_t i = 0; i < plan->events->nr; i++) {
		bool waits = false;
		if (!(left[i / 64] >> i % 64 & 1))
			continue;
		for (uint32_t w = 0; w < WORDS; w++)
			waits |= (plan->before[i][w] & left[w]) != 0;
		if (!waits)
			return i;
		first = MIN_OF(first, i);
	}
	return first;
}

uint32_t layout_events_order(const struct layout_events *events, bool is_final, layout_is_registered_t is_registered,
			     void *context, uint32_t order[LAYOUT_EVENTS_MAX])
{
	struct plan plan = {.events = events, .is_final = is_final};
	uint64_t left[WORDS] = {0};
	uint32_t nr = 0, nr_ordered = 0;
	for (uint32_t j = 0; j < events->nr; j++) {
		if (events->items[j].is_applied)
			continue;
		for (uint32_t i = 0; i < j; i++)
			if (!events->items[i].is_applied)
				compare(&plan, i, j, is_registered, context);
		left[j / 64] |= 1ull << j % 64;
		nr++;
	}
	while (nr_ordered < nr) {
		uint32_t next = choose(&plan, left);
		left[next / 64] &= ~(1ull << next % 64);
		order[nr_ordered++] = next;
	}
	return nr_ordered;
}

void layout_events_applied(struct layout_events *events, bool is_final)
{
	uint32_t nr = 0;
	for (uint32_t i = 0; i < events->nr && !is_final; i++) {
		struct layout_event *event = &events->items[i];
		if (event->kind != LAYOUT_MOVED || event->is_unmapped)
			continue;
		event->is_applied = true;
		events->items[nr++] = *event;
	}
	uint32_t kept = MIN_OF(nr, (uint32_t)LAYOUT_EVENTS_MAX / 2);
	if (kept)
		memmove(events->items, events->items + (nr - kept), kept * sizeof(*events->items));
	events->nr = kept;
}

void layout_events_release(struct layout_events *events)
{
	free(events->items);
	*events = (struct layout_events){0};
}
