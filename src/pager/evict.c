/*
 * One eviction, in the order that keeps it right whatever the program does meanwhile (FACTS sections 2 and 4):
 *
 *   take slots
 *   under the layout lock
 *     1 pin the pages that thread exit writes to
 *     2 choose runs of resident pages (PAGEMAP_SCAN from the clock hand)
 *     3 agent: MOVE them to stage 1 on the program's userfaultfd, which refuses while an event is unread, then on to stage 2
 *     4 look at the staging ranges: PRESENT there means moved, whatever the ioctl said
 *     5 record the slots (STAGED); from now on a fault finds the page through the batch
 *   outside the lock
 *     6 read stage 2 into the batch and checksum it, with the store thread's help (capture.h); the agent discards stage 2 during 7
 *     7 settle zero and clean pages
 *     8 uncharge: the pages are gone from the program's memory just now, so that a sample of it does not miss them by much
 *     9 compress or write
 *
 * During 2 the lock is dropped for faults that wait, see choose_with_faults_let_in.
 *
 * Who else can be there: threads of the program touch, unmap and fork at any moment. A touch of a page between 3 and 5 raises a fault whose message
 * is read under the same lock, so after 5. An unmap, remap, discard or fork either came before 3 and is unread (MOVE refuses) or comes after
 * and is applied after 5. A thread created after 1 whose record was captured is found by looking at the threads again in 5.
 */
#include "pager/evict.h"

#include <errno.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "pager/capture.h"
#include "pager/events.h"
#include "pager/forkless.h"
#include "pager/precopy.h"
#include "pager/registration.h"
#include "pager/writeback.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/userfaultfd.h"
#include "reclaim/clock.h"

#define MAX_RUNS 96              /* MOVE operations in one transaction: bounds how long the lock is held when memory is scattered */
#define MAX_LOOK 1024            /* pages in one look at the page tables */
#define MAX_LOOKED_AT 16384      /* resident pages passed by in one transaction */
#define MAX_BUSY_PAGES 256       /* pages whose sharing is broken in one go */

struct run {
	remote_addr_t start;
	uint32_t nr_pages;
};

struct transaction {
	struct address_space *as;
	struct batch *batch;
	uint32_t want;
	uint32_t looked_at;
	uint32_t removed;
	struct run runs[MAX_RUNS];
	uint32_t nr_runs, nr_pages;
	struct agent_op ops[MAX_RUNS + 1];
	const struct page_set *listed; /* only these, whatever their age; NULL: what the clock says */
	bool knows_shared;       /* pages shared by fork are told apart */
	struct range shared;     /* the first of them whose turn it is, and those behind it; end 0: none */
	struct run busy; /* shared by fork or pinned; nr_pages 0: none */
	uint32_t nr_slots; /* pages of the batch that hold slot references */
	int out_of_slots;  /* why there are no more; 0: there are */
	uint32_t passed;   /* pages passed by since the last write-protection */
	int no_slots;
	bool wrapped;
	bool is_stale;   /* the lock was dropped since the first page was chosen */
	bool keeps_lock; /* it must not be */
};

static bool is_skipped(const struct address_space *as, remote_addr_t addr, remote_addr_t *ret_end)
{
	for (uint32_t i = 0; i < as->nr_skips; i++) {
		if (addr >= as->skip[i].start && addr < as->skip[i].end) {
			*ret_end = as->skip[i].end;
			return true;
		}
	}
	return false;
}

static void skip_range(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	if (as->nr_skips && as->skip[as->nr_skips - 1].end == start)
		as->skip[as->nr_skips - 1].end = end;
	else if (as->nr_skips < MAX_SKIPS)
		as->skip[as->nr_skips++] = (struct range){start, end};
}

static bool was_used_just_now(const struct address_space *as, shadow_entry_t entry)
{
	return entry_state(entry) == STATE_RESIDENT && (uint8_t)(as->fills / 16 - entry_epoch(entry)) < 2;
}

static bool may_leave(const struct address_space *as, shadow_entry_t entry)
{
	return !(entry & (ENTRY_PINNED | ENTRY_REMOVED | ENTRY_LOADING)) && !entry_is_evicted(entry) && !was_used_just_now(as, entry);
}

