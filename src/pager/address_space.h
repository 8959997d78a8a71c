/*
 * One adopted address space: its userfaultfd, shadow page table, agent and registered ranges.
 *
 * Ownership: reference counted; the container's list, the fault thread it is attached to, and each fault, read or write-back batch in flight
 * hold one. The userfaultfd is closed with the last one, and the container gives its reference up only when the memory is gone
 * (process dead or replaced by exec): closing it earlier would turn evicted pages into zeros.
 *
 * The layout lock covers reading a userfaultfd message, choosing candidates, MOVE, and recording slots; so an event's effect on the table
 * and an eviction never interleave. Whatever the keeper does with a page it looks the entry up under this lock at the moment it acts.
 */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "base/types.h"
#include "inject/agent.h"
#include "inject/world.h"
#include "pager/layout_events.h"
#include "pager/pager.h"
#include "pager/past.h"
#include "pager/range_list.h"
#include "pager/shadow.h"
#include "pager/stamp.h"
#include "reclaim/stream.h"

#define ADDRESS_END ((1ull << 47) - PAGE_BYTES) /* of user space; PAGEMAP_SCAN refuses to look beyond */

#define MAX_SKIPS 32

struct address_space {
	struct pager *pager;
	_Atomic int references;
	bool process_seen; /* container thread: a forked child whose process was seen among the members */
	bool oom_killed;   /* container thread: its last process was killed for want of memory, and its slots are awaited */
	bool released;     /* container thread: nothing is registered any more, the agent may end */
	_Atomic bool dead; /* the memory is gone; nothing is served any more */
	_Atomic bool lost; /* see address_space_lose */
	_Atomic bool leaves; /* its process leaves the container, which counts it no longer: fills never wait for room, nothing is evicted */
	_Atomic uint64_t broken;  /* pages copied, ever, to end the sharing that fork left */
	_Atomic uint64_t evicted; /* pages that have left, ever */

	_Atomic pid_t pid; /* 0: child of a fork whose process is not known yet, or abandoned */
	int pagemap, maps; /* its files in /proc; -1 until the process is known */
	int uffd;
	remote_addr_t sentinel; /* see inject/agent.h */
	_Atomic bool sharers;   /* other processes may have the same memory, and fork; only with a stamp */
	uint64_t token;         /* what was put into the sentinel page to find a forked child; 0: nothing yet */

	struct lock agent_lock; /* LOCK_AGENT: ring and staging */
	struct agent *agent;    /* NULL: not adopted yet (a fork's child), or abandoned; nothing can be evicted */

	_Atomic uint32_t waiting; /* fault threads that wait for the layout lock: see address_space_lock_for_fault */
	struct lock layout; /* LOCK_LAYOUT: all below */
	struct shadow *shadow;
	struct stamp stamp;       /* page 0: the kernel announces forks */
	struct past past;         /* with a stamp */
	struct layout_events unapplied; /* read, and not yet in the table: see events_settle */
	uint32_t layout_changes;        /* events that were applied */
	struct streams streams;
	struct range_list ranges; /* extents of registered mappings: hints for windows and runs, see registration_extent */
	remote_addr_t hand;       /* clock hand: where the next eviction scan begins */
	remote_addr_t look_hand;  /* container thread: where the next look for new mappings begins */
	remote_addr_t back_hand;  /* container thread: where bringing evicted pages back goes on */
	uint32_t fills;           /* faults filled, for "used just now" */
	struct range skip[MAX_SKIPS]; /* not movable in this revolution (locked, read-only, pinned) */
	uint32_t nr_skips;
	bool shares;              /* pages may be shared by fork: seen, or to be expected. Set by whoever sees it, tells reclaim to look */
	bool seen_shared;         /* ... in this revolution of the hand */
	struct range populated;   /* where sharing left by fork was broken last */
	bool has_saved;           /* entries may be SAVED */
	uint32_t revolutions;      /* of the hand */
	uint32_t revolutions_idle; /* the last of them, without an eviction */
	uint32_t number;           /* in the trace */
	uint64_t noted_out;        /* what it last added to the pager's figure of evicted pages */
	bool wipe_unchecked; /* forked child: MADV_WIPEONFORK ranges not yet looked for */

	struct fault_thread *thread;
	struct address_space *next_attached; /* the fault thread's list */
	struct address_space *next;          /* the container's list */
	uint64_t credit;                     /* reclaim's share, used by the container */
};

/*
 * Adopts the process of a stopped world: agent, userfaultfd, all eligible mappings registered, attached to a fault thread. With
 * `inherited` (a fork's child that was identified) its userfaultfd and table are taken over. 0, or -errno with *ret_what naming the step.
 */
int address_space_adopt(struct pager *pager, struct world *world, uint32_t stage_pages, struct address_space *inherited,
			struct address_space **ret_as, const char **ret_what);

