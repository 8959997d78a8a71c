/*
 * outlive-sharer: two processes with one memory (clone with CLONE_VM, no threads of each other). The first fills one half; while the second fills the
 * other, under pressure, the first ends or executes another program. The second goes on, finds all its pages, and fills as much again.
 * usage: outlive-sharer exit|exec SIZE_MB
 */
#include <sched.h>
#include <signal.h>

#include "victim.h"

static volatile size_t nr_filled;
static char *memory;
static size_t nr_pages;
static pid_t first;
static bool by_exec;

/* Has it another memory, or none? Not asked through a pipe or a lock: those would be the program's help. */
static bool first_has_left(void)
{
	char path[64], name[64] = "";

	if (!by_exec)
		return getppid() != first;
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)first);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, name, sizeof(name) - 1);
	close(fd);
	return n <= 0 || !strncmp(name, "sleep", 5);
}

static int go_on(void *argument)
{
	while (nr_filled < nr_pages / 2)
		sleep_ms(1);
	for (; nr_filled < nr_pages; nr_filled++)
		page_fill(memory + nr_filled * PAGE_BYTES, 1 + nr_filled);
	while (!first_has_left())
		sleep_ms(1);
	for (uint64_t round = 1; round < 4; round++) {
		pages_check(memory, nr_pages, round, "shared with who is gone");
		pages_fill(memory, nr_pages, round + 1);
	}
	static const char right[] = "right\n";
	CHECK(write(STDOUT_FILENO, right, sizeof(right) - 1) == sizeof(right) - 1, "write");
	_exit(0);
}

int main(int argc, char **argv)
{
	static char stack[1 << 16] __attribute__((aligned(16)));

	if (argc < 3) {
		fprintf(stderr, "usage: outlive-sharer exit|exec SIZE_MB\n");
		return 2;
	}
	by_exec = !strcmp(argv[1], "exec");
	nr_pages = (size_t)atol(argv[2]) * MIB / PAGE_BYTES;
	memory = map_pages(nr_pages);
	first = getpid();
	CHECK(clone(go_on, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL) > 0, "clone");
	pages_fill(memory, nr_pages / 2, 1);
	nr_filled = nr_pages / 2;
	while (nr_filled < nr_pages / 4 * 3)
		sleep_ms(1);
	if (by_exec)
		execlp("sleep", "sleep", "3", NULL);
	_exit(0);
}
