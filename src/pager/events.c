#include "pager/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "pager/fault_thread.h"
#include "pager/forkless.h"
#include "pager/registration.h"
#include "platform/pagemap.h"
#include "platform/userfaultfd.h"

/*
 * The program forked; it waits until this message is read, so nothing of the parent's table changes while it is copied (layout lock),
 * and the child cannot be served before it is attached. When memory for the copy is missing there is no way to serve the child.
 */
static void apply_fork(struct address_space *parent, int child_uffd)
{
	struct pager *pager = parent->pager;
	FAULT_POINT("fork.read");
	struct address_space *child = address_space_fork(parent, child_uffd);
	if (!child) {
		pager->callbacks.fatal(pager->callbacks.context, "no memory for the page table of a forked process");
		return;
	}
	FAULT_POINT("fork.copied");
	child->thread = parent->thread;
	if (fault_thread_attach(parent->thread, child) < 0) {
		pager->callbacks.fatal(pager->callbacks.context, "cannot serve the faults of a forked process");
		address_space_put(child);
		return;
	}
	pager->callbacks.forked(pager->callbacks.context, child);
	FAULT_POINT("fork.told");
}

struct move_context {
	struct address_space *as;
	int64_t distance;
};

static void move_entry(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	struct move_context *move = context;
	remote_addr_t to = addr + (uint64_t)move->distance;
	shadow_entry_t stale = shadow_get(shadow, to);
	if (entry_slot(stale) != NO_SLOT)
		swap_put(move->as->pager->swap, entry_slot(stale));
	shadow_set(shadow, addr, 0);
	shadow_set(shadow, to, 0);
	if (!shadow_set(shadow, to,
			entry & ~ENTRY_LOADING)) /* a read in flight finds its page gone; the next fault starts anew */
		address_space_lose(move->as, "no memory for the page table of a moved mapping");
}

/* mremap moved [from, from + len) to `to`. Destination entries without a source entry are left as they are (FACTS rule 6). */
static void apply_remap(struct address_space *as, remote_addr_t from, remote_addr_t to, uint64_t len)
{
	struct move_context move = {.as = as, .distance = (int64_t)(to - from)};
	shadow_for_each(as->shadow, from, from + len, move_entry, &move);
}

/*
 * madvise(DONTNEED or FREE): the slots go at once, but the program's own zap comes only after this message was read, or, for FREE, never.
 * A page that is still present must not be evicted until it has been filled again by a fault, or its old content could come back.
 */
static void apply_remove(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	struct page_run runs[64];
	struct pagemap_query query = { /* a page that the kernel is migrating just now looks swapped */
		.start = start, .end = end, .any = PAGE_PRESENT | PAGE_SWAPPED, .forbid = PAGE_FILE, .report = PAGE_PRESENT};
	address_space_forget(as, start, end);
	while (as->pagemap >= 0 && query.start < end) {
		int n = pagemap_scan(as->pagemap, &query, runs, ARRAY_LEN(runs), &query.start);
		for (int i = 0; i < n; i++)
			for (remote_addr_t page = runs[i].start; page < runs[i].end; page += PAGE_BYTES)
				if (!shadow_set(as->shadow, page, ENTRY_REMOVED))
					address_space_lose(as, "no memory to note what the program discards");
		if (n < 0) {
			if (n != -ESRCH)
				address_space_lose(as, "it cannot be told which pages are there that the program discards");
			break;
		}
	}
}

static void apply_layout_event(struct address_space *as, const struct layout_event *event)
{
	as->layout_changes++;
	FAULT_POINT("event.read");
	switch (event->kind) {
	case LAYOUT_MOVED:
		range_list_cut(&as->ranges, event->start, event->end);
		range_list_cut(&as->ranges, event->to, event->to + (event->end - event->start));
		forkless_unmapped(as, event->start, event->end);
		forkless_unmapped(as, event->to, event->to + (event->end - event->start));
		apply_remap(as, event->start, event->to, event->end - event->start);
		break;
	case LAYOUT_UNMAPPED:
		range_list_cut(&as->ranges, event->start, event->end);
		forkless_unmapped(as, event->start, event->end);
		address_space_forget(as, event->start, event->end);
		break;
	case LAYOUT_DISCARDED:
		forkless_discarded(as, event->start, event->end);
		apply_remove(as, event->start, event->end);
		break;
	}
}

