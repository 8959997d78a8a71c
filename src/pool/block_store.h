/*
 * Memory for objects of 1 to 4096 bytes, in blocks of 64 KiB that each hold objects of one size class (after the slab allocator, Bonwick 1994,
 * and zsmalloc). Pure but for mmap; no locks.
 *
 *   block   ┌──────────┬──────────┬──────────┬─ ─ ─┬───────┐
 *   64 KiB  │ object 0 │ object 1 │ object 2 │     │ waste │    class k: objects of k x 64 bytes
 *           └──────────┴──────────┴──────────┴─ ─ ─┴───────┘
 *
 * Holes are filled before a new block is begun. Every object knows its owner's key, so that the oldest block can be emptied.
 */
#pragma once

#include "base/types.h"

#define BLOCK_BYTES 65536u
#define BLOCK_UNIT 64u /* size classes are multiples of this */

struct block_store;

/* Where an object lies. 0 is none. The caller may keep a mark of his own in it, and hand it back with that. */
typedef uint64_t block_ref_t;
#define BLOCK_REF_MARK (UINT64_C(1) << 15)

struct block_store *block_store_new(void); /* NULL when out of memory */
void block_store_free(struct block_store *store);

/*
 * To take memory from the system needs no lock of the caller's, and takes a while: whoever has one asks whether an object of this size needs a new block, maps with the
 * lock dropped, and adds. Otherwise block_store_put does that itself. False: out of memory, what was mapped is given back.
 */
struct block_memory {
	uint8_t *chunk; /* NULL: there is none */
	bool is_taken;
};
bool block_store_wants_memory(const struct block_store *store, uint32_t bytes, bool *ret_huge);
struct block_memory block_store_map(bool huge);
bool block_store_add(struct block_store *store, struct block_memory memory);

/* Copies an object in. 0 when out of memory. */
block_ref_t block_store_put(struct block_store *store, uint32_t key, const void *object, uint32_t bytes);

/* The object, valid until it is dropped. */
const void *block_store_get(const struct block_store *store, block_ref_t ref, uint32_t *ret_bytes);

void block_store_drop(struct block_store *store, block_ref_t ref);

/* The key of an object that is wanted, in the block that was begun first of those that have one. False when there is none. */
bool block_store_oldest(const struct block_store *store, bool (*is_wanted)(void *context, uint32_t key), void *context, uint32_t *ret_key);

/* Memory taken, without the books. */
uint64_t block_store_bytes(const struct block_store *store);
/* Of that, what no object takes. */
uint64_t block_store_hole_bytes(const struct block_store *store);

/* For tests: the books agree with a full walk. */
bool block_store_check(const struct block_store *store);
