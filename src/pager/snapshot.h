/*
 * The page table as a checkpoint sees and makes it. The process is held, and nothing is evicted meanwhile: faults of other tasks (the agent, a system call
 * made for us) are all that can change a table. Container thread.
 */
#pragma once

#include "pager/address_space.h"

/* Pages that are in slots which follow each other. */
struct stored_run {
	remote_addr_t start;
	uint32_t nr_pages;
	slot_t slot;
};

/*
 * Calls visit with each run of evicted pages in [start, end), in address order, under the layout lock; pages of zeros have no slot and are left out. Stops when it
 * returns non-zero, and returns that. -EBUSY: some page is on its way to the file.
 */
int snapshot_for_each_out(struct address_space *as, remote_addr_t start, remote_addr_t end, int (*visit)(const struct stored_run *run, void *context),
			  void *context);

/* False: some event is not in the table yet; to be tried again. */
bool snapshot_is_settled(struct address_space *as);

/*
 * The first pages in [start, end) whose content is known though they were not read: in slots that follow each other, or zeros (slot NO_SLOT). The kernel has just said that
 * no present page of the range was written to since it was write-protected (precopy.h). nr_pages 0: there are none.
 */
struct stored_run snapshot_next_saved(struct address_space *as, remote_addr_t start, remote_addr_t end);

/* The slot that holds what a resident page had when it was filled last, if it does so still, with one more reference: the caller compares. NO_SLOT: none. */
slot_t snapshot_clean_slot(struct address_space *as, remote_addr_t page);

/* True when the page is out of memory, whatever the kernel shows in its place. */
bool snapshot_is_out(struct address_space *as, remote_addr_t page);

/* True when the mapping's pages come as faults. */
bool snapshot_is_registered(struct address_space *as, remote_addr_t start, remote_addr_t end);

/*
 * A page of such a mapping has been stored: a resident one keeps the slot for as long as it stays the same; an evicted one is in this slot from now on.
 */
void snapshot_note_stored(struct address_space *as, remote_addr_t page, slot_t slot);

/*
 * A mapping of a process that is being restored: its pages come as faults, those that are placed from their slots, which are the base's (nobody counts references
 * on these). 0 or -errno.
 */
int snapshot_register(struct address_space *as, remote_addr_t start, remote_addr_t end);
int snapshot_place(struct address_space *as, const struct stored_run *run);
/* The same for pages that are in memory, as in their slots, and perhaps in other processes too. */
int snapshot_place_present(struct address_space *as, const struct stored_run *run);
