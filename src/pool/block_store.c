#include "pool/block_store.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/huge_memory.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define NR_CLASSES (PAGE_BYTES / BLOCK_UNIT + 1)
#define MAX_OBJECTS (BLOCK_BYTES / BLOCK_UNIT)
#define BLOCKS_AT_ONCE 32u /* mapped in one go */
#define CHUNK_BYTES ((size_t)BLOCKS_AT_ONCE * BLOCK_BYTES) /* a huge page */
#define HUGE_FROM 256u     /* blocks in use, from which on memory is taken in huge pages: before, they would be too coarse */
#define KEEP_FREE 40u      /* free blocks that keep their memory for the next use */
#define NO_BLOCK UINT32_MAX
#define WORD_BITS 64u

/* block number << 32 | index in the block << 16 | bytes; bits 13 to 15 are the caller's */
#define REF_BYTES_MASK 0x1fffu
#define REF_INDEX_SHIFT 16
#define REF_BLOCK_SHIFT 32

struct block {
	uint8_t *data;
	uint16_t class;            /* 0: free */
	uint16_t nr_objects;       /* room for */
	uint16_t nr_used;
	bool is_resident;          /* free, and its memory was kept */
	uint32_t prev, next;       /* all blocks in use, by age; next: the free list */
	uint32_t hole_prev, hole_next; /* blocks of one class that have holes, not the open one */
	bool has_holes;            /* on that list */
	uint64_t used[MAX_OBJECTS / WORD_BITS];
	uint32_t *keys;
};

struct block_store {
	struct block *blocks;
	uint32_t nr_blocks;
	uint32_t free, nr_resident_free;
	uint32_t oldest, newest;
	uint32_t open[NR_CLASSES];      /* where new objects go */
	uint32_t with_holes[NR_CLASSES];
	uint64_t nr_in_use;             /* blocks */
	uint64_t used_bytes;            /* of objects, by class */
};

struct block_store *block_store_new(void)
{
	struct block_store *store = calloc(1, sizeof(*store));
	if (!store)
		return NULL;
	store->free = store->oldest = store->newest = NO_BLOCK;
	for (uint32_t i = 0; i < NR_CLASSES; i++)
		store->open[i] = store->with_holes[i] = NO_BLOCK;
	return store;
}

void block_store_free(struct block_store *store)
{
	if (!store)
		return;
	for (uint32_t i = 0; i < store->nr_blocks; i++)
		free(store->blocks[i].keys);
	for (uint32_t i = 0; i < store->nr_blocks; i += BLOCKS_AT_ONCE)
		huge_memory_free(store->blocks[i].data, CHUNK_BYTES);
	free(store->blocks);
	free(store);
}

static uint32_t class_of(uint32_t bytes)
{
	return (bytes + BLOCK_UNIT - 1) / BLOCK_UNIT;
}

/* To take a huge page is a tenth of the work of taking its pages one by one. */
static bool take_at_once(uint8_t *chunk)
{
	return madvise(chunk, CHUNK_BYTES, MADV_HUGEPAGE) == 0 && madvise(chunk, CHUNK_BYTES, MADV_POPULATE_WRITE) == 0;
}

static bool is_large(const struct block_store *store)
{
	return store->nr_in_use >= HUGE_FROM;
}

bool block_store_wants_memory(const struct block_store *store, uint32_t bytes, bool *ret_huge)
{
	uint32_t class = class_of(bytes);
	*ret_huge = is_large(store);
	return store->open[class] == NO_BLOCK && store->with_holes[class] == NO_BLOCK && store->free == NO_BLOCK;
}

struct block_memory block_store_map(bool huge)
{
	uint8_t *chunk = huge_memory_map(CHUNK_BYTES);
	return (struct block_memory){.chunk = chunk, .is_taken = chunk && huge && take_at_once(chunk)};
}

bool block_store_add(struct block_store *store, struct block_memory memory)
{
	uint32_t nr = store->nr_blocks;
	struct block *bigger = memory.chunk ? reallocarray(store->blocks, nr + BLOCKS_AT_ONCE, sizeof(*bigger)) : NULL;
	if (!bigger) {
		if (memory.chunk)
			munmap(memory.chunk, CHUNK_BYTES);
		return false;
	}
	store->blocks = bigger;
	bool taken = memory.is_taken;
	for (uint32_t i = 0; i < BLOCKS_AT_ONCE; i++)
		bigger[nr + i] = (struct block){.data = memory.chunk + (size_t)i * BLOCK_BYTES, .is_resident = taken, .next = nr + i + 1};
	bigger[nr + BLOCKS_AT_ONCE - 1].next = store->free;
	store->free = nr;
	store->nr_blocks = nr + BLOCKS_AT_ONCE;
	store->nr_resident_free += taken ? BLOCKS_AT_ONCE : 0;
	return true;
}