/* True when the page is to leave now; one that was used is passed, with its new age. */
static bool is_candidate(struct transaction *t, remote_addr_t page, bool written, bool shared)
{
	struct address_space *as = t->as;
	shadow_entry_t entry = shadow_get(as->shadow, page);
	struct clock_hand hand = {.revolution = as->revolutions, .idle = as->revolutions_idle};
	bool armed = entry & ENTRY_ARMED;
	unsigned age = entry_age(entry);
	if (entry & ENTRY_REMOVED)
		t->removed++;
	if (!may_leave(as, entry))
		return false;
	/* A page that several processes share is worth more than a page of one: it is passed once. */
	if (clock_hand_passes(&hand, page, age, armed ? written : shared, &age))
		return true;
	if (age != entry_age(entry) || !armed)
		shadow_set(as->shadow, page, entry_with_age(entry, age) | ENTRY_ARMED);
	t->passed += !armed || written;
	if (armed && written)
		address_space_trace(as, TRACE_WRITTEN, 0, page, age);
	return false;
}

static bool append_page(struct transaction *t, remote_addr_t page, bool continues)
{
	if (continues && t->nr_runs) {
		t->runs[t->nr_runs - 1].nr_pages++;
	} else {
		if (t->nr_runs == MAX_RUNS)
			return false;
		t->runs[t->nr_runs++] = (struct run){page, 1};
	}
	t->nr_pages++;
	return true;
}

/*
 * A page that several processes share cannot be moved, and to evict it from one of them frees nothing: when its turn has come, it and its
 * neighbours are left to shared_pages_evict. False: there is one more range of them, which has to wait.
 */
static bool note_shared(struct transaction *t, remote_addr_t page, bool written)
{
	t->as->seen_shared = true;
	if (page < t->shared.end || !is_candidate(t, page, written, true))
		return true;
	if (t->shared.end)
		return false;
	t->shared = (struct range){page, page + BATCH_PAGES * PAGE_BYTES};
	return true;
}

static bool is_listed(const struct page_set *set, remote_addr_t page)
{
	uint64_t index = (page - set->start) / PAGE_BYTES;
	return page >= set->start && index < BATCH_PAGES && set->has[index];
}

/* Takes candidates from one run of at most MAX_LOOK resident pages; returns the address where looking stopped. */
static remote_addr_t choose_in_run(struct transaction *t, const struct page_run *run)
{
	static _Thread_local bool shared[MAX_LOOK];
	remote_addr_t start = run->start, end = run->end;
	struct address_space *as = t->as;
	remote_addr_t last = 0, skip_end;
	struct range range = {0};
	uint32_t nr_pages = (uint32_t)((end - start) / PAGE_BYTES);
	bool tell_apart = t->knows_shared && !t->listed && nr_pages <= MAX_LOOK && pagemap_find_shared(as->pagemap, start, nr_pages, shared) == 0;
	for (remote_addr_t page = start; page < end; page += PAGE_BYTES) {
		if (t->nr_pages == t->want)
			return page;
		if (page - as->agent->base < as->agent->size) {
			page = as->agent->base + as->agent->size - PAGE_BYTES;
			continue;
		}
		if (page == as->sentinel)
			continue;
		if (is_skipped(as, page, &skip_end)) {
			page = skip_end - PAGE_BYTES;
			continue;
		}
		t->looked_at++;
		bool written = run->categories & PAGE_WRITTEN;
		if (tell_apart && shared[(page - start) / PAGE_BYTES]) {
			if (!note_shared(t, page, written))
				return page;
			continue;
		}
		if (t->listed ? !is_listed(t->listed, page) || !may_leave(as, shadow_get(as->shadow, page)) : !is_candidate(t, page, written, false))
			continue;
		/* A MOVE must not cross from one mapping to the next, nor a page table that a large page would have to be split for. */
		bool same_mapping = page < range.end;
		if (!same_mapping)
			registration_extent(as, page, &range);
		if (!append_page(t, page, last && same_mapping && page == last + PAGE_BYTES))
			return page;
		last = page;
	}
	return end;
}