/* A fork's child whose process is not known yet cannot be looked at: most often the place that a mapping has left was taken at once. */
static bool is_registered(void *context, remote_addr_t addr)
{
	struct address_space *as = context;
	return as->pagemap < 0 || registration_covers(as, page_floor(addr), page_floor(addr) + PAGE_BYTES);
}

static void apply_in_order(struct address_space *as, const uint32_t *order, uint32_t nr, bool is_final)
{
	for (uint32_t i = 0; i < nr; i++)
		apply_layout_event(as, &as->unapplied.items[order[i]]);
	layout_events_applied(&as->unapplied, is_final);
}

void events_settle_now(struct address_space *as)
{
	uint32_t order[LAYOUT_EVENTS_MAX];
	uint32_t nr = layout_events_order(&as->unapplied, false, is_registered, as, order);
	apply_in_order(as, order, nr, false);
}

/* Races: the kernel raises the mark of a pending event before it changes the layout, so no mark after the look means that the look holds. */
bool events_settle(struct address_space *as)
{
	uint32_t order[LAYOUT_EVENTS_MAX];
	if (!as->unapplied.nr)
		return true;
	if (uffd_event_pending(as->uffd))
		return false;
	uint32_t nr = layout_events_order(&as->unapplied, true, is_registered, as, order);
	if (uffd_event_pending(as->uffd))
		return false;
	apply_in_order(as, order, nr, true);
	return true;
}

/* Only what follows a move can have been read out of order to any effect: nothing else brings entries to a place that another mapping had. */
static void take_layout_event(struct address_space *as, const struct layout_event *event)
{
	if (!as->unapplied.nr && event->kind != LAYOUT_MOVED) {
		apply_layout_event(as, event);
		return;
	}
	if (layout_events_add(&as->unapplied, event))
		return;
	events_settle_now(as);
	if (!layout_events_add(&as->unapplied, event))
		apply_layout_event(as, event);
}

void events_apply(struct address_space *as, const struct uffd_msg *msg)
{
	struct layout_event event = {.start = msg->arg.remove.start, .end = msg->arg.remove.end};
	switch (msg->event) {
	case UFFD_EVENT_FORK:
		events_settle_now(as);
		apply_fork(as, (int)msg->arg.fork.ufd);
		break;
	case UFFD_EVENT_REMAP:
		event = (struct layout_event){.kind = LAYOUT_MOVED,
					      .start = msg->arg.remap.from,
					      .end = msg->arg.remap.from + msg->arg.remap.len,
					      .to = msg->arg.remap.to};
		take_layout_event(as, &event);
		break;
	case UFFD_EVENT_REMOVE:
		event.kind = LAYOUT_DISCARDED;
		take_layout_event(as, &event);
		break;
	case UFFD_EVENT_UNMAP:
		event.kind = LAYOUT_UNMAPPED;
		take_layout_event(as, &event);
		break;
	default:
		log_error("unknown userfaultfd event %#x", msg->event);
	}
}

void events_wipe_on_fork(struct address_space *child, pid_t inner_tid)
{
	char path[64], line[512];
	unsigned long long start = 0, end = 0;
	child->wipe_unchecked = false;
	snprintf(path, sizeof(path), "%d/smaps", inner_tid);
	_cleanup_close_ int fd = openat(child->pager->home.proc, path, O_RDONLY | O_CLOEXEC);
	_cleanup_fclose_ FILE *smaps = fd < 0 ? NULL : fdopen(fd, "r");
	if (!smaps) {
		log_debug("cannot read /proc/%s: a fork's child may see ranges that it asked to be wiped", path);
		return;
	}
	steal_fd(&fd);
	while (fgets(line, sizeof(line), smaps)) {
		unsigned long long a, b;
		char rest;
		if (sscanf(line, "%llx-%llx %c", &a, &b, &rest) == 3) {
			start = a;
			end = b;
		} else if (!strncmp(line, "VmFlags:", 8) && strstr(line, " wf")) {
			address_space_forget(child, start, end);
		}
	}
}
