/*
 * A background thread that does slow work in small, paced steps, so that whoever notices the work (a fault) does not pay for it. The thread
 * is started by the first wake: a container that never has anything to trim has no such thread.
 */
#pragma once

#include <stdbool.h>

struct trimmer;

/* step: does one piece, called from the trimmer's thread with no locks held; true when there may be more. */
int trimmer_new(bool (*step)(void *owner), void *owner, struct trimmer **ret_trimmer);
void trimmer_free(struct trimmer *trimmer); /* waits for the step under way; no wake may run at the same time */

/* Cheap, from any thread, under any lock. */
void trimmer_wake(struct trimmer *trimmer);
