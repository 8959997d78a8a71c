#include "container/reclaimer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/event.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "container/precopy_rounds.h"
#include "pager/evict.h"
#include "pager/file_pages.h"
#include "pager/shared_pages.h"
#include "pager/writeback.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "reclaim/clock.h"

#define MAX_SPACES 1024
#define MAX_MEMBERS 4096
#define FILE_INTERVAL_NS 100000000ull /* between two rounds over the file pages, unless nothing else is left */
#define ORDER_TRIES 20
#define ORDER_NAP_NS 500000
#define POOL_AUTO_PERCENT 80 /* of the memory that the container may have */
#define POOL_LEAVES ((8ull << 20) >> PAGE_SHIFT) /* at least, in pages, so that a small container is not all pool */
#define POOL_MAX_PERCENT 90  /* the program needs some pages in memory to go on at all */

/* What somebody wants to be evicted, and waits for. */
struct order {
	struct address_space *as;
	const struct page_set *set;
	bool shared;
};

struct reclaimer {
	struct container *c;
	pthread_t thread;
	bool runs; /* container thread */
	int event;
	_Atomic bool stop, kicked; /* kicked: the event is raised already */
	struct address_space *spaces[MAX_SPACES]; /* a round's own references */
	bool is_out[MAX_SPACES];                  /* dry or impossible in this round */
	uint32_t nr_spaces;
	uint64_t last_file_ns;
	_Atomic(struct order *) order; /* set by whoever waits on order_done, taken by the thread */
	sem_t order_done;
};

void reclaimer_kick(struct reclaimer *reclaimer)
{
	if (!atomic_exchange(&reclaimer->kicked, true))
		event_raise(reclaimer->event);
}

static void take_spaces(struct reclaimer *r)
{
	r->nr_spaces = 0;
	lock_take(&r->c->spaces_lock);
	for (struct address_space *as = r->c->spaces; as && r->nr_spaces < MAX_SPACES; as = as->next) {
		if (atomic_load(&as->leaves))
			continue;
		r->is_out[r->nr_spaces] = false;
		r->spaces[r->nr_spaces++] = address_space_get(as);
	}
	lock_drop(&r->c->spaces_lock);
}

static void drop_spaces(struct reclaimer *r)
{
	while (r->nr_spaces)
		address_space_put(r->spaces[--r->nr_spaces]);
}

/* Shares the work in proportion to size: every turn each earns its resident pages, the richest is taken and pays for all. */
static int next_space(struct reclaimer *r)
{
	int best = -1;
	uint64_t total = 0;
	for (uint32_t i = 0; i < r->nr_spaces; i++) {
		if (r->is_out[i] || atomic_load(&r->spaces[i]->leaves))
			continue;
		struct process_memory memory = {0};
		if (r->spaces[i]->pid <= 0 || process_memory_read(r->spaces[i]->pid, &memory) < 0)
			memory.resident_pages = 0;
		uint64_t weight = memory.resident_pages - MIN_OF(memory.file_pages, memory.resident_pages) + 1;
		r->spaces[i]->credit += weight;
		total += weight;
		if (best < 0 || r->spaces[i]->credit > r->spaces[best]->credit)
			best = (int)i;
	}
	if (best >= 0)
		r->spaces[best]->credit -= MIN_OF(total, r->spaces[best]->credit);
	return best;
}

struct pageout {
	int pidfd;
	uint64_t advised;
};

/* Private mappings of data may hold pages that the process has changed: those would go to the system's swap (LINEAGE B1). Code holds none. */
static bool holds_file_pages_only(const struct mapping *m)
{
	return m->shared || (m->executable && !m->writable);
}

static int page_out_mapping(const struct mapping *m, void *context)
{
	struct pageout *out = context;
	if (m->readable && file_pages_are_in(m) && holds_file_pages_only(m)) {
		ssize_t n = process_pageout(out->pidfd, m->start, m->end - m->start);
		out->advised += n > 0 ? (uint64_t)n : 0;
	}
	return 0;
}

