#include "pool/pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <lz4.h>

#include "base/lock.h"
#include "pool/block_store.h"

#define CHUNK_SLOTS 512u
#define ACCELERATION 1
#define FUTILE_PAGES 64u /* did not shrink, one after the other: from then on ... */
#define TRY_EACH 16u     /* ... one of so many is tried */

/* Where the pages of neighbouring slots are; 0: not in the pool. Marked: chosen to leave. */
struct chunk {
	uint32_t nr;
	block_ref_t pages[CHUNK_SLOTS];
};

struct pool {
	struct lock lock;
	uint32_t nr_chunks;
	struct chunk **chunks;
	struct block_store *store;
	_Atomic uint64_t nr_pages, memory, holes; /* memory and the holes in it: in pages */
};

struct pool_compressor {
	uint32_t futile; /* pages in a row that did not shrink */
	char out[POOL_MAX_OBJECT];
};

int pool_new(uint32_t nr_slots, struct pool **ret_pool)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	if (!pool)
		return -ENOMEM;
	lock_init(&pool->lock, LOCK_POOL);
	pool->nr_chunks = nr_slots / CHUNK_SLOTS + 1;
	pool->chunks = calloc(pool->nr_chunks, sizeof(struct chunk *));
	pool->store = block_store_new();
	if (!pool->chunks || !pool->store) {
		pool_free(pool);
		return -ENOMEM;
	}
	*ret_pool = pool;
	return 0;
}

/* Only chunks that exist are touched while there are pages: the table of a large file is mostly zero pages that were never touched. */
void pool_free(struct pool *pool)
{
	if (!pool)
		return;
	for (uint32_t i = 0; pool->chunks && i < pool->nr_chunks && pool->nr_pages; i++) {
		if (!pool->chunks[i])
			continue;
		pool->nr_pages -= pool->chunks[i]->nr;
		free(pool->chunks[i]);
	}
	free(pool->chunks);
	block_store_free(pool->store);
	lock_destroy(&pool->lock);
	free(pool);
}

struct pool_compressor *pool_compressor_new(void)
{
	return calloc(1, sizeof(struct pool_compressor));
}

void pool_compressor_free(struct pool_compressor *compressor)
{
	free(compressor);
}

static struct chunk *chunk_of(const struct pool *pool, slot_t slot)
{
	uint32_t number = slot / CHUNK_SLOTS;
	return number < pool->nr_chunks ? pool->chunks[number] : NULL;
}

static block_ref_t find(const struct pool *pool, slot_t slot)
{
	const struct chunk *chunk = chunk_of(pool, slot);
	return chunk ? chunk->pages[slot % CHUNK_SLOTS] : 0;
}

/* Lock held. */
static void update_memory(struct pool *pool)
{
	atomic_store_explicit(&pool->memory, block_store_bytes(pool->store) / PAGE_BYTES, memory_order_relaxed);
	atomic_store_explicit(&pool->holes, block_store_hole_bytes(pool->store) / PAGE_BYTES, memory_order_relaxed);
}

/* Lock held. */
static bool insert(struct pool *pool, slot_t slot, const void *object, uint32_t bytes)
{
	uint32_t number = slot / CHUNK_SLOTS;
	if (number >= pool->nr_chunks || find(pool, slot))
		return false;
	struct chunk *chunk = pool->chunks[number];
	if (!chunk)
		chunk = calloc(1, sizeof(*chunk));
	block_ref_t ref = chunk ? block_store_put(pool->store, slot, object, bytes) : 0;
	if (!ref) {
		if (!pool->chunks[number])
			free(chunk);
		return false;
	}
	chunk->pages[slot % CHUNK_SLOTS] = ref;
	chunk->nr++;
	pool->chunks[number] = chunk;
	pool->nr_pages++;
	update_memory(pool);
	return true;
}

/* 0: the page does not shrink enough. Where that was so for many in a row only some are tried. */
static uint32_t compress(struct pool_compressor *compressor, const void *page)
{
	if (compressor->futile > FUTILE_PAGES && compressor->futile++ % TRY_EACH)
		return 0;
	int bytes = LZ4_compress_fast(page, compressor->out, (int)PAGE_BYTES, sizeof(compressor->out), ACCELERATION);
	if (bytes > 0)
		compressor->futile = 0;
	else if (compressor->futile <= FUTILE_PAGES)
		compressor->futile++;
	return bytes > 0 ? (uint32_t)bytes : 0;
}

