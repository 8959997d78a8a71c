/*
 * Usage of process trees against the sum of the proportional set sizes: parents, children and grandchildren that share memory by fork, by
 * files and by memfd, write to it, and leave in any order. Every process does one thing at a time and then waits, so both sums are of one moment.
 */
#include "container/members.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "platform/process.h"
#include "unit.h"

#define NR_ACTORS 8
#define MEMORY ((size_t)48 << 20)

enum action { NOTHING, WRITE, READ_SHARED, DISCARD, FORK, EXEC, EXIT };

/* One for each process: what it is to do. */
struct part {
	_Atomic int action;
	size_t start, len; /* bytes of its memory */
	int child;         /* FORK: the new process's part */
	_Atomic pid_t pid;
};

static struct part *parts;   /* shared by all */
static char *private_memory; /* the actors' own: anonymous, inherited by fork */
static char *shared_memory;  /* the same memfd in all */
static struct members members;
static uint64_t outside; /* pages of an actor that it shares with this process, which is no member */

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void touch(volatile char *memory, size_t start, size_t len, bool is_write)
{
	for (size_t at = start; at < start + len; at += PAGE_BYTES)
		memory[at] = is_write ? (char)(at >> PAGE_SHIFT | 1) : memory[at];
}

static void act(int me);

static void start_child(int part)
{
	pid_t pid = fork();
	if (pid < 0)
		abort();
	if (pid == 0)
		act(part);
}

static _Noreturn void act(int me)
{
	struct part *part = &parts[me];
	prctl(PR_SET_PDEATHSIG, 0);
	part->action = NOTHING;
	part->pid = getpid();
	for (;;) {
		while (part->action == NOTHING)
			nap();
		switch ((enum action)part->action) {
		case WRITE:
			touch(private_memory, part->start, part->len, true);
			break;
		case READ_SHARED:
			touch(shared_memory, part->start, part->len, false);
			break;
		case DISCARD:
			madvise(private_memory + part->start, part->len, MADV_DONTNEED);
			break;
		case FORK:
			start_child(part->child);
			break;
		case EXEC:
			execlp("sleep", "sleep", "1000", (char *)NULL);
			abort();
		case EXIT:
			_exit(0);
		case NOTHING:
			break;
		}
		part->action = NOTHING;
	}
}

static bool is_no_agent(pid_t pid, void *context)
{
	return false;
}

