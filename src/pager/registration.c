#include "pager/registration.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "pager/events.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/userfaultfd.h"

/*
 * glibc and musl put a thread's record (struct pthread, with clear_child_tid and the robust list) at the top of its stack mapping,
 * above the static TLS block. The mapping below a thread's stack is its guard.
 */
#define THREAD_RECORD_PAGES 2

/* glibc: the robust list head is at most this far from clear_child_tid (it lies 16 bytes below). */
#define ROBUST_BEFORE 64
#define ROBUST_AFTER 24
#define PIN_TRIES 10

int registration_pin(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	for (remote_addr_t page = page_floor(start); page < end; page += PAGE_BYTES)
		if (!shadow_set(as->shadow, page, shadow_get(as->shadow, page) | ENTRY_PINNED))
			return -ENOMEM;
	return 0;
}

static int pin_thread(struct address_space *as, pid_t tid)
{
	remote_addr_t head;
	int r = thread_robust_list(tid, &head);
	if (r < 0 || !head)
		return r == -ESRCH ? 0 : r; /* it has ended */
	return registration_pin(as, head - ROBUST_BEFORE, head + ROBUST_AFTER);
}

static int pin_threads(struct address_space *as)
{
	enum { MAX_THREADS = 4096 };
	static _Thread_local pid_t tids[MAX_THREADS];
	int nr = process_threads(as->pid, tids, MAX_THREADS), r = MIN_OF(nr, 0);
	for (int i = 0; r == 0 && i < MIN_OF(nr, MAX_THREADS); i++)
		r = pin_thread(as, tids[i]);
	return r;
}

int registration_pin_threads(struct address_space *as)
{
	int r = pin_threads(as);
	for (int i = 0; r < 0 && r != -ESRCH && i < PIN_TRIES; i++) /* descriptors or memory may be short for a moment */
		r = pin_threads(as);
	return r;
}

static bool overlaps(const struct mapping *m, remote_addr_t start, uint64_t size)
{
	return m->start < start + size && start < m->end;
}

/* Private anonymous read-write memory; the agent's own ranges are left alone. */
static bool is_eligible(const struct address_space *as, const struct mapping *m)
{
	if (!m->readable || !m->writable || m->executable || m->shared || m->inode)
		return false;
	if (m->name[0] == '[' && strcmp(m->name, "[heap]") && strncmp(m->name, "[stack", 6) && strncmp(m->name, "[anon:", 6))
		return false;
	if (overlaps(m, as->agent->base, as->agent->size))
		return false;
	return !overlaps(m, as->sentinel, PAGE_BYTES);
}

bool registration_covers(const struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	struct pagemap_query query = {.start = start,
				      .end = end,
				      .require = PAGE_WP_ALLOWED,
				      .report = PAGE_WP_ALLOWED,
				      .max_pages = 1};
	struct page_run run;
	uint64_t walked;
	return pagemap_scan(as->pagemap, &query, &run, 1, &walked) == 1;
}

static bool is_registered(const struct address_space *as, const struct mapping *m)
{
	return registration_covers(as, m->start, m->end);
}

/* The hint of registration_extent for what the kernel says now; an old one is in the way no longer. */
static void remember(struct address_space *as, remote_addr_t addr)
{
	struct mapping m;
	if (as->maps >= 0 && mapping_find(as->pid, as->maps, addr, &m) == 0)
		range_list_put(&as->ranges, m.start, m.end);
}

bool registration_extent(struct address_space *as, remote_addr_t page, struct range *ret)
{
	const struct range *range = range_list_find(&as->ranges, page);
	if (!range) {
		remember(as, page);
		range = range_list_find(&as->ranges, page);
	}
	if (range)
		*ret = *range;
	return range;
}

/* A mapping right above an inaccessible one is a thread's stack above its guard. */
static int pin_thread_record(struct address_space *as, const struct mapping *m)
{
	struct mapping below;
	if (mapping_find(as->pid, as->maps, m->start - 1, &below) == 0 && !below.readable && !below.writable && !below.executable)
		return registration_pin(as, m->end - THREAD_RECORD_PAGES * PAGE_BYTES, m->end);
	return 0;
}

