/* The policy's trace: what is recorded is read back, in the simulator's way too. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stats/trace.h"
#include "unit.h"
#include "workload.h"

static char folder[] = "/tmp/membox-trace-XXXXXX";
static char path[64];

static int set_up(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/trace", folder);
	return 0;
}

static int tear_down(void **state)
{
	unlink(path);
	return rmdir(folder);
}

static void records_have_the_documented_bytes(void **state)
{
	static const unsigned char expected[] = {
		'M', 'E', 'M', 'B', 'O', 'X', 'T', 'R', 1, 0, 0, 0, 16, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0,
		1,   1,   2,   0,   7,   0,   0,   0,   0, 0x70, 0x56, 0x34, 0x12, 0, 0, 0,
	};
	unsigned char found[sizeof(expected) + 1];
	struct trace *trace;
	struct stat st;
	assert_int_equal(trace_open(path, 0x1234, 32, &trace), 0);
	trace_record(trace, TRACE_FAULT, TRACE_FLAG_WRITE, 2, 0x1234567000ull << 12, 7);
	trace_close(trace);
	int fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, found, sizeof(found)), sizeof(expected));
	assert_memory_equal(found, expected, sizeof(expected));
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	close(fd);
}

static void faults_become_accesses(void **state)
{
	struct trace *trace;
	struct workload workload;
	const uint64_t n = 50000; /* several buffers */
	assert_int_equal(trace_open(path, 100, 32, &trace), 0);
	for (uint64_t i = 0; i < n; i++) {
		trace_record(trace, TRACE_FAULT, i % 3 ? 0 : TRACE_FLAG_WRITE, i % 2 ? 1 : 2, (1000 + i % 777) * PAGE_BYTES, TRACE_NO_DISTANCE);
		trace_record(trace, TRACE_EVICTED, 0, 1, i * PAGE_BYTES, 3);
	}
	trace_close(trace);
	assert_int_equal(workload_read_trace(path, &workload), 0);
	assert_int_equal(workload.nr_accesses, n);
	assert_int_equal(workload.nr_pages, 2 * 777); /* two address spaces */
	for (uint64_t i = 0; i < n; i++) {
		assert_int_equal(workload.access[i].page, i % 777 + (i % 2 ? 0 : 777));
		assert_int_equal(workload.access[i].write, i % 3 == 0);
	}
	workload_release(&workload);
}

static void what_is_no_trace_is_refused(void **state)
{
	struct workload workload;
	struct trace *trace;
	FILE *file = fopen(path, "w");
	fputs("something else, longer than the header of a trace", file);
	fclose(file);
	assert_int_equal(workload_read_trace(path, &workload), -22);
	assert_int_equal(workload_read_trace("/nonexistent/trace", &workload), -2);
	assert_int_equal(trace_open("/nonexistent/trace", 1, 1, &trace), -2);
}

/* The disk is full: the trace ends, whoever records goes on. */
static void a_failed_write_ends_it(void **state)
{
	struct trace *trace;
	int null = open("/dev/null", O_WRONLY), saved = dup(STDERR_FILENO);
	if (access("/dev/full", W_OK) < 0)
		skip();
	assert_int_equal(trace_open("/dev/full", 1, 1, &trace), -28);
	assert_int_equal(trace_open(path, 1, 1, &trace), 0);
	int full = open("/dev/full", O_WRONLY);
	for (int fd = 3; fd < 64; fd++) { /* the trace's descriptor leads to a full disk from now on */
		char name[64], target[128];
		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		ssize_t len = readlink(name, target, sizeof(target) - 1);
		if (len > 0 && (target[len] = 0, strcmp(target, path) == 0))
			dup2(full, fd);
	}
	dup2(null, STDERR_FILENO);
	for (int i = 0; i < 30000; i++)
		trace_record(trace, TRACE_FAULT, 0, 1, 0, 0);
	trace_close(trace);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(full);
	close(null);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(records_have_the_documented_bytes),
		cmocka_unit_test(faults_become_accesses),
		cmocka_unit_test(what_is_no_trace_is_refused),
		cmocka_unit_test(a_failed_write_ends_it),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
