/*
 * Every member held by ptrace, and what can be done only then. Nobody but ptrace sees it: no parent is told of a stop, and SIGCONT changes
 * nothing; SIGKILL works. Container thread. One hold at a time.
 */
#pragma once

#include "container/container.h"

#define MAX_HELD 256

struct hold {
	struct world *worlds[MAX_HELD];
	uint32_t nr;
	bool complete; /* no thread of any member runs */
};

/* Holds what can be held. Threads in an uninterruptible state (a parent in vfork) run on: then the hold is not complete. */
void hold_members(struct container *c, struct hold *hold);
void hold_release(struct hold *hold);

/*
 * No thread is inside madvise: what a REMOVE event flagged has been discarded by now, and may be evicted again. Nor inside fork: slots kept for a child
 * whose fork was not announced are given back.
 */
void hold_expire_removed(struct container *c, const struct hold *hold);

/*
 * Mapped pages of files leave while nothing runs (see file_pages.h). They come back by minor faults, a few microseconds for 16 of them, as long
 * as the system has room for them in its page cache.
 */
void hold_drop_file_pages(struct container *c, const struct hold *hold);

/* Adopts at most max of the held members that are large enough. */
void hold_adopt(struct container *c, const struct hold *hold, int max);

/* All that can be evicted is put under a userfaultfd, down to small members, and file pages are let go of. For a hold that lasts. */
void hold_reach_everything(struct container *c, const struct hold *hold);

/* Everything that can be under a userfaultfd is: members that have grown large, and mappings that are new. */
void hold_cover(struct container *c, const struct hold *hold);
