#include "pager/snapshot.h"

#include <errno.h>

#include "pager/events.h"
#include "pager/registration.h"
#include "pager/writeback.h"
#include "platform/userfaultfd.h"

#define SAVED_BYTES_AT_ONCE ((uint64_t)UINT32_MAX << PAGE_SHIFT)

struct walk {
	struct address_space *as;
	struct stored_run run;
	int (*visit)(const struct stored_run *run, void *context);
	void *context;
	int result;
};

static void end_run(struct walk *w)
{
	if (w->run.nr_pages && w->result == 0)
		w->result = w->visit(&w->run, w->context);
	w->run.nr_pages = 0;
}

static void visit_entry(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	struct walk *w = context;
	bool is_out = entry_state(entry) == STATE_SWAPPED || entry_state(entry) == STATE_STAGED;
	if (!is_out || w->result)
		return;
	slot_t slot = entry_slot(entry);
	if (entry_state(entry) == STATE_STAGED && writeback_has(w->as->pager->writeback, slot)) {
		w->result = -EBUSY;
		return;
	}
	bool follows = w->run.nr_pages && w->run.start + w->run.nr_pages * PAGE_BYTES == addr && w->run.slot + w->run.nr_pages == slot;
	if (!follows) {
		end_run(w);
		w->run = (struct stored_run){.start = addr, .slot = slot};
	}
	w->run.nr_pages++;
}

int snapshot_for_each_out(struct address_space *as, remote_addr_t start, remote_addr_t end, int (*visit)(const struct stored_run *run, void *context),
			  void *context)
{
	struct walk w = {.as = as, .visit = visit, .context = context};
	address_space_lock(as);
	bool any = shadow_count(as->shadow, STATE_SWAPPED) || shadow_count(as->shadow, STATE_STAGED); /* if not, the walk over a large table is saved */
	if (any)
		shadow_for_each(as->shadow, start, end, visit_entry, &w);
	end_run(&w);
	lock_drop(&as->layout);
	return w.result;
}

bool snapshot_is_settled(struct address_space *as)
{
	address_space_lock(as);
	bool is_settled = events_settle(as) && !uffd_event_pending(as->uffd);
	lock_drop(&as->layout);
	return is_settled;
}

struct stored_run snapshot_next_saved(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	struct stored_run run = {.start = end};
	address_space_lock(as);
	if (as->has_saved)
		run.nr_pages = (uint32_t)shadow_next_saved(as->shadow, start, MIN_OF(end, start + SAVED_BYTES_AT_ONCE), &run.start, &run.slot);
	lock_drop(&as->layout);
	return run;
}

bool snapshot_is_registered(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	address_space_lock(as);
	bool is_registered = registration_covers(as, start, end);
	lock_drop(&as->layout);
	return is_registered;
}

slot_t snapshot_clean_slot(struct address_space *as, remote_addr_t page)
{
	address_space_lock(as);
	shadow_entry_t entry = shadow_get(as->shadow, page);
	slot_t slot = entry_state(entry) == STATE_RESIDENT ? entry_slot(entry) : NO_SLOT;
	if (slot != NO_SLOT)
		swap_get(as->pager->swap, slot);
	lock_drop(&as->layout);
	return slot;
}

bool snapshot_is_out(struct address_space *as, remote_addr_t page)
{
	address_space_lock(as);
	bool is_out = entry_is_evicted(shadow_get(as->shadow, page));
	lock_drop(&as->layout);
	return is_out;
}

void snapshot_note_stored(struct address_space *as, remote_addr_t page, slot_t slot)
{
	struct swap *swap = as->pager->swap;
	address_space_lock(as);
	shadow_entry_t entry = shadow_get(as->shadow, page);
	enum page_state state = entry_state(entry) == STATE_NONE ? STATE_RESIDENT : entry_state(entry);
	bool is_tracked = state == STATE_RESIDENT || state == STATE_SWAPPED;
	shadow_entry_t with_slot = (entry & ~(~0ull << ENTRY_SLOT_SHIFT) & ~ENTRY_STATE_MASK) | (uint64_t)state | (uint64_t)slot << ENTRY_SLOT_SHIFT;
	if (is_tracked && shadow_set(as->shadow, page, with_slot)) {
		swap_get(swap, slot);
		if (entry_slot(entry) != NO_SLOT)
			swap_put(swap, entry_slot(entry));
	}
	lock_drop(&as->layout);
}

int snapshot_register(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	int r = 0;
	address_space_lock(as);
	if (!registration_covers(as, start, end))
		r = uffd_register(as->uffd, start, end - start, true);
	if (r == 0)
		range_list_put(&as->ranges, start, end);
	lock_drop(&as->layout);
	return r;
}

int snapshot_place(struct address_space *as, const struct stored_run *run)
{
	address_space_lock(as);
	bool done = shadow_set_swapped(as->shadow, run->start, run->nr_pages, run->slot, pager_epoch(as->pager));
	address_space_note_out(as);
	lock_drop(&as->layout);
	return done ? 0 : -ENOMEM;
}

int snapshot_place_present(struct address_space *as, const struct stored_run *run)
{
	uint8_t long_ago = (uint8_t)(as->fills / 16 - 2); /* no fault has asked for them */
	bool done = true;
	address_space_lock(as);
	as->shares = as->seen_shared = true;
	for (uint32_t i = 0; done && i < run->nr_pages; i++) {
		remote_addr_t page = run->start + (uint64_t)i * PAGE_BYTES;
		uint64_t flags = shadow_get(as->shadow, page) & ENTRY_PINNED;
		done = shadow_set(as->shadow, page, entry_make(STATE_RESIDENT, run->slot + i, 1, long_ago, flags));
	}
	lock_drop(&as->layout);
	return done ? 0 : -ENOMEM;
}
