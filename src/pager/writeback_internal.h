/* Private to write-back: what the reclaim thread does (writeback.c), what the store thread does (store_thread.c), and what both do (capture.c). */
#pragma once

#include <pthread.h>

#include "pager/capture.h"
#include "pager/writeback.h"

/* Where content was stored lately, by its checksum. A hint: the slot may hold something else by now. */
struct stored {
	remote_addr_t addr; /* a page shared by fork has the same one in all; equal pages elsewhere would tear runs of slots apart */
	uint64_t checksum, second;
	slot_t slot;
};

struct writeback {
	struct pager *pager;
	struct lock lock; /* LOCK_WRITEBACK: states and page lists of the batches (fault threads look pages up), the queue, the counts below it */
	struct batch *batches;
	uint32_t nr_batches;
	struct batch *queue, **queue_end; /* settled, to be stored */
	pthread_cond_t changed;           /* a batch is free, or a request has been answered */
	uint64_t requests, answered;      /* answered: everything asked for up to this request is done, and no write is in flight */
	bool stop;
	_Atomic bool failed;
	_Atomic uint64_t nr_unstored; /* see writeback_pages */
	int event; /* eventfd: wakes the store thread */
	struct capture capture;

	/* Reclaim thread. */
	struct stored *stored; /* NR_STORED; NULL until memory shared by fork is evicted for the first time */

	/* Store thread. */
	pthread_t thread;
	bool has_thread;
	struct swap_io *io;
	struct pool_compressor *compressor;
	uint32_t nr_leaving; /* batches of pages that leave the pool */
	uint32_t nr_full;    /* writes in a row that met a full disk */
	uint64_t turn;       /* batches that came to a full pool */
};

/* A free batch in state BATCH_MOVING with one reference on as (which may be NULL), or NULL. */
struct batch *writeback_try_take(struct writeback *wb, struct address_space *as);

/* It has not grown to its share. */
bool writeback_pool_has_room(const struct writeback *wb);

/* Starts and ends the store thread. 0 or -errno. */
int store_thread_start(struct writeback *wb);
void store_thread_stop(struct writeback *wb); /* everything is stored first */

/* Lock held. */
void store_thread_ask(struct writeback *wb);
