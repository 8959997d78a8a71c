/*
 * Address spaces whose forks the kernel does not announce (no CAP_SYS_PTRACE): what is noted while the program runs, and how the child of a fork comes
 * to its pages. Everything here does nothing for an address space without a stamp. Races: docs/architecture.md, "Without fork events".
 */
#pragma once

#include "pager/address_space.h"

/* Layout lock held. Pages that were missing are there again: what they held until now. */
void forkless_note_zeros(struct address_space *as, remote_addr_t start, uint64_t nr_pages);
void forkless_note_slot(struct address_space *as, remote_addr_t page, slot_t slot);
void forkless_note_unknown(struct address_space *as, remote_addr_t page);

/* Layout lock held. Pages are about to leave. -ESRCH: the memory is gone. */
int forkless_before_eviction(struct address_space *as);

/* Layout lock held, before the table changes: what is at [start, end) is discarded; is unmapped or moved away or replaced by what is moved there. */
void forkless_discarded(struct address_space *as, remote_addr_t start, remote_addr_t end);
void forkless_unmapped(struct address_space *as, remote_addr_t start, remote_addr_t end);

/* No fork of this address space is under way whose child was not seen yet: the past is forgotten. Any thread. */
void forkless_forget_past(struct address_space *as);

/* Slots that are kept for forks under way. Any thread. */
uint64_t forkless_kept_slots(struct address_space *as);

/* True when a child may lack pages that are evicted, or were. Any thread. */
bool forkless_has_heritage(struct address_space *as);

/* True when the process is a child made by a fork of this address space; *ret_stamp is its time. */
bool forkless_is_child(const struct address_space *as, pid_t pid, uint64_t *ret_stamp);

/*
 * The child's side: a copy of the parent's table as it was at the time of the fork; no userfaultfd yet. 0 or -errno (-ESTALE: it cannot be told any more
 * what the child lacks).
 */
int forkless_fork(struct address_space *parent, uint64_t stamp, struct address_space **ret_child);

/*
 * The child's process, userfaultfd and agent are known, it stands still: what is present in it counts, what it has not mapped is forgotten, every mapping
 * with evicted pages is registered. 0 or -errno.
 */
int forkless_settle_child(struct address_space *child);
