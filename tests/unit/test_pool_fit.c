/* The pool's share of memory follows what comes back from it. */
#include "reclaim/pool_fit.h"
#include "unit.h"

#define MOST 10000u

static uint64_t after(struct pool_fit *fit, unsigned notes, uint64_t near_of_4)
{
	for (unsigned i = 0; i < notes; i++)
		pool_fit_note(fit, i % 4 < near_of_4 ? 99 : 100, 100);
	return pool_fit_pages(fit, MOST);
}

static void begins_whole_and_stays_while_reads_are_spared(void **state)
{
	struct pool_fit fit = {0};
	pool_fit_init(&fit);
	assert_int_equal(pool_fit_pages(&fit, MOST), MOST);
	assert_int_equal(after(&fit, 10000, 0), MOST);
	assert_int_equal(after(&fit, 10000, 2), MOST); /* as many of both: a read is worth more */
}

static void shrinks_where_pages_would_be_resident_without_it_and_grows_again(void **state)
{
	struct pool_fit fit = {0};
	pool_fit_init(&fit);
	uint64_t before = after(&fit, 1000, 4), least = after(&fit, 20000, 3);
	assert_in_range(before, MOST / 2, MOST - 1);
	assert_in_range(least, 1, MOST / 32); /* never nothing: some pages go on telling */
	assert_int_equal(after(&fit, 20000, 0), MOST);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(begins_whole_and_stays_while_reads_are_spared),
		cmocka_unit_test(shrinks_where_pages_would_be_resident_without_it_and_grows_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
