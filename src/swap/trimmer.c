#include "swap/trimmer.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define START_DELAY_MS 100 /* what was freed just now is often wanted again at once */
#define STEP_PAUSE_MS 5    /* punching holes keeps readers of the file out */

enum trimmer_state {
	TRIMMER_IDLE, /* no thread yet */
	TRIMMER_STARTING,
	TRIMMER_RUNS,
	TRIMMER_FAILED, /* no thread to be had: the work waits until the owner ends */
};

struct trimmer {
	bool (*step)(void *owner);
	void *owner;
	_Atomic int state;
	atomic_bool woken;
	atomic_bool stop;
	sem_t wake, end;
	pthread_t thread;
};

/* False when the trimmer shall end. */
static bool pause_ms(struct trimmer *trimmer, long ms)
{
	struct timespec until;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	do
		r = sem_clockwait(&trimmer->end, CLOCK_MONOTONIC, &until);
	while (r < 0 && errno == EINTR);
	return !atomic_load(&trimmer->stop);
}

static void *trimmer_main(void *arg)
{
	struct trimmer *trimmer = arg;

	for (;;) {
		while (sem_wait(&trimmer->wake) < 0 && errno == EINTR)
			;
		if (!pause_ms(trimmer, START_DELAY_MS))
			return NULL;
		atomic_store(&trimmer->woken, false);
		while (trimmer->step(trimmer->owner)) {
			if (!pause_ms(trimmer, STEP_PAUSE_MS))
				return NULL;
		}
	}
}

/* The keeper's signals are for its other threads. */
static void start_thread(struct trimmer *trimmer)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&trimmer->thread, NULL, trimmer_main, trimmer);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		pthread_setname_np(trimmer->thread, "membox-trim");
	atomic_store(&trimmer->state, r == 0 ? TRIMMER_RUNS : TRIMMER_FAILED);
}

int trimmer_new(bool (*step)(void *owner), void *owner, struct trimmer **ret_trimmer)
{
	struct trimmer *trimmer = calloc(1, sizeof(*trimmer));

	if (!trimmer)
		return -ENOMEM;
	trimmer->step = step;
	trimmer->owner = owner;
	sem_init(&trimmer->wake, 0, 0);
	sem_init(&trimmer->end, 0, 0);
	*ret_trimmer = trimmer;
	return 0;
}

void trimmer_free(struct trimmer *trimmer)
{
	if (!trimmer)
		return;
	atomic_store(&trimmer->stop, true);
	sem_post(&trimmer->end);
	sem_post(&trimmer->wake);
	if (atomic_load(&trimmer->state) == TRIMMER_RUNS)
		pthread_join(trimmer->thread, NULL);
	sem_destroy(&trimmer->wake);
	sem_destroy(&trimmer->end);
	free(trimmer);
}

void trimmer_wake(struct trimmer *trimmer)
{
	int idle = TRIMMER_IDLE;

	if (atomic_exchange(&trimmer->woken, true))
		return;
	if (atomic_compare_exchange_strong(&trimmer->state, &idle, TRIMMER_STARTING))
		start_thread(trimmer);
	sem_post(&trimmer->wake);
}