static uint64_t object_bytes(const struct block *block)
{
	return (uint64_t)block->class * BLOCK_UNIT;
}

/* A free block begins to hold objects of one class, as the newest. */
static uint32_t begin_block(struct block_store *store, uint32_t class)
{
	if (store->free == NO_BLOCK && !block_store_add(store, block_store_map(is_large(store))))
		return NO_BLOCK;
	uint32_t number = store->free;
	struct block *block = &store->blocks[number];
	uint32_t nr_objects = BLOCK_BYTES / (class * BLOCK_UNIT);
	block->keys = malloc(nr_objects * sizeof(*block->keys));
	if (!block->keys)
		return NO_BLOCK;
	store->free = block->next;
	store->nr_resident_free -= block->is_resident;
	if (!block->is_resident)
		madvise(block->data, BLOCK_BYTES, MADV_POPULATE_WRITE); /* one call instead of a fault for each page */
	block->is_resident = false;
	block->class = (uint16_t)class;
	block->nr_objects = (uint16_t)nr_objects;
	block->nr_used = 0;
	memset(block->used, 0, sizeof(block->used));
	block->prev = store->newest;
	block->next = NO_BLOCK;
	*(store->newest == NO_BLOCK ? &store->oldest : &store->blocks[store->newest].next) = number;
	store->newest = number;
	store->nr_in_use++;
	return number;
}

/* Nothing is stored any more: an idle pool takes no memory. */
static void give_all_back(struct block_store *store)
{
	for (uint32_t i = 0; i < store->nr_blocks && store->nr_resident_free; i++) {
		if (!store->blocks[i].is_resident)
			continue;
		madvise(store->blocks[i].data, BLOCK_BYTES, MADV_DONTNEED);
		store->blocks[i].is_resident = false;
		store->nr_resident_free--;
	}
}

static void end_block(struct block_store *store, uint32_t number)
{
	struct block *block = &store->blocks[number];
	*(block->prev == NO_BLOCK ? &store->oldest : &store->blocks[block->prev].next) = block->next;
	*(block->next == NO_BLOCK ? &store->newest : &store->blocks[block->next].prev) = block->prev;
	free(block->keys);
	block->keys = NULL;
	block->class = 0;
	block->is_resident = store->nr_resident_free < KEEP_FREE;
	if (block->is_resident)
		store->nr_resident_free++;
	else
		madvise(block->data, BLOCK_BYTES, MADV_DONTNEED);
	block->next = store->free;
	store->free = number;
	if (!--store->nr_in_use)
		give_all_back(store);
}

static void add_to_holes(struct block_store *store, uint32_t number)
{
	struct block *block = &store->blocks[number];
	uint32_t *head = &store->with_holes[block->class];
	block->hole_prev = NO_BLOCK;
	block->hole_next = *head;
	if (*head != NO_BLOCK)
		store->blocks[*head].hole_prev = number;
	*head = number;
	block->has_holes = true;
}

static void take_from_holes(struct block_store *store, uint32_t number)
{
	struct block *block = &store->blocks[number];
	*(block->hole_prev == NO_BLOCK ? &store->with_holes[block->class] : &store->blocks[block->hole_prev].hole_next) = block->hole_next;
	if (block->hole_next != NO_BLOCK)
		store->blocks[block->hole_next].hole_prev = block->hole_prev;
	block->has_holes = false;
}

/* A block of the class with room: the open one, one with holes, or a new one. */
static uint32_t block_with_room(struct block_store *store, uint32_t class)
{
	uint32_t *open = &store->open[class], holes = store->with_holes[class];
	if (*open != NO_BLOCK)
		return *open;
	if (holes != NO_BLOCK)
		take_from_holes(store, holes);
	*open = holes != NO_BLOCK ? holes : begin_block(store, class);
	return *open;
}

static uint32_t first_free(const struct block *block)
{
	uint32_t word = 0;
	while (block->used[word] == UINT64_MAX)
		word++;
	return word * WORD_BITS + (uint32_t)__builtin_ctzll(~block->used[word]);
}

