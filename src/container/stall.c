/*
 * Holding every member for a while, by ptrace: for reclaim to catch up with a program that outruns it, for REMOVE events to come to rest, and
 * for the certainty that nothing can be evicted before somebody is killed for it. Container thread.
 */
#include <errno.h>
#include <limits.h>
#include <time.h>

#include "base/log.h"
#include "container/container.h"
#include "container/reclaimer.h"
#include "pager/file_pages.h"

#define MAX_HELD 256
#define STOP_TIMEOUT_US 20000 /* for all threads of a process to stop */
#define ADOPTIONS_AT_ONCE 4 /* bounds how long the members are held for them */
#define DROP_INTERVAL_NS 50000000ull
#define STALL_SLICE_NS 200000
#define STALL_MAX_NS 2000000000ull
/* The statement under way when the members were held may have looked before; the next one is about held members only. */
#define STATEMENTS 2

struct hold {
	struct world *worlds[MAX_HELD];
	uint32_t nr;
	bool complete; /* no thread of any member runs */
};

static void hold_members(struct container *c, struct hold *hold)
{
	uint32_t told = 0;
	hold->nr = 0;
	hold->complete = c->members.nr <= MAX_HELD;
	for (uint32_t i = 0; i < c->members.nr && told < MAX_HELD; i++) {
		int r = c->members.items[i].resident ? world_interrupt(c->members.items[i].pid, &hold->worlds[told]) : -ESRCH;
		told += r == 0;
		hold->complete &= r == 0 || r == -ESRCH;
	}
	for (uint32_t i = 0; i < told; i++) {
		struct world *world = hold->worlds[i];
		int r = world_wait(world, STOP_TIMEOUT_US);
		if (r == 0)
			hold->complete &= world_is_complete(hold->worlds[hold->nr++] = world);
		else if (r != -ESRCH && r != -EBUSY)
			hold->complete = false;
	}
}

static void let_go(struct hold *hold)
{
	while (hold->nr)
		world_resume(hold->worlds[--hold->nr]);
}

/* No thread is inside madvise: what a REMOVE event flagged has been discarded by now. */
static void expire_removed(struct container *c, const struct hold *hold)
{
	for (struct address_space *as = c->spaces; hold->complete && as; as = as->next)
		address_space_expire_removed(as);
}

/* Enough for the effort of letting them go. */
bool container_file_pages_are_many(const struct container *c)
{
	return stat_get(&c->stats, file) / PAGE_BYTES > charge_limit((struct charge *)&c->charge) / 16;
}

/*
 * Mapped pages of files leave while nothing runs (see file_pages.h). They come back by minor faults, a few microseconds for 16 of them, as long
 * as the system has room for them in its page cache.
 */
static void drop_file_pages(struct container *c, const struct hold *hold)
{
	for (struct address_space *as = c->spaces; hold->complete && as; as = as->next) {
		int64_t pages = file_pages_drop(as); /* -ESRCH: not adopted, or gone */
		if (pages > 0)
			stat_add(&c->stats, rss_reclaimed, (uint64_t)pages);
	}
}

/* Those in use are back soon: other memory has to go in turn. */
static bool drop_file_pages_when_due(struct container *c, const struct hold *hold)
{
	uint64_t now = container_now_ns();
	if (!container_file_pages_are_many(c) || now - c->last_drop_ns < DROP_INTERVAL_NS)
		return false;
	c->last_drop_ns = now;
	drop_file_pages(c, hold);
	return true;
}

void container_barrier(struct container *c)
{
	struct hold hold;
	hold_members(c, &hold);
	expire_removed(c, &hold);
	drop_file_pages_when_due(c, &hold);
	let_go(&hold);
}

static void adopt_held(struct container *c, const struct hold *hold, int max)
{
	for (uint32_t i = 0; i < hold->nr && max > 0; i++) {
		struct member *member = members_find(&c->members, world_pid(hold->worlds[i]));
		if (member && container_is_worth_adopting(c, member))
			max -= container_adopt_held(c, member, hold->worlds[i]) == 0;
	}
}

void container_adopt_members(struct container *c)
{
	struct hold hold;
	hold_members(c, &hold);
	adopt_held(c, &hold, ADOPTIONS_AT_ONCE);
	let_go(&hold);
}

/* Everything that can be under a userfaultfd is: members that have grown large, and mappings that are new. */
static void cover(struct container *c, const struct hold *hold)
{
	adopt_held(c, hold, INT_MAX);
	for (struct address_space *as = c->spaces; as; as = as->next)
		if (as->agent && !atomic_load(&as->dead))
			address_space_register_new(as, INT_MAX);
	c->uncovered = 0;
}

/* True when reclaim has stated that it found nothing more, looking at held members only. */
static bool wait_for_reclaim(struct container *c)
{
	uint64_t begin = container_now_ns();
	uint64_t limit = charge_limit(&c->charge), room = container_stall_room(c);
	uint32_t seq = atomic_load(&c->exhausted_seq);
	bool exhausted = false;
	atomic_store(&c->room_wanted, room);
	while (!exhausted && container_now_ns() - begin < STALL_MAX_NS && !atomic_load(&c->killed)) {
		struct charge_sample sample = charge_sample_begin(&c->charge);
		charge_sample_end(&c->charge, sample, members_sample(&c->members));
		if (charge_usage(&c->charge) + room <= limit)
			break;
		reclaimer_kick(c->reclaimer);
		struct timespec nap = {.tv_nsec = STALL_SLICE_NS};
		nanosleep(&nap, NULL);
		exhausted = atomic_load(&c->exhausted_seq) - seq >= STATEMENTS;
	}
	atomic_store(&c->room_wanted, 0);
	return exhausted;
}

bool container_stall(struct container *c)
{
	struct hold hold;
	uint64_t begin = container_now_ns();
	stat_add(&c->stats, stalls, 1);
	hold_members(c, &hold);
	expire_removed(c, &hold);
	cover(c, &hold);
	bool dropped = drop_file_pages_when_due(c, &hold);
	bool exhausted = wait_for_reclaim(c);
	if (exhausted && !dropped) {
		drop_file_pages(c, &hold);
		exhausted = members_sample(&c->members) > charge_limit(&c->charge);
	}
	let_go(&hold);
	log_debug("stall of %llu us%s%s", (unsigned long long)(container_now_ns() - begin) / 1000, exhausted ? ", nothing left" : "",
		  hold.complete ? "" : ", not all held");
	return exhausted && hold.complete;
}
