/*
 * hot-and-cold SIZE_MB HOT_MB NR_ACCESSES [COLD_OF_1000=100]: accesses of the same locality to memory of any size. All but COLD_OF_1000 of a thousand go to
 * pages of a hot range of fixed size at random. The others go to each page of the rest once before any is visited again, in an order without neighbours: so
 * the share of accesses to memory that is out does not depend on the size. Twice as many accesses warm up; every page looked at proves itself.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE_BYTES = 4096, PAGE_WORDS = PAGE_BYTES / 8, RANDOM_WORDS = PAGE_WORDS / 2 };

static uint64_t (*pages)[PAGE_WORDS];
static size_t nr_pages, nr_hot, cold_of_1000 = 100, nr_bad;

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* splitmix64 */
static uint64_t random_next(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15u;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static double fill(void)
{
	uint64_t state = 1;
	double start = now_us();

	for (size_t i = 0; i < nr_pages; i++)
		for (size_t k = 0; k < PAGE_WORDS; k++)
			pages[i][k] = k < RANDOM_WORDS ? random_next(&state) : i;
	return (now_us() - start) / (double)nr_pages;
}

static size_t greatest_divisor(size_t a, size_t b)
{
	return b ? greatest_divisor(b, a % b) : a;
}

/* The k-th page of the cold ones: steps of about 0.618 of their number meet all of them. */
static size_t cold_page(size_t k)
{
	static size_t step;
	size_t nr_cold = nr_pages - nr_hot, first_hot = nr_cold / 2;

	if (!step)
		for (step = nr_cold * 618 / 1000 + 1; greatest_divisor(step, nr_cold) != 1;)
			step++;
	size_t i = k * step % nr_cold;
	return i < first_hot ? i : i + nr_hot;
}

/* The hot range lies in the middle. */
static double access_pages(size_t n)
{
	static uint64_t state = 2;
	static size_t nr_cold_accesses;
	size_t first_hot = (nr_pages - nr_hot) / 2;
	double start = now_us();

	for (size_t k = 0; k < n; k++) {
		size_t i = random_next(&state) % 1000 < cold_of_1000 ? cold_page(nr_cold_accesses++) : first_hot + random_next(&state) % nr_hot;
		nr_bad += ((volatile uint64_t *)pages[i])[PAGE_WORDS - 1] != i;
	}
	return (now_us() - start) / (double)n;
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: hot-and-cold SIZE_MB HOT_MB NR_ACCESSES [COLD_OF_1000]\n");
		return 2;
	}
	nr_pages = (size_t)atol(argv[1]) << 8;
	nr_hot = (size_t)atol(argv[2]) << 8;
	size_t nr_accesses = (size_t)atol(argv[3]);
	if (argc > 4)
		cold_of_1000 = (size_t)atol(argv[4]);
	if (!nr_hot || nr_hot >= nr_pages || !nr_accesses) {
		fprintf(stderr, "hot-and-cold: the hot range is a part of the memory\n");
		return 2;
	}
	pages = mmap(NULL, nr_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (pages == MAP_FAILED) {
		perror("hot-and-cold: mmap");
		return 1;
	}
	madvise(pages, nr_pages * PAGE_BYTES, MADV_NOHUGEPAGE);

	double fill_us = fill();
	access_pages(2 * nr_accesses);
	double access_us = access_pages(nr_accesses);
	printf("size_mb=%s fill_us_per_page=%.3f us_per_access=%.3f bad=%zu\n", argv[1], fill_us, access_us, nr_bad);
	return nr_bad != 0;
}