/* Write-protects what the hand has passed since `start`. A write that came in between is evidence lost, no more; but the page is not what a checkpoint saved. */
static void arm(struct transaction *t, remote_addr_t start)
{
	struct page_run runs[256];
	struct pagemap_query query = {.start = start,
				      .end = t->as->hand,
				      .require = PAGE_PRESENT | PAGE_WP_ALLOWED | PAGE_WRITTEN,
				      .forbid = PAGE_FILE | PAGE_ZERO,
				      .report = PAGE_PRESENT,
				      .write_protect = true};
	while (t->passed && query.start < query.end) {
		remote_addr_t from = query.start;
		int n = pagemap_scan(t->as->pagemap, &query, runs, ARRAY_LEN(runs), &query.start);
		if (n < 0) {
			precopy_not_saved(t->as, from, query.end); /* some may be protected */
			break;
		}
		for (int i = 0; i < n; i++)
			precopy_not_saved(t->as, runs[i].start, runs[i].end);
	}
	t->passed = 0;
}

/* Moves the hand until enough candidates are found, a whole revolution has been made, or enough pages have been looked at. */
static int choose(struct transaction *t)
{
	struct address_space *as = t->as;
	struct page_run runs[256];
	remote_addr_t stop_at = as->hand;
	uint32_t look = t->want; /* at one time: little where most pages may leave, more while the hand passes them by */
	while (t->nr_pages < t->want && t->nr_runs < MAX_RUNS && t->looked_at < MAX_LOOKED_AT) {
		t->is_stale |= !t->keeps_lock && address_space_let_faults_in(as);
		struct pagemap_query query = {.start = as->hand,
					      .end = t->wrapped ? stop_at : ADDRESS_END,
					      .require = PAGE_PRESENT | PAGE_WP_ALLOWED,
					      .forbid = PAGE_FILE | PAGE_ZERO,
					      .report = PAGE_PRESENT | PAGE_WRITTEN,
					      .max_pages = MIN_OF(look, MAX_LOOK)};
		uint64_t walked = query.end;
		int n = query.start < query.end ? pagemap_scan(as->pagemap, &query, runs, ARRAY_LEN(runs), &walked) : 0;
		if (n < 0)
			return n;
		as->hand = walked;
		bool enough = false;
		for (int i = 0; i < n && !enough; i++) {
			remote_addr_t stopped = choose_in_run(t, &runs[i]);
			enough = stopped < runs[i].end;
			if (enough)
				as->hand = stopped;
		}
		arm(t, query.start);
		if (enough)
			return 0;
		look *= 2;
		if (walked < query.end)
			continue;
		if (t->wrapped)
			return 0;
		t->wrapped = true;
		as->hand = 0;
		as->nr_skips = 0;
		as->revolutions++;
		as->revolutions_idle++;
		as->shares = as->seen_shared;
		as->seen_shared = false;
	}
	return 0;
}

static int choose_listed(struct transaction *t)
{
	struct page_run runs[BATCH_PAGES];
	uint64_t walked;
	struct pagemap_query query = {.start = t->listed->start,
				      .end = t->listed->start + BATCH_PAGES * PAGE_BYTES,
				      .require = PAGE_PRESENT | PAGE_WP_ALLOWED,
				      .forbid = PAGE_FILE | PAGE_ZERO,
				      .report = PAGE_PRESENT};
	int n = pagemap_scan(t->as->pagemap, &query, runs, ARRAY_LEN(runs), &walked);
	for (int i = 0; i < n; i++)
		if (choose_in_run(t, &runs[i]) < runs[i].end)
			break;
	return MIN_OF(n, 0);
}

/* What was chosen before faults were let in may have been touched or pinned. */
static void drop_unfit(struct transaction *t)
{
	struct run chosen[MAX_RUNS];
	uint32_t nr_runs = t->nr_runs;
	memcpy(chosen, t->runs, nr_runs * sizeof(*chosen));
	t->nr_runs = t->nr_pages = 0;
	for (uint32_t r = 0; r < nr_runs; r++) {
		bool continues = false;
		for (uint32_t i = 0; i < chosen[r].nr_pages; i++) {
			remote_addr_t page = chosen[r].start + (uint64_t)i * PAGE_BYTES;
			continues = may_leave(t->as, shadow_get(t->as->shadow, page)) && append_page(t, page, continues);
		}
	}
}

/*
 * Faults that wait are let in while the hand looks, which takes most of the time. Races: the program may have unmapped what was chosen, and mapped something
 * else there that nobody is told about; a page of that would be lost if it were moved. Each such change has an event, so when none was applied and none
 * is pending the mappings are what they were. Otherwise the choice is made once more, with the lock held to the end.
 */
