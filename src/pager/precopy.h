/*
 * Pages written to the swap file while the program runs, for a checkpoint that is to hold it only for a moment. Each page stays in memory and keeps the slot; at the
 * hold only what was written to since is read (snapshot_next_saved). In rounds over the address spaces:
 *
 *   protect   every page that was written to is write-protected, asynchronously: the first write after that lifts it without a message, and shows in PAGEMAP_SCAN
 *   barrier   all threads of all members are held for a moment (container/precopy_rounds.c)
 *   copy      pages that are still protected are read, and written where no slot has their content
 *
 * What is read from a running program is a guess. It counts only if, when nobody runs any more, the page is the same one and is still protected: then nothing was written
 * between the protection and that moment, so also not while it was read.
 *
 *   - Every write by an instruction, or by the kernel on behalf of a thread, needs a writable entry in the page table, and asking for one lifts the protection. The kernel
 *     protects and flushes under the lock of the page table, so no write slips through.
 *   - A device writes without the page table: direct I/O looks the page up once, which lifts the protection, and the data may come much later. What was under way before
 *     the protection has ended at the barrier, because whoever waits for it cannot be held; programs with asynchronous I/O of that kind are not saved at all. What
 *     begins later lifts the protection.
 *   - The reclaim thread also protects pages, as evidence of use. It forgets what was saved of those that had been written to (precopy_not_saved). It is the thread that
 *     copies too, so neither happens in the midst of the other.
 *   - A page that leaves memory, is unmapped, discarded, moved or replaced: its entry is made anew without the flag, forgotten or moved with the page, when
 *     the event is read. While a chunk was being copied no event may have come, or the chunk is given up: see copy_end.
 *   - A fork's child has entries without the flag (address_space_fork). A write of either process makes a copy, whose protection is lifted.
 *   - What undoes a protection otherwise (moving to staging and back, mremap on some kernels, merging) makes the page look written to, which only costs work.
 */
#pragma once

#include "pager/address_space.h"

#define PRECOPY_PAGES 256

/* One address space in one round. */
struct precopy_walk {
	struct address_space *as;
	remote_addr_t at;
	int memory; /* /proc/PID/mem; belongs to the memory, not to the process; -1: it cannot be opened */
	/* Address spaces that were copied before in this round: what fork left shared is in a slot of theirs already. */
	struct address_space *const *earlier;
	uint32_t nr_earlier;
};

/* 0, or -errno: nothing is to be done with it (gone, not adopted). Reclaim thread, as all below. */
int precopy_walk_begin(struct precopy_walk *walk, struct address_space *as);
void precopy_walk_end(struct precopy_walk *walk);

/*
 * The next pages in address order. 1: there may be more; 0: that was all, or the memory is gone; -EAGAIN: an event is unread, or the agent is being changed: to be tried
 * again. *dirty grows by the pages that were written to.
 */
int precopy_protect(struct precopy_walk *walk, uint64_t *dirty);

/* As above, at most PRECOPY_PAGES; also -ENOSPC or another -errno: the swap file takes nothing more. buffer: as many pages, page aligned. *written grows. */
int precopy_copy(struct precopy_walk *walk, uint8_t *buffer, uint64_t *written);

/* Layout lock held. These pages have been write-protected although they were written to. */
void precopy_not_saved(struct address_space *as, remote_addr_t start, remote_addr_t end);
