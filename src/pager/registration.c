#include "pager/registration.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
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

bool range_list_add(struct range_list *list, remote_addr_t start, remote_addr_t end)
{
	if (list->nr == list->capacity) {
		uint32_t capacity = list->capacity ? list->capacity * 2 : 64;
		struct range *items = reallocarray(list->items, capacity, sizeof(*items));
		if (!items)
			return false;
		list->items = items;
		list->capacity = capacity;
	}
	list->items[list->nr++] = (struct range){start, end};
	return true;
}

const struct range *range_list_find(const struct range_list *list, remote_addr_t addr)
{
	uint32_t low = 0, high = list->nr;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (list->items[middle].end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low < list->nr && list->items[low].start <= addr ? &list->items[low] : NULL;
}

void range_list_release(struct range_list *list)
{
	free(list->items);
	*list = (struct range_list){0};
}

void registration_pin(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	for (remote_addr_t page = page_floor(start); page < end; page += PAGE_BYTES)
		shadow_set(as->shadow, page, shadow_get(as->shadow, page) | ENTRY_PINNED);
}

void registration_pin_threads(struct address_space *as)
{
	enum { MAX_THREADS = 4096 };
	static _Thread_local pid_t tids[MAX_THREADS];
	int nr = process_threads(as->pid, tids, MAX_THREADS);
	for (int i = 0; i < MIN_OF(nr, MAX_THREADS); i++) {
		remote_addr_t head;
		if (thread_robust_list(tids[i], &head) == 0 && head)
			registration_pin(as, head - ROBUST_BEFORE, head + ROBUST_AFTER);
	}
}

struct registration {
	struct address_space *as;
	struct range_list found;
	remote_addr_t guard_end; /* end of the inaccessible mapping seen just before */
	int registered;
	bool all_is_new; /* what was known at the last look may be out of date */
	bool out_of_memory;
};

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

/* Layout lock held. */
static bool is_registered(const struct address_space *as, const struct mapping *m)
{
	struct pagemap_query query = {.start = m->start,
				      .end = m->end,
				      .require = PAGE_WP_ALLOWED,
				      .report = PAGE_WP_ALLOWED,
				      .max_pages = 1};
	struct page_run run;
	uint64_t walked;
	return pagemap_scan(as->pagemap, &query, &run, 1, &walked) == 1;
}

/* Registered at the last look, and nothing has been unmapped or moved since: no need to ask the kernel. Layout lock held. */
static bool is_known(const struct registration *reg, const struct mapping *m)
{
	const struct range *known = reg->all_is_new || reg->as->ranges_are_stale ? NULL : range_list_find(&reg->as->ranges, m->start);
	return known && known->end >= m->end;
}

/*
 * One mapping, found in /proc/PID/maps a moment ago. Races: the program may have unmapped, replaced or moved it since; then registering
 * fails or registers what is there now, which is harmless (a fault on it is filled as its table entry says: zeros). Nothing is evicted from
 * it while an event is unread, because MOVE through the program's userfaultfd refuses then. Entries that a mapping which was not
 * registered until now still has are left from an earlier life of the address (MADV_DONTFORK in a child) and are dropped, but never while an
 * event is unread: a mapping that was moved away looks unregistered too, and its entries are those of the new place. The kernel raises
 * the mark of a pending event before it changes the layout, so no mark after the look means that the look saw a settled layout.
 */
static void register_one(struct registration *reg, const struct mapping *m)
{
	struct address_space *as = reg->as;
	lock_take(&as->layout);
	if (!is_known(reg, m) && !is_registered(as, m)) {
		int r = -EAGAIN;
		if (!uffd_event_pending(as->uffd)) {
			address_space_forget(as, m->start, m->end);
			r = uffd_register(as->uffd, m->start, m->end - m->start, true);
		}
		if (r == 0)
			reg->registered++;
		else if (r == -EAGAIN)
			as->ranges_are_stale = true; /* it is looked at again */
		else
			log_debug("pid %d: mapping %#llx-%#llx is not paged: %s", as->pid, (unsigned long long)m->start,
				  (unsigned long long)m->end, strerror(-r));
	}
	if (reg->guard_end == m->start)
		registration_pin(as, m->end - THREAD_RECORD_PAGES * PAGE_BYTES, m->end);
	lock_drop(&as->layout);
}

static int visit_mapping(const struct mapping *m, void *context)
{
	struct registration *reg = context;
	if (is_eligible(reg->as, m)) {
		register_one(reg, m);
		reg->out_of_memory |= !range_list_add(&reg->found, m->start, m->end);
	}
	if (!m->readable && !m->writable && !m->executable)
		reg->guard_end = m->end;
	return reg->out_of_memory ? -ENOMEM : 0;
}

int address_space_register_new(struct address_space *as)
{
	struct registration reg = {.as = as};
	lock_take(&as->layout);
	reg.all_is_new = as->ranges_are_stale;
	as->ranges_are_stale = false; /* an event from now on raises it again, for this look and the next */
	lock_drop(&as->layout);
	int r = maps_for_each(as->pid, visit_mapping, &reg);
	if (r == 0) {
		lock_take(&as->layout);
		struct range_list old = as->ranges;
		as->ranges = reg.found;
		lock_drop(&as->layout);
		reg.found = old;
	}
	range_list_release(&reg.found);
	return r < 0 ? r : reg.registered;
}
