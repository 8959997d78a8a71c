#include "pager/load.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "pager/events.h"
#include "pager/fault_internal.h"
#include "pager/forkless.h"
#include "pager/writeback.h"
#include "platform/userfaultfd.h"

/* fault_page of a load that is readahead only. */
#define NOBODY_WAITS UINT32_MAX
#define GATE_NS 10000000ull  /* a reader that takes longer for a window waits for no disk as it is */
#define NR_GATES (NR_LOADS / 4) /* with what is behind them they take half of the loads: faults find the others */

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

void load_give_up(struct fault_context *context, struct load *load)
{
	lock_take(&load->as->layout);
	abandon(load, 0, load->nr_pages);
	lock_drop(&load->as->layout);
	charge_cancel(context->pager->charge, load->nr_pages);
	load_release(context, load);
}

static struct load *load_take(struct fault_context *context)
{
	for (uint32_t i = 0; i < NR_LOADS; i++)
		if (!context->loads[i].as)
			return &context->loads[i];
	return NULL;
}

/* Its content is in the file and nowhere else, and nobody is reading it. */
static bool is_to_be_read(const struct pager *pager, shadow_entry_t entry)
{
	return entry_state(entry) == STATE_SWAPPED && !(entry & ENTRY_LOADING) && !fault_is_in_pool(pager, entry_slot(entry)) &&
	       swap_has_arrived(pager->swap, entry_slot(entry));
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
		if (entry_slot(entry) != expected || !is_to_be_read(as->pager, entry))
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
		fault_fatal(context, "an evicted page could not be read");
	}
	stat_add(context->pager->stats, swap_in, nr);
}

/* One for the gate and one for what is behind it. */
static bool has_loads_for_gate(const struct fault_context *context)
{
	uint32_t nr_gates = 0, nr_free = 0;
	for (uint32_t i = 0; i < NR_LOADS; i++) {
		nr_gates += context->loads[i].as && context->loads[i].is_gate;
		nr_free += !context->loads[i].as;
	}
	return nr_gates < NR_GATES && nr_free > 1;
}

/*
 * While a sequential reader uses one window the next is read, so that the disk does not wait for the reader (asynchronous readahead, as in the kernel's
 * mm/readahead.c). The page where the reader will arrive is the gate: what is behind it is put in as it comes, the gate itself when the reader faults on it, which
 * has the window after it read, or when nobody has for a while.
 */
static void read_ahead(struct fault_context *context, struct address_space *as, struct window window, remote_addr_t page)
{
	struct pager *pager = context->pager;
	shadow_entry_t entry = shadow_get(as->shadow, page);
	if (window.pages < POOL_MAX_WINDOW || !has_loads_for_gate(context) || !is_to_be_read(pager, entry))
		return;
	uint32_t granted = (uint32_t)fault_prepare_if_room(pager, swapped_window(as, page, entry_slot(entry), window), false);
	if (granted < 2) {
		charge_cancel(pager->charge, granted);
		return;
	}
	struct load *gate = load_take(context);
	begin_load(context, gate, as, page, 1);
	gate->is_gate = true;
	gate->down = window.down;
	gate->nr_behind = granted - 1;
	gate->begun_ns = monotonic_ns();
	struct load *rest = load_take(context);
	begin_load(context, rest, as, fault_chunk_start(page, window.down, 1, gate->nr_behind), gate->nr_behind);
	rest->sequential = true;
	rest->down = window.down;
	stat_add(pager->stats, readahead, gate->nr_behind);
}

/* The reader has come, or is taken to have passed without a fault. Layout lock held. Returns the window that is next. */
static struct window open_gate(struct fault_context *context, struct load *gate)
{
	struct address_space *as = gate->as;
	struct window window = streams_fault(&as->streams, gate->start, context->pager->max_window);
	gate->is_gate = false;
	gate->sequential = true;
	if (window.pages >= STREAM_ESTABLISHED)
		fault_note_filled(as, fault_chunk_start(gate->start, gate->down, 0, 1 + gate->nr_behind), 1 + gate->nr_behind, window);
	return window;
}

void load_pass_gate(struct fault_context *context, const struct fault *fault)
{
	for (uint32_t i = 0; i < NR_LOADS; i++) {
		struct load *gate = &context->loads[i];
		if (gate->as != fault->as || !gate->is_gate || gate->start != fault->page)
			continue;
		struct window window = open_gate(context, gate);
		gate->fault_page = 0;
		gate->write = fault->write;
		pager_note_refault(context->pager, false, entry_epoch(shadow_get(gate->as->shadow, gate->start)));
		read_ahead(context, gate->as, window, fault_chunk_start(gate->start, gate->down, 1 + gate->nr_behind, 1));
		return;
	}
}

