/*
 * Compressed pages in memory, between the resident ones and the swap file (as zswap is for the kernel: Documentation/admin-guide/mm/zswap.rst).
 * A page is known by its slot in the swap file: the slot is its place there when it has to leave the pool, and its reference count says how
 * long it is needed. LZ4; pages that do not shrink to three quarters are refused.
 *
 * Thread-safe by one lock of rank LOCK_POOL, which is held while a compressed page is copied, and not while the work is done.
 */
#pragma once

#include <stdatomic.h>

#include "base/types.h"

#define POOL_MAX_OBJECT (PAGE_BYTES / 4 * 3)

struct pool;

/* nr_slots: one more than the highest slot. 0 or -ENOMEM. */
int pool_new(uint32_t nr_slots, struct pool **ret_pool);
void pool_free(struct pool *pool);

/* One user: the state and the output of compression. */
struct pool_compressor;
struct pool_compressor *pool_compressor_new(void); /* NULL when out of memory */
void pool_compressor_free(struct pool_compressor *compressor);

/*
 * Compresses a page and keeps it under a slot that is not in the pool. False: it does not shrink enough, or there is no memory. Only threads that own
 * the slot may call.
 */
bool pool_store(struct pool *pool, struct pool_compressor *compressor, slot_t slot, const void *page);

/* Bytes that a page would take in the pool; PAGE_BYTES when it would be refused. */
uint32_t pool_compressed_bytes(struct pool_compressor *compressor, const void *page);

/* Decompresses the page of a slot. False: the pool does not have it (any more). */
bool pool_load(struct pool *pool, slot_t slot, void *page);

bool pool_has(struct pool *pool, slot_t slot);

/* Forgets a slot, if the pool has it. Takes no other lock. */
void pool_drop(struct pool *pool, slot_t slot);

/*
 * What should leave first: slots that follow each other, at most max, around the page that has been here longest (about). They are marked as leaving and
 * not chosen again, but stay until they are dropped. Returns how many; 0: nothing is left to choose.
 */
uint32_t pool_choose_leaving(struct pool *pool, uint32_t max, slot_t *ret_first);

/* Memory taken in pages; changes by other threads' calls at any time. Lives as long as the pool. */
const _Atomic uint64_t *pool_memory(const struct pool *pool);
/* Of that, what is free for more pages. */
uint64_t pool_free_memory(const struct pool *pool);
/* Pages stored. */
uint64_t pool_nr_pages(const struct pool *pool);

bool pool_check(struct pool *pool); /* for tests */