static bool is_adopted(const struct reclaimer *r, pid_t pid)
{
	for (uint32_t i = 0; i < r->nr_spaces; i++)
		if (r->spaces[i]->pid == pid)
			return true;
	return false;
}

/*
 * Mapped file pages: those of adopted members are let go of by the container thread, which can hold them (stall.c); those of the others are
 * given back to the system. Returns how many pages left the members here.
 */
static uint64_t reclaim_file_pages(struct reclaimer *r)
{
	static pid_t pids[MAX_MEMBERS];
	uint64_t freed = 0;
	uint32_t n = members_copy_pids(&r->c->members, pids, MAX_MEMBERS);
	r->last_file_ns = monotonic_ns();
	atomic_store(&r->c->barrier_wanted, true);
	for (uint32_t i = 0; i < n; i++) {
		struct process_memory before, after;
		struct pageout out = {.pidfd = is_adopted(r, pids[i]) ? -1 : pidfd_open_process(pids[i])};
		if (out.pidfd < 0)
			continue;
		if (process_memory_read(pids[i], &before) == 0 && before.file_pages) {
			maps_for_each(pids[i], page_out_mapping, &out);
			if (process_memory_read(pids[i], &after) == 0 && after.file_pages < before.file_pages)
				freed += before.file_pages - after.file_pages;
		}
		close(out.pidfd);
	}
	charge_uncharge(&r->c->charge, freed);
	stat_add(&r->c->stats, rss_reclaimed, freed);
	return freed;
}

static bool file_pages_are_due(struct reclaimer *r)
{
	return container_file_pages_are_many(r->c) && monotonic_ns() - r->last_file_ns > FILE_INTERVAL_NS;
}

/* Nothing more can be freed. Over the limit that is the container thread's business, and faults that wait for room go on regardless. */
static void state_exhaustion(struct reclaimer *r, enum exhaustion why, bool over_limit)
{
	struct container *c = r->c;
	atomic_store(&c->exhaustion, why);
	atomic_fetch_add(&c->exhausted_seq, 1);
	if (!over_limit)
		return;
	atomic_fetch_add(&c->pager.dry_seq, 1);
	pager_wake(&c->pager);
	event_raise(c->event);
}

/* A full swap file may hold copies of pages that are in memory: they are worth less than room. */
static uint64_t free_clean_slots(struct reclaimer *r)
{
	uint64_t freed = 0;
	for (uint32_t i = 0; i < r->nr_spaces; i++)
		freed += address_space_drop_clean_slots(r->spaces[i]);
	return freed;
}

/*
 * One eviction from the next address space. Returns pages freed; 0 with *ret_why saying why nothing at all can be freed (EXHAUSTED_NOT: that
 * is not known, because one of them could not be asked just now).
 */
static uint64_t evict_some(struct reclaimer *r, uint64_t want, enum exhaustion *ret_why)
{
	for (;;) {
		int i = next_space(r);
		if (i < 0)
			return 0;
		struct evict_result result = evict_pages(r->spaces[i], (uint32_t)MIN_OF(want, BATCH_PAGES));
		uint64_t freed = result.evicted;
		if (result.shared.end)
			freed += shared_pages_evict(r->spaces, r->nr_spaces, result.shared.start);
		if (result.removed > BATCH_PAGES && result.evicted == 0)
			atomic_store(&r->c->barrier_wanted, true);
		if (freed)
			return freed;
		if (result.no_slots < 0 && !free_clean_slots(r)) {
			*ret_why = result.no_slots == -ENOSPC ? EXHAUSTED_SWAP_FULL : EXHAUSTED_SWAP_FAILED;
			return 0;
		}
		if (result.later)
			*ret_why = EXHAUSTED_NOT;
		if (result.dry || result.cannot || result.later)
			r->is_out[i] = true;
		if (atomic_load(&r->stop))
			return 0;
	}
}

/* Pages that are to be free after a round. */
static uint64_t goal(const struct container *c, uint64_t limit)
{
	return container_room(c, limit, clock_watermarks(limit).stop);
}

