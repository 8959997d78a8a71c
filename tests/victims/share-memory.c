/*
 * share-memory: two processes with one memory (clone with CLONE_VM, no threads of each other). The first fills memory and waits to be
 * killed; the second waits for the end of the first: to outlive it is wrong.
 * usage: share-memory SIZE_MB
 */
#include <sched.h>
#include <signal.h>

#include "victim.h"

static pid_t first;

static int wait_for_first(void *argument)
{
	while (getppid() == first)
		sleep_ms(1);
	victim_fail(__FILE__, __LINE__, "outlived who it shares memory with");
}

int main(int argc, char **argv)
{
	static char stack[1 << 16] __attribute__((aligned(16)));

	if (argc < 2) {
		fprintf(stderr, "usage: share-memory SIZE_MB\n");
		return 2;
	}
	size_t nr_pages = (size_t)atol(argv[1]) * MIB / PAGE_BYTES;
	char *memory = map_pages(nr_pages);
	first = getpid();
	pid_t second = clone(wait_for_first, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
	CHECK(second > 0, "clone");
	pages_fill(memory, nr_pages, 1);
	for (;;)
		pause();
}
