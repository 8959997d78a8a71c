/* The pool's share of memory follows what comes back from it. */
#include "reclaim/pool_fit.h"
#include "unit.h"

#define MOST 10000u

static uint64_t after(struct pool_fit *fit, unsigned notes, bool from_pool, uint64_t near_of_4)
{
	for (unsigned i = 0; i < notes; i++)
		pool_fit_note(fit, from_pool, i % 4 < near_of_4 ? 99 : 100, 100);
	return pool_fit_pages(fit, MOST);
}

static void begins_whole_and_stays_while_reads_are_spared(void **state)
{
	struct pool_fit fit = {0};
	pool_fit_init(&fit);
	assert_int_equal(pool_fit_pages(&fit, MOST), MOST);
	assert_int_equal(after(&fit, 10000, true, 0), MOST);
	assert_int_equal(after(&fit, 10000, true, 2), MOST); /* as many of both: a read is worth more */
}

static void shrinks_where_pages_would_be_resident_without_it_and_grows_again(void **state)
{
	struct pool_fit fit = {0};
	pool_fit_init(&fit);
	uint64_t before = after(&fit, 2000, true, 4), least = after(&fit, 40000, true, 3);
	assert_in_range(before, MOST / 2, MOST - 1);
	assert_in_range(least, 1, MOST / 32); /* never nothing: some pages go on telling */
	assert_int_equal(after(&fit, 20000, true, 0), MOST);
}

static void shrinks_when_it_is_full_of_what_nobody_asks_for(void **state)
{
	struct pool_fit fit = {0};
	pool_fit_init(&fit);
	assert_int_equal(after(&fit, 10000, false, 0), MOST); /* what comes back late from the file would have been there in any case */
	for (int i = 0; i < 1000; i++) {
		after(&fit, 4, true, 0);
		after(&fit, 100, false, 1);
	}
	assert_in_range(pool_fit_pages(&fit, MOST), 1, MOST / 32);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(begins_whole_and_stays_while_reads_are_spared),
		cmocka_unit_test(shrinks_when_it_is_full_of_what_nobody_asks_for),
		cmocka_unit_test(shrinks_where_pages_would_be_resident_without_it_and_grows_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
