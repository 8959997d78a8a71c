#include "pager/address_space.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "pager/fault_thread.h"
#include "pager/forkless.h"
#include "pager/registration.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/userfaultfd.h"

static void put_slot(void *context, slot_t slot)
{
	struct pager *pager = context;
	swap_put(pager->swap, slot);
}

static struct address_space *address_space_new(struct pager *pager, struct shadow *shadow, int uffd)
{
	struct address_space *as = calloc(1, sizeof(*as));
	if (!as)
		return NULL;
	as->pager = pager;
	as->references = 1;
	as->pagemap = as->maps = -1;
	as->number = atomic_fetch_add(&pager->nr_spaces, 1) + 1;
	as->uffd = uffd;
	as->shadow = shadow;
	past_init(&as->past, put_slot, pager);
	lock_init(&as->agent_lock, LOCK_AGENT);
	lock_init(&as->layout, LOCK_LAYOUT);
	return as;
}

struct address_space *address_space_like(struct pager *pager, const struct address_space *as)
{
	struct shadow *shadow = shadow_new();
	struct address_space *copy = shadow ? address_space_new(pager, shadow, as->uffd) : NULL;
	if (!copy) {
		shadow_free(shadow);
		return NULL;
	}
	copy->pid = as->pid;
	copy->process_seen = as->process_seen;
	copy->oom_killed = as->oom_killed;
	copy->broken = as->broken;
	copy->evicted = as->evicted;
	copy->pagemap = as->pagemap;
	copy->maps = as->maps;
	copy->sentinel = as->sentinel;
	copy->token = as->token;
	copy->agent = as->agent;
	copy->hand = as->hand;
	copy->fills = as->fills;
	copy->shares = as->shares;
	copy->has_saved = as->has_saved;
	copy->wipe_unchecked = as->wipe_unchecked;
	return copy;
}

struct address_space *address_space_get(struct address_space *as)
{
	atomic_fetch_add(&as->references, 1);
	return as;
}

static void note_out(struct address_space *as, uint64_t out)
{
	atomic_fetch_add_explicit(&as->pager->out, out - as->noted_out, memory_order_relaxed);
	as->noted_out = out;
}

void address_space_note_out(struct address_space *as)
{
	note_out(as, shadow_evicted(as->shadow));
}

static void put_entry_slot(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	struct pager *pager = context;
	if (entry_slot(entry) != NO_SLOT)
		swap_put(pager->swap, entry_slot(entry));
}

void address_space_put(struct address_space *as)
{
	if (atomic_fetch_sub(&as->references, 1) != 1)
		return;
	note_out(as, 0);
	if (shadow_slots(as->shadow))
		shadow_for_each(as->shadow, 0, UINT64_MAX, put_entry_slot, as->pager);
	past_release(&as->past);
	stamp_release(&as->stamp);
	if (as->agent)
		agent_release(as->agent);
	shadow_free(as->shadow);
	range_list_release(&as->ranges);
	layout_events_release(&as->unapplied);
	if (as->pagemap >= 0)
		close(as->pagemap);
	if (as->maps >= 0)
		close(as->maps);
	if (as->uffd >= 0)
		close(as->uffd);
	lock_destroy(&as->agent_lock);
	lock_destroy(&as->layout);
	free(as);
}

void address_space_lose(struct address_space *as, const char *reason)
{
	atomic_store(&as->lost, true);
	as->pager->callbacks.fatal(as->pager->callbacks.context, reason);
}

/* Agent lock held, so never in the middle of a transaction. A fault thread that looks at the agent has the layout lock. Returns the one that there was. */
static struct agent *set_agent(struct address_space *as, struct agent *agent)
{
	lock_take(&as->layout);
	struct agent *before = as->agent;
	as->agent = agent;
	lock_drop(&as->layout);
	return before;
}

void address_space_bury(struct address_space *as)
{
	/*
	 * Races: the fault thread may be serving a fault of it and the reclaim thread may be in a transaction; both see -ESRCH or -EPIPE from the
	 * kernel at worst, and leave the table as it is. The agent is let go under its lock, so never in the middle of a transaction.
	 */
	if (atomic_exchange(&as->dead, true))
		return;
	lock_take(&as->agent_lock);
	agent_release(set_agent(as, NULL));
	lock_drop(&as->agent_lock);
	if (as->thread)
		fault_thread_wake(as->thread);
}

void address_space_abandon(struct address_space *as)
{
	lock_take(&as->agent_lock);
	agent_release(set_agent(as, NULL));
	as->pid = 0;
	lock_drop(&as->agent_lock);
}

