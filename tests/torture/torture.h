/*
 * What the torture program's threads work on. Each has an area of pages and a model of what every page must hold, one word a page: 0 for zeros, UNMAPPED,
 * or the tag of its content (victim.h), with MAY_BE_ZERO after MADV_FREE. The areas share the address space, so that what one thread does to its layout
 * meets the evictions of the others. All that is random comes from the seed.
 */
#pragma once

#include <pthread.h>

#include "../victims/victim.h"

#define UNMAPPED UINT64_MAX
#define MAY_BE_ZERO (UINT64_C(1) << 63)

struct area {
	char *memory;
	uint64_t *model;
	size_t nr_pages;
	uint64_t seed, state, step, next_tag;
	int thread;
	int file; /* O_DIRECT where the file system has it, FILE_PAGES long */
	const char *operation;
	uint64_t absent; /* pages that were met evicted */
};

#define FILE_PAGES ((size_t)64)

struct range {
	size_t first, count;
};

/* Areas lie where the kernel puts nothing of its own choice, so that what one thread moves or unmaps leaves no hole for another's mapping. */
#define AREAS_START UINT64_C(0x100000000000)
#define AREA_SPACING (UINT64_C(64) << 30)

char *page_of(const struct area *a, size_t i);
struct range range_choose(struct area *a, size_t most);
bool is_mapped(const struct area *a, struct range range);
void read_range(struct area *a, struct range range);
void write_range(struct area *a, struct range range);
void map_again(struct area *a, struct range range);
void map_holes(struct area *a, struct range range); /* what is not mapped */
void set_zero(struct area *a, struct range range);  /* the model only; what is mapped */
void wait_for_child(pid_t pid, int wanted_status);

struct operation {
	const char *name;
	unsigned weight;
	size_t most; /* pages of its range; 0: up to a quarter of the area */
	void (*run)(struct area *a, struct range range);
};

extern const struct operation layout_operations[], kernel_operations[],
	task_operations[]; /* each ends with an empty one */
