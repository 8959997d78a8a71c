/* NUMA nodes: lists of them, what the system says of them, and the system calls, which are played. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/first_line.h"
#include "platform/numa.h"
#include "unit.h"

#define MOVE 2 /* MPOL_MF_MOVE */
#define MOVE_ALL 4

static const char *online, *with_memory; /* NULL: there is no such file */
static struct {
	int error;
	long number, nr, flags, mode, max_node;
	const int *nodes;
	int status[3]; /* when it began */
	uint64_t mask[2];
} call;

int __wrap_first_line_read(const char *path, char *buffer, size_t size);
long __wrap_syscall(long number, ...);

int __wrap_first_line_read(const char *path, char *buffer, size_t size)
{
	const char *line = strstr(path, "/has_memory") ? with_memory : strstr(path, "/online") ? online : NULL;
	if (!line)
		return -ENOENT;
	snprintf(buffer, size, "%s", line);
	return 0;
}

static void note_move(va_list arguments)
{
	assert_int_equal(va_arg(arguments, pid_t), 0);
	call.nr = va_arg(arguments, long);
	va_arg(arguments, void *const *);
	call.nodes = va_arg(arguments, const int *);
	int *status = va_arg(arguments, int *);
	for (long i = 0; i < call.nr; i++)
		call.status[i] = status[i];
	call.flags = va_arg(arguments, int);
	if (call.nodes)
		for (long i = 0; i < call.nr; i++)
			assert_int_equal(call.nodes[i], 2);
}

static void note_policy(va_list arguments)
{
	call.mode = va_arg(arguments, int);
	memcpy(call.mask, va_arg(arguments, const uint64_t *), sizeof(call.mask));
	call.max_node = va_arg(arguments, long);
}

long __wrap_syscall(long number, ...)
{
	va_list arguments;
	call.number = number;
	va_start(arguments, number);
	if (number == SYS_move_pages)
		note_move(arguments);
	else
		note_policy(arguments);
	va_end(arguments);
	errno = call.error;
	return call.error ? -1 : number == SYS_move_pages ? call.nr : 0;
}

static int begin(void **state)
{
	memset(&call, 0, sizeof(call));
	return 0;
}

static struct node_set nodes(const char *list)
{
	struct node_set set;
	assert_int_equal(node_set_parse(list, &set), 0);
	return set;
}

static void test_node_lists(void **state)
{
	struct node_set set;
	assert_int_equal(node_set_parse("0,2-3", &set), 0);
	assert_true(node_set_has(&set, 0) && !node_set_has(&set, 1) && node_set_has(&set, 2) && node_set_has(&set, 3));
	assert_int_equal(node_set_next(&set, 1), 2);
	assert_int_equal(node_set_next(&set, 2), 2);
	assert_int_equal(node_set_next(&set, 4), -1);
	assert_int_equal(node_set_parse("1023", &set), 0);
	assert_true(node_set_has(&set, 1023));
	static const char *const wrong[] = {"", "x", "1,", ",1", "3-1", "1-", "-1", " 1", "1 ", "+1", "0x1", "1--2"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_int_equal(node_set_parse(wrong[i], &set), -EINVAL);
	assert_int_equal(node_set_parse("1024", &set), -ERANGE);
	assert_int_equal(node_set_parse("0-99999999999999999999", &set), -ERANGE);
	assert_true(node_set_has(&set, 1023)); /* untouched */
}

static void test_policy(void **state)
{
	struct node_set one = nodes("1"), two = nodes("0,65");
	struct numa_policy policy = numa_policy_of(&one);
	assert_int_equal(policy.mode, 1); /* MPOL_PREFERRED */
	assert_int_equal(policy.mask[0], 2);
	policy = numa_policy_of(&two);
	assert_int_equal(policy.mode, 5); /* MPOL_PREFERRED_MANY */
	assert_int_equal(policy.mask[0], 1);
	assert_int_equal(policy.mask[1], 2);
}

static void test_prefer(void **state)
{
	struct node_set two = nodes("0,65");
	assert_int_equal(numa_prefer(&two), 0);
	assert_int_equal(call.number, SYS_set_mempolicy);
	assert_int_equal(call.mode, 5);
	assert_int_equal(call.mask[0], 1);
	assert_int_equal(call.mask[1], 2);
	assert_int_equal(call.max_node, NUMA_NODES_MAX + 1);
	call.error = EINVAL;
	assert_int_equal(numa_prefer(&two), -EINVAL);
}

static void test_what_the_system_has(void **state)
{
	struct node_set all, some;
	online = "0-2\n";
	with_memory = "0,2";
	assert_int_equal(numa_read_nodes(&all, &some), -EINVAL);
	online = "0-2";
	assert_int_equal(numa_read_nodes(&all, &some), 0);
	assert_true(node_set_has(&all, 1) && !node_set_has(&some, 1) && node_set_has(&some, 2));
	with_memory = NULL;
	assert_int_equal(numa_read_nodes(&all, &some), -ENOSYS);
	online = NULL;
	assert_int_equal(numa_read_nodes(&all, &some), -ENOSYS);
}

static void test_move(void **state)
{
	void *pages[3] = {0};
	int status[3] = {0, 1, 2};
	assert_int_equal(numa_move_pages(0, 3, pages, 2, false, status), 3);
	assert_int_equal(call.flags, MOVE);
	assert_non_null(call.nodes);
	for (int i = 0; i < 3; i++)
		assert_int_equal(call.status[i], NUMA_NOT_SAID);
	numa_move_pages(0, 3, pages, 2, true, status);
	assert_int_equal(call.flags, MOVE_ALL);
	call.error = ENOMEM;
	assert_int_equal(numa_move_pages(0, 3, pages, 2, true, status), -ENOMEM);
	assert_int_equal(numa_ask_pages(0, 3, pages, status), -ENOMEM);
	assert_null(call.nodes);
	assert_int_equal(call.flags, 0);
}

static void test_the_right_to_move_for_all(void **state)
{
	assert_true(numa_may_move_shared());
	assert_int_equal(call.flags, MOVE_ALL);
	assert_int_equal(call.nr, 0);
	call.error = EPERM;
	assert_false(numa_may_move_shared());
}

#define TEST(name) cmocka_unit_test_setup(test_##name, begin)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(node_lists),
		TEST(policy),
		TEST(prefer),
		TEST(what_the_system_has),
		TEST(move),
		TEST(the_right_to_move_for_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