static int choose_with_faults_let_in(struct transaction *t)
{
	struct address_space *as = t->as;
	uint32_t changes = as->layout_changes;
	int r = choose(t);
	if (r < 0 || !t->is_stale)
		return r;
	if (!events_settle(as) || uffd_event_pending(as->uffd))
		return -EAGAIN;
	if (as->layout_changes == changes) {
		drop_unfit(t);
		return 0;
	}
	t->nr_runs = t->nr_pages = 0;
	t->shared = (struct range){0};
	t->keeps_lock = true;
	return choose(t);
}

/* As many slots as pages may be chosen, before the lock is taken: where the file is full of holes that takes a while. */
static void take_slots(struct transaction *t)
{
	struct batch *batch = t->batch;
	while (t->nr_slots < t->want) {
		slot_t first;
		uint32_t nr;
		t->out_of_slots = swap_alloc(t->as->pager->swap, t->want - t->nr_slots, &first, &nr);
		if (t->out_of_slots < 0)
			break;
		for (uint32_t i = 0; i < nr; i++)
			batch->pages[t->nr_slots++] = (struct batch_page){.slot = first + i};
	}
}

/* Their entries must not fail to be made when the pages have left. -ENOMEM: they stay. */
static int reserve_entries(struct transaction *t)
{
	for (uint32_t r = 0; r < t->nr_runs; r++)
		if (!shadow_reserve(t->as->shadow, t->runs[r].start, t->runs[r].start + (uint64_t)t->runs[r].nr_pages * PAGE_BYTES))
			return -ENOMEM;
	return 0;
}

/* Every chosen page gets a slot of its own; candidates for which there is none are dropped. */
static void assign_slots(struct transaction *t)
{
	while (t->nr_pages > t->nr_slots) {
		struct run *last = &t->runs[t->nr_runs - 1];
		uint32_t cut = MIN_OF(t->nr_pages - t->nr_slots, last->nr_pages);
		t->no_slots = t->out_of_slots;
		last->nr_pages -= cut;
		t->nr_pages -= cut;
		if (!last->nr_pages)
			t->nr_runs--;
	}
	uint32_t k = 0;
	for (uint32_t r = 0; r < t->nr_runs; r++)
		for (uint32_t i = 0; i < t->runs[r].nr_pages; i++)
			t->batch->pages[k++].addr = t->runs[r].start + (uint64_t)i * PAGE_BYTES;
}

static void give_unused_slots_back(struct transaction *t)
{
	while (t->nr_slots > t->nr_pages)
		swap_put(t->as->pager->swap, t->batch->pages[--t->nr_slots].slot);
}

/* The transaction failed half way, because the program died or has to: what the batch holds is given back. */
static void give_slots_back(struct transaction *t)
{
	struct swap *swap = t->as->pager->swap;
	for (uint32_t i = 0; i < t->nr_slots; i++) {
		struct batch_page *page = &t->batch->pages[i];
		if (page->slot != NO_SLOT)
			swap_put(swap, page->slot);
		if (page->old_slot != NO_SLOT)
			swap_put(swap, page->old_slot);
	}
	t->nr_slots = 0;
}

static void build_operations(struct transaction *t)
{
	const struct agent *agent = t->as->agent;
	uint64_t offset = 0;
	for (uint32_t r = 0; r < t->nr_runs; r++) {
		uint64_t len = (uint64_t)t->runs[r].nr_pages * PAGE_BYTES;
		t->ops[r] = (struct agent_op){
			.opcode = AGENT_MOVE_IN, .dst = agent->stage1 + offset, .src = t->runs[r].start, .len = len};
		offset += len;
	}
	t->ops[t->nr_runs] =
		(struct agent_op){.opcode = AGENT_MOVE_ON, .dst = agent->stage2, .src = agent->stage1, .len = offset};
}

/*
 * Marks in present[] which of the first nr pages of a staging range are there. A page that the system has swapped out meanwhile has moved too: it comes back
 * when it is read.
 */
