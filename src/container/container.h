/*
 * The keeper's view of one container. Threads:
 *
 *   container thread  (the keeper's first)  reaps, samples usage, adopts, registers, stalls, decides about OOM; the only one that uses ptrace
 *   fault threads     (pager)               serve userfaultfds
 *   reclaim thread    (reclaimer.c)         evicts when usage comes near the limit
 */
#pragma once

#include <signal.h>
#include <stdatomic.h>

#include "container/backstop.h"
#include "container/isolate.h"
#include "container/members.h"
#include "container/run.h"
#include "pager/address_space.h"
#include "reclaim/charge.h"
#include "stats/stats.h"

/* Why reclaim last came to an end without reaching its goal. */
enum exhaustion {
	EXHAUSTED_NOT,
	EXHAUSTED_NO_SWAP,
	EXHAUSTED_SWAP_FULL,
	EXHAUSTED_SWAP_FAILED,
	EXHAUSTED_NOTHING_LEFT, /* everything evictable is out */
};

/* How far `park` has come (squeeze.h). */
enum parking {
	PARKING_NOT,
	PARKING_HOLDS,  /* the members are being stopped */
	PARKING_EVICTS,
	PARKING_DONE,
};

#define NO_SQUEEZE UINT64_MAX

enum release { RELEASE_NOT, RELEASE_BRINGS_BACK, RELEASE_LETS_GO, RELEASE_DONE }; /* see release.h */

struct bring_back;
struct handover;
struct hold;
struct migration;
struct precopy;
struct prefetch;
struct reclaimer;

struct container {
	const struct run_config *config;
	struct stats stats;
	struct charge charge;
	struct pager pager;
	struct swap *swap; /* NULL: none; changed only while the reclaim thread is stopped */
	_Atomic bool swap_leaves; /* swapoff is under way: nothing is evicted */
	_Atomic uint64_t pool_most; /* bytes that the pool may take, or POOL_AUTO */
	struct members members;
	struct backstop backstop;   /* container thread */
	struct isolation isolation; /* init 0: there is none (any more) */

	struct lock spaces_lock; /* LOCK_CONTAINER + nothing else held: the list of adopted address spaces */
	struct address_space *spaces;
	_Atomic(struct address_space *) newborn; /* forked children not yet on the list; pushed by fault threads */

	struct reclaimer *reclaimer;
	_Atomic(struct precopy *) precopy; /* of a checkpoint under way (precopy_rounds.h), or NULL: changed while the reclaim thread is stopped, or to the first one */
	_Atomic uint64_t room_wanted;   /* pages below the limit that a stall waits for; 0: the usual watermarks */
	_Atomic uint64_t squeeze_to;    /* pages of usage that somebody has asked for (squeeze.h); NO_SQUEEZE */
	_Atomic int exhaustion;         /* enum exhaustion, by the reclaim thread */
	_Atomic uint32_t exhausted_seq; /* counts its statements */

	int channel, guardian;   /* to the front, and to the guardian that is the keeper's parent; -1: none */
	bool front_is_gone;
	pid_t last_guardian;     /* the one that shares the descriptor table; 0: the first one, which is the keeper's parent */
	pid_t helper;            /* a child of the keeper that is no member; 0: none */

	_Atomic bool killed;     /* everything is to be killed ... */
	char reason[256];        /* ... for this reason; written once before killed */
	_Atomic bool has_reason;
	int event;               /* eventfd: something for the container thread */

	/* Container thread. */
	uint64_t begin_ns;
	pid_t program;
	bool program_ended;
	int exit_status;         /* as the shell sees it */
	bool closed;             /* near the limit: members are being adopted */
	bool swap_is_default;    /* made for this container: removed with it */
	struct bring_back *swapoff; /* under way (swap_switch.h); NULL: none */
	enum parking parking;
	uint64_t park_since_ns;
	uint32_t park_seq;
	enum release release;
	struct bring_back *bring_back; /* of release */
	bool is_being_upgraded;   /* checkpoint/upgrade.h */
	bool is_being_saved;      /* a checkpoint is under way */
	struct prefetch *prefetch; /* of a restored container; NULL: there is none (any more) */
	struct bring_back *leave; /* of members that leave (leave.h); NULL: none do */
	struct migration *migration; /* under way (migrate/migration.h); NULL: none */
	struct hold *frozen;     /* all members are held until further notice (freeze.h); NULL: they run */
	unsigned frozen_by;      /* set of enum freezer */
	struct arrivals *arrivals; /* pages from where it was before (checkpoint/arrivals.h); NULL: it has not come while some were missing */
	struct handover *handover; /* to another place (checkpoint/handover.h); NULL: nobody wants it there */
	bool was_sent;           /* there: all were killed for it, and what they had is given back when they have had time to begin there */
	int64_t grown;           /* pages that nobody had asked for, in this window of time */
	uint64_t pace_since_ns;  /* its beginning */
	uint64_t pace;           /* pages that would come in LATENCY_US at the highest rate lately */
	bool at_pace;            /* the last window was about as high */
	uint64_t uncovered;      /* pages of growth since the last look for new mappings */
	uint64_t adopt_threshold;/* resident anonymous pages from which a member is adopted */
	uint64_t last_refresh_ns, last_upkeep_ns, next_register_ns, last_barrier_ns, last_drop_ns;
	uint64_t refresh_took_ns, last_strays_ns;
	uint32_t crowd; /* runnable tasks of the system for each processor, at least 1 */
	pid_t newest_pid; /* at the last walk over the member tree */
	bool is_settled;  /* nobody had forked since the walk before it */
	uint64_t last_usage, quiet_ticks;
	uint32_t oom_unsure; /* stalls in a row that found nothing but could not hold every thread */
	uint64_t oom_killed_ns; /* when somebody was killed, as long as its end is awaited; 0: nobody */
	uint64_t oom_freeze_since_ns; /* since when the container is to be stopped and cannot be; 0: not */
	bool oom_freeze_said;
	char *oom_report;    /* of the last one; NULL: never out of memory */
	int oom_cause;       /* enum exhaustion, of the last decision */
	uint64_t oom_since_ns; /* over the limit with reclaim exhausted, without a break since; 0: not */
	_Atomic bool barrier_wanted; /* reclaim passed over many pages flagged REMOVED, or over mapped file pages */
};

