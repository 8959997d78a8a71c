/* The reclaim thread: keeps usage below the limit with some headroom, by evicting pages and giving file pages back. */
#pragma once

#include <stdbool.h>

#include "pager/evict.h"

struct container;
struct reclaimer;

int reclaimer_start(struct container *c, struct reclaimer **ret_reclaimer);
void reclaimer_stop(struct reclaimer *reclaimer);

/* Container thread. The thread ends; kicks are remembered. False: it did not run. */
bool reclaimer_pause(struct reclaimer *reclaimer);
/* Or the container is killed. */
void reclaimer_resume(struct reclaimer *reclaimer);

/* Look now. Any thread, never blocks. */
void reclaimer_kick(struct reclaimer *reclaimer);

/*
 * The reclaim thread evicts the pages of a set that may leave, with `shared` from every process that shares them by fork. Returns when it has. One thread at a
 * time, not the container thread; the reclaim thread is not paused meanwhile.
 */
void reclaimer_evict(struct reclaimer *reclaimer, struct address_space *as, const struct page_set *set, bool shared);
