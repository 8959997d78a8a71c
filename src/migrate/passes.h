/*
 * Which page is moved when, and what becomes of each: the pass logic of `membox migrate`, without a system call. The kernel is a table of functions, so that a
 * test can play it. One thread at a time.
 *
 *   find ─▶ pass 1 ──busy──▶ passes 2 to 10, the first without waiting, the later ones waiting ──still busy──┐
 *             │                     │                                                                        ├──▶ through swap, or failed
 *             └─ moved, freed ──────┴─ moved, freed          shared, or refused for another reason ──────────┘
 *
 * When the last target node has no room left nothing more is moved: what would have to is counted as left. Each page that is found on a node that it has to
 * leave ends in exactly one of the figures.
 */
#pragma once

#include "base/types.h"
#include "platform/numa.h"

#define PASSES_MAX 10
#define PASSES_WITHOUT_WAITING 3
#define PASSES_BATCH 8192 /* pages, large ones counted by their size, in one call of move */
#define PASSES_AT_ONCE 512 /* pages that the kernel keeps from the program together */
#define PASSES_AT_ONCE_LATER 64 /* the same in passes that wait: one page that cannot be asked for hides less behind it */

/* A status of move besides those of move_pages(2): the large page has been split meanwhile. */
#define PLACE_SPLIT (-ECHILD)

enum migrate_failure {
	FAILURE_BUSY,    /* in all passes: pinned, or in use by the kernel */
	FAILURE_SHARED,  /* several processes map it, and the right to move it for all is missing */
	FAILURE_REFUSED, /* no right to move pages of the process, or its cpuset does not allow the node */
	FAILURE_OTHER,
	NR_MIGRATE_FAILURES,
};

/* Counts of pages of 4 KiB. found = moved + swapped + freed + failed + left, at the end. */
struct migrate_figures {
	uint64_t found; /* on nodes that they have to leave */
	uint64_t moved, swapped;
	uint64_t freed; /* unmapped, or evicted to make room, meanwhile */
	uint64_t failed[NR_MIGRATE_FAILURES];
	uint64_t left; /* there was no room for them */
};

struct place {
	remote_addr_t addr;
	uint32_t process;  /* as find numbers them */
	uint16_t nr_pages; /* of 4 KiB; more than one: a large page, known by its first address */
	uint16_t why;      /* enum migrate_failure, when it could not be moved */
};

struct migrate_kernel {
	/*
	 * The next resident pages, of one process, together not more than PASSES_BATCH. How many; 0: that was all. ret has room for PASSES_BATCH.
	 * Processes are not shown again; what is mapped by two of them may be.
	 */
	uint32_t (*find)(void *context, struct place *ret);

	/* On which node each is, or a negative status. 0 or -errno. All of one process. */
	int (*ask)(void *context, const struct place *places, uint32_t nr, int *ret_status);

	/*
	 * Moves to a node, at most at_once pages being kept from the program at a time. 0 with a status for each (NUMA_NOT_SAID: perhaps it has moved);
	 * or -errno, and any of them may have moved.
	 */
	int (*move)(void *context, const struct place *places, uint32_t nr, int node, uint32_t at_once, int *ret_status);

	/* Evicts what can be, as far as it is possible; NULL: nothing can. */
	void (*evict)(void *context, const struct place *places, uint32_t nr);

	/* Before a pass that waits. */
	void (*wait)(void *context, unsigned pass);

	/* Nanoseconds that move has taken, for the pace. */
	uint64_t (*now)(void *context);
	void *context;
};

struct passes;

/* from: NULL: every node that is no target. NULL: out of memory. The kernel is kept, the sets are copied. */
struct passes *passes_new(const struct migrate_kernel *kernel, const struct node_set *to, const struct node_set *from);
void passes_free(struct passes *passes);

/* Moves a batch. -EINPROGRESS; 0: all passes are done. When find shows more after that, they may begin again. */
int passes_step(struct passes *passes);
void passes_begin_again(struct passes *passes);

/* Calls with each process that has pages which could not be moved; nothing when there was no room. */
void passes_visit_stuck(const struct passes *passes, void (*visit)(uint32_t process, void *context), void *context);

/* Deals with a batch of those that could not be moved: evicts them, or counts them as failed. -EINPROGRESS; 0: done, every page is in one of the figures. */
int passes_swap_step(struct passes *passes);

const struct migrate_figures *passes_figures(const struct passes *passes);
uint64_t migrate_figures_failed(const struct migrate_figures *figures);

/* How many pages may be kept from the program together, when so many took so long: about 2 ms, but not less than 128. */
uint32_t passes_pace(uint32_t nr_pages, uint64_t took_ns);
