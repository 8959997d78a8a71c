/* Serving one missing page: what the table says decides between zeros, a batch in write-back, the pool, and the swap file. */
#pragma once

#include "pager/address_space.h"
#include "swap/swap_io.h"

#define LOAD_MAX_PAGES 128
#define NR_LOADS 16
#define POOL_CHUNK_PAGES 8  /* decompressed and put in together */
#define POOL_MAX_WINDOW 32

/*
 * A read of contiguous slots for contiguous pages, in flight or waiting to be put in. It holds one reference on each slot, so that a slot
 * number found again in the table later means the same content, and a reservation of nr_pages.
 */
struct load {
	struct address_space *as; /* NULL: free */
	remote_addr_t start;
	uint32_t nr_pages;
	uint32_t fault_page; /* index of the page that somebody waits for; the others are readahead */
	slot_t first_slot;
	uint8_t *buffer;
	bool down;    /* the window extends downwards */
	bool sequential; /* the window is one of an established stream: its pages count as asked for */
	bool write;   /* the fault was one: that the page was written to says nothing more */
	bool is_read; /* the content is here and verified; putting it in has to be tried again, or, at a gate, is put off */
	bool is_gate;       /* see read_ahead */
	uint32_t nr_behind; /* it: pages */
	uint64_t begun_ns;  /* it */
};

/* What a fault thread brings along to serve faults. */
struct fault_context {
	struct pager *pager;
	struct swap_io *io; /* NULL without a swap file */
	struct load loads[NR_LOADS];
	uint8_t *buffers;    /* of the loads */
	const uint8_t *zeros; /* LOAD_MAX_PAGES pages */
	uint8_t *chunk;       /* POOL_CHUNK_PAGES pages */
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

/* Takes no lock. Collects finished reads and puts them in. Returns how many loads made progress. */
int fault_reap_loads(struct fault_context *context);

/* Reads in flight or waiting to be put in. */
bool fault_has_loads(const struct fault_context *context);

/* Those in flight. */
bool fault_is_reading(const struct fault_context *context);