static uint64_t pool_share(const struct container *c, uint64_t memory)
{
	uint64_t most = atomic_load(&c->pool_most), left = memory - MIN_OF(memory, POOL_LEAVES);
	if (atomic_load(&c->precopy)) /* what is compressed has to go to the file as well, and better now than while nobody runs */
		return 0;
	if (most == POOL_AUTO)
		return pool_fit_pages(&c->pager.pool_fit, MIN_OF(memory / 100 * POOL_AUTO_PERCENT, left));
	return MIN_OF(most >> PAGE_SHIFT, memory / 100 * POOL_MAX_PERCENT);
}

/*
 * What the pool may take: its share of the memory that the container is to have just now, which is less when somebody wants it smaller than its limit. Over
 * the limit only what shrinks well goes there: the rest frees too little then, and so would writing what the pool has.
 */
static void set_pool_target(struct reclaimer *r, uint64_t limit)
{
	struct container *c = r->c;
	uint64_t room = goal(c, limit), usage = charge_usage(&c->charge);
	uint64_t target = pool_share(c, limit - MIN_OF(room, limit));
	atomic_store(&c->pager.over_limit, usage > limit + BATCH_PAGES); /* less may be what a batch takes in the pool before its pages are gone */
	if (atomic_exchange(&c->pager.pool_target, target) > target && c->pager.writeback)
		writeback_wake(c->pager.writeback);
}

/* Nothing else is left: all of the pool goes to the file. Returns pages freed. */
static uint64_t empty_pool(struct reclaimer *r)
{
	struct pager *pager = &r->c->pager;
	if (!pager->pool || !atomic_load(pool_memory(pager->pool)) || writeback_has_failed(pager->writeback))
		return 0;
	uint64_t before = atomic_load(pool_memory(pager->pool));
	atomic_store(&pager->pool_target, 0);
	writeback_drain(pager->writeback);
	uint64_t after = atomic_load(pool_memory(pager->pool));
	return before - MIN_OF(before, after);
}

/* One without a process is a fork's child whose process is not known yet, or its process has ended and the memory follows. */
static bool lives(struct address_space *as)
{
	pid_t pid = atomic_load(&as->pid);
	return pid ? !process_has_ended(pid) : !address_space_is_abandoned(as);
}

/* When the last one has just ended its pool goes with it, and not to the file. */
static bool somebody_lives(const struct reclaimer *r)
{
	for (uint32_t i = 0; i < r->nr_spaces; i++)
		if (lives(r->spaces[i]))
			return true;
	return false;
}

/* Usage is over the start mark: frees pages until it is below the stop mark or nothing more can be done. */
static void reclaim_round(struct reclaimer *r)
{
	struct container *c = r->c;
	uint64_t limit = charge_limit(&c->charge), usage;
	enum exhaustion why = c->swap ? EXHAUSTED_NOTHING_LEFT : EXHAUSTED_NO_SWAP;
	take_spaces(r);
	while (!atomic_load(&r->stop) && (usage = charge_usage_to_come(&c->charge)) + goal(c, limit) > limit) {
		uint64_t freed = 0;
		set_pool_target(r, limit);
		if (file_pages_are_due(r))
			freed = reclaim_file_pages(r);
		bool can_evict = c->swap && !atomic_load(&c->swap_leaves);
		if (can_evict && !writeback_has_failed(c->pager.writeback))
			freed += evict_some(r, MAX_OF(usage + goal(c, limit) - limit, clock_watermarks(limit).batch), &why);
		else if (can_evict)
			why = EXHAUSTED_SWAP_FAILED;
		if (can_evict && !freed && why != EXHAUSTED_NOT && somebody_lives(r))
			freed += empty_pool(r);
		if (!freed)
			freed = reclaim_file_pages(r);
		if (freed) {
			atomic_store(&c->exhaustion, EXHAUSTED_NOT);
			pager_wake(&c->pager);
			continue;
		}
		if (why != EXHAUSTED_NOT)
			state_exhaustion(r, why, usage >= limit);
		break;
	}
	drop_spaces(r);
}

