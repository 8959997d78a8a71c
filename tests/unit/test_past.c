/* What missing pages held: which period a child belongs to, and that every reference on a slot is given back once. */
#include <errno.h>
#include <string.h>

#include "pager/past.h"
#include "unit.h"

#define SLOTS 4096

static int held[SLOTS];

static void put(void *context, slot_t slot)
{
	assert_true(held[slot] > 0);
	held[slot]--;
}

static uint32_t nr_held(void)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < SLOTS; i++)
		n += (uint32_t)held[i];
	return n;
}

static void add(struct past *past, enum past_kind kind, uint64_t page, uint32_t nr, slot_t slot, uint64_t until)
{
	struct past_item item = {.start = page * PAGE_BYTES, .nr_pages = nr, .kind = kind, .first_slot = slot, .until = until};
	for (uint32_t i = 0; kind == PAST_SLOT && i < nr; i++)
		held[slot + i]++;
	past_add(past, &item);
}

struct answer {
	uint64_t page;
	bool known;
	enum past_kind kind;
	slot_t slot;
};

static void look(const struct past_item *item, void *context)
{
	struct answer *a = context;
	uint64_t at = a->page - item->start / PAGE_BYTES;
	if (a->page < item->start / PAGE_BYTES || at >= item->nr_pages)
		return;
	a->known = true;
	a->kind = item->kind;
	a->slot = item->kind == PAST_SLOT ? item->first_slot + (slot_t)at : NO_SLOT;
}

static struct answer ask(const struct past *past, uint64_t page, uint64_t stamp)
{
	struct answer a = {.page = page};
	assert_int_equal(past_visit(past, stamp, look, &a), 0);
	return a;
}

static void test_first_period_that_ended_later_counts(void **state)
{
	struct past past;
	past_init(&past, put, NULL);
	add(&past, PAST_SLOT, 10, 1, 7, 4);
	add(&past, PAST_ZEROS, 10, 1, NO_SLOT, 5);
	add(&past, PAST_SLOT, 10, 1, 9, 6);
	assert_int_equal(ask(&past, 10, 3).slot, 7);
	assert_int_equal(ask(&past, 10, 4).slot, 7);
	assert_int_equal(ask(&past, 10, 5).kind, PAST_ZEROS);
	assert_int_equal(ask(&past, 10, 6).slot, 9);
	assert_false(ask(&past, 10, 7).known); /* the table says it */
	assert_false(ask(&past, 11, 3).known);
	past_release(&past);
	assert_int_equal(nr_held(), 0);
}

static void test_runs_grow_and_are_cut(void **state)
{
	struct past past;
	past_init(&past, put, NULL);
	for (uint32_t i = 0; i < 10; i++)
		add(&past, PAST_SLOT, 100 + i, 1, 20 + i, 1);
	add(&past, PAST_ZEROS, 200, 4, NO_SLOT, 1);
	assert_int_equal(past.nr, 2);
	assert_true(past_cut(&past, 103 * PAGE_BYTES, 105 * PAGE_BYTES));
	assert_false(past_cut(&past, 199 * PAGE_BYTES, 202 * PAGE_BYTES));
	assert_false(past_cut(&past, 300 * PAGE_BYTES, 400 * PAGE_BYTES));
	assert_int_equal(past.nr, 3);
	assert_int_equal(nr_held(), 8);
	assert_int_equal(past.slots, 8);
	assert_int_equal(ask(&past, 102, 0).slot, 22);
	assert_false(ask(&past, 103, 0).known);
	assert_false(ask(&past, 104, 0).known);
	assert_int_equal(ask(&past, 105, 0).slot, 25);
	assert_false(ask(&past, 201, 0).known);
	assert_true(ask(&past, 203, 0).known);
	past_release(&past);
	assert_int_equal(nr_held(), 0);
}

static void test_what_is_forgotten_cannot_be_told(void **state)
{
	struct past past;
	struct answer a = {.page = 1};
	past_init(&past, put, NULL);
	add(&past, PAST_SLOT, 1, 1, 30, 1);
	add(&past, PAST_SLOT, 1, 1, 31, 2);
	past_forget(&past, 2);
	assert_int_equal(nr_held(), 1);
	assert_int_equal(past_visit(&past, 1, look, &a), -ESTALE);
	assert_int_equal(ask(&past, 1, 2).slot, 31);
	past_release(&past);
}

/* Random additions and cuts against an array that keeps the whole history of each page. */
static void test_against_a_model(void **state)
{
	enum { PAGES = 64, STAMPS = 40 };
	static int model[PAGES][STAMPS]; /* 0: nothing; 1: zeros; else slot + 2 */
	struct past past;
	uint32_t random = 12345, slot = 1;
	past_init(&past, put, NULL);
	memset(model, 0, sizeof(model));
	for (uint64_t stamp = 0; stamp < STAMPS; stamp++) {
		for (int i = 0; i < 6; i++) {
			random = random * 1103515245 + 12345;
			uint32_t page = random >> 8 & (PAGES - 1), nr = 1 + (random >> 20 & 7);
			nr = MIN_OF(nr, PAGES - page);
			unsigned what = random >> 28;
			bool taken = false; /* a page comes back once in a period of the stamp */
			for (uint32_t p = page; p < page + nr; p++)
				taken |= model[p][stamp] != 0;
			if (what < 3) {
				past_cut(&past, page * PAGE_BYTES, (page + nr) * PAGE_BYTES);
				memset(model[page], 0, nr * sizeof(model[0]));
			} else if (!taken) {
				add(&past, what < 6 ? PAST_ZEROS : PAST_SLOT, page, nr, what < 6 ? NO_SLOT : slot, stamp);
				for (uint32_t k = 0; k < nr; k++)
					model[page + k][stamp] = what < 6 ? 1 : (int)(slot + k + 2);
				slot += nr;
			}
		}
	}
	for (uint64_t stamp = 0; stamp < STAMPS; stamp++) {
		for (uint64_t page = 0; page < PAGES; page++) {
			int wanted = 0;
			for (uint64_t s = stamp; s < STAMPS && !wanted; s++)
				wanted = model[page][s];
			struct answer a = ask(&past, page, stamp);
			int got = !a.known ? 0 : a.kind == PAST_ZEROS ? 1 : (int)a.slot + 2;
			assert_int_equal(got, wanted);
		}
	}
	past_release(&past);
	assert_int_equal(nr_held(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_period_that_ended_later_counts),
		cmocka_unit_test(test_runs_grow_and_are_cut),
		cmocka_unit_test(test_what_is_forgotten_cannot_be_told),
		cmocka_unit_test(test_against_a_model),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
