/*
 * Policies side by side. A policy holds at most `memory` pages and is told of every access; it says whether the page was there. What a policy
 * looks at is its own affair: the peers see every access, as if hardware told them, membox sees its faults and what was written.
 */
#pragma once

#include "workload.h"

struct policy {
	const char *name;
	void *(*create)(const struct workload *workload, uint32_t memory); /* NULL: no memory */
	bool (*access)(void *state, struct access access);
	void (*destroy)(void *state);
};

extern const struct policy policy_membox, policy_random, policy_fifo, policy_clock, policy_lru, policy_2q, policy_s3fifo, policy_mglru, policy_optimum;

struct outcome {
	uint64_t hits, misses; /* a page's first access is neither: nothing can help there, and nothing is read from the swap file */
};

/* 0 or -ENOMEM. */
int policy_run(const struct policy *policy, const struct workload *workload, uint32_t memory, struct outcome *ret);

static inline double outcome_ratio(const struct outcome *outcome)
{
	uint64_t all = outcome->hits + outcome->misses;
	return all ? (double)outcome->hits / (double)all : 0;
}

/* What membox's policy costs, beyond what it misses. */
struct model_costs {
	uint64_t faults, soft; /* soft: found in the write-back batches, without I/O */
	uint64_t evicted, runs, looked_at;
	uint64_t reads, pages_read; /* operations on the swap file, and their pages with readahead */
};

/* The model of membox: also for those who want its costs, or readahead. */
void *model_create(const struct workload *workload, uint32_t memory, bool readahead);
bool model_access(void *model, struct access access);
struct model_costs model_costs(const void *model);
void model_destroy(void *model);
