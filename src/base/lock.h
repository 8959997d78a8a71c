/*
 * Mutexes with ranks: a thread takes locks only in rising rank (checked in debug builds, after jemalloc's witness.h). The table of who
 * holds what is in docs/architecture.md.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

enum lock_rank {
	LOCK_CONTAINER = 1, /* the member list */
	LOCK_SPACES,        /* the list of adopted address spaces */
	LOCK_AGENT,         /* one user of an agent's ring and staging */
	LOCK_LAYOUT,        /* one address space: shadow table, userfaultfd messages, MOVE */
	LOCK_FAULT_THREAD,  /* the list of address spaces a fault thread serves; taken under a layout lock when a program forks */
	LOCK_WRITEBACK,     /* batches on their way to the swap file */
	LOCK_CHARGE,        /* usage figures */
	LOCK_SWAP,          /* slot allocator */
	LOCK_POOL,          /* compressed pages; taken when the last reference of a slot is given back */
	LOCK_TRACE,         /* the buffer of the policy's trace */
	LOCK_LOG,
	LOCK_NR_RANKS,
};

struct lock {
	pthread_mutex_t mutex;
	enum lock_rank rank;
};

void lock_init(struct lock *lock, enum lock_rank rank);
void lock_destroy(struct lock *lock);
void lock_take(struct lock *lock);
/* The same, but tries so many times, each 50 ns or more, before it sleeps. */
void lock_take_eagerly(struct lock *lock, int tries);
/* One more of a rank of which this thread holds others already: only where no other thread ever holds two of it. */
void lock_take_another(struct lock *lock);
bool lock_try(struct lock *lock); /* no rank check: a try cannot deadlock */
bool lock_try_eagerly(struct lock *lock, int tries);
void lock_drop(struct lock *lock);
