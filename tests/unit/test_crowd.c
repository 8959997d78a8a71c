/* When the keeper takes the machine for crowded. */
#include "container/crowd.h"
#include "unit.h"

#define MS 1000000ull

/* Windows in a row in each of which the keeper runs for 4 ms and waits for so many: tasks for each processor all the time. */
static void go(struct crowd *crowd, uint32_t windows, uint32_t tasks, uint64_t waited_ms)
{
	for (uint32_t i = 0; i < windows; i++) {
		struct processor_share share = {.ran_ns = crowd->share.ran_ns + 4 * MS, .waited_ns = crowd->share.waited_ns + waited_ms * MS};
		crowd_update(crowd, tasks, &share, crowd->since_ns + CROWD_WINDOW_NS);
	}
}

static void tasks_that_keep_nobody_waiting_are_no_crowd(void **state)
{
	struct crowd crowd = {.tasks = 1};
	go(&crowd, 5, 50, 0);
	assert_false(crowd.is_crowded);
	assert_int_equal(crowd.tasks, 1);
	go(&crowd, 5, 50, 1);
	assert_false(crowd.is_crowded);
}

static void keepers_that_wait_for_each_other_are_one(void **state)
{
	struct crowd crowd = {.tasks = 1};
	go(&crowd, 1, 50, 12);
	assert_true(crowd.is_crowded);
	assert_int_equal(crowd.tasks, 50);
}

static void few_tasks_slow_the_looks_and_no_more(void **state)
{
	struct crowd crowd = {.tasks = 1};
	go(&crowd, 1, CROWD_TASKS - 1, 12);
	assert_false(crowd.is_crowded);
	assert_int_equal(crowd.tasks, CROWD_TASKS - 1);
	go(&crowd, 1, 0, 12);
	assert_int_equal(crowd.tasks, 1);
}

static void it_ends_later_than_it_began(void **state)
{
	struct crowd crowd = {.tasks = 1};
	go(&crowd, 1, CROWD_TASKS, 12);
	go(&crowd, 3, CROWD_TASKS / 2 + 1, 1);
	assert_true(crowd.is_crowded);
	go(&crowd, 1, CROWD_TASKS / 2, 1);
	assert_false(crowd.is_crowded);
	go(&crowd, 1, CROWD_TASKS, 12);
	go(&crowd, 1, CROWD_TASKS, 0);
	assert_false(crowd.is_crowded);
}

static void within_a_window_nothing_is_decided_anew(void **state)
{
	struct crowd crowd = {.tasks = 1};
	go(&crowd, 1, 50, 12);
	struct processor_share later = {.ran_ns = crowd.share.ran_ns + 19 * MS, .waited_ns = crowd.share.waited_ns};
	assert_false(crowd_update(&crowd, 50, &later, crowd.since_ns + CROWD_WINDOW_NS - 1));
	assert_true(crowd.is_crowded);
	assert_true(crowd_update(&crowd, 50, &later, crowd.since_ns + CROWD_WINDOW_NS));
	assert_false(crowd.is_crowded);
}

static void without_the_figure_tasks_alone_count(void **state)
{
	struct crowd crowd = {.tasks = 1};
	assert_true(crowd_update(&crowd, CROWD_TASKS, NULL, CROWD_WINDOW_NS));
	assert_true(crowd.is_crowded);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tasks_that_keep_nobody_waiting_are_no_crowd),
		cmocka_unit_test(keepers_that_wait_for_each_other_are_one),
		cmocka_unit_test(few_tasks_slow_the_looks_and_no_more),
		cmocka_unit_test(it_ends_later_than_it_began),
		cmocka_unit_test(within_a_window_nothing_is_decided_anew),
		cmocka_unit_test(without_the_figure_tasks_alone_count),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
