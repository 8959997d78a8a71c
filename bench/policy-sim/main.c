/* policy-sim: hit ratios of membox's replacement policy beside those of others. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "policy.h"

static const struct policy *const policies[] = {&policy_membox, &policy_fifo, &policy_random, &policy_clock,  &policy_lru,
						&policy_2q,     &policy_s3fifo, &policy_mglru, &policy_optimum};

struct options {
	const char *generator; /* NULL: all */
	uint32_t nr_pages;
	uint64_t nr_accesses;
	unsigned write_percent;
	uint32_t memory; /* 0: those of the workload */
	bool costs;      /* instead of hit ratios */
};

static const char usage[] =
	"Usage: policy-sim [OPTION...] [TRACE...]\n"
	"Prints hit ratios, in percent, of accesses to pages that were touched before.\n"
	"  -g NAME   only this generator (list: -l); without -g and TRACE all of them\n"
	"  -l        list the generators\n"
	"  -n PAGES  pages of the generators (a power of two, 32768)\n"
	"  -a COUNT  accesses of the generators (1500000)\n"
	"  -w PCT    percent of the generators' pages that are written to (0)\n"
	"  -m PAGES  memory; without it a quarter, a half and three quarters of the pages\n"
	"  -c        what membox's policy costs, with and without readahead, instead of hit ratios\n";

static int print_ratios(const struct workload *w, uint32_t memory)
{
	printf("| %s | %.0f%% |", w->name, 100.0 * memory / w->nr_pages);
	for (size_t i = 0; i < ARRAY_LEN(policies); i++) {
		struct outcome outcome;
		int r = policy_run(policies[i], w, memory, &outcome);
		if (r < 0)
			return r;
		printf(" %.1f |", 100 * outcome_ratio(&outcome));
		fflush(stdout);
	}
	printf("\n");
	return 0;
}

static int print_costs(const struct workload *w, uint32_t memory)
{
	for (int readahead = 0; readahead < 2; readahead++) {
		void *model = model_create(w, memory, readahead);
		if (!model)
			return -ENOMEM;
		for (uint64_t i = 0; i < w->nr_accesses; i++)
			model_access(model, w->access[i]);
		struct model_costs c = model_costs(model);
		double evicted = (double)MAX_OF(c.evicted, 1u);
		printf("| %s | %.0f%% | %s | %llu | %llu | %llu | %llu | %.1f | %.1f |\n", w->name, 100.0 * memory / w->nr_pages,
		       readahead ? "yes" : "no", (unsigned long long)c.faults, (unsigned long long)c.soft, (unsigned long long)c.reads,
		       (unsigned long long)c.pages_read, (double)c.looked_at / evicted, evicted / (double)MAX_OF(c.runs, 1u));
		model_destroy(model);
	}
	return 0;
}

static void print_head(const struct options *options)
{
	if (options->costs) {
		printf("| workload | memory | readahead | refaults | from batches | reads | pages read | looked at per eviction | pages per run |\n");
		printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
		return;
	}
	printf("| workload | memory |");
	for (size_t i = 0; i < ARRAY_LEN(policies); i++)
		printf(" %s |", policies[i]->name);
	printf("\n| --- | --- |");
	for (size_t i = 0; i < ARRAY_LEN(policies); i++)
		printf(" --- |");
	printf("\n");
}

static int simulate(const struct options *options, const struct workload *w)
{
	int (*print)(const struct workload *, uint32_t) = options->costs ? print_costs : print_ratios;
	if (options->memory)
		return print(w, options->memory);
	int r = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(w->memory) && w->memory[i]; i++)
		r = print(w, w->memory[i]);
	return r;
}

static int simulate_generator(const struct options *options, const char *name)
{
	struct workload w;
	int r = workload_generate(name, options->nr_pages, options->nr_accesses, options->write_percent, &w);
	if (r < 0)
		return r;
	r = simulate(options, &w);
	workload_release(&w);
	return r;
}

static int simulate_generators(const struct options *options)
{
	int r = options->generator ? simulate_generator(options, options->generator) : 0;
	for (size_t i = 0; !options->generator && r == 0 && workload_names[i]; i++)
		r = simulate_generator(options, workload_names[i]);
	return r;
}

static int simulate_trace(const struct options *options, const char *path)
{
	struct workload w;
	int r = workload_read_trace(path, &w);
	if (r < 0)
		return r;
	r = simulate(options, &w);
	workload_release(&w);
	return r;
}

static void list_generators(void)
{
	for (size_t i = 0; workload_names[i]; i++)
		printf("%s\n", workload_names[i]);
}

static uint32_t number(const char *text, const char *what, uint32_t min, uint32_t max)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (errno || end == text || *end || value < min || value > max) {
		fprintf(stderr, "policy-sim: %s: not a number from %u to %u: %s\n", what, min, max, text);
		exit(2);
	}
	return (uint32_t)value;
}

static void parse(int argc, char **argv, struct options *o)
{
	for (int c; (c = getopt(argc, argv, "g:ln:a:w:m:ch")) != -1;) {
		switch (c) {
		case 'g': o->generator = optarg; break;
		case 'l': list_generators(); exit(0);
		case 'n': o->nr_pages = number(optarg, "-n", 1024, 1u << 28); break;
		case 'a': o->nr_accesses = number(optarg, "-a", 1, UINT32_MAX); break;
		case 'w': o->write_percent = number(optarg, "-w", 0, 100); break;
		case 'm': o->memory = number(optarg, "-m", 256, 1u << 28); break;
		case 'c': o->costs = true; break;
		default: fputs(usage, c == 'h' ? stdout : stderr); exit(c == 'h' ? 0 : 2);
		}
	}
	if (o->nr_pages & (o->nr_pages - 1)) {
		fprintf(stderr, "policy-sim: -n: not a power of two: %u\n", o->nr_pages);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct options options = {.nr_pages = 32768, .nr_accesses = 1500000};
	const char *what = "generators";
	int r = 0;
	parse(argc, argv, &options);
	print_head(&options);
	if (optind == argc)
		r = simulate_generators(&options);
	for (int i = optind; r == 0 && i < argc; i++)
		r = simulate_trace(&options, what = argv[i]);
	if (r < 0)
		fprintf(stderr, "policy-sim: %s: %s\n", options.generator ? options.generator : what, strerror(-r));
	return r < 0;
}
