/* Layout events that were read out of order: known cases, and random histories of a small address space against what really happened. */
#include <string.h>

#include "pager/layout_events.h"
#include "unit.h"

enum {
	NR_PLACES = 6,
	NR_THREADS = 4,
	NR_STEPS = 12,
	NOTHING = 0
};

static const bool *registered;

static bool is_registered(void *context, remote_addr_t addr)
{
	return registered[addr];
}

static struct layout_event moved(remote_addr_t from, remote_addr_t to)
{
	return (struct layout_event){.kind = LAYOUT_MOVED, .start = from, .end = from + 1, .to = to};
}

static struct layout_event unmapped(remote_addr_t place)
{
	return (struct layout_event){.kind = LAYOUT_UNMAPPED, .start = place, .end = place + 1};
}

static struct layout_event discarded(remote_addr_t place)
{
	return (struct layout_event){.kind = LAYOUT_DISCARDED, .start = place, .end = place + 1};
}

/* Applies the events to a table of places as the pager does. */
static void apply(struct layout_events *events, bool is_final, uint32_t *table)
{
	uint32_t order[LAYOUT_EVENTS_MAX];
	uint32_t nr = layout_events_order(events, is_final, is_registered, NULL, order);
	for (uint32_t i = 0; i < nr; i++) {
		const struct layout_event *e = &events->items[order[i]];
		if (e->kind == LAYOUT_MOVED)
			table[e->to] = table[e->start];
		table[e->start] = NOTHING;
	}
	layout_events_applied(events, is_final);
}

static void check(const struct layout_event *read, uint32_t nr, const bool *now, const uint32_t *before,
		  const uint32_t *after)
{
	struct layout_events events = {0};
	uint32_t table[NR_PLACES];
	registered = now;
	memcpy(table, before, sizeof(table));
	for (uint32_t i = 0; i < nr; i++)
		assert_true(layout_events_add(&events, &read[i]));
	apply(&events, true, table);
	assert_memory_equal(table, after, sizeof(table));
	assert_int_equal(events.nr, 0);
	layout_events_release(&events);
}

static const uint32_t two[NR_PLACES] = {0, 11, 22};

static void a_place_is_taken_before_its_unmapping_is_read(void **unused)
{
	const struct layout_event read[] = {moved(1, 3), moved(2, 1), unmapped(1), unmapped(2)};
	const uint32_t after[NR_PLACES] = {0, 22, 0, 11};
	check(read, 4, (const bool[NR_PLACES]){0, true, 0, true}, two, after);
}

static void a_place_is_taken_before_the_move_away_is_read(void **unused)
{
	const struct layout_event read[] = {moved(2, 1), moved(1, 3), unmapped(1), unmapped(2)};
	const uint32_t after[NR_PLACES] = {0, 22, 0, 11};
	check(read, 4, (const bool[NR_PLACES]){0, true, 0, true}, two, after);
}

static void one_mapping_moves_twice(void **unused)
{
	const struct layout_event read[] = {moved(2, 1), unmapped(2), moved(1, 3), unmapped(1)};
	const uint32_t before[NR_PLACES] = {0, 0, 22}, after[NR_PLACES] = {0, 0, 0, 22};
	check(read, 4, (const bool[NR_PLACES]){0, 0, 0, true}, before, after);
}

static void an_unmapping_is_read_late(void **unused)
{
	const struct layout_event read[] = {moved(2, 1), unmapped(1), unmapped(2)};
	const uint32_t taken[NR_PLACES] = {0, 22}, gone[NR_PLACES] = {0};
	const uint32_t one[NR_PLACES] = {0, 0, 22};
	check(read, 3, (const bool[NR_PLACES]){0, true}, two, taken);
	check(read, 3, (const bool[NR_PLACES]){0}, one, gone);
}

static void what_arrived_is_discarded(void **unused)
{
	const struct layout_event read[] = {moved(2, 1), discarded(1), moved(1, 3), unmapped(1), unmapped(2)};
	const uint32_t after[NR_PLACES] = {0, 0, 0, 11};
	check(read, 5, (const bool[NR_PLACES]){0, true, 0, true}, two, after);
}

static void a_move_may_leave_its_old_place_mapped(void **unused)
{
	const struct layout_event read[] = {moved(2, 4), unmapped(2), moved(4, 5)};
	const uint32_t after[NR_PLACES] = {0, 11, 0, 0, 0, 22};
	check(read, 3, (const bool[NR_PLACES]){0, true, 0, 0, true, true}, two, after);
}

static void a_fork_comes_between_a_move_and_its_unmapping(void **unused)
{
	struct layout_events events = {0};
	uint32_t table[NR_PLACES] = {0, 11, 22};
	const struct layout_event first = moved(1, 3), second = moved(2, 1), end = unmapped(1), end2 = unmapped(2);
	registered = (const bool[NR_PLACES]){0, true, 0, true};
	assert_true(layout_events_add(&events, &first));
	apply(&events, false, table);
	assert_true(layout_events_add(&events, &second));
	assert_true(layout_events_add(&events, &end));
	assert_true(layout_events_add(&events, &end2));
	apply(&events, true, table);
	assert_int_equal(table[1], 22);
	assert_int_equal(table[3], 11);
	layout_events_release(&events);
}

