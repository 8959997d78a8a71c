/*
 * What the address spaces of one container share: the swap file and its write-back, the charge, the figures, the fault threads. The
 * container layer owns it and is told of what concerns it through the callbacks.
 */
#pragma once

#include <stdatomic.h>

#include "base/types.h"
#include "pager/preference.h"
#include "pool/pool.h"
#include "reclaim/charge.h"
#include "reclaim/pool_fit.h"
#include "stats/stats.h"
#include "stats/trace.h"
#include "swap/swap.h"

struct address_space;
struct fault_thread;
struct writeback;

#define PAGER_MAX_FAULT_THREADS 2

/* The pid namespace of the members: the keeper's own, or one below it. */
struct pager_home {
	int proc;     /* its /proc: userfaultfd names threads by the numbers they have there */
	pid_t reaper; /* gets the members' orphans: the keeper, or pid 1 of the namespace (by the keeper's number for it) */
};

struct pager_callbacks {
	/* An adopted program forked: the child's address space (its process is not known yet). The callee takes the reference. */
	void (*forked)(void *context, struct address_space *child);
	/* A fault waits for room. Any thread; must not block. */
	void (*need_reclaim)(void *context);
	/* Going on would give the program wrong bytes: the container has to be killed with this reason. Any thread; must not block. */
	void (*fatal)(void *context, const char *reason);
	void *context;
};

struct pager {
	bool forkless; /* the kernel does not announce forks: every address space has a stamp */
	struct swap *swap; /* NULL: none */
	struct pool *pool; /* NULL: none; comes and goes with the swap file */
	_Atomic uint64_t pool_target; /* pages of memory that the pool may take */
	struct pool_fit pool_fit;     /* what it should take of what it may */
	struct writeback *writeback;
	struct stats *stats;
	struct trace *trace;         /* NULL: none (the environment's MEMBOX_TRACE) */
	uint32_t max_window;         /* pages brought in for one fault at most */
	_Atomic uint32_t nr_spaces;  /* ever */
	struct charge *charge;
	struct pager_callbacks callbacks;
	struct pager_home home;
	struct preference preference; /* nodes on which pages come back */
	struct fault_thread *threads[PAGER_MAX_FAULT_THREADS];
	uint32_t nr_threads, next_thread;
	_Atomic uint64_t evicted;  /* pages ever; the clock of refault distances */
	_Atomic uint64_t out;      /* pages that are out now, as last noted by each address space */
	_Atomic uint32_t busy;     /* threads that evict, compress or write just now */
	_Atomic uint64_t hurry_until_ns; /* a fault has waited for room a short while ago */
	_Atomic bool unreclaimed;  /* the reclaim thread stands still: nobody makes room, so no fault waits for it */
	_Atomic bool over_limit;   /* by more than what is on its way out: memory has to be freed, whatever it takes */
	_Atomic uint32_t dry_seq;  /* raised when reclaim has found nothing more to take: waiting faults go on regardless */
};

/* 0 or -errno. swap may be NULL. Everything passed in outlives the pager. */
int pager_init(struct pager *pager, struct swap *swap, struct stats *stats, struct charge *charge, const struct pager_home *home,
	       const struct pager_callbacks *callbacks);

/* Stops the fault threads and frees. Only when every address space is gone: nothing may be evicted any more. One of zeros, which never was initialised, is fine. */
void pager_release(struct pager *pager);

/*
 * Gives the pager a swap file (it has none), or takes it away (NULL: nothing refers to a slot any more, and no page is in write-back). Container thread,
 * with the reclaim thread stopped. 0, or -errno with nothing changed.
 */
int pager_set_swap(struct pager *pager, struct swap *swap);

/* Now in epochs of refault distance (CLOCK_EPOCHS_PER_MEMORY). */
uint8_t pager_epoch(const struct pager *pager);

/* A page that was evicted in this epoch comes back, from the pool or from the file. */
void pager_note_refault(struct pager *pager, bool from_pool, uint8_t evicted);

/* The age of a page that was evicted in this epoch and comes back now. */
unsigned pager_age_at_refault(const struct pager *pager, remote_addr_t page, uint8_t evicted);

/* Starts the fault threads at the first adoption and gives the address space to one of them. 0 or -errno. */
int pager_attach(struct pager *pager, struct address_space *as);

/* From now on pages come back on these nodes while they have room. Container thread. */
void pager_prefer(struct pager *pager, const struct node_set *nodes);

/* True when every fault thread does so. Container thread. */
bool pager_follows_preference(const struct pager *pager);

/* Makes waiting faults look again (room was made, or the dry sequence moved). */
void pager_wake(struct pager *pager);
