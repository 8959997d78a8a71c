/* The order of locks: taken upwards they work; anything else ends the program in debug builds, with the ranks in its message. */
#include "base/lock.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"

static void taken_upwards_and_dropped_in_any_order(void **state)
{
	struct lock first, second, third;
	lock_init(&first, LOCK_CONTAINER);
	lock_init(&second, LOCK_LAYOUT);
	lock_init(&third, LOCK_SWAP);
	for (int round = 0; round < 2; round++) {
		lock_take(&first);
		lock_take(&second);
		assert_true(lock_try(&third));
		assert_false(lock_try(&third));
		lock_drop(&first);
		lock_drop(&third);
		lock_take(&third);
		lock_drop(&second);
		lock_drop(&third);
	}
	lock_destroy(&first);
	lock_destroy(&second);
	lock_destroy(&third);
}

#ifndef NDEBUG

/* Runs a function that shall abort in a child; its message is in text. */
static void expect_abort(void (*function)(void), char *text, size_t size)
{
	int channel[2], status;
	assert_int_equal(pipe(channel), 0);
	pid_t pid = fork();
	if (pid == 0) {
		signal(SIGABRT, SIG_DFL);
		dup2(channel[1], STDERR_FILENO);
		function();
		_exit(0);
	}
	close(channel[1]);
	size_t length = 0;
	for (ssize_t n; (n = read(channel[0], text + length, size - 1 - length)) > 0;)
		length += (size_t)n;
	text[length] = '\0';
	close(channel[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void take_two(enum lock_rank held, enum lock_rank wanted)
{
	struct lock a, b;
	lock_init(&a, held);
	lock_init(&b, wanted);
	lock_take(&a);
	lock_take(&b);
}

static void downwards(void)
{
	take_two(LOCK_SWAP, LOCK_LAYOUT);
}

static void twice_the_same_rank(void)
{
	take_two(LOCK_LAYOUT, LOCK_LAYOUT);
}

static void below_a_lock_that_was_tried(void)
{
	struct lock a, b;
	lock_init(&a, LOCK_CHARGE);
	lock_init(&b, LOCK_AGENT);
	if (lock_try(&a))
		lock_take(&b);
}

static void drop_what_is_not_held(void)
{
	struct lock a;
	lock_init(&a, LOCK_SWAP);
	lock_drop(&a);
}

static void violations_end_the_program(void **state)
{
	char text[256];
	expect_abort(downwards, text, sizeof(text));
	assert_non_null(strstr(text, "membox: lock order: taking rank 4; held: 8"));
	expect_abort(twice_the_same_rank, text, sizeof(text));
	assert_non_null(strstr(text, "taking rank 4; held: 4"));
	expect_abort(below_a_lock_that_was_tried, text, sizeof(text));
	assert_non_null(strstr(text, "taking rank 3; held: 7"));
	expect_abort(drop_what_is_not_held, text, sizeof(text));
	assert_non_null(strstr(text, "does not hold"));
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(taken_upwards_and_dropped_in_any_order),
#ifndef NDEBUG
		cmocka_unit_test(violations_end_the_program),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
