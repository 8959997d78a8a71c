/*
 * A container whose program forks unannounced (pager/forkless.h): adopted processes stay traced (inject/ward.h), so that the child of a fork stops before
 * its first instruction and is given its pages. Container thread.
 */
#pragma once

#include "container/container.h"

/*
 * Deals with a report that waitid(2) has shown with WNOWAIT. False: it is none of a traced task, or tells of an end, and is still to be taken.
 * *ret_stopped: job control has stopped the program; a parent that traces is not told otherwise.
 */
bool traced_report(struct container *c, const siginfo_t *info, bool *ret_stopped);

/*
 * A process held in a world is to be adopted: it and whoever shares its memory stay traced from now on, and nothing is left in it of adopted ones whose
 * child it is that got nothing from them. 0, 1: others share its memory; or -errno (-EBUSY: not everybody stands still).
 */
int traced_begin(struct container *c, struct member *member, struct world *world);

/* All members are held: slots kept for forks under way are given back. */
void traced_forget_past(struct container *c);

/* True when so many slots are kept that it is worth a hold. */
bool traced_keeps_many(struct container *c);

/* True when nobody is traced any more; else some are let go of. */
bool traced_end(void);
