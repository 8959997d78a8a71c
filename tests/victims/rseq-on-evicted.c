/*
 * rseq-on-evicted: threads that sleep, whose restartable sequences lie in pages that have left memory long ago, beside one that keeps memory full. Whoever makes such a
 * thread run, if only for a call of its own, makes the kernel touch that page.
 * usage: rseq-on-evicted FILE THREADS PRESS_MB
 * FILE is mapped shared; its first word counts the rounds of the one that runs. Ends well when the second one says stop.
 */
#include <pthread.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include "victim.h"

#define AREA_BYTES 32u

struct score {
	_Atomic uint64_t nr_rounds, stop;
};

static char *areas; /* a page for each thread */
static _Atomic size_t nr_asleep;
static pthread_barrier_t is_over;

static long rseq(void *area, int flags)
{
	return syscall(SYS_rseq, area, AREA_BYTES, flags, RSEQ_SIG);
}

static void *sleep_long(void *argument)
{
	char *area = areas + (size_t)argument * PAGE_BYTES;

	CHECK(rseq((char *)__builtin_thread_pointer() + __rseq_offset, RSEQ_FLAG_UNREGISTER) == 0, "glibc's own restartable sequence");
	CHECK(rseq(area, 0) == 0, "restartable sequence");
	nr_asleep++;
	pthread_barrier_wait(&is_over);
	CHECK(rseq(area, RSEQ_FLAG_UNREGISTER) == 0, "restartable sequence at the end");
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	if (!__rseq_size)
		victim_skip("no restartable sequences");
	size_t nr_threads = strtoul(argv[2], NULL, 10), nr_pages = strtoul(argv[3], NULL, 10) * MIB / PAGE_BYTES;
	int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, sizeof(struct score)), "%s", argv[1]);
	struct score *score = mmap(NULL, sizeof(*score), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(score != MAP_FAILED, "mmap");
	pthread_t *threads = calloc(nr_threads, sizeof(*threads));
	CHECK(threads, "no memory");
	areas = map_pages(nr_threads);
	pthread_barrier_init(&is_over, NULL, (unsigned)nr_threads + 1);
	for (size_t i = 0; i < nr_threads; i++)
		CHECK(!pthread_create(&threads[i], NULL, sleep_long, (void *)i), "pthread_create");
	while (nr_asleep < nr_threads)
		sched_yield();
	void *memory = map_pages(nr_pages);
	pages_fill(memory, nr_pages, 1);
	for (uint64_t tag = 1; !score->stop; tag++, score->nr_rounds++) {
		pages_check(memory, nr_pages, tag, "pressed memory");
		pages_fill(memory, nr_pages, tag + 1);
	}
	pthread_barrier_wait(&is_over);
	for (size_t i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	puts("right");
	return 0;
}
