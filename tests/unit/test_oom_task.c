/* The choice of the container's OOM killer. */
#include "container/oom_task.h"
#include "unit.h"

#define NR(tasks) ((uint32_t)(sizeof(tasks) / sizeof((tasks)[0])))
#define TOTAL 100000

static pid_t choose(struct oom_task *tasks, uint32_t nr)
{
	struct oom_task *task = oom_choose(tasks, nr, TOTAL);
	return task ? task->pid : 0;
}

static void largest_is_chosen_then_the_next(void **state)
{
	struct oom_task tasks[] = {{.pid = 1, .anon = 20}, {.pid = 2, .anon = 70}, {.pid = 3, .anon = 50}};
	assert_int_equal(choose(tasks, NR(tasks)), 2);
	tasks[1].is_spared = true;
	assert_int_equal(choose(tasks, NR(tasks)), 3);
	tasks[2].is_spared = true;
	assert_int_equal(choose(tasks, NR(tasks)), 1);
	tasks[0].is_spared = true;
	assert_int_equal(choose(tasks, NR(tasks)), 0);
	assert_int_equal(choose(tasks, 0), 0);
}

static void swapped_pages_and_tables_count_files_do_not(void **state)
{
	struct oom_task tasks[] = {
		{.pid = 1, .anon = 10, .swapped = 50}, {.pid = 2, .anon = 40, .shmem = 15, .tables = 4}, {.pid = 3, .anon = 5, .file = 1000}};
	assert_int_equal(oom_badness(&tasks[0], TOTAL), 60);
	assert_int_equal(oom_badness(&tasks[1], TOTAL), 59);
	assert_int_equal(oom_badness(&tasks[2], TOTAL), 5);
	assert_int_equal(oom_resident(&tasks[2]), 1005);
	assert_int_equal(choose(tasks, NR(tasks)), 1);
	tasks[1].tables = 6;
	assert_int_equal(choose(tasks, NR(tasks)), 2);
}

static void first_of_equals(void **state)
{
	struct oom_task tasks[] = {{.pid = 5, .anon = 7}, {.pid = 6, .anon = 7}};
	assert_int_equal(choose(tasks, NR(tasks)), 5);
}

static void score_adjustment_is_in_thousandths_of_the_total(void **state)
{
	struct oom_task tasks[] = {{.pid = 1, .anon = 500}, {.pid = 2, .anon = 400, .oom_score_adj = 1}};
	assert_int_equal(oom_badness(&tasks[1], TOTAL), 500);
	assert_int_equal(choose(tasks, NR(tasks)), 1);
	tasks[1].oom_score_adj = 2;
	assert_int_equal(choose(tasks, NR(tasks)), 2);
	tasks[0].oom_score_adj = 1000;
	assert_int_equal(choose(tasks, NR(tasks)), 1);
}

static void below_zero_is_chosen_too_when_nothing_else_is_left(void **state)
{
	struct oom_task tasks[] = {{.pid = 1, .anon = 900, .oom_score_adj = -999}, {.pid = 2, .anon = 10, .oom_score_adj = -900}};
	assert_true(oom_badness(&tasks[0], TOTAL) < 0);
	assert_int_equal(choose(tasks, NR(tasks)), 2);
	tasks[1].is_spared = true;
	assert_int_equal(choose(tasks, NR(tasks)), 1);
}

static void minus_1000_is_never_chosen(void **state)
{
	struct oom_task tasks[] = {{.pid = 1, .anon = 90000, .oom_score_adj = OOM_SCORE_ADJ_NEVER}, {.pid = 2, .anon = 1}};
	assert_int_equal(choose(tasks, NR(tasks)), 2);
	assert_int_equal(choose(tasks, 1), 0);
}

static void who_holds_nothing_is_not_chosen(void **state)
{
	struct oom_task tasks[] = {{.pid = 1, .oom_score_adj = 1000}, {.pid = 2, .swapped = 1}};
	assert_int_equal(choose(tasks, NR(tasks)), 2);
	assert_int_equal(choose(tasks, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(largest_is_chosen_then_the_next),
		cmocka_unit_test(swapped_pages_and_tables_count_files_do_not),
		cmocka_unit_test(first_of_equals),
		cmocka_unit_test(score_adjustment_is_in_thousandths_of_the_total),
		cmocka_unit_test(below_zero_is_chosen_too_when_nothing_else_is_left),
		cmocka_unit_test(minus_1000_is_never_chosen),
		cmocka_unit_test(who_holds_nothing_is_not_chosen),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
