#include "pager/fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "pager/registration.h"
#include "pager/writeback.h"
#include "platform/userfaultfd.h"
#include "reclaim/clock.h"

/* Fills are counted in units of this many; the pages of the last two units were "used just now" (FACTS rule 12). */
#define FILLS_PER_EPOCH 16
/* fault_page of a load that is readahead only. */
#define NOBODY_WAITS UINT32_MAX
/* An epoch that is never "just now", for pages that came along with the one that faulted. */
#define NOT_RECENT 128

static void *map_pages(uint64_t nr_pages)
{
	void *p = mmap(NULL, nr_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

int fault_context_init(struct fault_context *context, struct pager *pager)
{
	*context = (struct fault_context){.pager = pager};
	context->zeros = map_pages(LOAD_MAX_PAGES);
	context->buffers = map_pages(NR_LOADS * LOAD_MAX_PAGES);
	int r = context->zeros && context->buffers ? 0 : -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < NR_LOADS; i++)
		context->loads[i].buffer = context->buffers + (uint64_t)i * LOAD_MAX_PAGES * PAGE_BYTES;
	if (r == 0)
		r = fault_context_reopen(context);
	if (r < 0)
		fault_context_release(context);
	return r;
}

int fault_context_reopen(struct fault_context *context)
{
	swap_io_free(context->io);
	context->io = NULL;
	return context->pager->swap ? swap_io_new(context->pager->swap, NR_LOADS, &context->io) : 0;
}

static void load_release(struct fault_context *context, struct load *load)
{
	for (uint32_t i = 0; i < load->nr_pages; i++)
		swap_put(context->pager->swap, load->first_slot + i);
	address_space_put(load->as);
	load->as = NULL;
	load->is_read = false;
}

/* True when the entry of page i still asks for what the load has read. */
static bool is_wanted(const struct load *load, uint32_t i)
{
	shadow_entry_t entry = shadow_get(load->as->shadow, load->start + (uint64_t)i * PAGE_BYTES);
	enum page_state state = entry_state(entry);
	return (state == STATE_SWAPPED || state == STATE_STAGED) && entry_slot(entry) == load->first_slot + i;
}

/* Nobody will put these pages in any more: waiters fault again. Layout lock held. */
static void abandon(struct load *load, uint32_t first, uint32_t nr)
{
	struct address_space *as = load->as;
	for (uint32_t i = first; i < first + nr; i++) {
		remote_addr_t page = load->start + (uint64_t)i * PAGE_BYTES;
		if (is_wanted(load, i))
			shadow_set(as->shadow, page, shadow_get(as->shadow, page) & ~ENTRY_LOADING);
	}
	uffd_wake(as->uffd, load->start + (uint64_t)first * PAGE_BYTES, (uint64_t)nr * PAGE_BYTES);
}

/* What is under way is given up: whoever waits for one of its pages faults again, and another thread serves it. */
static void load_give_up(struct fault_context *context, struct load *load)
{
	lock_take(&load->as->layout);
	abandon(load, 0, load->nr_pages);
	lock_drop(&load->as->layout);
	charge_cancel(context->pager->charge, load->nr_pages);
	load_release(context, load);
}

void fault_context_release(struct fault_context *context)
{
	swap_io_free(context->io);
	for (uint32_t i = 0; i < NR_LOADS; i++)
		if (context->loads[i].as)
			load_give_up(context, &context->loads[i]);
	if (context->zeros)
		munmap((void *)context->zeros, LOAD_MAX_PAGES * PAGE_BYTES);
	if (context->buffers)
		munmap(context->buffers, (uint64_t)NR_LOADS * LOAD_MAX_PAGES * PAGE_BYTES);
}

static void fatal(struct fault_context *context, const char *reason)
{
	context->pager->callbacks.fatal(context->pager->callbacks.context, reason);
}

/*
 * Room for a page that somebody waits for, and more for readahead if there is. The agent's own faults (it may break sharing for an eviction
 * that is to make room) and faults that have seen reclaim find nothing more are let in over the limit: the OOM killer looks at the
 * sampled usage, not at single faults. One that leaves is not in the next sample, so it waits for nothing.
 */
static uint64_t prepare(struct fault_context *context, struct fault *fault, uint64_t want)
{
	struct pager *pager = context->pager;
	struct address_space *as = fault->as;
	uint32_t dry_seq = atomic_load(&pager->dry_seq);
	if (atomic_load(&as->leaves)) {
		charge_prepare_forced(pager->charge, want);
		return want;
	}
	uint64_t granted = charge_prepare(pager->charge, 1, want, !fault->counted);
	if (granted) {
		if (charge_is_near_limit(pager->charge, clock_watermarks(charge_limit(pager->charge)).start))
			pager->callbacks.need_reclaim(pager->callbacks.context);
		return granted;
	}
	bool is_agent = as->agent && fault->inner_tid == as->agent->inner_pid;
	if (is_agent || (fault->counted && dry_seq != fault->dry_seq)) {
		charge_prepare_forced(pager->charge, 1);
		return 1;
	}
	if (!fault->counted) {
		fault->counted = true;
		fault->dry_seq = dry_seq;
	}
	pager->callbacks.need_reclaim(pager->callbacks.context);
	return 0;
}

static uint8_t fill_epoch(const struct address_space *as)
{
	return (uint8_t)(as->fills / FILLS_PER_EPOCH);
}

/* Records pages that are resident now and were new: no slot. The faulting one counts as used just now. */
static void record_filled(struct address_space *as, remote_addr_t start, uint64_t nr_pages, remote_addr_t fault_page, unsigned age)
{
	if (nr_pages > 1)
		address_space_trace(as, TRACE_FILLED, fault_page > start ? TRACE_FLAG_DOWN : 0, start, (uint32_t)nr_pages);
	as->fills++;
	for (remote_addr_t page = start; page < start + nr_pages * PAGE_BYTES; page += PAGE_BYTES) {
		shadow_entry_t entry = shadow_get(as->shadow, page);
		bool here = page == fault_page;
		uint8_t epoch = (uint8_t)(fill_epoch(as) + (here ? 0 : NOT_RECENT));
		shadow_set(as->shadow, page, entry_make(STATE_RESIDENT, NO_SLOT, here ? age : 0, epoch, entry & ENTRY_PINNED));
	}
}

/* How a COPY or ZEROPAGE for one fault ended. */
static enum fault_result conclude(struct fault_context *context, struct fault *fault, int error)
{
	struct address_space *as = fault->as;
	switch (error) {
	case 0:
		return FAULT_DONE;
	case -EAGAIN:
	case -ENOMEM: /* the system or its cgroup is short of memory: reclaim, then again */
		if (error == -ENOMEM)
			context->pager->callbacks.need_reclaim(context->pager->callbacks.context);
		return FAULT_DEFERRED;
	case -ESRCH:
		atomic_store(&as->dead, true);
		return FAULT_DONE;
	case -EEXIST: /* somebody filled it meanwhile */
	case -ENOENT: /* unmapped meanwhile: the thread faults again and gets its answer from the kernel */
		uffd_wake(as->uffd, fault->page, PAGE_BYTES);
		return FAULT_DONE;
	default:
		log_error("cannot fill page %#llx of process %d: %s", (unsigned long long)fault->page, as->pid, strerror(-error));
		fatal(context, "a missing page could not be filled");
		return FAULT_DONE;
	}
}

/* How many pages from `page` (up or down) are as new as it is, inside its mapping. Returns the start of the window. */
static remote_addr_t new_window(struct address_space *as, remote_addr_t page, struct window window, uint32_t *ret_pages)
{
	struct range range;
	uint32_t n = 1;
	bool known = window.pages > 1 && registration_extent(as, page, &range);
	while (known && n < window.pages) {
		remote_addr_t next = window.down ? page - (uint64_t)n * PAGE_BYTES : page + (uint64_t)n * PAGE_BYTES;
		shadow_entry_t entry = shadow_get(as->shadow, next);
		if (next < range.start || next >= range.end || entry)
			break;
		n++;
	}
	*ret_pages = n;
	return window.down ? page - (uint64_t)(n - 1) * PAGE_BYTES : page;
}

/* A read of memory never written gives the zero page, which takes no memory (LINEAGE C2: sparse memory stays sparse). */
static enum fault_result fill_zero_page(struct fault_context *context, struct fault *fault)
{
	struct address_space *as = fault->as;
	shadow_entry_t entry = shadow_get(as->shadow, fault->page);
	uint64_t done;
	int r = uffd_zeropage(as->uffd, fault->page, PAGE_BYTES, &done);
	if (done)
		shadow_set(as->shadow, fault->page, entry & ENTRY_PINNED);
	return conclude(context, fault, done ? 0 : r);
}

static enum fault_result fill_new(struct fault_context *context, struct fault *fault)
{
	struct address_space *as = fault->as;
	if (!fault->write)
		return fill_zero_page(context, fault);
	struct window window = streams_fault(&as->streams, fault->page, context->pager->max_window);
	uint32_t want;
	remote_addr_t start = new_window(as, fault->page, window, &want);
	uint64_t granted = prepare(context, fault, want);
	if (!granted)
		return FAULT_DEFERRED;
	if (granted < want) { /* what there is room for, with the faulting page in it */
		start = window.down ? fault->page - (granted - 1) * PAGE_BYTES : fault->page;
		want = (uint32_t)granted;
	}
	uint64_t done = 0;
	int r = uffd_copy(as->uffd, start, context->zeros, (uint64_t)want * PAGE_BYTES, false, &done);
	bool covers_fault = start + done > fault->page;
	if (!covers_fault && want > 1 && r != -EAGAIN && r != -ESRCH) { /* the window met something: only the page itself */
		if (done)
			record_filled(as, start, done / PAGE_BYTES, fault->page, 0);
		charge_commit(context->pager->charge, done / PAGE_BYTES);
		charge_cancel(context->pager->charge, want - 1 - done / PAGE_BYTES);
		want = 1;
		start = fault->page;
		r = uffd_copy(as->uffd, start, context->zeros, PAGE_BYTES, false, &done);
		covers_fault = done > 0;
	}
	if (done)
		record_filled(as, start, done / PAGE_BYTES, fault->page, 0);
	charge_commit(context->pager->charge, done / PAGE_BYTES);
	charge_cancel(context->pager->charge, want - done / PAGE_BYTES);
	streams_filled(&as->streams, window.stream, start, covers_fault ? (uint32_t)(done / PAGE_BYTES) : 1);
	return conclude(context, fault, covers_fault ? 0 : r);
}

static enum fault_result fill_zeros_again(struct fault_context *context, struct fault *fault, shadow_entry_t entry)
{
	struct address_space *as = fault->as;
	uint64_t done;
	if (!fault->write)
		return fill_zero_page(context, fault);
	if (!prepare(context, fault, 1))
		return FAULT_DEFERRED;
	int r = uffd_copy(as->uffd, fault->page, context->zeros, PAGE_BYTES, false, &done);
	charge_commit(context->pager->charge, done / PAGE_BYTES);
	charge_cancel(context->pager->charge, 1 - done / PAGE_BYTES);
	if (done)
		record_filled(as, fault->page, 1, fault->page,
			      pager_age_at_refault(context->pager, fault->page, entry_epoch(entry)));
	return conclude(context, fault, done ? 0 : r);
}

static enum fault_result fill_from_batch(struct fault_context *context, struct fault *fault, shadow_entry_t entry, const uint8_t *content)
{
	struct address_space *as = fault->as;
	uint64_t done;
	if (!prepare(context, fault, 1))
		return FAULT_DEFERRED;
	int r = uffd_copy(as->uffd, fault->page, content, PAGE_BYTES, true, &done);
	charge_commit(context->pager->charge, done / PAGE_BYTES);
	charge_cancel(context->pager->charge, 1 - done / PAGE_BYTES);
	if (done) {
		unsigned age = pager_age_at_refault(context->pager, fault->page, entry_epoch(entry));
		as->fills++;
		shadow_set(as->shadow, fault->page,
			   entry_make(STATE_RESIDENT, entry_slot(entry), age, fill_epoch(as), entry & ENTRY_PINNED));
	}
	return conclude(context, fault, done ? 0 : r);
}

static struct load *load_take(struct fault_context *context)
{
	for (uint32_t i = 0; i < NR_LOADS; i++)
		if (!context->loads[i].as)
			return &context->loads[i];
	return NULL;
}

/* How far the window reaches over evicted pages whose slots continue the faulting page's, so that one read brings them all. */
static uint32_t swapped_window(const struct address_space *as, remote_addr_t page, slot_t slot, struct window window)
{
	uint32_t n = 1;
	for (; n < window.pages; n++) {
		remote_addr_t next = window.down ? page - (uint64_t)n * PAGE_BYTES : page + (uint64_t)n * PAGE_BYTES;
		slot_t expected = window.down ? slot - n : slot + n;
		shadow_entry_t entry = shadow_get(as->shadow, next);
		/* A slot that another process's batch has written: nobody told this entry. */
		if (entry_state(entry) == STATE_STAGED && entry_slot(entry) == expected && !writeback_has(as->pager->writeback, expected)) {
			entry = (entry & ~ENTRY_STATE_MASK) | STATE_SWAPPED;
			shadow_set(as->shadow, next, entry);
		}
		if (entry_state(entry) != STATE_SWAPPED || (entry & ENTRY_LOADING) || entry_slot(entry) != expected)
			break;
	}
	return n;
}

/* Reads nr pages from start on, whose slots follow each other and for which room is reserved, into a free load. */
static void begin_load(struct fault_context *context, struct load *load, struct address_space *as, remote_addr_t start, uint32_t nr)
{
	*load = (struct load){.as = address_space_get(as),
			      .start = start,
			      .nr_pages = nr,
			      .fault_page = NOBODY_WAITS,
			      .first_slot = entry_slot(shadow_get(as->shadow, start)),
			      .buffer = load->buffer};
	for (uint32_t i = 0; i < nr; i++) {
		remote_addr_t page = start + (uint64_t)i * PAGE_BYTES;
		swap_get(context->pager->swap, load->first_slot + i);
		shadow_set(as->shadow, page, shadow_get(as->shadow, page) | ENTRY_LOADING);
	}
	int r = swap_io_read(context->io, load->first_slot, nr, load->buffer, load);
	if (r < 0) {
		log_error("cannot read swap file %s: %s", swap_path(context->pager->swap), strerror(-r));
		fatal(context, "an evicted page could not be read");
	}
	stat_add(context->pager->stats, swap_in, nr);
}

static bool is_resident(const struct address_space *as, remote_addr_t page)
{
	return entry_state(shadow_get(as->shadow, page)) == STATE_RESIDENT;
}

/* Tells the stream what it brings in, and, when it has proved itself, what is in memory already where its reader will pass. */
static void note_filled(struct address_space *as, const struct load *load, struct window window)
{
	uint32_t passed = 0;
	remote_addr_t end = load->start + (uint64_t)load->nr_pages * PAGE_BYTES;
	streams_filled(&as->streams, window.stream, load->start, load->nr_pages);
	if (window.pages < STREAM_ESTABLISHED)
		return;
	if (window.down)
		while (passed < STREAM_MAX_PASSED && is_resident(as, load->start - (passed + 1ull) * PAGE_BYTES))
			passed++;
	else
		while (passed < STREAM_MAX_PASSED && is_resident(as, end + (uint64_t)passed * PAGE_BYTES))
			passed++;
	streams_pass_over(&as->streams, window.stream, window.down ? 0 : passed, window.down ? passed : 0);
}

static enum fault_result start_load(struct fault_context *context, struct fault *fault, shadow_entry_t entry)
{
	struct address_space *as = fault->as;
	struct load *load = load_take(context);
	if (!load)
		return FAULT_DEFERRED;
	struct window window = streams_fault(&as->streams, fault->page, context->pager->max_window);
	uint32_t want = swapped_window(as, fault->page, entry_slot(entry), window);
	uint64_t granted = prepare(context, fault, want);
	if (!granted)
		return FAULT_DEFERRED;
	uint32_t below = window.down ? (uint32_t)granted - 1 : 0;
	begin_load(context, load, as, fault->page - (uint64_t)below * PAGE_BYTES, (uint32_t)granted);
	load->fault_page = below;
	load->write = fault->write;
	load->sequential = window.pages >= STREAM_ESTABLISHED;
	load->down = window.down;
	note_filled(as, load, window);
	stat_add(context->pager->stats, readahead, load->nr_pages - 1);
	return FAULT_DONE;
}

enum fault_result fault_handle(struct fault_context *context, struct fault *fault)
{
	_Alignas(4096) uint8_t content[PAGE_BYTES];
	struct address_space *as = fault->as;
	shadow_entry_t entry = shadow_get(as->shadow, fault->page);
	switch (entry_state(entry)) {
	case STATE_RESIDENT: /* it was resident and is not: the program gave it back, an event said so; a slot is out of date */
		if (entry_slot(entry) != NO_SLOT)
			swap_put(context->pager->swap, entry_slot(entry));
		shadow_set(as->shadow, fault->page, entry & ENTRY_PINNED);
		return fill_new(context, fault);
	case STATE_NONE:
		return fill_new(context, fault);
	case STATE_ZERO:
		return fill_zeros_again(context, fault, entry);
	case STATE_STAGED: {
		int found = writeback_find(context->pager->writeback, entry_slot(entry), content);
		if (found < 0)
			return FAULT_DEFERRED;
		if (found)
			return fill_from_batch(context, fault, entry, content);
		entry = (entry & ~ENTRY_STATE_MASK) | STATE_SWAPPED; /* written meanwhile */
		shadow_set(as->shadow, fault->page, entry);
		return start_load(context, fault, entry);
	}
	case STATE_SWAPPED:
		return entry & ENTRY_LOADING ? FAULT_DONE : start_load(context, fault, entry);
	case NR_STATES:
		break;
	}
	fatal(context, "the page table is damaged");
	return FAULT_DONE;
}

/*
 * The entry says evicted, but the kernel knows better: the page is in memory, which is the truth then (EEXIST), or its address is not in a
 * registered mapping (ENOENT: a child of a fork has its parent's entries for what it did not inherit). Neither is said while an event is
 * unread (EAGAIN goes first), so no entry is lost that an event would have moved elsewhere.
 */
static void drop_stale(struct pager *pager, struct address_space *as, remote_addr_t page)
{
	shadow_entry_t entry = shadow_get(as->shadow, page);
	if (entry_slot(entry) != NO_SLOT)
		swap_put(pager->swap, entry_slot(entry));
	shadow_set(as->shadow, page, entry & ENTRY_PINNED);
	uffd_wake(as->uffd, page, PAGE_BYTES);
}

/* A page whose content is still in a batch. */
static uint32_t bring_back_staged(struct fault_context *context, struct address_space *as, remote_addr_t page, const uint8_t *content)
{
	struct fault fault = {.as = as, .page = page, .counted = true, .dry_seq = atomic_load(&context->pager->dry_seq)};
	if (fill_from_batch(context, &fault, shadow_get(as->shadow, page), content) == FAULT_DEFERRED)
		return 0;
	if (entry_is_evicted(shadow_get(as->shadow, page)) && !atomic_load(&as->dead))
		drop_stale(context->pager, as, page);
	return 1;
}

uint32_t fault_bring_back(struct fault_context *context, struct address_space *as, remote_addr_t page, uint32_t max)
{
	_Alignas(4096) uint8_t content[PAGE_BYTES];
	shadow_entry_t entry = shadow_get(as->shadow, page);
	if (entry & ENTRY_LOADING || (entry_state(entry) != STATE_STAGED && entry_state(entry) != STATE_SWAPPED))
		return 1;
	if (entry_state(entry) == STATE_STAGED) {
		int found = writeback_find(context->pager->writeback, entry_slot(entry), content);
		if (found)
			return found < 0 ? 0 : bring_back_staged(context, as, page, content);
		entry = (entry & ~ENTRY_STATE_MASK) | STATE_SWAPPED;
		shadow_set(as->shadow, page, entry);
	}
	struct load *load = load_take(context);
	struct window window = {.pages = MIN_OF(max, LOAD_MAX_PAGES)};
	if (!load)
		return 0;
	uint64_t room = swapped_window(as, page, entry_slot(entry), window);
	if (atomic_load(&as->leaves))
		charge_prepare_forced(context->pager->charge, room);
	else
		room = charge_prepare(context->pager->charge, 1, room, false);
	if (!room)
		return 0;
	begin_load(context, load, as, page, (uint32_t)room);
	return (uint32_t)room;
}

static void record_loaded(struct fault_context *context, struct load *load, uint32_t first, uint32_t nr)
{
	struct address_space *as = load->as;
	for (uint32_t i = first; i < first + nr; i++) {
		remote_addr_t page = load->start + (uint64_t)i * PAGE_BYTES;
		shadow_entry_t entry = shadow_get(as->shadow, page);
		bool asked = i == load->fault_page;
		bool used = asked || load->sequential;
		unsigned age = used ? pager_age_at_refault(context->pager, page, entry_epoch(entry)) : 0;
		uint8_t epoch = (uint8_t)(fill_epoch(as) + (asked ? 0 : NOT_RECENT));
		uint64_t flags = (entry & ENTRY_PINNED) | (asked && load->write ? 0 : ENTRY_ARMED);
		shadow_set(as->shadow, page, entry_make(STATE_RESIDENT, entry_slot(entry), age, epoch, flags));
	}
}

/*
 * Puts a run of wanted pages in. Returns how many pages were settled (put in, or found needless), 0 when it has to be tried again.
 * Layout lock held.
 */
static uint32_t put_in_run(struct fault_context *context, struct load *load, uint32_t first, uint32_t nr)
{
	struct address_space *as = load->as;
	uint64_t done = 0;
	int r = uffd_copy(as->uffd, load->start + (uint64_t)first * PAGE_BYTES, load->buffer + (uint64_t)first * PAGE_BYTES,
			  (uint64_t)nr * PAGE_BYTES, true, &done);
	uint32_t pages = (uint32_t)(done / PAGE_BYTES);
	if (pages) {
		record_loaded(context, load, first, pages);
		if (load->nr_pages > 1)
			address_space_trace(as, TRACE_FILLED, load->down ? TRACE_FLAG_DOWN : 0, load->start + (uint64_t)first * PAGE_BYTES, pages);
		charge_commit(context->pager->charge, pages);
		return pages;
	}
	if (r == -EAGAIN || r == -ENOMEM)
		return 0;
	if (r == -ESRCH)
		atomic_store(&as->dead, true);
	if (nr > 1 && r != -EEXIST) /* a mapping ends inside the run: page by page */
		return put_in_run(context, load, first, 1);
	if (r == -EEXIST || r == -ENOENT)
		drop_stale(context->pager, as, load->start + (uint64_t)first * PAGE_BYTES);
	else
		abandon(load, first, 1);
	charge_cancel(context->pager->charge, 1);
	return 1;
}

/* Drops the first n pages of a load: they are settled. */
static void load_advance(struct fault_context *context, struct load *load, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		swap_put(context->pager->swap, load->first_slot + i);
	load->start += (uint64_t)n * PAGE_BYTES;
	load->first_slot += n;
	load->nr_pages -= n;
	load->fault_page = load->fault_page >= n && load->fault_page != NOBODY_WAITS ? load->fault_page - n : NOBODY_WAITS;
	load->buffer += (uint64_t)n * PAGE_BYTES;
}

/*
 * Races: while the read was in flight without the lock, the program may have unmapped, moved or discarded pages of the window (their entries
 * no longer name the slot: skipped), and an unread event makes COPY refuse (tried again after it is read, with a fresh look at the table).
 * Waiters on skipped pages are woken: they fault again and get what the table says now.
 */
static void load_put_in(struct fault_context *context, struct load *load)
{
	struct address_space *as = load->as;
	lock_take(&as->layout);
	if (load->fault_page != NOBODY_WAITS)
		as->fills++;
	while (load->nr_pages) {
		uint32_t n = 0;
		while (n < load->nr_pages && is_wanted(load, n))
			n++;
		if (n) {
			n = put_in_run(context, load, 0, n);
			if (!n)
				break;
		} else {
			uffd_wake(as->uffd, load->start, PAGE_BYTES);
			charge_cancel(context->pager->charge, 1);
			n = 1;
		}
		load_advance(context, load, n);
	}
	lock_drop(&as->layout);
}

static uint8_t *load_home(struct fault_context *context, const struct load *load)
{
	return context->buffers + (uint64_t)(load - context->loads) * LOAD_MAX_PAGES * PAGE_BYTES;
}

/* True when every page is what was written. Otherwise the container is on its way to be killed, with file and offset named. */
static bool load_verify(struct fault_context *context, const struct load *load, int result)
{
	struct swap *swap = context->pager->swap;
	char reason[256];
	unsigned long long offset = (unsigned long long)load->first_slot * PAGE_BYTES;
	if (result < 0) {
		snprintf(reason, sizeof(reason), "cannot read swap file %s at offset %llu: %s", swap_path(swap), offset, strerror(-result));
		fatal(context, reason);
		return false;
	}
	for (uint32_t i = 0; i < load->nr_pages; i++) {
		const uint8_t *content = load->buffer + (uint64_t)i * PAGE_BYTES;
		if (swap_page_checksum(swap, content) == swap_checksum(swap, load->first_slot + i))
			continue;
		snprintf(reason, sizeof(reason), "swap file %s is damaged at offset %llu: checksum mismatch", swap_path(swap),
			 offset + (unsigned long long)i * PAGE_BYTES);
		fatal(context, reason);
		return false;
	}
	return true;
}

int fault_reap_loads(struct fault_context *context)
{
	struct swap_completion done[NR_LOADS];
	int progress = 0;
	int n = context->io && swap_io_in_flight(context->io) ? swap_io_reap(context->io, done, NR_LOADS, false) : 0;
	for (int i = 0; i < n; i++) {
		struct load *load = done[i].token;
		load->is_read = load_verify(context, load, done[i].result);
		if (!load->is_read) { /* never wrong bytes: the waiters stay where they are until they are killed */
			charge_cancel(context->pager->charge, load->nr_pages);
			load_release(context, load);
		}
	}
	for (uint32_t i = 0; i < NR_LOADS; i++) {
		struct load *load = &context->loads[i];
		if (!load->as || !load->is_read)
			continue;
		uint32_t before = load->nr_pages;
		load_put_in(context, load);
		progress += load->nr_pages != before;
		if (load->nr_pages)
			continue;
		load_release(context, load);
		load->buffer = load_home(context, load);
	}
	return progress + n;
}

bool fault_has_loads(const struct fault_context *context)
{
	for (uint32_t i = 0; i < NR_LOADS; i++)
		if (context->loads[i].as)
			return true;
	return false;
}
