/*
 * see-stops: processes that check and rewrite their memory, and see how long they are kept from it.
 * usage: see-stops SIZE_MB PROCESSES NODE FOLDER
 * The memory, SIZE_MB in all, comes from NODE at first; half of it may be large pages. Each process has a second thread, which nobody can hold most of the
 * time: it waits for the child of a vfork. Besides, the first process has PINNED pages that lie in a pipe too, and
 * SHARED pages that all processes map since they were forked. FOLDER/ready appears when all is filled. When FOLDER/end appears one line is printed: JSON with
 * the rounds, the longest stop in microseconds, and how many pages lie on each of the nodes 0 and 1 then; "others": of those PINNED and SHARED pages, and
 * "new": of FRESH pages that the first process takes then. And everything is checked.
 *
 * A stop is time in which a process neither ran nor waited for a processor: one that others use is not taken for a stop.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "victim.h"

#define WINDOW_US 2000
#define LOOK_US 300
#define PINNED ((size_t)16)
#define SHARED ((size_t)64)
#define FRESH ((size_t)32)
#define MPOL_PREFERRED 1

struct record {
	uint64_t is_filled, rounds, longest_us, longest_at_us, nodes[2];
};

struct clocks {
	uint64_t wall_us, used_us, waited_us;
};

static volatile bool *is_over; /* shared */

