/* The policy of all threads of a process, against threads that are played: some end, some come, some cannot be held. Real ones are told in test_migrate.py. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/monotonic.h"
#include "inject/world.h"
#include "migrate/placement.h"
#include "platform/process.h"
#include "unit.h"

#define THREADS 9000
#define MOST_THREADS 8192 /* that are read in one look */
#define PROCESS 1000
#define PAGE_OF(tid) ((long)(tid) * 0x10000)

struct thread {
	pid_t tid;
	bool has_ended;
	int stop_as;          /* what an attempt to hold it ends as */
	uint64_t takes_ns;    /* such an attempt */
	int mmap_as, write_as, set_as;
	bool starts_another;  /* when it is held; without policy if it has none itself */
	bool is_stopped, goes_first, has_page, has_mask, has_policy;
	int stops, resumes, sets;
};

static struct {
	struct thread threads[THREADS];
	int nr;
	int list_fails;
	bool is_filtered;
	bool is_held, is_complete; /* the whole process */
	bool held_goes_first;
	uint64_t now_ns;
	int wrong; /* the line of the first thing that must not be */
} played;

static struct node_set to;

#define MUST(condition) ((condition) ? (void)0 : (void)(played.wrong = played.wrong ? played.wrong : __LINE__))

int __wrap_process_threads(pid_t pid, pid_t *ret_tids, int max);
bool __wrap_process_is_filtered(pid_t pid);
int __wrap_process_write(pid_t pid, remote_addr_t dst, const void *src, size_t len);
struct world *__wrap_world_find(pid_t pid);
bool __wrap_world_is_complete(const struct world *world);
int __wrap_world_stop_thread(pid_t pid, pid_t tid, uint32_t timeout_us, struct world **ret_world);
void __wrap_world_go_first(struct world *world);
long __wrap_world_syscall_by(struct world *world, pid_t tid, long number, const uint64_t args[6]);
void __wrap_world_resume(struct world *world);
uint64_t __wrap_monotonic_ns(void);

static struct world *held_world(void)
{
	return (struct world *)&played.is_held;
}

static struct thread *by_tid(pid_t tid)
{
	MUST(tid >= PROCESS && tid < PROCESS + played.nr);
	return &played.threads[tid >= PROCESS && tid < PROCESS + played.nr ? tid - PROCESS : 0];
}

static struct thread *add_thread(void)
{
	struct thread *thread = &played.threads[played.nr];
	assert_true(played.nr < THREADS);
	*thread = (struct thread){.tid = PROCESS + played.nr++};
	return thread;
}

int __wrap_process_threads(pid_t pid, pid_t *ret_tids, int max)
{
	int nr = 0;
	MUST(pid == PROCESS);
	for (int i = 0; i < played.nr; i++) {
		if (played.threads[i].has_ended)
			continue;
		if (nr < max)
			ret_tids[nr] = played.threads[i].tid;
		nr++;
	}
	return played.list_fails ? played.list_fails : nr;
}

bool __wrap_process_is_filtered(pid_t pid)
{
	MUST(pid == PROCESS);
	return played.is_filtered;
}

struct world *__wrap_world_find(pid_t pid)
{
	MUST(pid == PROCESS);
	return played.is_held ? held_world() : NULL;
}

bool __wrap_world_is_complete(const struct world *world)
{
	MUST(world == held_world());
	return played.is_complete;
}

int __wrap_world_stop_thread(pid_t pid, pid_t tid, uint32_t timeout_us, struct world **ret_world)
{
	struct thread *thread = by_tid(tid);
	MUST(pid == PROCESS && !played.is_held && !thread->is_stopped && !thread->sets);
	thread->stops++;
	played.now_ns += thread->takes_ns;
	if (thread->stop_as)
		return thread->stop_as;
	if (thread->starts_another)
		add_thread()->has_policy = thread->has_policy;
	thread->starts_another = false;
	thread->is_stopped = true;
	*ret_world = (struct world *)thread;
	return 0;
}

void __wrap_world_go_first(struct world *world)
{
	if (world == held_world())
		played.held_goes_first = true;
	else
		((struct thread *)world)->goes_first = true;
}

int __wrap_process_write(pid_t pid, remote_addr_t dst, const void *src, size_t len)
{
	struct thread *thread = by_tid(pid);
	MUST(thread->has_page && dst == (remote_addr_t)PAGE_OF(pid) && len == sizeof(to.words) && !memcmp(src, to.words, len));
	thread->has_mask = !thread->write_as;
	return thread->write_as;
}