void address_space_outlive(struct address_space *as)
{
	lock_take(&as->agent_lock);
	if (as->agent)
		agent_hold(as->agent, true);
	lock_drop(&as->agent_lock);
}

bool address_space_is_abandoned(struct address_space *as)
{
	lock_take(&as->agent_lock);
	bool is_abandoned = !as->agent && as->pid == 0 && as->pagemap >= 0;
	lock_drop(&as->agent_lock);
	return is_abandoned;
}

static int find_stack_and_arguments(struct address_space *as)
{
	struct process_info info;
	int r = process_info_read(as->pid, &info);
	if (r < 0)
		return r;
	if (info.arg_start && info.env_end > info.arg_start)
		return registration_pin(as, info.arg_start, info.env_end);
	return 0;
}

static int know_process(struct address_space *as, pid_t pid)
{
	as->pid = pid;
	if (as->pagemap < 0)
		as->pagemap = pagemap_open(pid);
	if (as->maps < 0)
		as->maps = maps_open(pid);
	return MIN_OF(MIN_OF(as->pagemap, as->maps), 0);
}

/* The reclaim thread may already know one that was inherited, and looks at the agent under the agent lock; a fault thread serves it, under the layout lock. */
static int give_agent(struct address_space *as, struct world *world, struct agent *agent)
{
	lock_take(&as->agent_lock);
	lock_take(&as->layout);
	int r = know_process(as, world_pid(world));
	as->agent = agent;
	if (r == 0)
		r = find_stack_and_arguments(as);
	lock_drop(&as->layout);
	lock_drop(&as->agent_lock);
	return r == 0 && agent->stamp ? stamp_init(&as->stamp, world_pid(world), agent->stamp) : r;
}

int address_space_adopt(struct pager *pager, struct world *world, uint32_t stage_pages, struct address_space *inherited,
			struct address_space **ret_as, const char **ret_what)
{
	struct agent_params params = {.stage_pages = stage_pages,
				      .inherited_uffd = inherited ? inherited->uffd : -1,
				      .sentinel = inherited ? inherited->sentinel : 0,
				      .stamped = pager->forkless,
				      .reaper = pager->home.reaper};
	struct agent *agent;
	int r = agent_create(world, &params, &agent, ret_what);
	if (r < 0)
		return r;

	FAULT_POINT("adopt.agent");
	struct address_space *as = inherited;
	if (!as) {
		struct shadow *shadow = shadow_new();
		as = shadow ? address_space_new(pager, shadow, agent->uffd) : NULL;
		if (!as) {
			shadow_free(shadow);
			agent_release(agent);
			*ret_what = "memory for the page table";
			return -ENOMEM;
		}
		as->sentinel = agent->sentinel;
	}
	*ret_what = "opening its pagemap";
	r = give_agent(as, world, agent);
	if (r == 0 && !inherited) {
		*ret_what = "starting the fault threads";
		r = pager_attach(pager, as);
	}
	FAULT_POINT("adopt.served");
	if (r == 0)
		r = address_space_register_new(as, INT_MAX, true);
	if (r < 0) {
		/* Nothing is evicted from it yet (world stopped, or a child that had no agent): letting go is safe. */
		if (!inherited) {
			address_space_bury(as);
			address_space_put(as);
		}
		return r;
	}
	stat_add(pager->stats, adoptions, 1);
	*ret_as = as;
	return 0;
}

/* Nobody knows the child but the caller until a fault thread is given it, and it stands still until the world is resumed. */
int address_space_adopt_forked(struct address_space *parent, uint64_t stamp, struct world *world, uint32_t stage_pages,
			       struct address_space **ret_as, const char **ret_what)
{
	struct pager *pager = parent->pager;
	struct agent_params params = {.stage_pages = stage_pages, .inherited_uffd = -1, .stamped = true, .reaper = pager->home.reaper};
	struct address_space *child;
	struct agent *agent;
	int r = address_space_unmap_stamp(parent, world);
	*ret_what = "unmapping what its parent has left";
	if (r == 0)
		r = agent_create(world, &params, &agent, ret_what);
	if (r < 0)
		return r;
	*ret_what = "finding out what it has inherited";
	r = forkless_fork(parent, stamp, &child);
	if (r < 0) {
		close(agent->uffd);
		agent_release(agent);
		return r;
	}
	child->uffd = agent->uffd;
	child->sentinel = agent->sentinel;
	r = give_agent(child, world, agent);
	if (r == 0)
		r = forkless_settle_child(child);
	if (r == 0)
		r = pager_attach(pager, child);
	if (r == 0)
		r = address_space_register_new(child, INT_MAX, true);
	if (r < 0) {
		address_space_bury(child);
		address_space_put(child);
		return r;
	}
	stat_add(pager->stats, adoptions, 1);
	*ret_as = child;
	return 0;
}

