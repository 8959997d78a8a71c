/*
 * What the simulated program does: a list of accesses to pages, made by a generator or read from a trace that membox has recorded. Pages are
 * numbered from 0 in address order. Everything is deterministic.
 */
#pragma once

#include "base/types.h"

struct access {
	uint32_t page;
	bool write;
};

struct workload {
	char name[64];
	struct access *access;
	uint64_t nr_accesses;
	uint64_t *page_number; /* address of page i in units of pages, rising; NULL: its number plus 2^24 */
	uint32_t nr_pages;
	uint32_t memory[4]; /* sizes to simulate, in pages; 0 ends the list */
};

/* Names of the generators, ended by NULL. */
extern const char *const workload_names[];

/*
 * What one generator makes: `nr_pages` (a power of two) pages, `nr_accesses` accesses, of which write_percent change the page. 0, -EINVAL (no such
 * generator) or -ENOMEM.
 */
int workload_generate(const char *name, uint32_t nr_pages, uint64_t nr_accesses, unsigned write_percent, struct workload *ret);

/* The faults of a trace (docs/trace-format.md) in their order. 0 or -errno; -EINVAL: not a trace. */
int workload_read_trace(const char *path, struct workload *ret);

void workload_release(struct workload *workload);

static inline remote_addr_t workload_address(const struct workload *workload, uint32_t page)
{
	uint64_t number = workload->page_number ? workload->page_number[page] : page + (1ull << 24);
	return number << PAGE_SHIFT;
}
