/* Serving one missing page: what the table says decides between zeros, a batch in write-back, the pool, and the swap file. */
#pragma once

#include "pager/address_space.h"
#include "pager/load.h"
#include "swap/swap_io.h"

/* What a fault thread brings along to serve faults. */
struct fault_context {
	struct pager *pager;
	struct swap_io *io; /* NULL without a swap file */
	struct load loads[NR_LOADS];
	uint8_t *buffers;    /* of the loads */
	const uint8_t *zeros; /* LOAD_MAX_PAGES pages */
	uint8_t *chunk;       /* POOL_CHUNK_PAGES pages, see fault.c */
};

struct fault {
	struct address_space *as;
	remote_addr_t page;
	pid_t inner_tid;
	bool write;
	bool counted;      /* this fault's wait for room is in failcnt already */
	uint32_t dry_seq;  /* of the pager when the fault began to wait */
};

enum fault_result {
	FAULT_DONE,     /* served, or a read is under way that will serve it */
	FAULT_DEFERRED, /* ask again: an event is unread, a batch is not captured yet, no room, no free load, the content is still on its way from elsewhere */
};

int fault_context_init(struct fault_context *context, struct pager *pager);
/* What is under way is given up: its pages stay evicted. */
void fault_context_release(struct fault_context *context);

/* The pager has another swap file, or none: no load is in flight, and none will be before somebody evicts again. 0 or -errno. */
int fault_context_reopen(struct fault_context *context);

/*
 * Layout lock held. Looks the page up and acts on what is there now; content chosen at an earlier try is never used (FACTS rule 5).
 */
enum fault_result fault_handle(struct fault_context *context, struct fault *fault);

/*
 * Layout lock held. Begins to bring an evicted page that nobody waits for back into memory, and at most max - 1 more whose addresses and slots follow
 * it. Returns how many pages are settled (back, under way, or not evicted any more); 0: ask again later (no room below the limit, no
 * free load, an unread event, a batch that is not captured yet, content that has not arrived).
 */
uint32_t fault_bring_back(struct fault_context *context, struct address_space *as, remote_addr_t page, uint32_t max);