block_ref_t block_store_put(struct block_store *store, uint32_t key, const void *object, uint32_t bytes)
{
	assert(bytes > 0 && bytes <= PAGE_BYTES);
	uint32_t class = class_of(bytes), number = block_with_room(store, class);
	if (number == NO_BLOCK)
		return 0;
	struct block *block = &store->blocks[number];
	uint32_t index = first_free(block);
	memcpy(block->data + index * object_bytes(block), object, bytes);
	block->used[index / WORD_BITS] |= UINT64_C(1) << index % WORD_BITS;
	block->keys[index] = key;
	store->used_bytes += object_bytes(block);
	if (++block->nr_used == block->nr_objects)
		store->open[class] = NO_BLOCK;
	return (block_ref_t)number << REF_BLOCK_SHIFT | (block_ref_t)index << REF_INDEX_SHIFT | bytes;
}

static struct block *block_of(const struct block_store *store, block_ref_t ref, uint32_t *ret_index)
{
	struct block *block = &store->blocks[ref >> REF_BLOCK_SHIFT];
	*ret_index = (uint32_t)(ref >> REF_INDEX_SHIFT) & 0xffff;
	assert(ref >> REF_BLOCK_SHIFT < store->nr_blocks && block->class && block->used[*ret_index / WORD_BITS] >> *ret_index % WORD_BITS & 1);
	return block;
}

const void *block_store_get(const struct block_store *store, block_ref_t ref, uint32_t *ret_bytes)
{
	uint32_t index;
	const struct block *block = block_of(store, ref, &index);
	*ret_bytes = (uint32_t)ref & REF_BYTES_MASK;
	return block->data + index * object_bytes(block);
}

void block_store_drop(struct block_store *store, block_ref_t ref)
{
	uint32_t index, number = (uint32_t)(ref >> REF_BLOCK_SHIFT);
	struct block *block = block_of(store, ref, &index);
	block->used[index / WORD_BITS] &= ~(UINT64_C(1) << index % WORD_BITS);
	block->nr_used--;
	store->used_bytes -= object_bytes(block);
	if (block->nr_used == 0) {
		if (block->has_holes)
			take_from_holes(store, number);
		if (store->open[block->class] == number)
			store->open[block->class] = NO_BLOCK;
		end_block(store, number);
	} else if (store->open[block->class] != number && !block->has_holes) {
		add_to_holes(store, number);
	}
}

bool block_store_oldest(const struct block_store *store, bool (*is_wanted)(void *context, uint32_t key), void *context, uint32_t *ret_key)
{
	for (uint32_t number = store->oldest; number != NO_BLOCK; number = store->blocks[number].next) {
		const struct block *block = &store->blocks[number];
		for (uint32_t i = 0; i < block->nr_objects; i++) {
			if (!(block->used[i / WORD_BITS] >> i % WORD_BITS & 1) || !is_wanted(context, block->keys[i]))
				continue;
			*ret_key = block->keys[i];
			return true;
		}
	}
	return false;
}

uint64_t block_store_bytes(const struct block_store *store)
{
	return (store->nr_in_use + store->nr_resident_free) * BLOCK_BYTES;
}

uint64_t block_store_hole_bytes(const struct block_store *store)
{
	return store->nr_in_use * BLOCK_BYTES - store->used_bytes;
}

static bool check_block(const struct block_store *store, uint32_t number, uint64_t *used_bytes)
{
	const struct block *block = &store->blocks[number];
	uint32_t used = 0;
	for (uint32_t i = 0; i < MAX_OBJECTS; i++)
		used += block->used[i / WORD_BITS] >> i % WORD_BITS & 1;
	bool open = store->open[block->class] == number;
	*used_bytes += used * object_bytes(block);
	return used == block->nr_used && used && used <= block->nr_objects && block->has_holes == (!open && used < block->nr_objects) &&
	       !(open && used == block->nr_objects);
}

bool block_store_check(const struct block_store *store)
{
	uint64_t in_use = 0, used = 0, free_blocks = 0, resident = 0;
	uint32_t prev = NO_BLOCK;
	for (uint32_t i = store->oldest; i != NO_BLOCK; prev = i, i = store->blocks[i].next) {
		if (store->blocks[i].prev != prev || !store->blocks[i].class || !check_block(store, i, &used) || in_use++ > store->nr_blocks)
			return false;
	}
	for (uint32_t i = store->free; i != NO_BLOCK; i = store->blocks[i].next) {
		resident += store->blocks[i].is_resident;
		if (store->blocks[i].class || free_blocks++ > store->nr_blocks)
			return false;
	}
	return prev == store->newest && in_use == store->nr_in_use && in_use + free_blocks == store->nr_blocks && used == store->used_bytes &&
	       resident == store->nr_resident_free;
}