/*
 * The mapping around a page that the kernel showed a moment ago, present and not registered. Races: the program may have unmapped,
 * replaced or moved it since; then registering fails or registers what is there now, which is harmless (a fault on it is filled as its table
 * entry says: zeros). Nothing is evicted from it while an event is unread, because MOVE through the program's userfaultfd refuses then.
 * Entries that a mapping which was not registered until now still has are left from an earlier life of the address (MADV_DONTFORK in a
 * child) and are dropped, but never while an event is unread: the place of a mapping that was moved away looks unregistered too, and its
 * entries are those of the new place. The kernel raises the mark of a pending event before it changes the layout, so no mark after the
 * look means that the look saw a settled layout. Returns 1 when it was registered, 0 when not; *ret_end is where it ends.
 */
static int register_around(struct address_space *as, remote_addr_t page, remote_addr_t *ret_end)
{
	struct mapping m;
	int r = mapping_find(as->pid, as->maps, page, &m);
	*ret_end = r == 0 ? m.end : page + PAGE_BYTES;
	if (r < 0 || !is_eligible(as, &m) || is_registered(as, &m) || !events_settle(as) || uffd_event_pending(as->uffd))
		return 0;
	address_space_forget(as, m.start, m.end);
	r = pin_thread_record(as, &m);
	if (r == 0)
		r = uffd_register(as->uffd, m.start, m.end - m.start, true);
	if (r < 0) {
		log_debug("pid %d: mapping %#llx-%#llx is not paged: %s", as->pid, (unsigned long long)m.start,
			  (unsigned long long)m.end, strerror(-r));
		return 0;
	}
	remember(as, page); /* it may have become one with its neighbours */
	return 1;
}

static int unregister_mapping(const struct mapping *m, void *context)
{
	struct address_space *as = context;
	return is_registered(as, m) ? uffd_unregister(as->uffd, m->start, m->end - m->start) : 0;
}

/*
 * Races: the program may move a mapping while the list is read; one that is missed is left to the closing of the userfaultfd, which
 * unregisters everything. An event that comes after the look finds its thread let go by the closing as well.
 */
int registration_remove_all(struct address_space *as)
{
	if (!events_settle(as) || uffd_event_pending(as->uffd))
		return -EAGAIN;
	if (shadow_count(as->shadow, STATE_STAGED) + shadow_count(as->shadow, STATE_SWAPPED))
		return -EBUSY;
	return maps_for_each(as->pid, unregister_mapping, as);
}

static bool lock_layout(struct address_space *as, bool waits)
{
	if (!waits)
		return address_space_try_lock(as);
	address_space_lock(as);
	return true;
}

/* Registers what is new in [*start, end), at most *left mappings. *start becomes where it stopped. 0 or -errno. */
static int register_new_in(struct address_space *as, remote_addr_t *start, remote_addr_t end, bool waits, int *left)
{
	struct page_run runs[64];
	/* The kernel passes over registered mappings as a whole: the look costs what is new. */
	struct pagemap_query query = {.start = *start,
				      .end = end,
				      .require = PAGE_PRESENT,
				      .forbid = PAGE_WP_ALLOWED | PAGE_FILE | PAGE_ZERO,
				      .report = PAGE_PRESENT};
	while (query.start < end && *left > 0) {
		remote_addr_t seen = 0;
		int n = pagemap_scan(as->pagemap, &query, runs, ARRAY_LEN(runs), &query.start);
		if (n < 0)
			return n;
		for (int i = 0; i < n && *left > 0; i++) {
			/* A run may go on over mappings that lie side by side. */
			for (remote_addr_t page = MAX_OF(runs[i].start, seen); page < runs[i].end && *left > 0; page = seen) {
				if (!lock_layout(as, waits)) {
					*start = page;
					return -EBUSY;
				}
				*left -= register_around(as, page, &seen);
				lock_drop(&as->layout);
			}
		}
		query.start = *left > 0 ? MAX_OF(query.start, seen) : seen;
	}
	*start = MIN_OF(query.start, end);
	return 0;
}

int address_space_register_new(struct address_space *as, int max, bool waits)
{
	remote_addr_t begin = as->look_hand;
	int left = max;
	int r = register_new_in(as, &as->look_hand, ADDRESS_END, waits, &left);
	if (r == 0 && as->look_hand == ADDRESS_END) {
		as->look_hand = 0;
		r = register_new_in(as, &as->look_hand, begin, waits, &left);
	}
	return r < 0 ? r : max - left;
}
