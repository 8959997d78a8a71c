#include "pager/hand_over.h"

#include <errno.h>

#include "pager/events.h"
#include "pager/writeback.h"
#include "platform/userfaultfd.h"
#include "swap/swap_hand_over.h"

#define LOWEST_ADDRESS 0x10000ull /* vm.mmap_min_addr is never higher; the kernel takes no lower address for a range */

struct look {
	struct address_space *as;
	void (*visit)(remote_addr_t page, shadow_entry_t entry, void *context);
	void *context;
	bool is_on_the_way;
};

static void look_at_entry(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	struct look *look = context;
	struct writeback *wb = look->as->pager->writeback;
	look->is_on_the_way |= entry_state(entry) == STATE_STAGED && (!wb || writeback_has(wb, entry_slot(entry)));
}

int hand_over_check(struct address_space *as)
{
	struct look look = {.as = as};
	if (!events_settle(as))
		return -EAGAIN;
	if (shadow_count(as->shadow, STATE_STAGED))
		shadow_for_each(as->shadow, 0, UINT64_MAX, look_at_entry, &look);
	return look.is_on_the_way ? -EBUSY : 0;
}

static void visit_entry(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	struct look *look = context;
	look->visit(addr, entry & ~ENTRY_LOADING, look->context);
}

void hand_over_entries(struct address_space *as, void (*visit)(remote_addr_t page, shadow_entry_t entry, void *context), void *context)
{
	struct look look = {.as = as, .visit = visit, .context = context};
	shadow_for_each(as->shadow, 0, UINT64_MAX, visit_entry, &look);
}

bool hand_over_entry_is_valid(remote_addr_t page, shadow_entry_t entry)
{
	bool has_slot = entry_slot(entry) != NO_SLOT;
	if (page % PAGE_BYTES || page >= ADDRESS_END || entry & ENTRY_LOADING)
		return false;
	switch (entry_state(entry)) {
	case STATE_NONE:
	case STATE_ZERO:
		return !has_slot;
	case STATE_STAGED:
	case STATE_SWAPPED:
		return has_slot;
	case STATE_RESIDENT:
		return true;
	case NR_STATES:
		break;
	}
	return false;
}

int take_over_entries(struct address_space *as, remote_addr_t start, uint64_t nr, const uint64_t *entries)
{
	for (uint64_t i = 0; i < nr; i++) {
		slot_t slot = entry_slot(entries[i]);
		if (slot != NO_SLOT && (!as->pager->swap || !swap_adopt(as->pager->swap, slot)))
			return -EBADMSG;
		if (!shadow_set(as->shadow, start + i * PAGE_BYTES, entries[i]))
			return -ENOMEM;
	}
	return 0;
}

int take_over_range(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	return range_list_put(&as->ranges, start, end) ? 0 : -ENOMEM;
}

/* Whoever waits for what the other keeper had read, or was about to put in, faults again: now there is somebody who reads it. */
int take_over_serve(struct address_space *as)
{
	lock_take(&as->layout);
	address_space_note_out(as);
	lock_drop(&as->layout);
	int r = pager_attach(as->pager, as);
	if (r == 0)
		uffd_wake(as->uffd, LOWEST_ADDRESS, ADDRESS_END - LOWEST_ADDRESS); /* of one whose memory has just gone there is nobody to wake */
	return r;
}
