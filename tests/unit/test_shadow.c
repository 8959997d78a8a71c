/* The shadow page table against a plain array, with its own check after each step. */
#include "pager/shadow.h"
#include "unit.h"

#define NR_PAGES 3000
#define BASE 0x7f0000000000ull

static uint64_t random_next(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static remote_addr_t page_at(uint64_t i)
{
	return BASE + i * PAGE_BYTES * (i % 3 ? 1 : 513); /* some far apart, so that several leaves are used */
}

static void seen(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	uint64_t *count = context;
	assert_int_equal(shadow_get(shadow, addr), entry);
	++*count;
}

static void agrees_with_a_model(void **state)
{
	static shadow_entry_t model[NR_PAGES];
	struct shadow *shadow = shadow_new();
	uint64_t s = 12345, filled = 0, visited = 0;
	assert_non_null(shadow);
	for (unsigned step = 0; step < 20000; step++) {
		uint64_t i = random_next(&s) % NR_PAGES;
		slot_t slot = (slot_t)(random_next(&s) % 1000 + 1);
		shadow_entry_t entry = 0;
		switch (entry_state(model[i])) {
		case STATE_NONE:
			entry = entry_make(STATE_RESIDENT, NO_SLOT, step % 3, (uint8_t)step, step % 5 ? 0 : ENTRY_PINNED);
			break;
		case STATE_RESIDENT:
			entry = step % 2 ? entry_make(STATE_STAGED, slot, 0, 1, 0) : 0;
			break;
		case STATE_STAGED:
			entry = step % 2 ? entry_make(STATE_SWAPPED, slot, 0, 1, ENTRY_LOADING) : entry_make(STATE_ZERO, NO_SLOT, 0, 1, 0);
			break;
		default:
			entry = entry_make(STATE_RESIDENT, slot, 1, 2, 0);
		}
		assert_true(shadow_set(shadow, page_at(i), entry));
		model[i] = entry;
		if (step % 500 == 0)
			assert_true(shadow_check(shadow));
	}
	for (uint64_t i = 0; i < NR_PAGES; i++) {
		assert_int_equal(shadow_get(shadow, page_at(i)), model[i]);
		filled += model[i] != 0;
	}
	shadow_for_each(shadow, 0, UINT64_MAX, seen, &visited);
	assert_int_equal(visited, filled);
	shadow_free(shadow);
}

static void walk_keeps_to_its_range(void **state)
{
	struct shadow *shadow = shadow_new();
	uint64_t visited = 0;
	for (uint64_t i = 0; i < 2000; i++)
		assert_true(shadow_set(shadow, BASE + i * PAGE_BYTES, entry_make(STATE_RESIDENT, NO_SLOT, 0, 0, 0)));
	shadow_for_each(shadow, BASE + 10 * PAGE_BYTES, BASE + 1500 * PAGE_BYTES, seen, &visited);
	assert_int_equal(visited, 1490);
	assert_int_equal(shadow_count(shadow, STATE_RESIDENT), 2000);
	assert_int_equal(shadow_get(shadow, 1ull << 50), 0);
	shadow_free(shadow);
}

static void finds_evicted_pages(void **state)
{
	struct shadow *shadow = shadow_new();
	remote_addr_t found;
	assert_false(shadow_next_evicted(shadow, 0, &found));
	for (uint64_t i = 0; i < 600; i++)
		assert_true(shadow_set(shadow, BASE + i * PAGE_BYTES, entry_make(STATE_RESIDENT, NO_SLOT, 0, 0, 0)));
	assert_true(shadow_set(shadow, BASE + 5 * PAGE_BYTES, entry_make(STATE_STAGED, 7, 0, 0, 0)));
	assert_true(shadow_set(shadow, BASE + (1ull << 40), entry_make(STATE_SWAPPED, 8, 0, 0, 0)));
	assert_true(shadow_next_evicted(shadow, 0, &found));
	assert_int_equal(found, BASE + 5 * PAGE_BYTES);
	assert_true(shadow_next_evicted(shadow, found, &found));
	assert_int_equal(found, BASE + 5 * PAGE_BYTES);
	assert_true(shadow_next_evicted(shadow, found + PAGE_BYTES, &found));
	assert_int_equal(found, BASE + (1ull << 40));
	assert_false(shadow_next_evicted(shadow, found + PAGE_BYTES, &found));
	shadow_free(shadow);
}

/* A run that begins and ends inside leaves, over pages that are pinned already. */
static void a_run_is_set_at_once(void **state)
{
	enum { NR = 1200, FIRST = 300, SLOT = 77 };
	struct shadow *shadow = shadow_new();
	remote_addr_t start = BASE + FIRST * PAGE_BYTES;
	assert_true(shadow_set(shadow, start + 5 * PAGE_BYTES, ENTRY_PINNED));
	assert_true(shadow_set_swapped(shadow, start, NR, SLOT | 0x80000000u, 3));
	for (uint64_t i = 0; i < NR; i++) {
		shadow_entry_t entry = shadow_get(shadow, start + i * PAGE_BYTES);
		assert_int_equal(entry_state(entry), STATE_SWAPPED);
		assert_int_equal(entry_slot(entry), (SLOT | 0x80000000u) + i);
		assert_int_equal(entry & ENTRY_PINNED, i == 5 ? ENTRY_PINNED : 0);
	}
	assert_int_equal(shadow_get(shadow, start - PAGE_BYTES), 0);
	assert_int_equal(shadow_get(shadow, start + NR * PAGE_BYTES), 0);
	assert_int_equal(shadow_evicted(shadow), NR);
	assert_int_equal(shadow_pinned(shadow), 1);
	assert_true(shadow_check(shadow));
	shadow_free(shadow);
}

static void set_saved(struct shadow *shadow, uint64_t page, slot_t slot, uint64_t flags)
{
	assert_true(shadow_set(shadow, BASE + page * PAGE_BYTES, entry_make(STATE_RESIDENT, slot, 0, 0, flags)));
}

static void finds_runs_of_saved_pages(void **state)
{
	static const struct { uint64_t from, found, nr; slot_t slot; } runs[] = {
		{0, 500, 30, 1000}, {510, 510, 20, 1010}, {530, 530, 2, 7}, {532, 532, 3, NO_SLOT}, {535, 540, 1, 42}, {541, 2000000, 1, 9}, {2000001, 0, 0, NO_SLOT},
	};
	struct shadow *shadow = shadow_new();
	remote_addr_t found = 0;
	slot_t slot = NO_SLOT;
	for (uint64_t i = 0; i < 30; i++) /* from one leaf to the next */
		set_saved(shadow, 500 + i, (slot_t)(1000 + i), ENTRY_SAVED);
	set_saved(shadow, 530, 7, ENTRY_SAVED);
	set_saved(shadow, 531, 8, ENTRY_SAVED | ENTRY_PINNED);
	for (uint64_t i = 532; i < 535; i++)
		set_saved(shadow, i, NO_SLOT, ENTRY_SAVED | ENTRY_ZEROS);
	set_saved(shadow, 535, NO_SLOT, ENTRY_SAVED); /* being copied */
	set_saved(shadow, 536, 12, ENTRY_ARMED);
	set_saved(shadow, 540, 42, ENTRY_SAVED);
	set_saved(shadow, 2000000, 9, ENTRY_SAVED);
	for (size_t i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
		assert_int_equal(shadow_next_saved(shadow, BASE + runs[i].from * PAGE_BYTES, UINT64_MAX, &found, &slot), runs[i].nr);
		assert_true(!runs[i].nr || (found == BASE + runs[i].found * PAGE_BYTES && slot == runs[i].slot));
	}
	assert_int_equal(shadow_next_saved(shadow, BASE, BASE + 505 * PAGE_BYTES, &found, &slot), 5);
	assert_int_equal(shadow_next_saved(shadow, BASE, BASE + 500 * PAGE_BYTES, &found, &slot), 0);
	assert_int_equal(shadow_next_saved(shadow, BASE + 536 * PAGE_BYTES, BASE + 540 * PAGE_BYTES, &found, &slot), 0);
	shadow_free(shadow);
}

/* Whose nodes lie in chunks of all sizes: entered one by one, far apart, and all at once. */
static void large_tables(void **state)
{
	enum { APART = 1200, AT_ONCE = 3 << 18 };
	const remote_addr_t run = BASE / 2;
	for (int all_first = 0; all_first < 2; all_first++) {
		struct shadow *shadow = shadow_new();
		for (int k = 0; k < 2; k++) {
			if (k != all_first)
				assert_true(shadow_set_swapped(shadow, run, AT_ONCE, 1, 0));
			for (uint64_t i = 0; k == all_first && i < APART; i++)
				assert_true(shadow_set(shadow, BASE + i * HUGE_PAGE_BYTES, entry_make(STATE_RESIDENT, NO_SLOT, 0, (uint8_t)i, 0)));
		}
		for (uint64_t i = 0; i < APART; i++) {
			assert_int_equal(entry_epoch(shadow_get(shadow, BASE + i * HUGE_PAGE_BYTES)), (uint8_t)i);
			assert_int_equal(shadow_get(shadow, BASE + i * HUGE_PAGE_BYTES + PAGE_BYTES), 0);
		}
		for (uint64_t i = 0; i < AT_ONCE; i += 511)
			assert_int_equal(entry_slot(shadow_get(shadow, run + i * PAGE_BYTES)), i + 1);
		assert_int_equal(shadow_evicted(shadow), AT_ONCE);
		assert_int_equal(shadow_count(shadow, STATE_RESIDENT), APART);
		assert_true(shadow_check(shadow));
		shadow_free(shadow);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(agrees_with_a_model),
		cmocka_unit_test(walk_keeps_to_its_range),
		cmocka_unit_test(finds_evicted_pages),
		cmocka_unit_test(a_run_is_set_at_once),
		cmocka_unit_test(finds_runs_of_saved_pages),
		cmocka_unit_test(large_tables),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