static long set_policy(struct thread *thread, const uint64_t args[6])
{
	MUST(thread->has_mask && args[1] == (uint64_t)PAGE_OF(thread->tid) && args[2] == NUMA_NODES_MAX + 1);
	MUST(args[0] == (uint64_t)numa_policy_of(&to).mode);
	if (thread->set_as)
		return thread->set_as;
	thread->sets++;
	thread->has_policy = true;
	return 0;
}

long __wrap_world_syscall_by(struct world *world, pid_t tid, long number, const uint64_t args[6])
{
	struct thread *thread = by_tid(tid);
	MUST(played.is_held ? world == held_world() && played.held_goes_first : world == (struct world *)thread && thread->is_stopped && thread->goes_first);
	switch (number) {
	case SYS_mmap:
		MUST(args[1] == PAGE_BYTES && args[2] == (PROT_READ | PROT_WRITE) && args[3] == (MAP_SHARED | MAP_ANONYMOUS) && !thread->has_page);
		thread->has_page = !thread->mmap_as;
		return thread->mmap_as ? thread->mmap_as : PAGE_OF(tid);
	case SYS_set_mempolicy:
		return set_policy(thread, args);
	case SYS_munmap:
		MUST(args[0] == (uint64_t)PAGE_OF(tid) && args[1] == PAGE_BYTES && thread->has_page);
		thread->has_page = false;
		return 0;
	}
	MUST(false);
	return -ENOSYS;
}

void __wrap_world_resume(struct world *world)
{
	struct thread *thread = (struct thread *)world;
	MUST(world != held_world() && thread->is_stopped);
	thread->is_stopped = false;
	thread->resumes++;
}

uint64_t __wrap_monotonic_ns(void)
{
	return played.now_ns;
}

/* ---- the play ---- */

static int begin(void **state)
{
	memset(&played, 0, sizeof(played));
	return node_set_parse("1,65", &to);
}

/* Nothing is left behind. */
static int end(void **state)
{
	for (int i = 0; i < played.nr; i++)
		MUST(!played.threads[i].is_stopped && !played.threads[i].has_page);
	if (played.wrong)
		fprintf(stderr, "wrong: line %d\n", played.wrong);
	return played.wrong;
}

static void add_threads(int nr, uint64_t takes_ns)
{
	while (nr--)
		add_thread()->takes_ns = takes_ns;
}

static int finish(int *ret_steps)
{
	struct placement placement = {0};
	int r, steps = 0;
	while (++steps < 1000 && (r = placement_step(&placement, PROCESS, &to)) == -EAGAIN)
		;
	placement_release(&placement);
	assert_null(placement.done);
	assert_int_equal(placement.nr_done + placement.capacity + placement.tries, 0);
	*ret_steps = steps;
	return r;
}

static void expect(int result, int most_steps)
{
	int steps;
	assert_int_equal(finish(&steps), result);
	assert_true(steps <= most_steps);
}

static void expect_told(const struct thread *thread)
{
	assert_true(thread->has_policy);
	assert_int_equal(thread->stops, thread->sets);
	assert_int_equal(thread->resumes, thread->sets);
}

static void expect_all_told(void)
{
	for (int i = 0; i < played.nr; i++)
		expect_told(&played.threads[i]);
}

static void test_every_thread_is_told(void **state)
{
	add_threads(40, 0);
	expect(0, 2);
	expect_all_told();
}

static void test_one_node(void **state)
{
	assert_int_equal(node_set_parse("3", &to), 0);
	add_threads(1, 0);
	expect(0, 2);
	expect_all_told();
}

/* Three milliseconds and what was under way then; a thread that has the policy is not held again. */
static void test_a_step_has_its_time(void **state)
{
	struct placement placement = {0};
	add_threads(500, 1000000);
	for (int nr = 4; nr <= 500; nr += 4) {
		assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
		assert_int_equal(placement.nr_done, nr);
	}
	assert_int_equal(placement_step(&placement, PROCESS, &to), 0);
	placement_release(&placement);
	expect_all_told();
}

static void test_threads_that_come_meanwhile(void **state)
{
	add_threads(2, 0);
	played.threads[0].starts_another = played.threads[1].starts_another = true;
	played.threads[1].takes_ns = 5000000;
	expect(0, 4);
	expect_all_told();
}

