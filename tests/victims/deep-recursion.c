/*
 * deep-recursion: fills a deep stack, on the main thread and on another one, with pressure at the deepest point, and checks every frame
 * on the way back. usage: deep-recursion STACK_MB
 */
#include <pthread.h>
#include <sys/resource.h>

#include "victim.h"

static uint64_t descend(size_t depth, size_t deepest)
{
	uint64_t frame[PAGE_WORDS];

	page_fill(frame, depth);
	__asm__ volatile("" : : "r"(frame) : "memory");
	uint64_t sum = 1;
	if (depth < deepest)
		sum += descend(depth + 1, deepest);
	else
		memory_press();
	page_check(frame, depth, "stack frame");
	return sum;
}

static void *on_thread(void *argument)
{
	size_t deepest = (size_t)argument;

	CHECK(descend(0, deepest) == deepest + 1, "depth");
	return NULL;
}

int main(int argc, char **argv)
{
	size_t stack_bytes = (argc > 1 ? (size_t)atol(argv[1]) : 32) * MIB;
	struct rlimit limit;
	pthread_attr_t attributes;
	pthread_t thread;

	getrlimit(RLIMIT_STACK, &limit);
	if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < stack_bytes) {
		limit.rlim_cur = stack_bytes;
		if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < stack_bytes)
			victim_skip("the hard limit of the stack is too small");
		CHECK(!setrlimit(RLIMIT_STACK, &limit), "setrlimit");
		if (!getenv("VICTIM_AGAIN")) {
			setenv("VICTIM_AGAIN", "1", 1); /* the layout is made for the new limit at exec */
			execv("/proc/self/exe", argv);
		}
	}
	size_t deepest = stack_bytes / (PAGE_BYTES + 512) * 3 / 4;
	for (int round = 0; round < 2; round++)
		on_thread((void *)deepest);
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, stack_bytes);
	CHECK(!pthread_create(&thread, &attributes, on_thread, (void *)deepest), "pthread_create");
	pthread_join(thread, NULL);
	puts("right");
	return 0;
}
