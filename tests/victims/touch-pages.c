/*
 * touch-pages: access patterns over self-checking pages, for measuring and for testing paging.
 * usage: touch-pages SIZE_MB MODE [RANDOM_BYTES_PER_PAGE=2048] [THREADS=1]
 * MODE: seq-read seq-write rand-read rand-write zipf-read zipf-write (zipf: 80 % of the accesses go to 20 % of the pages)
 * Prints one line with microseconds per page filled and per access; verifies every byte at the end; exits 1 on a wrong one.
 *
 * Page layout, in words: [0, random) pseudo-random, [random, 509) the page's index, 509 spare, 510 last write, 511 the index.
 */
#include <pthread.h>

#include "victim.h"

enum { WORD_WRITTEN = 510, WORD_INDEX = 511, MAX_THREADS = 64 };

static struct {
	char *memory;
	size_t nr_pages;
	size_t random_words;
	size_t nr_threads;
	size_t nr_accesses;
	bool is_write, is_zipf, is_sequential;
} work;

static _Atomic size_t nr_bad;

static uint64_t *page_at(size_t i)
{
	return (uint64_t *)(void *)(work.memory + i * PAGE_BYTES);
}

static void fill(void)
{
	for (size_t i = 0; i < work.nr_pages; i++) {
		uint64_t *page = page_at(i), state = i;
		for (size_t k = 0; k < WORD_WRITTEN; k++)
			page[k] = k < work.random_words ? random_next(&state) : i;
		page[WORD_INDEX] = i;
	}
}

static void verify(void)
{
	for (size_t i = 0; i < work.nr_pages; i++) {
		volatile uint64_t *page = page_at(i);
		uint64_t state = i;
		bool is_right = page[WORD_INDEX] == i;
		for (size_t k = 0; k < WORD_WRITTEN; k++)
			is_right &= page[k] == (k < work.random_words ? random_next(&state) : i);
		if (!is_right)
			nr_bad++;
	}
}

static size_t choose(size_t k, size_t first, size_t share, uint64_t *state)
{
	if (work.is_sequential)
		return first + k % share;
	if (work.is_zipf && random_next(state) % 10 < 8)
		return random_next(state) % (work.nr_pages / 5) * 5;
	return random_next(state) % work.nr_pages;
}

static void *access_pages(void *argument)
{
	size_t id = (size_t)argument, share = work.nr_pages / work.nr_threads;
	uint64_t state = 88172645463325252u + id * 7919;

	for (size_t k = 0; k < work.nr_accesses / work.nr_threads; k++) {
		size_t i = choose(k, id * share, share, &state);
		volatile uint64_t *page = page_at(i);
		if (page[WORD_INDEX] != i)
			nr_bad++;
		if (work.is_write)
			page[WORD_WRITTEN] = k + 1;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[MAX_THREADS];

	if (argc < 3) {
		fprintf(stderr, "usage: touch-pages SIZE_MB MODE [RANDOM_BYTES_PER_PAGE] [THREADS]\n");
		return 2;
	}
	const char *mode = argv[2];
	work.nr_pages = (size_t)atol(argv[1]) * MIB / PAGE_BYTES;
	work.random_words = (argc > 3 ? (size_t)atol(argv[3]) : 2048) / sizeof(uint64_t);
	work.nr_threads = argc > 4 ? (size_t)atol(argv[4]) : 1;
	work.is_write = strstr(mode, "write") != NULL;
	work.is_zipf = !strncmp(mode, "zipf", 4);
	work.is_sequential = !strncmp(mode, "seq", 3);
	CHECK(work.nr_threads >= 1 && work.nr_threads <= MAX_THREADS && work.nr_pages >= 5, "numbers");
	work.memory = map_pages(work.nr_pages);

	double start = now_seconds();
	fill();
	double fill_us = (now_seconds() - start) * 1e6 / (double)work.nr_pages;
	work.nr_accesses = work.is_sequential ? 2 * work.nr_pages : work.nr_pages / 2;
	start = now_seconds();
	for (size_t i = 0; i < work.nr_threads; i++)
		CHECK(!pthread_create(&threads[i], NULL, access_pages, (void *)i), "pthread_create");
	for (size_t i = 0; i < work.nr_threads; i++)
		pthread_join(threads[i], NULL);
	double access_us = (now_seconds() - start) * 1e6 / (double)work.nr_accesses;
	verify();
	printf("%s size_mb=%s threads=%zu fill_us_per_page=%.3f us_per_access=%.3f bad=%zu\n", mode, argv[1], work.nr_threads, fill_us,
	       access_us, nr_bad);
	return nr_bad != 0;
}
