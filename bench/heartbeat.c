/*
 * heartbeat: a program to be checkpointed. It fills memory with random words, and then says all the time that it lives.
 * usage: heartbeat FILE SIZE_MB WORK_MB PROCESSES
 * FILE is mapped shared (struct score) and written to by the first of the processes, which fork after the memory was filled and share it. The first WORK_MB are used all the time.
 * All times are CLOCK_MONOTONIC in ns. A number other than 0 in `wanted` asks for something and becomes 0 when it is done.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_WORDS ((size_t)512)
#define PAGES_OF_MB ((size_t)256)
#define NAP_NS 100000

enum wanted { NOTHING, USE_WORK, CHANGE_ONE_PERCENT, USE_ALL };

struct score {
	volatile uint64_t is_ready;
	volatile uint64_t first_ns;   /* a beat when this was 0 */
	volatile uint64_t longest_ns; /* between two beats; to be set to 0 from outside */
	volatile uint64_t wanted, done_ns;
};

static struct score *score;
static uint64_t *memory;
static size_t nr_pages, work_pages;
static uint64_t state = 88172645463325252u;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void read_pages(size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		(void)*(volatile uint64_t *)(memory + i * PAGE_WORDS);
}

static void do_what_is_wanted(void)
{
	uint64_t wanted = score->wanted;
	if (wanted == NOTHING)
		return;
	if (wanted == USE_WORK)
		read_pages(work_pages);
	else if (wanted == USE_ALL)
		read_pages(nr_pages);
	for (size_t i = 0; wanted == CHANGE_ONE_PERCENT && i < nr_pages / 100; i++)
		memory[next_random() % nr_pages * PAGE_WORDS + 7] = next_random();
	score->done_ns = now_ns();
	score->wanted = NOTHING;
}

static void beat(uint64_t *last)
{
	static const struct timespec nap = { 0, NAP_NS };
	static size_t at;
	uint64_t now = now_ns();
	if (!score->first_ns)
		score->first_ns = now;
	if (now - *last > score->longest_ns)
		score->longest_ns = now - *last;
	do_what_is_wanted();
	for (int i = 0; i < 8; i++)
		(void)*(volatile uint64_t *)(memory + (at = (at + 1) % work_pages) * PAGE_WORDS);
	*last = now_ns();
	nanosleep(&nap, NULL);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(*score)) < 0)
		return 1;
	score = mmap(NULL, sizeof(*score), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	nr_pages = (size_t)atol(argv[2]) * PAGES_OF_MB;
	work_pages = (size_t)atol(argv[3]) * PAGES_OF_MB;
	memory = mmap(NULL, nr_pages * PAGE_WORDS * sizeof(*memory), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (score == MAP_FAILED || memory == MAP_FAILED || !work_pages || work_pages > nr_pages)
		return 1;
	madvise(memory, nr_pages * PAGE_WORDS * sizeof(*memory), MADV_NOHUGEPAGE);
	for (size_t i = 0; i < nr_pages * PAGE_WORDS; i++)
		memory[i] = next_random();
	for (int i = 1; i < atoi(argv[4]); i++)
		if (!fork())
			for (;;)
				pause();
	score->is_ready = 1;
	for (uint64_t last = now_ns();;)
		beat(&last);
}