static int look_at_stage(const struct address_space *as, remote_addr_t stage, uint32_t nr, bool *present)
{
	struct page_run runs[BATCH_PAGES];
	uint64_t walked;
	struct pagemap_query query = {
		.start = stage, .end = stage + (uint64_t)nr * PAGE_BYTES, .any = PAGE_PRESENT | PAGE_SWAPPED, .report = PAGE_PRESENT};
	int n = pagemap_scan(as->pagemap, &query, runs, ARRAY_LEN(runs), &walked);
	memset(present, 0, nr * sizeof(*present));
	for (int i = 0; i < n; i++)
		for (uint64_t page = runs[i].start; page < runs[i].end; page += PAGE_BYTES)
			present[(page - stage) / PAGE_BYTES] = true;
	return n;
}

/*
 * A page that did not go on to stage 2 (busy for a moment): try again, then back to where it came from. A page that can go neither way
 * would be lost: the caller kills the container.
 */
static int clear_stage1(struct transaction *t)
{
	struct address_space *as = t->as;
	bool present[BATCH_PAGES];
	for (int attempt = 0; attempt < 100; attempt++) {
		int left = look_at_stage(as, as->agent->stage1, t->nr_pages, present);
		if (left <= 0)
			return left;
		for (uint32_t i = 0; i < t->nr_pages; i++) {
			if (!present[i])
				continue;
			remote_addr_t stage1 = as->agent->stage1 + (uint64_t)i * PAGE_BYTES;
			struct agent_op op = {.opcode = AGENT_MOVE_ON,
					      .dst = as->agent->stage2 + (uint64_t)i * PAGE_BYTES,
					      .src = stage1,
					      .len = PAGE_BYTES};
			if (attempt % 2)
				op = (struct agent_op){
					.opcode = AGENT_MOVE_IN, .dst = t->batch->pages[i].addr, .src = stage1, .len = PAGE_BYTES};
			if (agent_execute(as->agent, &op, 1) < 0)
				return -EPIPE;
			if (attempt % 2) {
				forkless_note_unknown(as, t->batch->pages[i].addr);
				uffd_wake(as->uffd, t->batch->pages[i].addr, PAGE_BYTES);
			}
		}
	}
	return -EBUSY;
}

/* What the agent reported for runs that did not move decides where not to look again soon. Hints only. */
static void note_refusals(struct transaction *t, const bool *moved)
{
	struct address_space *as = t->as;
	uint32_t k = 0;
	for (uint32_t r = 0; r < t->nr_runs; k += t->runs[r].nr_pages, r++) {
		const struct run *run = &t->runs[r];
		uint32_t done = 0;
		while (done < run->nr_pages && moved[k + done])
			done++;
		if (done == run->nr_pages)
			continue;
		remote_addr_t start = run->start + (uint64_t)done * PAGE_BYTES;
		remote_addr_t end = run->start + (uint64_t)run->nr_pages * PAGE_BYTES;
		if (t->ops[r].result == -EINVAL) {
			skip_range(as, start, end);
			range_list_cut(&as->ranges, start, end); /* it may be two mappings by now */
		} else if (t->ops[r].result != -EAGAIN && t->ops[r].result != -ENOENT) {
			if (start >= as->populated.start && start < as->populated.end)
				skip_range(as, start, start + PAGE_BYTES);
			else if (!t->busy.nr_pages)
				t->busy = (struct run){start, MIN_OF((uint32_t)((end - start) / PAGE_BYTES), MAX_BUSY_PAGES)};
		}
	}
}

static void record_one(struct transaction *t, struct batch_page *page)
{
	struct address_space *as = t->as;
	shadow_entry_t entry = shadow_get(as->shadow, page->addr);
	page->old_slot = entry_slot(entry);
	page->to_cache = entry & ENTRY_ALONE;
	swap_get(as->pager->swap, page->slot); /* the entry's; the first reference is the batch's */
	shadow_set(as->shadow, page->addr, entry_make(STATE_STAGED, page->slot, 0, pager_epoch(as->pager), entry & ENTRY_PINNED));
}

static void trace_evicted(const struct transaction *t, const bool *moved)
{
	const struct batch_page *pages = t->batch->pages;
	for (uint32_t i = 0, nr; t->as->pager->trace && i < t->nr_pages; i += nr) {
		nr = 1;
		if (!moved[i])
			continue;
		while (i + nr < t->nr_pages && moved[i + nr] && pages[i + nr].addr == pages[i].addr + nr * PAGE_BYTES)
			nr++;
		address_space_trace(t->as, TRACE_EVICTED, 0, pages[i].addr, nr);
	}
}

