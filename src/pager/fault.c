#include "pager/fault.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "pager/fault_internal.h"
#include "pager/forkless.h"
#include "pager/registration.h"
#include "pager/writeback.h"
#include "platform/userfaultfd.h"
#include "reclaim/clock.h"

/* Fills are counted in units of this many; the pages of the last two units were "used just now" (FACTS rule 12). */
#define FILLS_PER_EPOCH 16
#define NEW_CHUNK_PAGES 32u
#define POOL_CHUNK_PAGES 8 /* decompressed and put in together */
#define HURRY_NS 10000000ull /* after a fault had to wait for room */

static void *map_pages(uint64_t nr_pages)
{
	void *p = mmap(NULL, nr_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

int fault_context_init(struct fault_context *context, struct pager *pager)
{
	*context = (struct fault_context){.pager = pager};
	context->zeros = map_pages(LOAD_MAX_PAGES);
	context->buffers = map_pages((uint64_t)NR_LOADS * LOAD_MAX_PAGES);
	context->chunk = map_pages(POOL_CHUNK_PAGES);
	int r = context->zeros && context->buffers && context->chunk ? 0 : -ENOMEM;
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

void fault_context_release(struct fault_context *context)
{
	swap_io_free(context->io);
	for (uint32_t i = 0; i < NR_LOADS; i++)
		if (context->loads[i].as)
			load_give_up(context, &context->loads[i]);
	if (context->zeros)
		munmap((void *)context->zeros, LOAD_MAX_PAGES * PAGE_BYTES);
	if (context->chunk)
		munmap(context->chunk, POOL_CHUNK_PAGES * PAGE_BYTES);
	if (context->buffers)
		munmap(context->buffers, (uint64_t)NR_LOADS * LOAD_MAX_PAGES * PAGE_BYTES);
}

void fault_fatal(struct fault_context *context, const char *reason)
{
	context->pager->callbacks.fatal(context->pager->callbacks.context, reason);
}

/* Room for some of so many pages, if there is any; reclaim makes more in time. */
uint64_t fault_prepare_if_room(struct pager *pager, uint64_t want, bool counts)
{
	uint64_t granted = charge_prepare(pager->charge, 1, want, counts);
	if (granted && charge_is_near_limit(pager->charge, clock_watermarks(charge_limit(pager->charge)).start))
		pager->callbacks.need_reclaim(pager->callbacks.context);
	return granted;
}

/*
 * Room for a page that somebody waits for, and more for readahead if there is. The agent's own faults (it may break sharing for an eviction
 * that is to make room) and faults that have seen reclaim find nothing more are let in over the limit: the OOM killer looks at the
 * sampled usage, not at single faults. So are faults while reclaim stands still, for who would make room? In a checkpoint it is a held thread that faults,
 * on its restartable sequence (rseq) or in a call that is made for us, and the container thread waits for it before reclaim goes on. One that
 * leaves is not in the next sample, so it waits for nothing.
 */
uint64_t fault_prepare(struct fault_context *context, struct fault *fault, uint64_t want)
{
	struct pager *pager = context->pager;
	struct address_space *as = fault->as;
	uint32_t dry_seq = atomic_load(&pager->dry_seq);
	if (atomic_load(&as->leaves)) {
		charge_prepare_forced(pager->charge, want);
		return want;
	}
	uint64_t granted = fault_prepare_if_room(pager, want, !fault->counted);
	if (granted)
		return granted;
	bool is_agent = as->agent && fault->inner_tid == as->agent->inner_pid;
	if (is_agent || atomic_load(&pager->unreclaimed) || (fault->counted && dry_seq != fault->dry_seq)) {
		charge_prepare_forced(pager->charge, 1);
		return 1;
	}
	atomic_store_explicit(&pager->hurry_until_ns, monotonic_ns() + HURRY_NS, memory_order_relaxed);
	if (!fault->counted) {
		fault->counted = true;
		fault->dry_seq = dry_seq;
	}
	pager->callbacks.need_reclaim(pager->callbacks.context);
	return 0;
}

uint8_t fault_epoch(const struct address_space *as)
{
	return (uint8_t)(as->fills / FILLS_PER_EPOCH);
}

/* Records pages that are resident now and were new: no slot. The faulting one counts as used just now. */
static void record_filled(struct address_space *as, remote_addr_t start, uint64_t nr_pages, remote_addr_t fault_page, unsigned age)
{
	if (nr_pages > 1)
		address_space_trace(as, TRACE_FILLED, fault_page > start ? TRACE_FLAG_DOWN : 0, start, (uint32_t)nr_pages);
	as->fills++;
	forkless_note_zeros(as, start, nr_pages);
	for (remote_addr_t page = start; page < start + nr_pages * PAGE_BYTES; page += PAGE_BYTES) {
		shadow_entry_t entry = shadow_get(as->shadow, page);
		bool here = page == fault_page;
		uint8_t epoch = (uint8_t)(fault_epoch(as) + (here ? 0 : NOT_RECENT));
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
		fault_fatal(context, "a missing page could not be filled");
		return FAULT_DONE;
	}
}

/* How many pages from `page` (up or down) are as new as it is, inside its mapping. */
static uint32_t new_window(struct address_space *as, remote_addr_t page, struct window window)
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
	return n;
}

/* A read of memory never written gives the zero page, which takes no memory (LINEAGE C2: sparse memory stays sparse). */
static enum fault_result fill_zero_page(struct fault_context *context, struct fault *fault)
{
	struct address_space *as = fault->as;
	shadow_entry_t entry = shadow_get(as->shadow, fault->page);
	uint64_t done;
	int r = uffd_zeropage(as->uffd, fault->page, PAGE_BYTES, &done);
	if (done) {
		forkless_note_zeros(as, fault->page, 1);
		shadow_set(as->shadow, fault->page, entry & ENTRY_PINNED);
	}
	return conclude(context, fault, done ? 0 : r);
}

/* Pages that nobody has seen yet, for which room is reserved. 0: all are in; else why the rest is not. *used counts what was charged. */
static int put_in_zeros(struct fault_context *context, const struct fault *fault, remote_addr_t start, uint32_t n, uint64_t *used)
{
	uint64_t done;
	int r = uffd_copy(fault->as->uffd, start, context->zeros, (uint64_t)n * PAGE_BYTES, false, &done);
	FAULT_POINT("fault.new");
	if (done)
		record_filled(fault->as, start, done / PAGE_BYTES, fault->page, 0);
	charge_commit(context->pager->charge, done / PAGE_BYTES);
	*used += done / PAGE_BYTES;
	return done == (uint64_t)n * PAGE_BYTES ? 0 : r;
}

/* The lowest of n pages that follow the first `filled` of a window. */
remote_addr_t fault_chunk_start(remote_addr_t page, bool down, uint32_t filled, uint32_t n)
{
	return down ? page - (filled + n - 1ull) * PAGE_BYTES : page + (uint64_t)filled * PAGE_BYTES;
}

/* The page and its window, nearest first, a chunk at a time: the program goes on with the first ones while the next are filled. */
static enum fault_result fill_new(struct fault_context *context, struct fault *fault)
{
	struct address_space *as = fault->as;
	if (!fault->write)
		return fill_zero_page(context, fault);
	struct window window = streams_fault(&as->streams, fault->page, context->pager->max_window);
	uint32_t want = new_window(as, fault->page, window), filled = 0;
	uint64_t granted = fault_prepare(context, fault, want), used = 0;
	int error = 0;
	if (!granted)
		return FAULT_DEFERRED;
	while (!error && filled < granted) {
		uint32_t n = (uint32_t)MIN_OF(granted - filled, NEW_CHUNK_PAGES);
		error = put_in_zeros(context, fault, fault_chunk_start(fault->page, window.down, filled, n), n, &used);
		filled += error ? 0 : n;
	}
	bool is_in = entry_state(shadow_get(as->shadow, fault->page)) == STATE_RESIDENT;
	if (!is_in && granted > 1 && error != -EAGAIN && error != -ESRCH) { /* the window met something: only the page itself */
		error = put_in_zeros(context, fault, fault->page, 1, &used);
		is_in = !error;
	}
	charge_cancel(context->pager->charge, granted - used);
	filled = MAX_OF(filled, 1);
	streams_filled(&as->streams, window.stream, fault_chunk_start(fault->page, window.down, 0, filled), filled);
	return conclude(context, fault, is_in ? 0 : error);
}

static enum fault_result fill_zeros_again(struct fault_context *context, struct fault *fault, shadow_entry_t entry)
{
	struct address_space *as = fault->as;
	uint64_t done;
	if (!fault->write)
		return fill_zero_page(context, fault);
	if (!fault_prepare(context, fault, 1))
		return FAULT_DEFERRED;
	int r = uffd_copy(as->uffd, fault->page, context->zeros, PAGE_BYTES, false, &done);
	charge_commit(context->pager->charge, done / PAGE_BYTES);
	charge_cancel(context->pager->charge, 1 - done / PAGE_BYTES);
	if (done)
		record_filled(as, fault->page, 1, fault->page,
			      pager_age_at_refault(context->pager, fault->page, entry_epoch(entry)));
	return conclude(context, fault, done ? 0 : r);
}

/* For which room is reserved: committed or cancelled here. */
static int put_in_from_batch(struct fault_context *context, struct address_space *as, remote_addr_t page, shadow_entry_t entry,
			     const uint8_t *content, uint64_t *ret_done)
{
	int r = uffd_copy(as->uffd, page, content, PAGE_BYTES, true, ret_done);
	FAULT_POINT("fault.staged");
	charge_commit(context->pager->charge, *ret_done / PAGE_BYTES);
	charge_cancel(context->pager->charge, 1 - *ret_done / PAGE_BYTES);
	if (*ret_done) {
		unsigned age = pager_age_at_refault(context->pager, page, entry_epoch(entry));
		as->fills++;
		forkless_note_slot(as, page, entry_slot(entry));
		shadow_set(as->shadow, page, entry_make(STATE_RESIDENT, entry_slot(entry), age, fault_epoch(as), entry & ENTRY_PINNED));
	}
	return r;
}

static enum fault_result fill_from_batch(struct fault_context *context, struct fault *fault, shadow_entry_t entry, const uint8_t *content)
{
	uint64_t done;
	if (!fault_prepare(context, fault, 1))
		return FAULT_DEFERRED;
	int r = put_in_from_batch(context, fault->as, fault->page, entry, content, &done);
	return conclude(context, fault, done ? 0 : r);
}

bool fault_is_in_pool(const struct pager *pager, slot_t slot)
{
	return pager->pool && pool_has(pager->pool, slot);
}

/*
 * The container is on its way to be killed, with file and offset named: the waiters stay where they are until then (never wrong bytes). What was
 * compressed in memory is not the file's fault.
 */
void fault_say_damaged(struct fault_context *context, slot_t slot, bool from_pool)
{
	uint64_t offset;
	const char *path = swap_locate(context->pager->swap, slot, &offset);
	char reason[256];
	if (from_pool)
		snprintf(reason, sizeof(reason), "a compressed page in memory is damaged (for offset %llu): checksum mismatch", (unsigned long long)offset);
	else
		snprintf(reason, sizeof(reason), "swap file %s is damaged at offset %llu: checksum mismatch", path, (unsigned long long)offset);
	fault_fatal(context, reason);
}

/*
 * Decompresses evicted pages from `page` on, downwards or upwards, as far as the pool has them and at most max, to where a chunk that ends or begins
 * with that page puts them. Returns how many, the lowest one's address and its content.
 */
static uint32_t gather_from_pool(struct fault_context *context, const struct address_space *as, remote_addr_t page, bool down, uint32_t max,
				 remote_addr_t *ret_start, uint8_t **ret_content)
{
	struct pager *pager = context->pager;
	uint32_t n = 0;
	for (; n < max; n++) {
		remote_addr_t at = down ? page - (uint64_t)n * PAGE_BYTES : page + (uint64_t)n * PAGE_BYTES;
		uint8_t *content = context->chunk + (down ? POOL_CHUNK_PAGES - 1 - n : n) * PAGE_BYTES;
		shadow_entry_t entry = shadow_get(as->shadow, at);
		if (entry_state(entry) != STATE_SWAPPED || entry & ENTRY_LOADING || !pool_load(pager->pool, entry_slot(entry), content))
			break;
		if (swap_page_checksum(pager->swap, content) != swap_checksum(pager->swap, entry_slot(entry))) {
			fault_say_damaged(context, entry_slot(entry), true);
			break;
		}
	}
	*ret_start = down ? page - (uint64_t)(n ? n - 1 : 0) * PAGE_BYTES : page;
	*ret_content = down ? context->chunk + (POOL_CHUNK_PAGES - n) * PAGE_BYTES : context->chunk;
	return n;
}

static bool is_resident(const struct address_space *as, remote_addr_t page)
{
	return entry_state(shadow_get(as->shadow, page)) == STATE_RESIDENT;
}

/* Tells the stream what is brought in, and, when it has proved itself, what is in memory already where its reader will pass. */
void fault_note_filled(struct address_space *as, remote_addr_t start, uint32_t nr_pages, struct window window)
{
	uint32_t passed = 0;
	remote_addr_t end = start + (uint64_t)nr_pages * PAGE_BYTES;
	streams_filled(&as->streams, window.stream, start, nr_pages);
	if (window.pages < STREAM_ESTABLISHED)
		return;
	if (window.down)
		while (passed < STREAM_MAX_PASSED && is_resident(as, start - (passed + 1ull) * PAGE_BYTES))
			passed++;
	else
		while (passed < STREAM_MAX_PASSED && is_resident(as, end + (uint64_t)passed * PAGE_BYTES))
			passed++;
	streams_pass_over(&as->streams, window.stream, window.down ? 0 : passed, window.down ? passed : 0);
}

/*
 * As a rule the pages leave the pool, which would hold them twice. Those of a sequential reader stay there too: it has seen them for the last time when
 * it is through, and then they leave memory without being compressed once more.
 */
static void record_from_pool(struct fault_context *context, const struct fault *fault, remote_addr_t start, uint32_t nr, bool keep)
{
	struct address_space *as = fault->as;
	for (uint32_t i = 0; i < nr; i++) {
		remote_addr_t page = start + (uint64_t)i * PAGE_BYTES;
		shadow_entry_t entry = shadow_get(as->shadow, page);
		bool asked = page == fault->page;
		unsigned age = asked || keep ? pager_age_at_refault(context->pager, page, entry_epoch(entry)) : 0;
		uint8_t epoch = (uint8_t)(fault_epoch(as) + (asked ? 0 : NOT_RECENT));
		uint64_t flags = (entry & ENTRY_PINNED) | (fault->write ? 0 : ENTRY_ARMED);
		forkless_note_slot(as, page, entry_slot(entry));
		if (!keep)
			swap_put(context->pager->swap, entry_slot(entry));
		shadow_set(as->shadow, page, entry_make(STATE_RESIDENT, keep ? entry_slot(entry) : NO_SLOT, age, epoch, flags));
	}
	stat_add(context->pager->stats, pool_in, nr);
}

/* 0: all n pages are in; else why the rest is not. *used counts what was charged. */
static int put_in_from_pool(struct fault_context *context, const struct fault *fault, remote_addr_t start, const uint8_t *content, uint32_t n,
			    bool keep, uint64_t *used)
{
	uint64_t done;
	int r = uffd_copy(fault->as->uffd, start, content, (uint64_t)n * PAGE_BYTES, !fault->write, &done);
	FAULT_POINT("fault.pooled");
	uint32_t pages = (uint32_t)(done / PAGE_BYTES);
	record_from_pool(context, fault, start, pages, keep);
	charge_commit(context->pager->charge, pages);
	*used += pages;
	return pages == n ? 0 : r;
}

/*
 * The page and its window, nearest first, a chunk at a time: the program goes on with the first ones while the next are decompressed. All in one
 * hold of the layout lock, so nothing of the window changes meanwhile; only what is in the pool may leave it for the file.
 */
static enum fault_result fill_from_pool(struct fault_context *context, struct fault *fault, struct window window, uint64_t granted)
{
	struct address_space *as = fault->as;
	bool keep = window.pages > 1 && !fault->write;
	uint8_t evicted = entry_epoch(shadow_get(as->shadow, fault->page));
	uint64_t used = 0;
	uint32_t filled = 0;
	int error = 0;
	while (!error && filled < granted) {
		uint64_t distance = (uint64_t)filled * PAGE_BYTES;
		remote_addr_t start, page = window.down ? fault->page - distance : fault->page + distance;
		uint8_t *content;
		uint32_t n = gather_from_pool(context, as, page, window.down, (uint32_t)MIN_OF(granted - filled, POOL_CHUNK_PAGES), &start, &content);
		if (!n)
			break;
		error = put_in_from_pool(context, fault, start, content, n, keep, &used);
		if (!error)
			filled += n;
	}
	if (entry_is_evicted(shadow_get(as->shadow, fault->page)) && error && error != -EAGAIN && used < granted) {
		remote_addr_t start; /* something is in the way in the window: the page alone */
		uint8_t *content;
		if (gather_from_pool(context, as, fault->page, window.down, 1, &start, &content))
			error = put_in_from_pool(context, fault, start, content, 1, keep, &used);
	}
	charge_cancel(context->pager->charge, granted - used);
	as->fills += used > 0;
	if (filled) {
		pager_note_refault(context->pager, true, evicted);
		fault_note_filled(as, window.down ? fault->page - (uint64_t)(filled - 1) * PAGE_BYTES : fault->page, filled, window);
		stat_add(context->pager->stats, readahead, filled - 1);
	}
	if (entry_is_evicted(shadow_get(as->shadow, fault->page)))
		return error ? conclude(context, fault, error) : FAULT_DEFERRED; /* not in the pool any more: now in the file */
	return FAULT_DONE;
}

/* Content in memory, in the pool or, below, in the file. */
static enum fault_result start_fill(struct fault_context *context, struct fault *fault, shadow_entry_t entry)
{
	struct address_space *as = fault->as;
	if (!fault_is_in_pool(context->pager, entry_slot(entry)))
		return load_start(context, fault, entry);
	struct window window = streams_fault(&as->streams, fault->page, MIN_OF(POOL_MAX_WINDOW, context->pager->max_window));
	uint64_t granted = fault_prepare(context, fault, window.pages);
	return granted ? fill_from_pool(context, fault, window, granted) : FAULT_DEFERRED;
}

/* Never a wrong byte. */
static enum fault_result refuse_unknown(const struct fault *fault)
{
	log_error("process %d is killed: page %#llx was evicted and unmapped while another thread of its parent forked, so what it held is not known",
		  fault->as->pid, (unsigned long long)fault->page);
	kill(fault->as->pid, SIGKILL);
	return FAULT_DONE;
}

enum fault_result fault_handle(struct fault_context *context, struct fault *fault)
{
	_Alignas(4096) uint8_t content[PAGE_BYTES];
	struct address_space *as = fault->as;
	shadow_entry_t entry = shadow_get(as->shadow, fault->page);
	if (atomic_load_explicit(&as->lost, memory_order_relaxed))
		return FAULT_DONE;
	if (entry & ENTRY_UNKNOWN)
		return refuse_unknown(fault);
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
		entry = (entry & ~ENTRY_STATE_MASK) | STATE_SWAPPED; /* stored meanwhile */
		shadow_set(as->shadow, fault->page, entry);
		return start_fill(context, fault, entry);
	}
	case STATE_SWAPPED:
		if (!(entry & ENTRY_LOADING))
			return start_fill(context, fault, entry);
		load_pass_gate(context, fault);
		return FAULT_DONE;
	case NR_STATES:
		break;
	}
	fault_fatal(context, "the page table is damaged");
	return FAULT_DONE;
}