enum fault_result load_start(struct fault_context *context, struct fault *fault, shadow_entry_t entry)
{
	struct address_space *as = fault->as;
	struct load *load = load_take(context);
	if (!load || !swap_has_arrived(context->pager->swap, entry_slot(entry)))
		return FAULT_DEFERRED;
	struct window window = streams_fault(&as->streams, fault->page, context->pager->max_window);
	uint32_t want = swapped_window(as, fault->page, entry_slot(entry), window);
	uint64_t granted = fault_prepare(context, fault, want);
	if (!granted)
		return FAULT_DEFERRED;
	uint32_t below = window.down ? (uint32_t)granted - 1 : 0;
	pager_note_refault(context->pager, false, entry_epoch(entry));
	begin_load(context, load, as, fault->page - (uint64_t)below * PAGE_BYTES, (uint32_t)granted);
	FAULT_POINT("fault.reading");
	load->fault_page = below;
	load->write = fault->write;
	load->sequential = window.pages >= STREAM_ESTABLISHED;
	load->down = window.down;
	fault_note_filled(as, load->start, load->nr_pages, window);
	stat_add(context->pager->stats, readahead, load->nr_pages - 1);
	read_ahead(context, as, window, fault_chunk_start(fault->page, window.down, load->nr_pages, 1));
	return FAULT_DONE;
}

uint32_t load_bring_back(struct fault_context *context, struct address_space *as, remote_addr_t page, shadow_entry_t entry, uint32_t max)
{
	struct load *load = load_take(context);
	struct window window = {.pages = MIN_OF(max, LOAD_MAX_PAGES)};
	if (!load || !swap_has_arrived(context->pager->swap, entry_slot(entry)))
		return 0;
	uint64_t room = fault_prepare_unasked(context, as, swapped_window(as, page, entry_slot(entry), window));
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
		uint8_t epoch = (uint8_t)(fault_epoch(as) + (asked ? 0 : NOT_RECENT));
		uint64_t flags = (entry & ENTRY_PINNED) | (asked && load->write ? 0 : ENTRY_ARMED) | (asked && !load->sequential ? ENTRY_ALONE : 0);
		forkless_note_slot(as, page, entry_slot(entry));
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
	FAULT_POINT("fault.filled");
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
		fault_drop_stale(context->pager, as, load->start + (uint64_t)first * PAGE_BYTES);
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
	address_space_lock_for_fault(as);
	bool is_settled = events_settle(as);
	if (load->is_gate)
		open_gate(context, load);
	if (load->fault_page != NOBODY_WAITS)
		as->fills++;
	while (is_settled && load->nr_pages) {
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
	uint64_t offset;
	const char *path = swap_locate(swap, load->first_slot, &offset);
	if (result < 0) {
		snprintf(reason, sizeof(reason), "cannot read swap file %s at offset %llu: %s", path, (unsigned long long)offset, strerror(-result));
		fault_fatal(context, reason);
		return false;
	}
	for (uint32_t i = 0; i < load->nr_pages; i++) {
		uint8_t *content = load->buffer + (uint64_t)i * PAGE_BYTES;
		swap_apply_cipher(swap, load->first_slot + i, content);
		if (swap_page_checksum(swap, content) == swap_checksum(swap, load->first_slot + i))
			continue;
		fault_say_damaged(context, load->first_slot + i, false);
		return false;
	}
	return true;
}

static bool is_put_off(const struct load *load)
{
	return load->is_gate && monotonic_ns() - load->begun_ns < GATE_NS;
}

int loads_reap(struct fault_context *context)
{
	struct swap_completion done[NR_LOADS];
	int progress = 0;
	int n = loads_are_read(context) ? swap_io_reap(context->io, done, NR_LOADS, false) : 0;
	for (int i = 0; i < n; i++) {
		struct load *load = done[i].token;
		load->is_read = load_verify(context, load, done[i].result);
		FAULT_POINT("fault.read");
		if (!load->is_read) { /* never wrong bytes: the waiters stay where they are until they are killed */
			charge_cancel(context->pager->charge, load->nr_pages);
			load_release(context, load);
		}
	}
	for (uint32_t i = 0; i < NR_LOADS; i++) {
		struct load *load = &context->loads[i];
		if (!load->as || !load->is_read || is_put_off(load))
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

bool loads_exist(const struct fault_context *context)
{
	for (uint32_t i = 0; i < NR_LOADS; i++)
		if (context->loads[i].as)
			return true;
	return false;
}

bool loads_are_read(const struct fault_context *context)
{
	return context->io && swap_io_in_flight(context->io);
}
