/* The evict transaction: pages leave an address space through the agent's staging ranges into a write-back batch. */
#pragma once

#include "pager/address_space.h"

struct evict_result {
	uint32_t evicted;     /* pages that left memory */
	int no_slots;         /* 0, or why not all pages could have one: -ENOSPC, or the swap file failed */
	bool cannot;          /* no agent, or the memory is gone */
	bool later;           /* an event is unread or a page is busy; no statement about its pages */
	bool dry;             /* several revolutions of the hand found nothing to take */
	uint32_t removed;     /* candidates passed over because a REMOVE was announced for them */
};

/* Evicts up to `want` pages (at most a batch). Reclaim thread only; takes agent and layout lock. */
struct evict_result evict_pages(struct address_space *as, uint32_t want);