/*
 * The entry says evicted, but the kernel knows better: the page is in memory, which is the truth then (EEXIST), or its address is not in a
 * registered mapping (ENOENT: a child of a fork has its parent's entries for what it did not inherit). uffd_copy says neither while an event is
 * unread, so no entry is lost that an event would have moved elsewhere.
 */
void fault_drop_stale(struct pager *pager, struct address_space *as, remote_addr_t page)
{
	shadow_entry_t entry = shadow_get(as->shadow, page);
	if (entry_slot(entry) != NO_SLOT)
		swap_put(pager->swap, entry_slot(entry));
	shadow_set(as->shadow, page, entry & ENTRY_PINNED);
	uffd_wake(as->uffd, page, PAGE_BYTES);
}

/* How putting one page back ended that nobody waits for: 1 when it is settled, 0 when it has to be tried again. */
static uint32_t settle_brought_back(struct fault_context *context, struct address_space *as, remote_addr_t page, int error)
{
	if (error == -EEXIST || error == -ENOENT)
		fault_drop_stale(context->pager, as, page);
	else if (error == -ESRCH)
		atomic_store(&as->dead, true);
	else if (error && error != -EAGAIN && error != -ENOMEM)
		fault_fatal(context, "an evicted page could not be put back");
	return !error || error == -EEXIST || error == -ENOENT || error == -ESRCH;
}

