/*
 * The processes of a container: the keeper's descendants without its agents, and what was attached and its descendants, with what each holds in memory. Container thread only, but
 * for the copy of the pids that the reclaim thread takes (members_copy_pids).
 *
 * Usage is the sum of resident sets, less what several members have in common: a page shared by fork is counted once. How much is
 * common is measured from the proportional set sizes (smaps_rollup) whenever there is more than one member of some size; a fork's child
 * counts as sharing all that its parent holds until it has been measured.
 */
#pragma once

#include "base/lock.h"
#include "base/types.h"

struct address_space;

struct member {
	pid_t pid;
	int statm;  /* /proc/PID/statm, kept open: it belongs to this process even if the pid is used again */
	int pidfd;
	uint64_t resident, file; /* pages at the last sample */
	uint64_t shared;         /* pages counted elsewhere */
	uint64_t seen_resident;  /* at the last look for new mappings */
	struct address_space *as; /* NULL: not adopted */
	bool unadoptable;        /* tried and refused; the reason was said once */
	bool present;            /* during a refresh */
	bool reaped;             /* it is gone: a process found under its number is another one */
	bool oom_killed;         /* by the OOM killer */
	bool same_memory;        /* shares another member's address space (vfork): counts nothing */
};

struct members {
	struct lock lock; /* LOCK_CONTAINER: the array, against members_copy_pids */
	struct member *items;
	uint32_t nr, capacity;
	uint64_t resident, file; /* sums of the last sample, shared pages once */
	uint64_t at_most;        /* the sum if nothing were shared: near the limit it has to be measured */
	uint64_t measured_ns;    /* when sharing was measured last */
};

void members_init(struct members *members);
void members_release(struct members *members);

/* A member that is not below the root (attach). 0, also when it is one already or has just ended; or -errno. */
int members_add(struct members *members, pid_t pid);

/*
 * Walks the trees below the roots and below every member that lives (one that was attached, or whose parent has ended, is below nobody
 * else). is_agent tells own helpers apart. gone is called for each member that has ended, before it is
 * forgotten. Returns the number of members or -errno.
 */
int members_refresh(struct members *members, const pid_t *roots, uint32_t nr_roots, bool (*is_agent)(pid_t pid, void *context),
		    void (*gone)(struct member *member, void *context), void *context);

/* Reads every member's figures; returns the usage in pages. */
uint64_t members_sample(struct members *members);

/* Measures sharing anew when that may matter; costs about 25 ns a resident page. */
void members_measure_sharing(struct members *members, uint64_t now_ns);

/* By pidfd: never to another process that was given the number of a member that has ended. */
void member_kill(struct member *member, int signal);

struct member *members_find(struct members *members, pid_t pid);

/* Any thread: up to max pids; returns the count. */
uint32_t members_copy_pids(struct members *members, pid_t *pids, uint32_t max);
