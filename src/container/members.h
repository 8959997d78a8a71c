/*
 * The processes of a container: the keeper's descendants without its agents, and what was attached and its descendants, with what each holds in memory. Container thread only, but
 * for the copy of the pids that the reclaim thread takes (members_copy_pids).
 *
 * Usage is what the sum of the proportional set sizes would be: a page that several members map counts once. To ask the kernel for that
 * (smaps_rollup) takes 25 to 65 ns a page, too much for every sample, so each member's resident set (statm) is read often, and of it is
 * taken off what was counted elsewhere when sharing was measured last. What can change sharing since is followed from outside:
 *
 *   a fault that did not make the resident set larger    has copied a page that fork left shared: one page more, counted here from now on
 *   a new member                                         is a fork's child: it has what its parent has, but for what it has copied since
 *   a member is gone, by exit or exec                    its part of what it shared is the others' now
 *   file pages appear, pages vanish                      perhaps they were shared: doubt
 *
 * Doubt is the number of pages by which the sum may be off. When it is worth it, sharing is measured anew, for a bounded part of the time.
 */
#pragma once

#include "base/lock.h"
#include "base/types.h"

struct address_space;

struct member {
	pid_t pid;
	pid_t task;  /* whose files in /proc are read: pid, or another thread after the leader alone has ended */
	int statm;   /* /proc/TASK/statm, kept open: it belongs to this process even if the pid is used again */
	int pidfd;
	uint64_t resident, file;           /* pages at the last sample */
	uint64_t shared_anon, shared_file; /* of these, pages counted elsewhere */
	uint64_t common;                   /* what the others take over of this one's count when it is gone */
	uint64_t shmem;                    /* of the file pages counted here, shared memory when that was measured last */
	uint64_t locked;                   /* pages locked in memory when sharing was measured last */
	uint64_t seen_faults;              /* minor faults at the last sample */
	uint64_t seen_broken, seen_evicted; /* the address space's counters at the last sample */
	struct address_space *as; /* NULL: not adopted */
	bool unadoptable;        /* tried and refused; the reason was said once */
	uint8_t adopt_shortages; /* refused because descriptors or the like were short, which may pass */
	bool present;            /* during a refresh */
	bool reaped;             /* it is gone: a process found under its number is another one */
	bool oom_killed;         /* by the OOM killer */
	bool same_memory;        /* shares another member's address space (vfork): counts nothing */
	bool leaves;             /* on its way out of the container (leave.h): counts nothing, nothing is evicted from it */
};

/* Was a member and belongs to somebody else now. By its start time no other process is taken for it. */
struct departed {
	pid_t pid;
	uint64_t start_time;
};

struct members {
	struct lock lock; /* LOCK_CONTAINER: the array, against members_copy_pids */
	struct member *items;
	uint32_t nr, capacity;
	struct departed *departed;
	uint32_t nr_departed, departed_capacity;
	uint64_t resident, file; /* sums of the last sample, shared pages once */
	uint64_t shmem;          /* of these file pages: those that were shared memory at the last measuring */
	uint64_t at_most;        /* the sum if nothing were shared */
	uint64_t unowned;        /* pages that became the members' without it being known whose */
	uint64_t doubt;          /* pages by which the sum may be off */
	uint64_t measured_ns, measuring_took_ns;
};

void members_init(struct members *members);
void members_release(struct members *members);

/*
 * A member that is not below the root (attach), or was not seen there yet: then it leaves if its parent does. leaves: it does in any case.
 * 0, also when it is one already or has just ended; or -errno.
 */
int members_add(struct members *members, pid_t pid, bool leaves);

/* One that another program in this process has known (an upgrade): its descriptors are the callee's now. 0 or -ENOMEM. */
int members_take_over(struct members *members, const struct member *member);
int members_take_over_departed(struct members *members, pid_t pid, uint64_t start_time);

/*
 * Walks the trees below the roots and below every member that lives (one that was attached, or whose parent has ended, is below nobody
 * else). is_agent tells own helpers apart. gone is called for each member that has ended, before it is
 * forgotten. Returns the number of members or -errno.
 */
int members_refresh(struct members *members, const pid_t *roots, uint32_t nr_roots, bool (*is_agent)(pid_t pid, void *context),
		    void (*gone)(struct member *member, void *context), void *context);

/*
 * This member and those below it leave from now on, and who is forked by one of them; -ESRCH: it is none. What they shared is counted for the others.
 * members_stay takes it back.
 */
int members_leave(struct members *members, pid_t pid);
void members_stay(struct members *members);

/*
 * Those that leave are members no longer. They and whoever is found below them are passed over by members_refresh until they have ended.
 * Returns how many members there were, or -ENOMEM with nothing changed.
 */
int members_depart(struct members *members);

bool members_has_departed(const struct members *members, pid_t pid);

/* Reads every member's figures; returns the usage in pages of those that stay. */
uint64_t members_sample(struct members *members);

/* How much effort sharing is worth now. */
enum measuring {
	MEASURE_FAR,  /* from the limit: a fiftieth of the time, for figures that somebody may ask for */
	MEASURE_NEAR, /* a fifth of it, a third when there is much doubt */
	MEASURE_NOW,  /* somebody asks */
};

/* Measures sharing anew if there is enough doubt and it is its time. True when it was; the next sample may differ by more than the program did. */
bool members_measure_sharing(struct members *members, enum measuring measuring, uint64_t now_ns);

/* By pidfd: never to another process that was given the number of a member that has ended. */
void member_kill(struct member *member, int signal);

struct member *members_find(struct members *members, pid_t pid);

/* Somebody shares another member's address space, as far as the last walk knows. */
bool members_share_memory(const struct members *members);

/* Any thread: up to max pids of members that stay; returns the count. */
uint32_t members_copy_pids(struct members *members, pid_t *pids, uint32_t max);
