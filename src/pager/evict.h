/* The evict transaction: pages leave an address space through the agent's staging ranges into a write-back batch. */
#pragma once

#include "pager/address_space.h"
#include "pager/writeback.h"

struct evict_result {
	uint32_t evicted;     /* pages that left memory */
	int no_slots;         /* 0, or why not all pages could have one: -ENOSPC, or the swap file failed */
	bool cannot;          /* no agent, or the memory is gone */
	bool later;           /* an event is unread or a page is busy; no statement about its pages */
	bool dry;             /* several revolutions of the hand found nothing to take */
	struct range shared;  /* pages that several processes share and whose turn it is: for shared_pages_evict. end 0: none */
	uint32_t removed;     /* candidates passed over because a REMOVE was announced for them */
};

/* Evicts up to `want` pages (at most a batch). Reclaim thread only; takes agent and layout lock. */
struct evict_result evict_pages(struct address_space *as, uint32_t want);

/* Some of the BATCH_PAGES pages from start. */
struct page_set {
	remote_addr_t start;
	bool has[BATCH_PAGES];
};

/* Evicts those pages of a set that may leave. Reclaim thread only; takes agent and layout lock. */
struct evict_result evict_set(struct address_space *as, const struct page_set *set);

/* Fills set->has with the pages from set->start that the process shares by fork and that may leave. Returns how many. Takes agent and layout lock. */
uint32_t evict_find_shared(struct address_space *as, struct page_set *set);

/*
 * Evicts the pages of a set that evict_find_shared has found; they may have got copies meanwhile or be the last ones. Returns pages evicted less
 * copies that had to be made for it. Reclaim thread only; takes agent and layout lock.
 */
int64_t evict_shared(struct address_space *as, const struct page_set *set);