int address_space_unmap_stamp(const struct address_space *parent, struct world *world)
{
	const uint64_t pages[6] = {parent->sentinel, parent->stamp.page + PAGE_BYTES - parent->sentinel};
	return (int)world_syscall(world, SYS_munmap, pages);
}

static int unregister_all(struct address_space *as)
{
	lock_take(&as->layout);
	int r = registration_remove_all(as);
	lock_drop(&as->layout);
	return r;
}

/* What the agent's region does not hold: the sentinel of a parent that a child of a fork has inherited. */
static int unmap_sentinel(const struct address_space *as, struct world *world)
{
	const uint64_t page[6] = {as->sentinel, PAGE_BYTES};
	if (!as->sentinel || (as->agent && as->sentinel - as->agent->base < as->agent->size))
		return 0;
	return (int)world_syscall(world, SYS_munmap, page);
}

/* Races: the reclaim thread may want to evict; it sees under the agent lock that there is no agent any more. */
int address_space_let_go(struct address_space *as, struct world *world)
{
	lock_take(&as->agent_lock);
	int r = know_process(as, world_pid(world));
	if (r == 0)
		r = unregister_all(as);
	as->released = r == 0;
	if (r == 0)
		r = unmap_sentinel(as, world);
	struct agent *agent = r == 0 ? set_agent(as, NULL) : NULL;
	if (agent)
		r = agent_dismiss(agent, world);
	if (agent && r < 0)
		set_agent(as, agent);
	lock_drop(&as->agent_lock);
	return r;
}

struct copy_context {
	struct pager *pager;
	struct shadow *to;
	bool failed;
};

static void copy_entry(struct shadow *from, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	struct copy_context *copy = context;
	/* Reads in flight belong to the parent; the child starts its own. A slot kept by a resident page stays the parent's alone. */
	entry &= ~ENTRY_LOADING;
	if (entry_state(entry) == STATE_RESIDENT)
		entry = entry_make(STATE_RESIDENT, NO_SLOT, 0, entry_epoch(entry), entry & ENTRY_PINNED);
	if (entry_state(entry) == STATE_STAGED) /* only a lookup hint: the slot says it all, see writeback.h */
		entry = entry_make(STATE_STAGED, entry_slot(entry), 0, entry_epoch(entry), entry & ENTRY_PINNED);
	if (!shadow_set(copy->to, addr, entry)) {
		copy->failed = true;
		return;
	}
	if (entry_slot(entry) != NO_SLOT)
		swap_get(copy->pager->swap, entry_slot(entry));
}

struct address_space *address_space_fork(struct address_space *parent, int child_uffd)
{
	struct copy_context copy = {.pager = parent->pager, .to = shadow_new()};
	struct address_space *child = copy.to ? address_space_new(parent->pager, copy.to, child_uffd) : NULL;
	if (!child) {
		shadow_free(copy.to);
		return NULL;
	}
	shadow_for_each(parent->shadow, 0, UINT64_MAX, copy_entry, &copy);
	if (copy.failed || !range_list_copy(&child->ranges, &parent->ranges)) {
		child->uffd = -1; /* stays the caller's */
		address_space_put(child);
		return NULL;
	}
	child->sentinel = parent->sentinel;
	child->shares = parent->shares = true;
	atomic_store(&child->leaves, atomic_load(&parent->leaves));
	child->wipe_unchecked = shadow_count(child->shadow, STATE_SWAPPED) + shadow_count(child->shadow, STATE_STAGED) > 0;
	return child;
}

/* Puts a random number into the child's sentinel page, once. 0 or -errno (-ESRCH: the child's memory is gone). */
static int place_token(struct address_space *child)
{
	_Alignas(4096) uint8_t page[PAGE_BYTES] = {0};
	uint64_t done, token;
	if (child->token)
		return 0;
	if (getrandom(&token, sizeof(token), 0) != sizeof(token))
		return -EAGAIN;
	token |= 1;
	memcpy(page, &token, sizeof(token));
	int r = uffd_copy(child->uffd, child->sentinel, page, PAGE_BYTES, false, &done);
	if (r == 0)
		child->token = token;
	return r;
}

bool address_space_child_is_gone(struct address_space *child)
{
	int r = place_token(child);
	return r == -ESRCH || (r == 0 && uffd_is_dead(child->uffd, child->sentinel));
}

