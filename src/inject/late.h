/*
 * Threads that are traced and in no world: those that were interrupted but did not stop while their world was held, which will stop some day and must then
 * be set going; those that were killed while held, whose death must be taken; and followers, which run on as long as the leader of their process is
 * traced (world.c says why). Private to inject/, used by the one keeper thread that stops worlds.
 */
#pragma once

#include "inject/tracee.h"

/* Room for so many more; 0 or -ENOMEM. Made before a thread is seized, so that nothing is forgotten for want of memory. */
int late_reserve(size_t nr_more);

void late_add(const struct tracee *tracee);
bool late_has(pid_t tid);

/* Takes one off the list. False: it is not there. */
bool late_take(pid_t tid, struct tracee *ret);

/* The leader of the process is there, and is no zombie that the last thread has left behind. */
bool late_has_leader(pid_t process);

bool late_has_process(pid_t process); /* any thread of it */

/* Sets going what has stopped; followers are stopped and let go when their leader is not late. How many are left. */
size_t late_collect(void);

/* What has stopped goes on, as followers: with the signal because of which it did. To be called again and again while the leader is held. */
void late_follow(pid_t process);
