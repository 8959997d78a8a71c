#include "base/lock.h"

#include <stdio.h>
#include <stdlib.h>

/*
 * In debug builds each thread counts what it holds of each rank. A lock_take that does not go upwards ends the program: the order that
 * deadlocks once a month is found the first time it is taken.
 */
#ifndef NDEBUG

static _Thread_local unsigned int held[LOCK_NR_RANKS];

static void violation(const char *what, enum lock_rank rank)
{
	fprintf(stderr, "membox: lock order: %s rank %d; held:", what, (int)rank);
	for (int r = 0; r < LOCK_NR_RANKS; r++) {
		if (held[r] > 0)
			fprintf(stderr, " %d", r);
	}
	fputc('\n', stderr);
	abort();
}

static void check_order(enum lock_rank rank)
{
	for (int r = (int)rank; r < LOCK_NR_RANKS; r++) {
		if (held[r] > 0)
			violation("taking", rank);
	}
}

static void note_taken(enum lock_rank rank)
{
	held[rank]++;
}

static void note_dropped(enum lock_rank rank)
{
	if (held[rank] == 0)
		violation("dropping a lock that this thread does not hold, of", rank);
	held[rank]--;
}

#else

static void check_order(enum lock_rank rank)
{
}

static void note_taken(enum lock_rank rank)
{
}

static void note_dropped(enum lock_rank rank)
{
}

#endif

void lock_init(struct lock *lock, enum lock_rank rank)
{
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP); /* most are held for less than it takes to sleep and be woken */
	pthread_mutex_init(&lock->mutex, &attributes);
	pthread_mutexattr_destroy(&attributes);
	lock->rank = rank;
}

void lock_destroy(struct lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

void lock_take(struct lock *lock)
{
	check_order(lock->rank);
	pthread_mutex_lock(&lock->mutex);
	note_taken(lock->rank);
}

void lock_take_another(struct lock *lock)
{
	check_order((enum lock_rank)(lock->rank + 1));
	pthread_mutex_lock(&lock->mutex);
	note_taken(lock->rank);
}

bool lock_try_eagerly(struct lock *lock, int tries)
{
	for (int i = 0; i < tries; i++) {
		if (lock_try(lock))
			return true;
		for (volatile int k = 0; k < 20; k++)
			;
	}
	return false;
}

void lock_take_eagerly(struct lock *lock, int tries)
{
	check_order(lock->rank);
	if (!lock_try_eagerly(lock, tries))
		lock_take(lock);
}

bool lock_try(struct lock *lock)
{
	if (pthread_mutex_trylock(&lock->mutex) != 0)
		return false;
	note_taken(lock->rank);
	return true;
}

void lock_drop(struct lock *lock)
{
	note_dropped(lock->rank);
	pthread_mutex_unlock(&lock->mutex);
}
