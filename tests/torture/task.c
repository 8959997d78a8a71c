/* What makes and ends tasks, and what runs on their stacks: fork, vfork, exec, threads, signals, recursion. */
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include "torture.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#define MADV_KEEPONFORK 19
#endif
#define ALTERNATE_STACK_BYTES ((size_t)32 << 10)

extern char **environ;

static void fork_and_check(struct area *a, struct range range)
{
	pid_t pid = fork();
	CHECK(pid >= 0, "fork");
	if (!pid) {
		read_range(a, range);
		write_range(a, (struct range){range.first, range.count / 2});
		read_range(a, range_choose(a, 0));
		_exit(0);
	}
	write_range(a, (struct range){range.first, range.count / 3});
	wait_for_child(pid, 0);
	read_range(a, range);
}

/* A child that does not inherit the range as it is: what it does with it, and how it must end. */
static void fork_advised(struct area *a, struct range range, int advice, int undo,
			 void (*child)(const char *start, size_t nr_pages), int status)
{
	char *start = page_of(a, range.first);
	map_holes(a, range);
	CHECK(!madvise(start, range.count * PAGE_BYTES, advice), "madvise %d", advice);
	pid_t pid = fork();
	CHECK(pid >= 0, "fork");
	if (!pid) {
		child(start, range.count);
		_exit(0);
	}
	wait_for_child(pid, status);
	CHECK(!madvise(start, range.count * PAGE_BYTES, undo), "madvise %d", undo);
	read_range(a, range);
}

static void find_zeros(const char *start, size_t nr_pages)
{
	pages_check_zero(start, nr_pages, "wiped on fork");
}

static void fork_wiped(struct area *a, struct range range)
{
	fork_advised(a, range, MADV_WIPEONFORK, MADV_KEEPONFORK, find_zeros, 0);
}

static void find_nothing(const char *start, size_t nr_pages)
{
	signal(SIGSEGV, SIG_DFL);
	*(const volatile char *)start;
}

static void fork_without(struct area *a, struct range range)
{
	fork_advised(a, range, MADV_DONTFORK, MADV_DOFORK, find_nothing, SIGSEGV);
}

static void exec_true(struct area *a, struct range range)
{
	char *arguments[] = {"true", NULL};
	pid_t pid;
	if (random_next(&a->state) % 2) {
		CHECK(!posix_spawnp(&pid, "true", NULL, NULL, arguments, environ), "posix_spawn");
	} else {
		pid = fork();
		CHECK(pid >= 0, "fork");
		if (!pid) {
			execvp("true", arguments);
			_exit(127);
		}
	}
	write_range(a, range);
	wait_for_child(pid, 0);
}

struct errand {
	struct area *area;
	struct range range;
};

static void *read_by_thread(void *argument)
{
	struct errand *errand = argument;
	read_range(errand->area, errand->range);
	return argument;
}

static void thread_and_join(struct area *a, struct range range)
{
	struct errand errands[4] = {{a, range}, {a, range}, {a, range}, {a, range}};
	pthread_t threads[4];
	void *result;
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, read_by_thread, &errands[i]), "pthread_create");
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_join(threads[i], &result) && result == &errands[i], "pthread_join");
}

static _Thread_local volatile uint64_t handled;

static void on_signal(int number)
{
	volatile uint64_t local[256];
	for (int i = 0; i < 256; i++)
		local[i] = handled + (uint64_t)i;
	CHECK(local[255] == handled + 255, "a local variable of a signal handler");
	handled++;
}

/* Every thread has one, among memory that leaves as well. */
static void signal_on_small_stack(struct area *a, struct range range)
{
	static _Thread_local char *memory;
	if (!memory)
		memory = map_bytes(ALTERNATE_STACK_BYTES);
	stack_t stack = {.ss_sp = memory, .ss_size = ALTERNATE_STACK_BYTES};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
	CHECK(!sigaltstack(&stack, NULL) && !sigaction(SIGUSR1, &action, NULL), "sigaltstack");
	uint64_t before = handled;
	CHECK(!pthread_kill(pthread_self(), SIGUSR1), "pthread_kill");
	CHECK(handled == before + 1, "the signal was handled %d times", (int)(handled - before));
	read_range(a, range);
}

__attribute__((noinline)) static uint64_t descend(struct area *a, unsigned depth, uint64_t tag)
{
	volatile uint64_t frame[PAGE_WORDS / 2];
	for (size_t i = 0; i < PAGE_WORDS / 2; i += 16)
		frame[i] = page_word(tag, i);
	if (depth)
		descend(a, depth - 1, tag + 1);
	else
		read_range(a, range_choose(a, 0));
	for (size_t i = 0; i < PAGE_WORDS / 2; i += 16)
		CHECK(frame[i] == page_word(tag, i), "stack %u frames from the end", depth);
	return frame[0];
}

static void recurse(struct area *a, struct range range)
{
	descend(a, (unsigned)(random_next(&a->state) % 1024), a->next_tag);
	a->next_tag += 1024;
}

const struct operation task_operations[] = {
	{"fork", 4, 64, fork_and_check},
	{"fork, wiped", 2, 32, fork_wiped},
	{"fork, not inherited", 2, 32, fork_without},
	{"exec", 3, 16, exec_true},
	{"threads", 8, 64, thread_and_join},
	{"signal", 20, 64, signal_on_small_stack},
	{"recursion", 6, 64, recurse},
	{0},
};
