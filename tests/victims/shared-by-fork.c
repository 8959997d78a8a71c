/*
 * shared-by-fork: a tree of processes that share memory by fork under pressure. Each reads and verifies pages, writes to some, discards some,
 * forks more of its kind, and leaves when it is done, parents also before their children. Every process knows what each of its pages holds.
 * usage: shared-by-fork MIB WORKERS STEPS
 */
#include <sys/wait.h>

#include "victim.h"

static char *memory;
static uint32_t *versions; /* of this process's pages; 0: discarded */
static size_t nr_pages;

static struct {
	_Atomic size_t started, right;
} *counts; /* of all processes, which share this mapping */

static uint64_t tag_of(size_t page)
{
	return (uint64_t)versions[page] << 32 | page;
}

static void verify(size_t page)
{
	char *at = memory + page * PAGE_BYTES;
	if (versions[page])
		page_check(at, tag_of(page), "shared page");
	else
		pages_check_zero(at, 1, "discarded page");
}

static void write_to(size_t page, uint64_t random)
{
	if (random & 1)
		verify(page);
	versions[page] = (uint32_t)(random >> 8) | 1;
	page_fill(memory + page * PAGE_BYTES, tag_of(page));
}

static void discard(size_t page, size_t nr)
{
	nr = page + nr > nr_pages ? nr_pages - page : nr;
	CHECK(!madvise(memory + page * PAGE_BYTES, nr * PAGE_BYTES, MADV_DONTNEED), "DONTNEED");
	memset(versions + page, 0, nr * sizeof(*versions));
}

/* Most looks are at a small part that wanders, so that something stays and something leaves. */
static size_t somewhere(uint64_t random, size_t step)
{
	size_t window = nr_pages / 8;
	return ((random & 3 ? step * 2 + (random >> 4) % window : random >> 4)) % nr_pages;
}

static _Noreturn void live(uint64_t seed, size_t nr_steps, int depth)
{
	uint64_t random = seed;
	for (size_t step = 0; step < nr_steps; step++) {
		uint64_t r = random_next(&random);
		size_t page = somewhere(random_next(&random), step);
		if (r % 100 < 80)
			verify(page);
		else if (r % 100 < 97)
			write_to(page, random_next(&random));
		else if (r % 100 < 99)
			discard(page, r / 100 % 24);
		if (depth && step % (nr_steps / 3) == nr_steps / 6) {
			fflush(NULL);
			pid_t pid = fork();
			CHECK(pid >= 0, "fork");
			if (pid)
				continue;
			counts->started++; /* the child has a shorter life of its own */
			random = seed * 31 + step;
			step = 0;
			nr_steps /= 2;
			depth--;
		}
	}
	for (size_t page = 0; page < nr_pages; page += 3)
		verify(page);
	counts->right++;
	_exit(0);
}

int main(int argc, char **argv)
{
	size_t workers = argc > 2 ? (size_t)atol(argv[2]) : 4, steps = argc > 3 ? (size_t)atol(argv[3]) : 20000;
	int alive[2];
	char byte;

	nr_pages = (argc > 1 ? (size_t)atol(argv[1]) : 48) * MIB / PAGE_BYTES;
	memory = map_pages(nr_pages);
	versions = map_bytes(nr_pages * sizeof(*versions));
	counts = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(counts != MAP_FAILED && !pipe(alive), "counts and pipe");
	for (size_t page = 0; page < nr_pages; page++)
		write_to(page, page << 20);
	for (size_t i = 0; i < workers; i++) {
		pid_t pid = fork();
		CHECK(pid >= 0, "fork");
		if (!pid) {
			counts->started++;
			live(i + 1, steps * (i + 1) / workers, 2);
		}
	}
	close(alive[1]);
	CHECK(read(alive[0], &byte, 1) == 0, "read"); /* until the last of all has ended */
	CHECK(counts->right == counts->started, "%zu of %zu processes were right", counts->right, counts->started);
	for (size_t page = 0; page < nr_pages; page++)
		verify(page);
	puts("right");
	return 0;
}