/* Lock held, but dropped while the system takes memory, if it has to: faults are served from the pool meanwhile. */
static void take_memory(struct pool *pool, uint32_t bytes)
{
	bool huge;
	if (!block_store_wants_memory(pool->store, bytes, &huge))
		return;
	lock_drop(&pool->lock);
	struct block_memory memory = block_store_map(huge);
	lock_take(&pool->lock);
	block_store_add(pool->store, memory);
}

uint32_t pool_compressed_bytes(struct pool_compressor *compressor, const void *page)
{
	uint32_t bytes = compress(compressor, page);
	return bytes ? bytes : PAGE_BYTES;
}

bool pool_store(struct pool *pool, struct pool_compressor *compressor, slot_t slot, const void *page)
{
	uint32_t bytes = compress(compressor, page);
	if (!bytes)
		return false;
	lock_take(&pool->lock);
	take_memory(pool, bytes);
	bool ok = insert(pool, slot, compressor->out, bytes);
	lock_drop(&pool->lock);
	return ok;
}

bool pool_load(struct pool *pool, slot_t slot, void *page)
{
	char object[POOL_MAX_OBJECT];
	uint32_t bytes = 0;
	lock_take(&pool->lock);
	block_ref_t ref = find(pool, slot);
	if (ref) {
		const void *stored = block_store_get(pool->store, ref, &bytes);
		memcpy(object, stored, bytes);
	}
	lock_drop(&pool->lock);
	if (ref)
		LZ4_decompress_safe(object, page, (int)bytes, (int)PAGE_BYTES); /* damage shows in the page's checksum */
	return ref;
}

bool pool_has(struct pool *pool, slot_t slot)
{
	lock_take(&pool->lock);
	block_ref_t ref = find(pool, slot);
	lock_drop(&pool->lock);
	return ref;
}

void pool_drop(struct pool *pool, slot_t slot)
{
	lock_take(&pool->lock);
	struct chunk *chunk = chunk_of(pool, slot);
	block_ref_t ref = find(pool, slot);
	if (ref) {
		block_store_drop(pool->store, ref);
		chunk->pages[slot % CHUNK_SLOTS] = 0;
		pool->nr_pages--;
		if (!--chunk->nr) {
			pool->chunks[slot / CHUNK_SLOTS] = NULL;
			free(chunk);
		}
		update_memory(pool);
	}
	lock_drop(&pool->lock);
}

static bool stays(void *context, uint32_t slot)
{
	block_ref_t ref = find(context, slot);
	return ref && !(ref & BLOCK_REF_MARK);
}

uint32_t pool_choose_leaving(struct pool *pool, uint32_t max, slot_t *ret_first)
{
	uint32_t nr = 0;
	slot_t slot;
	lock_take(&pool->lock);
	if (block_store_oldest(pool->store, stays, pool, &slot)) {
		slot_t first = slot;
		while (slot + 1 - first < max && first > 1 && stays(pool, first - 1))
			first--;
		for (nr = slot + 1 - first; nr < max && stays(pool, first + nr);)
			nr++;
		for (uint32_t i = 0; i < nr; i++)
			chunk_of(pool, first + i)->pages[(first + i) % CHUNK_SLOTS] |= BLOCK_REF_MARK;
		*ret_first = first;
	}
	lock_drop(&pool->lock);
	return nr;
}

const _Atomic uint64_t *pool_memory(const struct pool *pool)
{
	return &pool->memory;
}

uint64_t pool_free_memory(const struct pool *pool)
{
	return atomic_load_explicit(&pool->holes, memory_order_relaxed);
}

uint64_t pool_nr_pages(const struct pool *pool)
{
	return atomic_load_explicit(&pool->nr_pages, memory_order_relaxed);
}

bool pool_check(struct pool *pool)
{
	uint64_t nr = 0;
	bool ok = true;
	lock_take(&pool->lock);
	for (uint32_t i = 0; i < pool->nr_chunks; i++) {
		uint32_t in_chunk = 0;
		for (uint32_t k = 0; pool->chunks[i] && k < CHUNK_SLOTS; k++)
			in_chunk += pool->chunks[i]->pages[k] != 0;
		ok &= !pool->chunks[i] || (in_chunk && in_chunk == pool->chunks[i]->nr);
		nr += in_chunk;
	}
	ok &= nr == pool->nr_pages && block_store_check(pool->store);
	lock_drop(&pool->lock);
	return ok;
}