/* Steps 4 and 5. Returns how many pages were captured, or -errno. */
static int record(struct transaction *t)
{
	struct address_space *as = t->as;
	struct batch *batch = t->batch;
	bool moved[BATCH_PAGES];
	int r = clear_stage1(t);
	if (r == 0)
		r = look_at_stage(as, as->agent->stage2, t->nr_pages, moved);
	if (r < 0)
		return r;
	note_refusals(t, moved);
	trace_evicted(t, moved);
	int captured = 0;
	for (uint32_t i = 0; i < t->nr_pages; i++) {
		if (moved[i]) {
			record_one(t, &batch->pages[i]);
			captured++;
		} else {
			swap_put(as->pager->swap, batch->pages[i].slot);
			batch->pages[i].slot = NO_SLOT;
		}
	}
	/* The batch's page list becomes visible to faults with its length; until the content is there they are told to ask again. */
	writeback_moved(as->pager->writeback, batch, t->nr_pages);
	r = registration_pin_threads(as);
	return r < 0 && r != -ESRCH ? r : captured;
}

/* Step 6. The agent begins to empty stage 2; whoever calls waits for it. */
static int capture(struct transaction *t)
{
	struct address_space *as = t->as;
	int r = capture_batch(as->pager->writeback, as->agent, t->batch);
	if (r < 0)
		return r;
	struct agent_op discard = {
		.opcode = AGENT_DISCARD, .dst = as->agent->stage2, .len = (uint64_t)t->batch->nr_pages * PAGE_BYTES};
	return agent_post(as->agent, &discard, 1);
}

/* A page that became a thread's record while it was leaving goes back before that thread can end and lose the kernel's last write. */
static void put_pinned_back(struct transaction *t)
{
	struct address_space *as = t->as;
	struct batch *batch = t->batch;
	lock_take(&as->layout);
	bool is_settled = events_settle(as);
	for (uint32_t i = 0; is_settled && i < batch->nr_pages; i++) {
		const struct batch_page *page = &batch->pages[i];
		shadow_entry_t entry = page->slot != NO_SLOT ? shadow_get(as->shadow, page->addr) : 0;
		if (!(entry & ENTRY_PINNED) || entry_state(entry) != STATE_STAGED || entry_slot(entry) != page->slot)
			continue;
		uint64_t done;
		uffd_copy(as->uffd, page->addr, batch->buffer + i * PAGE_BYTES, PAGE_BYTES, true, &done);
		if (!done) /* an event is unread: the next look at the threads tries again through the fault path */
			continue;
		charge_prepare_forced(as->pager->charge, 1);
		charge_commit(as->pager->charge, 1);
		forkless_note_slot(as, page->addr, page->slot);
		shadow_set(as->shadow, page->addr, entry_make(STATE_RESIDENT, page->slot, 0, 0, ENTRY_PINNED));
	}
	lock_drop(&as->layout);
}

/* Without the layout lock: breaking sharing writes to the pages, and one that went away meanwhile raises a fault of the agent. */
static void break_sharing(struct transaction *t)
{
	struct address_space *as = t->as;
	struct agent_op op = {
		.opcode = AGENT_POPULATE_WRITE, .dst = t->busy.start, .len = (uint64_t)t->busy.nr_pages * PAGE_BYTES};
	agent_execute(as->agent, &op, 1);
	lock_take(&as->layout);
	as->populated = (struct range){op.dst, op.dst + op.len};
	as->hand = op.dst;
	lock_drop(&as->layout);
}

/*
 * MOVE has refused pages. Where it was not known that there is sharing, the next look tells apart what is shared. What is not shared any more,
 * but was, is still marked so, and a write cures it.
 */
static void deal_with_busy(struct transaction *t)
{
	struct address_space *as = t->as;
	if (t->knows_shared) {
		break_sharing(t);
		return;
	}
	lock_take(&as->layout);
	as->shares = as->seen_shared = true;
	as->hand = t->busy.start;
	lock_drop(&as->layout);
}

