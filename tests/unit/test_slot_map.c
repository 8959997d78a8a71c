/* The books of a swap file against a plain array of reference counts, with the map's own check after each step. */
#include "swap/slot_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/types.h"
#include "unit.h"

#define MAX_SLOTS 8192
#define MAX_CLUSTERS (MAX_SLOTS / CLUSTER_SLOTS)

enum here { ABSENT, USABLE, PUNCHING };

struct model {
	struct slot_map *map;
	uint32_t nr_slots;
	uint32_t references[MAX_SLOTS];
	uint64_t checksums[MAX_SLOTS];
	enum here clusters[MAX_CLUSTERS];
	uint32_t used;
	uint32_t punch_first, punch_nr; /* the one under way */
	slot_t taken[MAX_SLOTS];        /* the slots with references, in any order */
	uint64_t seed;
};

static uint32_t random_below(struct model *m, uint32_t n)
{
	m->seed ^= m->seed << 13;
	m->seed ^= m->seed >> 7;
	m->seed ^= m->seed << 17;
	return (uint32_t)(m->seed >> 20) % n;
}

static void agrees(const struct model *m)
{
	assert_true(slot_map_check(m->map));
	assert_int_equal(slot_map_used(m->map), m->used);
}

/* The run is inside the cap, in clusters that have space, and was free. */
static void note_run(struct model *m, slot_t first, uint32_t nr, uint32_t want)
{
	assert_in_range(nr, 1, want);
	assert_true(first >= 1 && first + nr <= m->nr_slots);
	for (slot_t slot = first; slot < first + nr; slot++) {
		assert_int_equal(m->clusters[slot / CLUSTER_SLOTS], USABLE);
		assert_int_equal(m->references[slot], 0);
		assert_int_equal(slot_map_references(m->map, slot), 1);
		assert_int_equal(slot_map_checksum(m->map, slot), 0);
		m->references[slot] = 1;
		m->checksums[slot] = slot * 0x9e3779b97f4a7c15ull + m->seed;
		slot_map_set_checksum(m->map, slot, m->checksums[slot]);
		m->taken[m->used++] = slot;
	}
}

static bool has_usable_space(const struct model *m)
{
	for (slot_t slot = 1; slot < m->nr_slots; slot++)
		if (!m->references[slot] && m->clusters[slot / CLUSTER_SLOTS] == USABLE)
			return true;
	return false;
}

static void take(struct model *m)
{
	uint32_t want = 1 + random_below(m, 700), nr, cluster;
	bool may_grow = random_below(m, 8) > 0;
	slot_t first;
	int r = slot_map_alloc_run(m->map, want, may_grow, &first, &nr, &cluster);
	switch (r) {
	case 0:
		note_run(m, first, nr, want);
		break;
	case -EAGAIN: {
		bool ok = random_below(m, 5) > 0;
		assert_true(may_grow && m->clusters[cluster] == ABSENT);
		slot_map_finish_reserve(m->map, cluster, ok);
		m->clusters[cluster] = ok ? USABLE : ABSENT;
		break;
	}
	case -EBUSY:
		assert_true(m->punch_nr > 0 && !has_usable_space(m));
		break;
	default:
		assert_int_equal(r, -ENOSPC);
		assert_false(has_usable_space(m));
		assert_true(!may_grow || m->used == m->nr_slots - 1);
	}
}

static void put(struct model *m)
{
	if (!m->used)
		return;
	uint32_t i = random_below(m, m->used);
	slot_t slot = m->taken[i];
	assert_int_equal(slot_map_references(m->map, slot), m->references[slot]);
	assert_int_equal(slot_map_checksum(m->map, slot), m->checksums[slot]);
	slot_map_put(m->map, slot);
	if (--m->references[slot] == 0)
		m->taken[i] = m->taken[--m->used];
}