static uint64_t clock_us(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* All at one time: who loses the processor between two of them looks again, or what it waited would be missing in the next window and pass for a stop. */
static struct clocks look(int schedstat)
{
	char line[128] = "";
	unsigned long long ran = 0, waited = 0;
	struct clocks c;
	do {
		c.wall_us = clock_us(CLOCK_MONOTONIC);
		if (pread(schedstat, line, sizeof(line) - 1, 0) < 0 || sscanf(line, "%llu %llu", &ran, &waited) != 2)
			victim_skip("the kernel has no /proc/PID/schedstat");
		c.used_us = clock_us(CLOCK_THREAD_CPUTIME_ID);
		c.waited_us = waited / 1000;
	} while (clock_us(CLOCK_MONOTONIC) - c.wall_us > LOOK_US);
	return c;
}

/* At most every two milliseconds; what is behind a longer gap is in the window that ends there. */
static void measure(struct record *record, struct clocks *last, int schedstat)
{
	if (clock_us(CLOCK_MONOTONIC) - last->wall_us < WINDOW_US)
		return;
	struct clocks c = look(schedstat);
	int64_t stop = (int64_t)(c.wall_us - last->wall_us) - (int64_t)(c.used_us - last->used_us) - (int64_t)(c.waited_us - last->waited_us);
	if (stop > (int64_t)record->longest_us) {
		record->longest_us = (uint64_t)stop;
		record->longest_at_us = c.wall_us;
	}
	*last = c;
}

static void count_nodes(struct record *record, char *block, size_t nr_pages)
{
	for (size_t i = 0; i < nr_pages; i++) {
		void *page = block + i * PAGE_BYTES;
		int status = -1;

		if (syscall(SYS_move_pages, 0, 1ul, &page, NULL, &status, 0) == 0 && (status == 0 || status == 1))
			record->nodes[status]++;
	}
}

static char *map_filled(size_t nr_pages, uint64_t id)
{
	char *block = mmap(NULL, nr_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(block != MAP_FAILED, "mmap");
	madvise(block, nr_pages / 2 * PAGE_BYTES, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < nr_pages; i++)
		page_fill(block + i * PAGE_BYTES, id + i);
	return block;
}

/* The first and the last word of a page say in which round it was last here; the rest stays as it was filled. */
static void visit(uint64_t *page, uint64_t tag, uint64_t round)
{
	const size_t ends[] = {0, PAGE_WORDS - 1};

	for (size_t k = 0; k < 2; k++) {
		CHECK(page[ends[k]] == page_word(tag + round, ends[k]), "page of tag %llu in round %llu", (unsigned long long)tag, (unsigned long long)round);
		page[ends[k]] = page_word(tag + round + 1, ends[k]);
	}
}

static void check_rest(const char *block, size_t nr_pages, uint64_t id)
{
	for (size_t i = 0; i < nr_pages; i++)
		for (size_t k = 1; k < PAGE_WORDS - 1; k++)
			CHECK(((const uint64_t *)(const void *)(block + i * PAGE_BYTES))[k] == page_word(id + i, k), "page %zu, word %zu", i, k);
}

static void *linger(void *unused)
{
	const struct timespec nap = {.tv_nsec = 50000000};

	for (;;) {
		if (vfork() == 0) {
			nanosleep(&nap, NULL);
			_exit(0);
		}
		wait(NULL);
	}
}

static void work(struct record *record, size_t nr_pages, uint64_t id)
{
	int schedstat = open("/proc/self/schedstat", O_RDONLY);
	char *block = map_filled(nr_pages, id);
	struct clocks last = look(schedstat);
	pthread_t lingerer;

	CHECK(pthread_create(&lingerer, NULL, linger, NULL) == 0, "pthread_create");
	record->is_filled = 1;
	for (; !*is_over; record->rounds++) {
		for (size_t i = 0; i < nr_pages; i++) {
			visit((uint64_t *)(void *)(block + i * PAGE_BYTES), id + i, record->rounds);
			measure(record, &last, schedstat);
		}
	}
	count_nodes(record, block, nr_pages);
	check_rest(block, nr_pages, id);
	_exit(0);
}

static char *pin(size_t nr_pages, uint64_t id)
{
	char *block = map_filled(nr_pages, id);
	struct iovec all = {block, nr_pages * PAGE_BYTES};
	int ends[2];

	CHECK(pipe(ends) == 0 && vmsplice(ends[1], &all, 1, 0) == (ssize_t)all.iov_len, "vmsplice");
	return block;
}

static bool exists(const char *folder, const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return access(path, F_OK) == 0;
}

static void create(const char *folder, const char *name)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	CHECK(open(path, O_WRONLY | O_CREAT, 0600) >= 0, "%s", path);
}

static void report(const struct record *records, int nr, const struct record *others, const struct record *fresh)
{
	struct record sum = {0};

	for (int i = 0; i < nr; i++) {
		sum.rounds += records[i].rounds;
		sum.nodes[0] += records[i].nodes[0];
		sum.nodes[1] += records[i].nodes[1];
		if (records[i].longest_us >= sum.longest_us) {
			sum.longest_us = records[i].longest_us;
			sum.longest_at_us = records[i].longest_at_us;
		}
	}
	printf("{\"rounds\": %llu, \"longest_us\": %llu, \"longest_at_us\": %llu, \"nodes\": [%llu, %llu], ", (unsigned long long)sum.rounds, (unsigned long long)sum.longest_us,
	       (unsigned long long)sum.longest_at_us, (unsigned long long)sum.nodes[0], (unsigned long long)sum.nodes[1]);
	printf("\"others\": [%llu, %llu], \"new\": [%llu, %llu]}\n", (unsigned long long)others->nodes[0], (unsigned long long)others->nodes[1],
	       (unsigned long long)fresh->nodes[0], (unsigned long long)fresh->nodes[1]);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	CHECK(argc == 5, "usage: see-stops SIZE_MB PROCESSES NODE FOLDER");
	int nr = atoi(argv[2]);
	size_t nr_pages = (size_t)atoi(argv[1]) * MIB / PAGE_BYTES / (size_t)nr;
	unsigned long mask = 1ul << atoi(argv[3]);
	struct record others = {0}, fresh = {0}, *records = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(records != MAP_FAILED && nr < 64, "mmap");
	is_over = (volatile bool *)&records[64];
	if (syscall(SYS_set_mempolicy, MPOL_PREFERRED, &mask, 64ul) < 0)
		victim_skip("no NUMA");
	char *shared = map_filled(SHARED, 1);
	for (int i = 0; i < nr; i++)
		if (fork() == 0)
			work(&records[i], nr_pages, (uint64_t)(i + 1) << 32);
	char *pinned = pin(PINNED, 100000);
	for (int i = 0; i < nr; i++)
		while (!__atomic_load_n(&records[i].is_filled, __ATOMIC_SEQ_CST))
			sleep_ms(5);
	create(argv[4], "ready");
	while (!exists(argv[4], "end"))
		sleep_ms(5);
	*is_over = true;
	for (int i = 0, status; i < nr; i++)
		CHECK(wait(&status) > 0 && status == 0, "a process ended with %#x", status);
	check_rest(shared, SHARED, 1);
	check_rest(pinned, PINNED, 100000);
	count_nodes(&others, shared, SHARED);
	count_nodes(&others, pinned, PINNED);
	count_nodes(&fresh, map_filled(FRESH, 2), FRESH);
	report(records, nr, &others, &fresh);
	return 0;
}