/*
 * The child of a fork that was not announced (forkless.h), held since its birth; stamp: its time. It has a userfaultfd and an agent of its own from now on
 * and all pages that it had inherited. 0 or -errno (-ESTALE: these cannot be told any more) with *ret_what.
 */
int address_space_adopt_forked(struct address_space *parent, uint64_t stamp, struct world *world, uint32_t stage_pages,
			       struct address_space **ret_as, const char **ret_what);

/* Unmaps what a process has inherited of the agent of an address space whose fork's child it is. 0 or -errno. */
int address_space_unmap_stamp(const struct address_space *parent, struct world *world);

/* The child of a FORK event: a copy of the table, every slot with one more reference. Layout lock of the parent held. NULL: no memory. */
struct address_space *address_space_fork(struct address_space *parent, int child_uffd);

/* One with an empty table and the descriptors, agent, places and numbers of another, for a keeper that takes over (hand_over.h). NULL: no memory. */
struct address_space *address_space_like(struct pager *pager, const struct address_space *as);

/*
 * Takes the layout lock, which others hold often, or for a fault. Whoever holds it for long looks whether a fault waits and lets it go first
 * (address_space_let_faults_in: true when the lock was dropped, and the table may be another one).
 */
void address_space_lock(struct address_space *as);
bool address_space_try_lock(struct address_space *as);
void address_space_lock_for_fault(struct address_space *as);
bool address_space_let_faults_in(struct address_space *as);

/* True when pid is the process behind this unidentified child: a token is put into the sentinel page and looked for. */
bool address_space_matches(struct address_space *child, pid_t pid);

/* True when the memory of a child that has no agent yet no longer exists. */
bool address_space_child_is_gone(struct address_space *child);

/*
 * True when some memory of the process is under a userfaultfd with asynchronous write protection: it was forked by an adopted process. To give
 * such a process a userfaultfd of its own would be fatal: its faults go to the inherited one.
 */
bool address_space_is_inherited(pid_t pid);

/*
 * Registers mappings that appeared since the last look, at most `max` of them: the next look goes on from there. Callable while the program
 * runs. Returns the number of mappings newly registered or -errno: -EBUSY where somebody has the layout lock and it is not to be waited for.
 */
int address_space_register_new(struct address_space *as, int max, bool waits);

/*
 * The opposite of adoption: nothing of membox is left in the process, which is the one of the held world. Nothing is evicted and nobody evicts.
 * 0: only the userfaultfd is still open, until the caller has buried and put the address space; or -errno, to be tried again (-EAGAIN: an event is
 * unread; -EBUSY: a page is evicted; -ETIMEDOUT: the agent has not ended).
 */
int address_space_let_go(struct address_space *as, struct world *world);

/*
 * The process that was adopted has let go of the memory, and with the agent its last hold on it is given up. What is asked by number belongs to nobody
 * now; its files in /proc, once open, are of the memory, not of the process.
 */
void address_space_abandon(struct address_space *as);

/* Its process may end: the memory stays until it is abandoned or buried. Nobody evicts any more. Takes the agent lock. */
void address_space_outlive(struct address_space *as);

/* Abandoned, and not adopted again. Takes the agent lock. */
bool address_space_is_abandoned(struct address_space *as);

struct address_space *address_space_get(struct address_space *as);
void address_space_put(struct address_space *as);

/*
 * What some page held, or whether it left, cannot be known any more: the container is killed for this reason. Until it is dead whoever misses a page of it waits,
 * since zeros would be wrong. Layout lock held, in the same hold in which it was lost.
 */
void address_space_lose(struct address_space *as, const char *reason);

/* The memory is gone: stops serving, lets the agent go. The caller's reference stays. */
void address_space_bury(struct address_space *as);

/* Under the layout lock. Forgets [start, end): slots are given back, waiting reads find nothing. keep_pins: for REMOVE. */
void address_space_forget(struct address_space *as, remote_addr_t start, remote_addr_t end);

/* Takes all slots that resident pages keep in case they stay clean. Returns how many. For a full swap file. */
uint64_t address_space_drop_clean_slots(struct address_space *as);

/* Pages by what the table knows of them. */
struct page_counts {
	uint64_t active;  /* resident, and came back soon after an eviction */
	uint64_t pinned;
	uint64_t swapped; /* in a slot, or on the way there; pages of zeros hold none */
};

/* Any thread with a reference; takes the layout lock. */
struct page_counts address_space_count(struct address_space *as);

/* Under the layout lock. Brings the pager's figure of evicted pages up to date. */
void address_space_note_out(struct address_space *as);

/* No thread is inside madvise (the world is stopped): what a REMOVE event flagged may be evicted again. */
void address_space_expire_removed(struct address_space *as);

/* Records what the policy sees; without a trace one branch. */
static inline void address_space_trace(const struct address_space *as, enum trace_kind kind, unsigned flags, remote_addr_t page, uint32_t value)
{
	if (__builtin_expect(as->pager->trace != NULL, 0))
		trace_record(as->pager->trace, kind, flags, as->number, page, value);
}