/* Pages are in staging, or may be, and cannot be had from there. Layout lock held. */
static void lose(struct transaction *t, int error)
{
	if (atomic_load(&t->as->dead) || uffd_is_dead(t->as->uffd, t->as->agent->base))
		return;
	if (error == -EPIPE && process_has_ended(t->as->pid)) /* the agent ended with it, and somebody else still looks at the memory */
		return;
	log_debug("eviction from pid %d failed: %s", t->as->pid, strerror(-error));
	address_space_lose(t->as, error == -EPIPE ? "the agent of a process was killed while it held pages" : "pages that left memory could not be read");
}

static void finish(struct transaction *t, int captured, struct evict_result *result)
{
	struct pager *pager = t->as->pager;
	int r = capture(t);
	if (r < 0) { /* the pages are gone with the program, or the program has to go with them */
		lock_take(&t->as->layout);
		lose(t, r);
		lock_drop(&t->as->layout);
		give_slots_back(t);
		result->cannot = true;
		return;
	}
	FAULT_POINT("evict.captured");
	writeback_captured(pager->writeback, t->batch);
	put_pinned_back(t);
	writeback_settle(pager->writeback, t->batch);
	agent_wait(t->as->agent, NULL, 0); /* one that has died holds nothing any more; that it has is seen elsewhere */
	charge_uncharge(pager->charge, (uint64_t)captured);
	FAULT_POINT("evict.discarded");
	writeback_store(pager->writeback, t->batch);
	FAULT_POINT("evict.queued");
	t->batch = NULL;
	atomic_fetch_add(&pager->evicted, (uint64_t)captured);
	atomic_fetch_add_explicit(&t->as->evicted, (uint64_t)captured, memory_order_relaxed);
	stat_add(pager->stats, rss_reclaimed, captured);
	result->evicted = (uint32_t)captured;
}

/* Steps 1 to 5. Returns the number of captured pages or -errno. Layout lock held. */
static int move_out(struct transaction *t)
{
	struct address_space *as = t->as;
	if (!events_settle(as) || uffd_event_pending(as->uffd))
		return -EAGAIN;
	int r = registration_pin_threads(as);
	if (r < 0)
		return r;
	t->knows_shared = as->shares;
	r = t->listed ? choose_listed(t) : choose_with_faults_let_in(t);
	if (r == 0)
		r = reserve_entries(t);
	if (r < 0 || !t->nr_pages)
		return r;
	if (forkless_before_eviction(as) < 0)
		return -EAGAIN;
	assign_slots(t);
	if (!t->nr_pages)
		return 0;
	build_operations(t);
	r = agent_execute(as->agent, t->ops, t->nr_runs + 1);
	FAULT_POINT("evict.moved");
	if (r == 0)
		r = record(t);
	if (r < 0)
		lose(t, r);
	return r;
}

static void transact(struct transaction *t, struct evict_result *result)
{
	struct address_space *as = t->as;
	take_slots(t);
	FAULT_POINT("evict.slots");
	scheduling_prefer_latency(); /* faults wait for the lock */
	address_space_lock(as);
	int r = move_out(t);
	if (r > 0)
		as->revolutions_idle = 0; /* for shared pages that is known later: some can never leave (read-only, a sharer out of reach) */
	result->dry = r == 0 && as->revolutions_idle >= CLOCK_IDLE_MAX;
	if (result->dry)
		as->revolutions_idle = 0;
	address_space_note_out(as);
	lock_drop(&as->layout);
	scheduling_give_way();
	FAULT_POINT("evict.recorded");
	give_unused_slots_back(t);
	result->no_slots = t->no_slots;
	result->removed = t->removed;
	result->shared = t->shared;
	if (r > 0)
		finish(t, r, result);
	else if (r == -EAGAIN)
		result->later = true;
	else if (r < 0)
		result->cannot = true;
	if (r < 0)
		give_slots_back(t);
	if (t->busy.nr_pages && !t->listed && r >= 0 && !result->cannot)
		deal_with_busy(t);
}

/* Agent lock held. */
static bool can_evict(const struct address_space *as)
{
	return as->agent && as->pagemap >= 0 && !atomic_load(&as->dead) && !atomic_load(&as->lost);
}

/* Agent lock held. */
static struct evict_result evict(struct address_space *as, uint32_t want, const struct page_set *listed)
{
	static _Thread_local struct transaction t;
	struct evict_result result = {0};
	t = (struct transaction){.as = as, .want = MIN_OF(want, BATCH_PAGES), .listed = listed};
	t.batch = writeback_take(as->pager->writeback, as);
	if (!t.batch) {
		result.cannot = true;
		return result;
	}
	agent_hold(as->agent, true);
	transact(&t, &result);
	agent_hold(as->agent, false);
	if (t.batch)
		writeback_return(as->pager->writeback, t.batch);
	return result;
}

