#include "workload.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* State of a generator: next() says which page comes after the last one. */
struct generator {
	uint32_t nr_pages;
	uint64_t random;
	uint64_t step, nr_steps;
	double zeta, half; /* of the zipf distribution */
	uint32_t (*next)(struct generator *g);
};

/* splitmix64 */
static uint64_t next_random(struct generator *g)
{
	uint64_t z = g->random += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static uint32_t random_below(struct generator *g, uint32_t n)
{
	return (uint32_t)((next_random(g) >> 32) * n >> 32);
}

static double random_fraction(struct generator *g)
{
	return (double)(next_random(g) >> 11) * 0x1p-53;
}

/* Spreads ranks over addresses; n is a power of two. */
static uint32_t scatter(uint32_t rank, uint32_t n)
{
	return (uint32_t)(((uint64_t)rank * 0x9e3779b1u) & (n - 1));
}

static uint32_t next_loop(struct generator *g)
{
	return (uint32_t)(g->step++ % g->nr_pages);
}

static uint32_t next_strided(struct generator *g)
{
	return (uint32_t)(g->step++ * 17 % g->nr_pages);
}

static uint32_t next_uniform(struct generator *g)
{
	return random_below(g, g->nr_pages);
}

#define ZIPF_THETA 0.99

/* Rank of a zipf distribution (Gray et al., Quickly generating billion-record synthetic databases, 1994). */
static uint32_t zipf_rank(struct generator *g, uint32_t n)
{
	double alpha = 1 / (1 - ZIPF_THETA);
	double eta = (1 - pow(2.0 / n, 1 - ZIPF_THETA)) / (1 - g->half / g->zeta);
	double u = random_fraction(g);
	if (u * g->zeta < 1)
		return 0;
	if (u * g->zeta < g->half)
		return 1;
	return MIN_OF((uint32_t)(n * pow(eta * u - eta + 1, alpha)), n - 1);
}

static uint32_t next_zipf(struct generator *g)
{
	return scatter(zipf_rank(g, g->nr_pages), g->nr_pages);
}

/* Four of five accesses go to a fifth of the pages, and inside it again, and so on. */
static uint32_t rank_80_20(struct generator *g, uint32_t n)
{
	return MIN_OF((uint32_t)(n * pow(random_fraction(g), log(0.2) / log(0.8))), n - 1);
}

static uint32_t next_80_20(struct generator *g)
{
	return scatter(rank_80_20(g, g->nr_pages), g->nr_pages);
}

/* A quarter of the pages is used all the time; every second access goes on with a pass over the others. */
static uint32_t next_scan(struct generator *g)
{
	uint32_t hot = g->nr_pages / 4;
	uint64_t step = g->step++;
	return step % 2 ? random_below(g, hot) : hot + (uint32_t)(step / 2 % (g->nr_pages - hot));
}

/* The hot quarter alone, and every now and then one fast pass over all others, in which it is hardly used. */
static uint32_t next_scan_once(struct generator *g)
{
	uint32_t hot = g->nr_pages / 4, cold = g->nr_pages - hot;
	uint64_t quiet = 4ull * g->nr_pages, pass = (uint64_t)cold * 8 / 7 + 1;
	uint64_t step = g->step++ % (quiet + pass);
	if (step < quiet || step % 8 == 0)
		return random_below(g, hot);
	uint64_t k = step - quiet;
	return hot + (uint32_t)MIN_OF(k - k / 8, cold - 1ull);
}

/* Zipf over a window of three eighths of the pages, which moves five times. */
static uint32_t next_phases(struct generator *g)
{
	uint32_t window = g->nr_pages / 8 * 3;
	uint64_t phase = g->step++ * 6 / g->nr_steps;
	uint32_t rank = rank_80_20(g, window);
	uint32_t in_window = (uint32_t)((uint64_t)rank * 2654435761u % window);
	return (uint32_t)((phase * (g->nr_pages / 16 * 5) + in_window) % g->nr_pages);
}

/* Two loops, one small and one that is larger than most memories: compilers and interpreters with their collections. */
static uint32_t next_two_loops(struct generator *g)
{
	uint32_t small = g->nr_pages / 8;
	uint64_t step = g->step++;
	return step % 2 ? (uint32_t)(step / 2 % small) : small + (uint32_t)(step / 2 % (g->nr_pages - small));
}

/* Half of it zipf over one half, a quarter a loop over the third quarter, a quarter uniform over the last. */
static uint32_t next_mixed(struct generator *g)
{
	uint32_t quarter = g->nr_pages / 4;
	switch (random_below(g, 4)) {
	case 0:
		return 2 * quarter + (uint32_t)(g->step++ % quarter);
	case 1:
		return 3 * quarter + random_below(g, quarter);
	default:
		return scatter(rank_80_20(g, 2 * quarter), 2 * quarter);
	}
}

static const struct {
	const char *name;
	uint32_t (*next)(struct generator *g);
} generators[] = {
	{"loop", next_loop},           {"strided", next_strided}, {"uniform", next_uniform},     {"zipf", next_zipf},   {"80-20", next_80_20}, {"scan", next_scan},
	{"scan-once", next_scan_once}, {"phases", next_phases},   {"two-loops", next_two_loops}, {"mixed", next_mixed},
};

const char *const workload_names[] = {"loop", "strided", "uniform", "zipf", "80-20", "scan", "scan-once", "phases", "two-loops", "mixed", NULL};

static void prepare_zipf(struct generator *g)
{
	for (uint32_t i = 1; i <= g->nr_pages; i++)
		g->zeta += pow(i, -ZIPF_THETA);
	g->half = 1 + pow(0.5, ZIPF_THETA);
}

static int run_generator(struct generator *g, unsigned write_percent, struct workload *w)
{
	w->access = calloc(w->nr_accesses, sizeof(*w->access));
	if (!w->access)
		return -ENOMEM;
	for (uint64_t i = 0; i < w->nr_accesses; i++)
		w->access[i].page = g->next(g);
	/* By region of 256 pages, as data structures are: some are only read. */
	for (uint64_t i = 0; i < w->nr_accesses; i++)
		w->access[i].write = scatter(w->access[i].page / 256 + 1, 128) * 100 / 128 < write_percent;
	return 0;
}

int workload_generate(const char *name, uint32_t nr_pages, uint64_t nr_accesses, unsigned write_percent, struct workload *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(generators); i++) {
		if (strcmp(name, generators[i].name) != 0)
			continue;
		struct generator g = {.nr_pages = nr_pages, .random = 1, .nr_steps = nr_accesses, .next = generators[i].next};
		if (g.next == next_zipf)
			prepare_zipf(&g);
		*ret = (struct workload){.nr_accesses = nr_accesses, .nr_pages = nr_pages, .memory = {nr_pages / 4, nr_pages / 2, nr_pages / 4 * 3}};
		strcpy(ret->name, generators[i].name);
		return run_generator(&g, write_percent, ret);
	}
	return -EINVAL;
}

void workload_release(struct workload *workload)
{
	free(workload->access);
	free(workload->page_number);
	*workload = (struct workload){0};
}
