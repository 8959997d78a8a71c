/*
 * Batches of captured pages on their way to the pool or the swap file, and from the pool to the file.
 *
 * A batch belongs to the reclaim thread, which fills and settles it, and then to the store thread, which compresses or writes its pages and frees it;
 * the fault threads only look pages up in it. A page
 * in a batch is known by its slot: slots are allocated before the page leaves the program and are not used for anything else while a batch
 * or a table entry refers to them, so a slot found in a batch has exactly that content, whoever (also a fork's child) asks for it.
 */
#pragma once

#include <stdatomic.h>

#include "base/lock.h"
#include "base/types.h"
#include "pager/address_space.h"
#include "swap/swap_io.h"

#define BATCH_PAGES 256

enum batch_state {
	BATCH_FREE,
	BATCH_MOVING,   /* pages are leaving the program; the buffer has no content yet */
	BATCH_CAPTURED, /* the buffer holds every page */
};

struct batch_page {
	remote_addr_t addr;
	slot_t slot;     /* the new slot, with a reference of the batch's own (it must not be used anew while its write is in flight); NO_SLOT: settled */
	bool is_zero;
	bool to_cache;   /* clean and in the file, but a compressed copy in the pool would spare the next fault a read */
	bool is_encrypted; /* in the buffer; with writeback.lock */
	slot_t old_slot; /* held an equal copy when the page was last filled; the batch holds a reference, or NO_SLOT */
};

struct batch {
	enum batch_state state; /* guarded by writeback.lock */
	struct address_space *as; /* NULL: the pages come from the pool */
	uint32_t nr_pages;
	uint32_t nr_unstored; /* pages that count as memory of the keeper */
	uint32_t writes_pending;
	int error;
	bool is_kept; /* its write failed, and its content is still somebody's */
	struct batch *next_queued;
	bool to_store[BATCH_PAGES]; /* not settled: to be compressed or written */
	struct batch_page pages[BATCH_PAGES];
	uint8_t *buffer; /* BATCH_PAGES pages, page aligned */
};

struct writeback;

/* nr_batches buffers of 1 MiB. 0 or -errno. */
int writeback_new(struct pager *pager, uint32_t nr_batches, struct writeback **ret_wb);

/* Waits for the writes in flight. */
void writeback_free(struct writeback *wb);

/* Reclaim thread. A free batch in state BATCH_MOVING with one reference on as; waits for writes when all are busy. NULL once a write has failed. */
struct batch *writeback_take(struct writeback *wb, struct address_space *as);

/* Reclaim thread. Gives back a batch that came to nothing. */
void writeback_return(struct writeback *wb, struct batch *batch);

/* Reclaim thread. Its list of pages is: whoever looks for one of them finds it, and is told to ask again. */
void writeback_moved(struct writeback *wb, struct batch *batch, uint32_t nr_pages);

/* Reclaim thread. The buffer is complete: faults may be served from it from now on. */
void writeback_captured(struct writeback *wb, struct batch *batch);

/* Reclaim thread. The content of some pages is in the buffer: takes their checksums. */
void writeback_look_at(struct writeback *wb, struct batch *batch, uint32_t first, uint32_t nr);

/*
 * Reclaim thread. Of the pages that have been looked at those that are all zero, equal to their old slot, or just stored for a process that shared them by fork are
 * settled: nothing is to be done with them.
 */
void writeback_settle(struct writeback *wb, struct batch *batch);

/* Reclaim thread. Lets the store thread compress the rest into the pool, or write it. The batch is freed when that is done. */
void writeback_store(struct writeback *wb, struct batch *batch);

/* Pages handed over and not stored yet: memory of the keeper that counts as the container's. Changes at any time. */
const _Atomic uint64_t *writeback_pages(const struct writeback *wb);

/* Any thread. The target of the pool has changed. */
void writeback_wake(struct writeback *wb);

/* Waits until everything handed over is stored and the pool is down to its target, or cannot be. */
void writeback_drain(struct writeback *wb);

/* True once a write has failed: the swap file takes nothing more. */
bool writeback_has_failed(struct writeback *wb);

/* Any thread. 1: the slot's content was copied to page; 0: no batch has it (it is in the file); -EAGAIN: not captured yet, ask again. */
int writeback_find(struct writeback *wb, slot_t slot, void *page);

/* Any thread. True while a batch has the slot: its content may not be in the file yet. */
bool writeback_has(struct writeback *wb, slot_t slot);