struct evict_result evict_pages(struct address_space *as, uint32_t want)
{
	struct evict_result result = {.cannot = true};
	lock_take(&as->agent_lock);
	if (can_evict(as))
		result = evict(as, want, NULL);
	lock_drop(&as->agent_lock);
	return result;
}

struct evict_result evict_set(struct address_space *as, const struct page_set *set)
{
	struct evict_result result = {.cannot = true};
	lock_take(&as->agent_lock);
	if (can_evict(as))
		result = evict(as, BATCH_PAGES, set);
	lock_drop(&as->agent_lock);
	return result;
}

/* Agent and layout lock held. */
static uint32_t find_shared(struct address_space *as, struct page_set *set)
{
	bool shared[BATCH_PAGES];
	struct page_run runs[BATCH_PAGES];
	uint64_t walked;
	uint32_t found = 0;
	struct pagemap_query query = {.start = set->start,
				      .end = set->start + BATCH_PAGES * PAGE_BYTES,
				      .require = PAGE_PRESENT | PAGE_WP_ALLOWED,
				      .forbid = PAGE_FILE | PAGE_ZERO,
				      .report = PAGE_PRESENT};
	int n = pagemap_scan(as->pagemap, &query, runs, ARRAY_LEN(runs), &walked);
	if (n <= 0 || pagemap_find_shared(as->pagemap, set->start, BATCH_PAGES, shared) < 0)
		return 0;
	for (int i = 0; i < n; i++) {
		for (remote_addr_t page = runs[i].start; page < runs[i].end; page += PAGE_BYTES) {
			uint64_t k = (page - set->start) / PAGE_BYTES;
			bool is_ours = page - as->agent->base < as->agent->size || page == as->sentinel;
			set->has[k] = shared[k] && !is_ours && may_leave(as, shadow_get(as->shadow, page));
			found += set->has[k];
		}
	}
	return found;
}

uint32_t evict_find_shared(struct address_space *as, struct page_set *set)
{
	uint32_t found = 0;
	memset(set->has, 0, sizeof(set->has));
	lock_take(&as->agent_lock);
	if (can_evict(as)) {
		lock_take(&as->layout);
		found = find_shared(as, set);
		as->shares |= found > 0;
		as->seen_shared |= found > 0;
		lock_drop(&as->layout);
	}
	lock_drop(&as->agent_lock);
	return found;
}

/*
 * A write to each page of the set gives the process a copy of its own, or, where nobody else has it any more, the page itself. Without the layout
 * lock, as in break_sharing. Returns how many copies were made, which are charged.
 */
static uint32_t make_own(struct address_space *as, const struct page_set *set)
{
	struct agent_op ops[BATCH_PAGES / 2 + 1];
	bool shared[BATCH_PAGES];
	uint32_t nr_ops = 0, copies = 0;
	if (pagemap_find_shared(as->pagemap, set->start, BATCH_PAGES, shared) < 0)
		return 0;
	for (uint32_t i = 0; i < BATCH_PAGES; i++) {
		if (!set->has[i])
			continue;
		copies += shared[i];
		if (i && set->has[i - 1])
			ops[nr_ops - 1].len += PAGE_BYTES;
		else
			ops[nr_ops++] = (struct agent_op){
				.opcode = AGENT_POPULATE_WRITE, .dst = set->start + (uint64_t)i * PAGE_BYTES, .len = PAGE_BYTES};
	}
	charge_prepare_forced(as->pager->charge, copies);
	charge_commit(as->pager->charge, copies);
	atomic_fetch_add_explicit(&as->broken, copies, memory_order_relaxed);
	agent_execute(as->agent, ops, nr_ops); /* a dead agent shows in the transaction that follows */
	return copies;
}

int64_t evict_shared(struct address_space *as, const struct page_set *set)
{
	int64_t freed = 0;
	lock_take(&as->agent_lock);
	if (can_evict(as)) {
		freed -= make_own(as, set);
		freed += evict(as, BATCH_PAGES, set).evicted;
	}
	lock_drop(&as->agent_lock);
	return freed;
}