static void there_is_an_end_to_the_room(void **unused)
{
	struct layout_events events = {0};
	uint32_t order[LAYOUT_EVENTS_MAX];
	registered = (const bool[NR_PLACES]){0};
	for (uint32_t i = 0; i < LAYOUT_EVENTS_MAX; i++) {
		struct layout_event event = moved(1000 + i, 2000 + i);
		assert_true(layout_events_add(&events, &event));
	}
	struct layout_event one_more = unmapped(5), known = unmapped(1000);
	assert_false(layout_events_add(&events, &one_more));
	assert_true(layout_events_add(&events, &known));
	assert_int_equal(layout_events_order(&events, false, is_registered, NULL, order), LAYOUT_EVENTS_MAX);
	layout_events_applied(&events, false);
	assert_true(layout_events_add(&events, &one_more));
	assert_int_equal(layout_events_order(&events, false, is_registered, NULL, order), 1);
	layout_events_release(&events);
}

static uint64_t state = 11;

static uint32_t below(uint32_t n)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(state >> 33) % n;
}

/*
 * What one thread does: it owns at most one mapping, moves it to a free place or gives it back, and waits until each of its events is read. It does
 * not leave a place whose former owner's event is still unread: which of two leaves was whose then cannot be known.
 */
struct actor {
	uint32_t place; /* 0: owns nothing */
	struct layout_event events[2];
	uint32_t nr_unread, next;
};

struct history {
	struct actor actors[NR_THREADS];
	uint32_t really[NR_PLACES]; /* who owns each place: the content */
	struct layout_events events;
};

static bool is_leave_unread(const struct history *h, remote_addr_t place)
{
	bool found = false;
	for (uint32_t i = 0; i < NR_THREADS; i++)
		for (uint32_t k = 0; k < h->actors[i].nr_unread; k++)
			found |= h->actors[i].events[h->actors[i].next + k].start == place;
	return found;
}

static void act(struct history *h, uint32_t who)
{
	struct actor *actor = &h->actors[who];
	uint32_t to = 1 + below(NR_PLACES - 1);
	if (is_leave_unread(h, actor->place))
		return;
	actor->next = 0;
	if (!below(6)) {
		actor->events[0] = unmapped(actor->place);
		actor->nr_unread = 1;
		h->really[actor->place] = NOTHING;
		actor->place = 0;
	} else if (h->really[to] == NOTHING) {
		actor->events[0] = moved(actor->place, to);
		actor->events[1] = unmapped(actor->place);
		actor->nr_unread = 2;
		h->really[to] = h->really[actor->place];
		h->really[actor->place] = NOTHING;
		actor->place = to;
	}
}

static void read_one(struct history *h, uint32_t who)
{
	struct actor *actor = &h->actors[who];
	assert_true(layout_events_add(&h->events, &actor->events[actor->next++]));
	actor->nr_unread--;
}

static void random_histories(void **unused)
{
	for (int round = 0; round < 200000; round++) {
		struct history h = {0};
		uint32_t table[NR_PLACES] = {0};
		bool now[NR_PLACES];
		for (uint32_t i = 0; i < NR_THREADS; i++) {
			h.actors[i].place = i + 1;
			table[i + 1] = h.really[i + 1] = i + 1;
		}
		for (uint32_t step = 0, unread = 0; step < NR_STEPS || unread; step++) {
			uint32_t who = below(NR_THREADS);
			if (h.actors[who].nr_unread)
				read_one(&h, who);
			else if (h.actors[who].place && step < NR_STEPS)
				act(&h, who);
			unread = 0;
			for (uint32_t i = 0; i < NR_THREADS; i++)
				unread += h.actors[i].nr_unread;
		}
		for (uint32_t i = 0; i < NR_PLACES; i++)
			now[i] = h.really[i] != NOTHING;
		registered = now;
		apply(&h.events, true, table);
		assert_memory_equal(table, h.really, sizeof(table));
		layout_events_release(&h.events);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_place_is_taken_before_its_unmapping_is_read),
		cmocka_unit_test(a_place_is_taken_before_the_move_away_is_read),
		cmocka_unit_test(one_mapping_moves_twice),
		cmocka_unit_test(an_unmapping_is_read_late),
		cmocka_unit_test(what_arrived_is_discarded),
		cmocka_unit_test(a_move_may_leave_its_old_place_mapped),
		cmocka_unit_test(a_fork_comes_between_a_move_and_its_unmapping),
		cmocka_unit_test(there_is_an_end_to_the_room),
		cmocka_unit_test(random_histories),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