static void get(struct model *m)
{
	if (!m->used)
		return;
	slot_t slot = m->taken[random_below(m, m->used)];
	slot_map_get(m->map, slot);
	m->references[slot]++;
}

static void punch(struct model *m)
{
	if (m->punch_nr) {
		bool gone = random_below(m, 3) > 0;
		slot_map_finish_punch(m->map, m->punch_first, m->punch_nr, gone);
		for (uint32_t i = 0; i < m->punch_nr; i++)
			m->clusters[m->punch_first + i] = gone ? ABSENT : USABLE;
		m->punch_nr = 0;
		return;
	}
	uint32_t empty = slot_map_nr_empty(m->map), keep = random_below(m, 3), most = 1 + random_below(m, 4);
	m->punch_nr = slot_map_begin_punch(m->map, keep, most, &m->punch_first);
	assert_true(m->punch_nr <= most && (!m->punch_nr || m->punch_nr + keep <= empty));
	for (uint32_t i = 0; i < m->punch_nr; i++) {
		uint32_t number = m->punch_first + i;
		assert_int_equal(m->clusters[number], USABLE);
		for (slot_t slot = number * CLUSTER_SLOTS; slot < (number + 1) * CLUSTER_SLOTS && slot < m->nr_slots; slot++)
			assert_int_equal(m->references[slot], 0);
		m->clusters[number] = PUNCHING;
	}
}

static void walk(uint32_t nr_slots, uint32_t steps)
{
	struct model *m = calloc(1, sizeof(*m));
	assert_non_null(m);
	m->nr_slots = nr_slots;
	m->seed = nr_slots * 2654435761u + 1;
	assert_int_equal(slot_map_new(nr_slots, &m->map), 0);
	for (uint32_t step = 0; step < steps; step++) {
		bool filling = step / 400 % 2 == 0; /* now rather full, now rather empty */
		uint32_t dice = random_below(m, 100);
		if (dice < 4)
			punch(m);
		else if (dice < (filling ? 30 : 6))
			take(m);
		else if (dice < (filling ? 40 : 12))
			get(m);
		else
			for (int i = filling ? 1 : 20; i > 0; i--)
				put(m);
		if (step % 16 == 0)
			agrees(m);
	}
	while (m->used)
		put(m);
	if (m->punch_nr)
		punch(m);
	agrees(m);
	slot_map_free(m->map);
	free(m);
}

static void agrees_with_a_model(void **state)
{
	static const uint32_t sizes[] = {2, 3, 511, 512, 513, 514, 1024, 1025, 5 * 512 + 77, MAX_SLOTS};
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		walk(sizes[i], sizes[i] < 1024 ? 5000 : 40000);
}

/* Takes a run; space for new clusters is always to be had. */
static int grow_and_take(struct slot_map *map, uint32_t want, slot_t *ret_first, uint32_t *ret_nr)
{
	uint32_t cluster;
	int r;
	while ((r = slot_map_alloc_run(map, want, true, ret_first, ret_nr, &cluster)) == -EAGAIN)
		slot_map_finish_reserve(map, cluster, true);
	return r;
}

static void runs_follow_each_other(void **state)
{
	struct slot_map *map;
	slot_t first, next = 1;
	uint32_t nr;
	assert_int_equal(slot_map_new(4 * CLUSTER_SLOTS, &map), 0);
	for (int i = 0; i < 16; i++) { /* across the ends of clusters too */
		assert_int_equal(grow_and_take(map, 100, &first, &nr), 0);
		assert_int_equal(first, next);
		assert_int_equal(nr, 100);
		next = first + nr;
	}
	slot_map_free(map);
}

static void every_slot_below_the_cap_is_handed_out_and_none_above(void **state)
{
	static const uint32_t sizes[] = {2, 512, 513, 1000, 1537};
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct slot_map *map;
		uint32_t nr, total = 0;
		slot_t first;
		assert_int_equal(slot_map_new(sizes[i], &map), 0);
		while (grow_and_take(map, 256, &first, &nr) == 0) {
			assert_true(first + nr <= sizes[i]);
			total += nr;
		}
		assert_int_equal(total, sizes[i] - 1);
		assert_true(slot_map_check(map));
		slot_map_free(map);
	}
}

