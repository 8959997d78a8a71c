/* The reclaim thread: keeps usage below the limit with some headroom, by evicting pages and giving file pages back. */
#pragma once

#include <stdbool.h>

struct container;
struct reclaimer;

int reclaimer_start(struct container *c, struct reclaimer **ret_reclaimer);
void reclaimer_stop(struct reclaimer *reclaimer);

/* Container thread. The thread ends; kicks are remembered. False: it did not run. */
bool reclaimer_pause(struct reclaimer *reclaimer);
/* 0 or -errno. */
int reclaimer_resume(struct reclaimer *reclaimer);

/* Look now. Any thread, never blocks. */
void reclaimer_kick(struct reclaimer *reclaimer);