/*
 * Races: only the container thread asks. The page may be put in although the child is not this process; it is a page of no content
 * that only membox looks at. A candidate is read only when its pagemap says that the page is there, so no fault is raised.
 */
bool address_space_matches(struct address_space *child, pid_t pid)
{
	uint64_t seen, walked;
	if (place_token(child) < 0)
		return false;
	_cleanup_close_ int pagemap = pagemap_open(pid);
	if (pagemap < 0)
		return false;
	struct pagemap_query query = {.start = child->sentinel,
				      .end = child->sentinel + PAGE_BYTES,
				      .require = PAGE_PRESENT,
				      .report = PAGE_PRESENT};
	struct page_run run;
	if (pagemap_scan(pagemap, &query, &run, 1, &walked) != 1)
		return false;
	return process_read(pid, child->sentinel, &seen, sizeof(seen)) == 0 && seen == child->token;
}

bool address_space_is_inherited(pid_t pid)
{
	_cleanup_close_ int pagemap = pagemap_open(pid);
	struct pagemap_query query = {
		.start = 0, .end = ADDRESS_END, .require = PAGE_WP_ALLOWED, .report = PAGE_WP_ALLOWED, .max_pages = 1};
	struct page_run run;
	uint64_t walked;
	return pagemap < 0 || pagemap_scan(pagemap, &query, &run, 1, &walked) != 0;
}

static void forget_entry(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	put_entry_slot(shadow, addr, entry, context);
	shadow_set(shadow, addr, 0);
}

void address_space_forget(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	address_space_trace(as, TRACE_FORGOTTEN, 0, start, (uint32_t)MIN_OF((end - start) / PAGE_BYTES, UINT32_MAX));
	shadow_for_each(as->shadow, start, end, forget_entry, as->pager);
}

struct drop_context {
	struct pager *pager;
	uint64_t dropped;
};

static void drop_clean_slot(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	struct drop_context *drop = context;
	if (entry_state(entry) != STATE_RESIDENT || entry_slot(entry) == NO_SLOT)
		return;
	swap_put(drop->pager->swap, entry_slot(entry));
	shadow_set(shadow, addr, entry & (UINT32_MAX)); /* the low half: everything but the slot */
	drop->dropped++;
}

uint64_t address_space_drop_clean_slots(struct address_space *as)
{
	struct drop_context drop = {.pager = as->pager};
	lock_take(&as->layout);
	shadow_for_each(as->shadow, 0, UINT64_MAX, drop_clean_slot, &drop);
	lock_drop(&as->layout);
	return drop.dropped;
}

struct page_counts address_space_count(struct address_space *as)
{
	lock_take(&as->layout);
	struct page_counts counts = {.active = shadow_active(as->shadow),
				     .pinned = shadow_pinned(as->shadow),
				     .swapped = shadow_count(as->shadow, STATE_SWAPPED) + shadow_count(as->shadow, STATE_STAGED)};
	lock_drop(&as->layout);
	return counts;
}

static void expire_removed(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	if (entry & ENTRY_REMOVED)
		shadow_set(shadow, addr, entry & ~ENTRY_REMOVED);
}

void address_space_expire_removed(struct address_space *as)
{
	lock_take(&as->layout);
	shadow_for_each(as->shadow, 0, UINT64_MAX, expire_removed, NULL);
	lock_drop(&as->layout);
}

/* As long as it would take to sleep and be woken; where there is one processor whoever holds the lock needs it. */
static int tries(void)
{
	return scheduling_nr_processors() > 1 ? 1000 : 1;
}

void address_space_lock(struct address_space *as)
{
	lock_take_eagerly(&as->layout, tries());
}

bool address_space_try_lock(struct address_space *as)
{
	return lock_try_eagerly(&as->layout, tries());
}

void address_space_lock_for_fault(struct address_space *as)
{
	if (lock_try(&as->layout))
		return;
	atomic_fetch_add(&as->waiting, 1);
	address_space_lock(as);
	atomic_fetch_sub(&as->waiting, 1);
}

/* The lock is not fair: whoever drops it and takes it at once would win against somebody who has to wake up first. */
bool address_space_let_faults_in(struct address_space *as)
{
	enum { MAX_YIELDS = 100 };
	if (!atomic_load_explicit(&as->waiting, memory_order_relaxed))
		return false;
	lock_drop(&as->layout);
	for (int i = 0; i < MAX_YIELDS && atomic_load(&as->waiting); i++)
		sched_yield();
	address_space_lock(as);
	return true;
}