/* Brings the figures that are kept elsewhere into the statistics, up to date: walks all pages of the members. Container thread. */
void container_publish_figures(struct container *c);

/* Those of the last sample. Container thread. */
void container_publish_usage(struct container *c);

/* Kills the container with a reason; any thread, never blocks. The first reason is kept. */
void container_kill(struct container *c, const char *reason);

/*
 * Adopts some of the members that are large enough. All are held meanwhile: an adoption takes a millisecond or two, in which the others could
 * grow a lot. Container thread.
 */
void container_adopt_members(struct container *c);

/* Pages that are to be free below the limit: `usual`, or more when a stall or a squeeze asks for it. Any thread. */
uint64_t container_room(const struct container *c, uint64_t limit, uint64_t usual);

/* Pages below the limit that a stall waits for. Container thread. */
uint64_t container_stall_room(const struct container *c);

/* True when mapped file pages take so much of the limit that letting them go is worth the effort. Any thread. */
bool container_file_pages_are_many(const struct container *c);

/* Gives one member, held in a world, an agent and registers its memory. 0 or -errno. Container thread. */
struct world;
int container_adopt_held(struct container *c, struct member *member, struct world *world);
bool container_is_worth_adopting(const struct container *c, const struct member *member);

/* True when a member that is large enough could not be adopted yet (it did not stop in time, or its fork is being worked on). */
bool container_may_adopt_more(const struct container *c);

/*
 * The address space of a member, also of a forked child that has no agent yet (it is looked for by its sentinel page: system calls for each that is
 * not known yet). NULL: it was never under a userfaultfd, or is a child that cannot be told from others yet (address_space_is_inherited). Container thread.
 */
struct address_space *container_space_of(struct container *c, const struct member *member);

/* Takes newborn children onto the list, buries what is gone (exit, exec). Container thread. */
void container_upkeep(struct container *c);

/* Puts an address space on the list. Container thread. */
void container_add_space(struct container *c, struct address_space *as);

/* The memory of an address space is gone, or nothing of ours is left in it. */
void container_forget_space(struct container *c, struct address_space *as);

/* A member has left. */
void container_member_gone(struct member *member, void *context);
/* Walks the member tree; see members_refresh. Container thread. */
int container_refresh_members(struct container *c);

bool container_is_agent(pid_t pid, void *context);

/*
 * Holds all members while reclaim catches up; adopts and registers what they have grown by meanwhile. True when every thread was held and
 * reclaim found nothing more to take. Container thread.
 */
bool container_stall(struct container *c);

/*
 * All members held for a moment: afterwards what REMOVE events flagged may be evicted again, and mapped file pages, when they are many, have
 * been let go of. Container thread.
 */
void container_barrier(struct container *c);

/*
 * Called each tick near the limit and while usage is over it: kills the member that holds most when reclaim is exhausted, or stops the container
 * (struct run_config, oom). Container thread.
 */
void container_consider_oom(struct container *c);

/* Called each tick of a frozen container: lets one that is stopped go on when there is room again. Container thread. */
void container_reconsider_oom(struct container *c);

/* Stopped for want of memory. Container thread. */
bool container_is_stopped(const struct container *c);

/*
 * What the OOM killer found the last time, several lines of printable ASCII; NULL: it was never called. The container's own, until the next call of
 * the killer. Container thread.
 */
const char *container_oom_report(const struct container *c);

/* Sampling, pressure, growth. Returns the time until the next tick in nanoseconds. Container thread. */
uint64_t container_tick(struct container *c);