static void forget(struct member *member, void *context)
{
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static uint64_t sum_of_proportional_sets(void)
{
	uint64_t sum = 0;
	for (int i = 0; i < NR_ACTORS; i++) {
		struct process_sharing sharing;
		if (parts[i].pid && process_sharing_read(parts[i].pid, &sharing) == 0)
			sum += sharing.proportional_anon + sharing.proportional_file;
	}
	return sum;
}

/* What the ticks of a container do, with or without looks at sharing. Within 5 % and what is shared with the outside. */
static void usage_is_right(bool may_measure)
{
	assert_true(members_refresh(&members, &(pid_t){getpid()}, 1, is_no_agent, forget, NULL) >= 0);
	uint64_t usage = members_sample(&members);
	while (may_measure && members.doubt > usage / 256 && members.doubt >= 32) { /* looks are spaced in time */
		members_measure_sharing(&members, MEASURE_NEAR, now_ns());
		usage = members_sample(&members);
		nap();
	}
	int64_t expected = (int64_t)sum_of_proportional_sets(), off = (int64_t)usage - expected;
	print_message("usage %llu expected %lld doubt %llu\n", (unsigned long long)usage, (long long)expected, (unsigned long long)members.doubt);
	assert_true(llabs(off) <= expected / 20 + (int64_t)outside);
	assert_true(members.file <= members.resident);
}

static void wait_for_exit(int who)
{
	pid_t pid = parts[who].pid;
	while (kill(pid, 0) == 0)
		nap();
	parts[who].pid = 0;
}

static void do_it(int who, enum action action, size_t start, size_t len)
{
	parts[who].start = start;
	parts[who].len = len;
	parts[who].action = action;
	if (action == EXIT) {
		wait_for_exit(who);
	} else if (action == EXEC) {
		char path[64], name[32] = "";
		snprintf(path, sizeof(path), "/proc/%d/comm", parts[who].pid);
		while (strcmp(name, "sleep\n")) {
			FILE *f = fopen(path, "re");
			if (!f || !fgets(name, sizeof(name), f))
				name[0] = 0;
			if (f)
				fclose(f);
			nap();
		}
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* until the loader is done */
	} else {
		while (parts[who].action != NOTHING)
			nap();
	}
}

static void do_fork(int who, int child)
{
	parts[child].pid = 0;
	parts[who].child = child;
	do_it(who, FORK, 0, 0);
	while (!parts[child].pid)
		nap();
}

static int begin(void **state)
{
	int memfd = memfd_create("shared", MFD_CLOEXEC);
	signal(SIGCHLD, SIG_IGN); /* nobody is to be waited for */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	parts = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	private_memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	madvise(private_memory, MEMORY, MADV_NOHUGEPAGE); /* a child's first write to a huge page costs it 512 mappings, which is right, and no test of this */
	assert_true(memfd >= 0 && ftruncate(memfd, (off_t)MEMORY) == 0);
	shared_memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	memset(parts, 0, PAGE_BYTES);
	members_init(&members);
	start_child(0);
	while (!parts[0].pid)
		nap();
	struct process_sharing sharing;
	assert_int_equal(process_sharing_read(parts[0].pid, &sharing), 0);
	outside = sharing.anon + sharing.file;
	return 0;
}

static int end(void **state)
{
	for (int i = 0; i < NR_ACTORS; i++) {
		if (!parts[i].pid)
			continue;
		kill(parts[i].pid, SIGKILL);
		wait_for_exit(i);
	}
	munmap(parts, PAGE_BYTES);
	munmap(private_memory, MEMORY);
	munmap(shared_memory, MEMORY);
	members_release(&members);
	return 0;
}

/* A parent with children that share, write to a part, and leave; sharing is measured once, in the middle, or whenever there is doubt. */
static void fork_and_write(bool may_measure)
{
	do_it(0, WRITE, 0, MEMORY);
	usage_is_right(may_measure);
	for (int child = 1; child <= 4; child++) {
		do_fork(0, child);
		usage_is_right(may_measure);
	}
	for (int child = 1; child <= 4; child++) {
		do_it(child, WRITE, (size_t)child * (MEMORY / 8), MEMORY / 8);
		usage_is_right(may_measure);
	}
	members_measure_sharing(&members, MEASURE_NOW, now_ns());
	usage_is_right(may_measure);
	do_it(2, WRITE, 0, MEMORY / 4);
	usage_is_right(may_measure);
	do_it(3, EXIT, 0, 0);
	usage_is_right(may_measure);
	do_it(1, WRITE, 0, MEMORY / 8);
	usage_is_right(may_measure);
}

static void children_write_without_measuring(void **state)
{
	fork_and_write(false);
}

static void children_write_and_leave_in_any_order(void **state)
{
	static const int order[] = {4, 0, 2, 1};
	fork_and_write(true);
	for (int i = 0; i < 4; i++) {
		do_it(order[i], EXIT, 0, 0);
		if (i < 3)
			usage_is_right(true);
	}
}

static void child_outlives_its_parent(void **state)
{
	bool may_measure = *state;
	do_it(0, WRITE, 0, MEMORY);
	do_fork(0, 1);
	usage_is_right(may_measure);
	do_it(0, EXIT, 0, 0);
	usage_is_right(may_measure);
	usage_is_right(may_measure);
	do_fork(1, 2);
	do_it(1, EXIT, 0, 0);
	usage_is_right(true); /* a child of a parent that was never seen with it */
	do_it(2, WRITE, 0, MEMORY);
	usage_is_right(may_measure);
}

static void fork_of_a_fork_and_exec(void **state)
{
	bool may_measure = *state;
	do_it(0, WRITE, 0, MEMORY);
	for (int i = 1; i < 4; i++) {
		do_fork(i - 1, i);
		usage_is_right(may_measure);
		do_it(i, WRITE, 0, (size_t)i * (MEMORY / 8));
		usage_is_right(may_measure);
	}
	members_measure_sharing(&members, MEASURE_NOW, now_ns());
	do_it(2, EXEC, 0, 0);
	usage_is_right(may_measure);
	do_it(1, EXIT, 0, 0);
	usage_is_right(may_measure);
	do_it(3, EXEC, 0, 0);
	usage_is_right(true);
}

static void memory_is_discarded(void **state)
{
	do_it(0, WRITE, 0, MEMORY);
	do_fork(0, 1);
	do_fork(0, 2);
	usage_is_right(true);
	for (int i = 0; i < 3; i++) {
		do_it(i, DISCARD, MEMORY / 8, MEMORY / 2);
		usage_is_right(true);
	}
}

static void shared_mappings_count_once(void **state)
{
	do_fork(0, 1);
	do_fork(1, 2);
	touch(shared_memory, 0, MEMORY, true);
	for (int i = 0; i < 3; i++) {
		do_it(i, READ_SHARED, 0, MEMORY);
		do_it(i, WRITE, 0, MEMORY / 8);
	}
	/* This process maps it too, but is no member. */
	madvise(shared_memory, MEMORY, MADV_DONTNEED);
	usage_is_right(true);
	assert_in_range(members.file, (MEMORY >> PAGE_SHIFT) * 95 / 100, (MEMORY >> PAGE_SHIFT) + 1500);
	do_it(1, EXIT, 0, 0);
	usage_is_right(true);
	do_it(0, EXIT, 0, 0);
	usage_is_right(true);
}

int main(void)
{
	static bool yes = true;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(children_write_without_measuring, begin, end),
		cmocka_unit_test_setup_teardown(children_write_and_leave_in_any_order, begin, end),
		cmocka_unit_test_setup_teardown(child_outlives_its_parent, begin, end),
		{"child_outlives_its_parent, measured", child_outlives_its_parent, begin, end, &yes},
		cmocka_unit_test_setup_teardown(fork_of_a_fork_and_exec, begin, end),
		{"fork_of_a_fork_and_exec, measured", fork_of_a_fork_and_exec, begin, end, &yes},
		cmocka_unit_test_setup_teardown(memory_is_discarded, begin, end),
		cmocka_unit_test_setup_teardown(shared_mappings_count_once, begin, end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