uint64_t fault_prepare_unasked(struct fault_context *context, const struct address_space *as, uint64_t want)
{
	if (!atomic_load(&as->leaves))
		return charge_prepare(context->pager->charge, 1, want, false);
	charge_prepare_forced(context->pager->charge, want);
	return want;
}

/* A page whose content is in the pool. */
static uint32_t bring_back_pooled(struct fault_context *context, struct address_space *as, remote_addr_t page)
{
	struct fault nobody = {.as = as, .page = page};
	remote_addr_t start;
	uint8_t *content;
	uint64_t used = 0;
	int error = -EAGAIN;
	if (!fault_prepare_unasked(context, as, 1))
		return 0;
	if (gather_from_pool(context, as, page, false, 1, &start, &content))
		error = put_in_from_pool(context, &nobody, page, content, 1, false, &used);
	charge_cancel(context->pager->charge, 1 - used);
	return settle_brought_back(context, as, page, error);
}

/* A page whose content is still in a batch. */
static uint32_t bring_back_staged(struct fault_context *context, struct address_space *as, remote_addr_t page, const uint8_t *content)
{
	shadow_entry_t entry = shadow_get(as->shadow, page);
	uint64_t done = 0;
	if (!fault_prepare_unasked(context, as, 1))
		return 0;
	int error = put_in_from_batch(context, as, page, entry, content, &done);
	return settle_brought_back(context, as, page, done ? 0 : error);
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
	if (fault_is_in_pool(context->pager, entry_slot(entry)))
		return bring_back_pooled(context, as, page);
	return load_bring_back(context, as, page, entry, max);
}