/* An event that is unread, or a page under way, is over soon. */
static void evict_ordered(const struct order *order)
{
	struct timespec nap = {.tv_nsec = ORDER_NAP_NS};
	for (int i = 0; i < ORDER_TRIES && evict_set(order->as, order->set).later; i++)
		nanosleep(&nap, NULL);
}

static void serve_order(struct reclaimer *r)
{
	struct order *order = atomic_exchange(&r->order, NULL);
	if (!order)
		return;
	if (r->c->swap && !atomic_load(&r->c->swap_leaves) && !writeback_has_failed(r->c->pager.writeback)) {
		take_spaces(r);
		if (order->shared)
			shared_pages_evict(r->spaces, r->nr_spaces, order->set->start);
		evict_ordered(order);
		drop_spaces(r);
	}
	sem_post(&r->order_done);
}

void reclaimer_evict(struct reclaimer *reclaimer, struct address_space *as, const struct page_set *set, bool shared)
{
	struct order order = {.as = as, .set = set, .shared = shared};
	atomic_store(&reclaimer->order, &order);
	reclaimer_kick(reclaimer);
	while (sem_wait(&reclaimer->order_done) < 0 && errno == EINTR)
		;
}

static void *reclaimer_main(void *argument)
{
	struct reclaimer *r = argument;
	uint64_t count;
	pthread_setname_np(pthread_self(), "mbx-reclaim");
	scheduling_give_way();
	bool precopies = false;
	while (!atomic_load(&r->stop)) {
		struct pollfd wait = {.fd = r->event, .events = POLLIN};
		bool kicked = poll(&wait, 1, precopies ? 0 : -1) > 0;
		if (kicked && read(r->event, &count, sizeof(count)) < 0 && errno != EAGAIN)
			log_debug("reclaim: eventfd: errno %d", errno);
		atomic_store(&r->kicked, false);
		preference_follow(&r->c->pager.preference);
		serve_order(r);
		uint64_t limit = charge_limit(&r->c->charge);
		if (kicked)
			set_pool_target(r, limit);
		uint64_t start = container_room(r->c, limit, clock_watermarks(limit).start);
		if (kicked && charge_usage_to_come(&r->c->charge) + start > limit) {
			atomic_fetch_add(&r->c->pager.busy, 1);
			reclaim_round(r);
			atomic_fetch_sub(&r->c->pager.busy, 1);
		}
		precopies = precopy_work(atomic_load(&r->c->precopy));
	}
	return NULL;
}

static int start_thread(struct reclaimer *reclaimer)
{
	atomic_store(&reclaimer->stop, false);
	atomic_store(&reclaimer->c->pager.unreclaimed, false);
	int e = pthread_create(&reclaimer->thread, NULL, reclaimer_main, reclaimer);
	reclaimer->runs = e == 0;
	return -e;
}

void reclaimer_resume(struct reclaimer *reclaimer)
{
	if (start_thread(reclaimer) < 0)
		container_kill(reclaimer->c, "its reclaim thread could not be started again");
}

bool reclaimer_pause(struct reclaimer *reclaimer)
{
	if (!reclaimer->runs)
		return false;
	atomic_store(&reclaimer->stop, true);
	atomic_store(&reclaimer->kicked, false);
	reclaimer_kick(reclaimer);
	pthread_join(reclaimer->thread, NULL);
	reclaimer->runs = false;
	atomic_store(&reclaimer->c->pager.unreclaimed, true);
	return true;
}

int reclaimer_start(struct container *c, struct reclaimer **ret_reclaimer)
{
	struct reclaimer *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->c = c;
	sem_init(&r->order_done, 0, 0);
	r->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int result = r->event < 0 ? -errno : start_thread(r);
	if (result < 0) {
		if (r->event >= 0)
			close(r->event);
		free(r);
		return result;
	}
	*ret_reclaimer = r;
	return 0;
}

void reclaimer_stop(struct reclaimer *reclaimer)
{
	if (!reclaimer)
		return;
	reclaimer_pause(reclaimer);
	drop_spaces(reclaimer);
	sem_destroy(&reclaimer->order_done);
	close(reclaimer->event);
	free(reclaimer);
}