/* They keep nobody waiting, and are given up after a hundred steps in which nobody else was told. */
static void test_threads_that_cannot_be_held(void **state)
{
	add_threads(9, 5000000);
	for (int i = 0; i < 9; i += 2)
		played.threads[i].stop_as = -ETIMEDOUT;
	int steps;
	assert_int_equal(finish(&steps), -ETIMEDOUT);
	assert_true(steps >= 100 && steps <= 110);
	for (int i = 0; i < 9; i++) {
		assert_true(played.threads[i].has_policy == (i % 2 == 1));
		assert_true(played.threads[i].stops >= (i % 2 ? 1 : 20) && played.threads[i].stops <= (i % 2 ? 1 : 22));
	}
}

static void test_a_thread_that_can_be_held_later(void **state)
{
	struct placement placement = {0};
	add_threads(3, 0);
	played.threads[2].stop_as = -ETIMEDOUT;
	for (int i = 0; i < 50; i++)
		assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
	played.threads[2].stop_as = 0;
	assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
	assert_int_equal(placement_step(&placement, PROCESS, &to), 0);
	placement_release(&placement);
	assert_true(played.threads[2].has_policy);
}

static void test_a_thread_that_ends(void **state)
{
	struct placement placement = {0};
	add_threads(3, 0);
	played.threads[1].stop_as = -ESRCH;
	assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
	played.threads[1].has_ended = true;
	assert_int_equal(placement_step(&placement, PROCESS, &to), 0);
	placement_release(&placement);
	assert_true(played.threads[0].has_policy && played.threads[2].has_policy);
}

static void test_a_process_that_is_gone(void **state)
{
	played.list_fails = -ENOENT;
	expect(-ESRCH, 1);
	played.list_fails = -EACCES;
	expect(-EACCES, 1);
}

/* The first error ends it. */
static void test_under_a_debugger(void **state)
{
	add_threads(3, 0);
	played.threads[0].stop_as = -EPERM;
	expect(-EPERM, 1);
	assert_int_equal(played.threads[1].stops, 0);
}

static void test_under_a_filter(void **state)
{
	add_threads(2, 0);
	played.is_filtered = true;
	expect(-EACCES, 1);
	assert_int_equal(played.threads[0].stops, 0);
}

/* By job control: it may go on later. */
static void test_stopped(void **state)
{
	int steps;
	add_threads(2, 0);
	played.threads[0].stop_as = played.threads[1].stop_as = -EBUSY;
	assert_int_equal(finish(&steps), -EBUSY);
	assert_int_equal(steps, 100);
}

static void test_calls_that_fail(void **state)
{
	add_threads(1, 0);
	played.threads[0].mmap_as = -ENOMEM;
	expect(-ENOMEM, 1);
	played.threads[0].mmap_as = 0;
	played.threads[0].write_as = -EFAULT;
	expect(-EFAULT, 1);
	played.threads[0].write_as = 0;
	played.threads[0].set_as = -EINVAL;
	expect(-EINVAL, 1);
	assert_int_equal(played.threads[0].resumes, 3);
	assert_false(played.threads[0].has_policy);
}

/* Of a container that is stopped: nobody is held anew, and nobody goes on. */
static void test_a_process_that_is_held(void **state)
{
	add_threads(3, 0);
	played.is_held = played.is_complete = true;
	expect(0, 2);
	for (int i = 0; i < 3; i++)
		assert_true(played.threads[i].has_policy && !played.threads[i].stops && !played.threads[i].resumes);
}

static void test_a_process_of_which_a_thread_is_not_held(void **state)
{
	struct placement placement = {0};
	add_threads(3, 0);
	played.is_held = true;
	for (int i = 0; i < 5; i++)
		assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
	played.is_complete = true;
	assert_int_equal(placement_step(&placement, PROCESS, &to), 0);
	placement_release(&placement);
}

static void test_more_threads_than_are_read(void **state)
{
	struct placement placement = {0};
	add_threads(MOST_THREADS + 1, 0);
	assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
	assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
	played.threads[0].has_ended = true;
	assert_int_equal(placement_step(&placement, PROCESS, &to), -EAGAIN);
	assert_int_equal(placement_step(&placement, PROCESS, &to), 0);
	placement_release(&placement);
	expect_all_told();
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_thread_is_told),
		TEST(one_node),
		TEST(a_step_has_its_time),
		TEST(threads_that_come_meanwhile),
		TEST(threads_that_cannot_be_held),
		TEST(a_thread_that_can_be_held_later),
		TEST(a_thread_that_ends),
		TEST(a_process_that_is_gone),
		TEST(under_a_debugger),
		TEST(under_a_filter),
		TEST(stopped),
		TEST(calls_that_fail),
		TEST(a_process_that_is_held),
		TEST(a_process_of_which_a_thread_is_not_held),
		TEST(more_threads_than_are_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