static void references_stick_at_the_top(void **state)
{
	struct slot_map *map;
	slot_t first;
	uint32_t nr;
	assert_int_equal(slot_map_new(100, &map), 0);
	assert_int_equal(grow_and_take(map, 1, &first, &nr), 0);
	for (uint32_t i = 0; i < UINT16_MAX + 10; i++)
		slot_map_get(map, first);
	assert_int_equal(slot_map_references(map, first), UINT16_MAX);
	for (uint32_t i = 0; i < UINT16_MAX + 20; i++)
		assert_false(slot_map_put(map, first));
	assert_int_equal(slot_map_references(map, first), UINT16_MAX);
	assert_int_equal(slot_map_used(map), 1);
	slot_map_free(map);
}

/* What refers to slots is all that is needed to make the books again. */
static void made_again_from_references(void **state)
{
	static struct model m = {.nr_slots = 4000, .seed = 4711};
	struct slot_map *again;
	assert_int_equal(slot_map_new(m.nr_slots, &m.map), 0);
	assert_int_equal(slot_map_new(m.nr_slots, &again), 0);
	for (slot_t slot = 1; slot < m.nr_slots; slot += 1 + random_below(&m, 40))
		for (uint32_t n = 1 + random_below(&m, 3); n; n--, m.references[slot]++)
			assert_true(slot_map_adopt(m.map, slot));
	for (slot_t slot = slot_map_next_used(m.map, 0); slot != NO_SLOT; slot = slot_map_next_used(m.map, slot + 1)) {
		assert_int_equal(slot_map_references(m.map, slot), m.references[slot]);
		for (uint32_t n = m.references[slot]; n; n--)
			assert_true(slot_map_adopt(again, slot));
		m.used++;
	}
	assert_true(slot_map_check(m.map) && slot_map_check(again));
	assert_int_equal(slot_map_used(again), slot_map_used(m.map));
	assert_int_equal(slot_map_used(again), m.used);
	assert_false(slot_map_adopt(again, NO_SLOT));
	assert_false(slot_map_adopt(again, m.nr_slots));
	slot_t first;
	uint32_t nr, cluster;
	assert_int_equal(slot_map_alloc_run(again, 8, false, &first, &nr, &cluster), 0); /* between them */
	for (slot_t slot = 1; slot < m.nr_slots; slot++)
		for (; m.references[slot]; m.references[slot]--)
			slot_map_put(again, slot);
	assert_int_equal(slot_map_used(again), nr);
	assert_true(slot_map_check(again));
	slot_map_free(again);
	slot_map_free(m.map);
}

static void nonsense_is_refused(void **state)
{
	struct slot_map *map;
	slot_t first;
	uint32_t nr, cluster;
	assert_int_equal(slot_map_new(0, &map), -EINVAL);
	assert_int_equal(slot_map_new(1, &map), -EINVAL);
	assert_int_equal(slot_map_new(2, &map), 0);
	assert_int_equal(slot_map_alloc_run(map, 0, true, &first, &nr, &cluster), -EINVAL);
	assert_int_equal(slot_map_references(map, NO_SLOT), 0);
	assert_int_equal(slot_map_references(map, 1000), 0);
	assert_int_equal(slot_map_begin_punch(map, 0, 10, &cluster), 0);
	slot_map_free(map);
	slot_map_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_a_model),
		cmocka_unit_test(runs_follow_each_other),
		cmocka_unit_test(every_slot_below_the_cap_is_handed_out_and_none_above),
		cmocka_unit_test(references_stick_at_the_top),
		cmocka_unit_test(made_again_from_references),
		cmocka_unit_test(nonsense_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
