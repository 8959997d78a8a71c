/* Sorted ranges: put and cut against a plain array of pages. */
#include "pager/range_list.h"
#include "unit.h"

enum { NR_PAGES = 64 };

static uint64_t state = 7;

static uint32_t below(uint32_t n)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(state >> 33) % n;
}

static void check(const struct range_list *list, const uint32_t *owner)
{
	for (uint32_t i = 0; i < list->nr; i++) {
		assert_true(list->items[i].start < list->items[i].end);
		assert_true(i == 0 || list->items[i - 1].end <= list->items[i].start);
	}
	for (uint32_t page = 0; page < NR_PAGES; page++) {
		const struct range *range = range_list_find(list, page);
		assert_int_equal(range != NULL, owner[page] != 0);
		if (!range)
			continue;
		for (remote_addr_t other = range->start; other < range->end; other++)
			assert_int_equal(owner[other], owner[page]);
	}
}

static void put_and_cut_like_an_array(void **unused)
{
	struct range_list list = {0};
	uint32_t owner[NR_PAGES] = {0};
	for (uint32_t step = 1; step < 20000; step++) {
		uint32_t start = below(NR_PAGES), end = start + 1 + below(NR_PAGES - start);
		bool put = below(2);
		assert_true(put ? range_list_put(&list, start, end) : range_list_cut(&list, start, end));
		for (uint32_t page = start; page < end; page++)
			owner[page] = put ? step : 0;
		check(&list, owner);
	}
	struct range_list copy = {0};
	assert_true(range_list_copy(&copy, &list));
	check(&copy, owner);
	range_list_release(&copy);
	range_list_release(&list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(put_and_cut_like_an_array)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
