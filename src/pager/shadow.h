/*
 * The shadow page table of one address space: what membox knows about each page that it has ever filled or evicted. A radix tree over
 * 48-bit addresses, four levels of 512 entries, 8 bytes a page, allocated only where something was filled or evicted. Not thread-safe: the
 * address space's layout lock guards it.
 *
 *                 fill (COPY)                evict: MOVE to staging            checksum, write
 *      NONE ───────────────────▶ RESIDENT ───────────────────────▶ STAGED ────────────────────▶ SWAPPED | ZERO
 *        ▲                         ▲   ▲    refault (no I/O)          │                              │
 *        │                         │   └──────────────────────────────┘                              │
 *        │                         └────────────────── fault: read, verify, COPY ────────────────────┘
 *        └── UNMAP and REMOVE drop the entry and its slot, REMAP moves it, FORK copies it
 *
 * An untracked resident page (touched before its mapping was registered) is NONE too: the kernel knows that it is there (PAGEMAP_SCAN), a
 * fault can only come when it is not, and then its content is zeros.
 *
 * Entry:   63        32 31 .. 17 16    15  8 7  6 5        4       3      2..0
 *         | slot       | spare |ARMED|epoch|age |LOADING|REMOVED|PINNED|state |    (31 .. 21 spare, 20 ZEROS, 19 SAVED, 18 ALONE, 17 UNKNOWN)
 */
#pragma once

#include "base/types.h"

enum page_state {
	STATE_NONE,     /* nothing stored; slot must be NO_SLOT */
	STATE_RESIDENT, /* in memory; a slot, if any, held this content when the page was filled (clean unless written since) */
	STATE_STAGED,   /* captured; its slot is on the way to the file: content is found through the write-back batches */
	STATE_ZERO,     /* evicted, all zeros, no slot */
	STATE_SWAPPED,  /* evicted, content in its slot */
	NR_STATES,
};

#define ENTRY_STATE_MASK 0x7ull
#define ENTRY_PINNED 0x8ull   /* holds a thread record or arguments: never evicted */
#define ENTRY_REMOVED 0x10ull /* a REMOVE event was read, the zap may still come: not evictable until filled by a fault */
#define ENTRY_LOADING 0x20ull /* a read of its slot is in flight; whoever completes it wakes the waiters */
#define ENTRY_ARMED 0x10000ull /* write-protected since it was last looked at: if it is not any more, it was written to */
#define ENTRY_UNKNOWN 0x20000ull /* NONE, missing, and what it should hold cannot be told (forkless.h): whoever touches it is killed */
#define ENTRY_ALONE 0x40000ull   /* RESIDENT, read from the file by a fault that was not part of a sequence: worth a place in the pool */
/*
 * For pages in memory that a checkpoint need not read (precopy.h): write-protected, and looked at since. With a slot, or ZEROS: the slot holds the content, or
 * it is zeros, unless the kernel says that the page was written to. Whoever write-protects a page that was written to takes both flags away.
 */
#define ENTRY_SAVED 0x80000ull
#define ENTRY_ZEROS 0x100000ull
#define ENTRY_AGE_SHIFT 6
#define ENTRY_AGE_MAX 3u
#define ENTRY_EPOCH_SHIFT 8
#define ENTRY_SLOT_SHIFT 32

typedef uint64_t shadow_entry_t;

static inline enum page_state entry_state(shadow_entry_t e)
{
	return (enum page_state)(e & ENTRY_STATE_MASK);
}

static inline slot_t entry_slot(shadow_entry_t e)
{
	return (slot_t)(e >> ENTRY_SLOT_SHIFT);
}

static inline unsigned entry_age(shadow_entry_t e)
{
	return (unsigned)(e >> ENTRY_AGE_SHIFT) & ENTRY_AGE_MAX;
}

/* Low 8 bits of a counter: evictions when the page went out, fills when it came in (see reclaim/clock.h). */
static inline uint8_t entry_epoch(shadow_entry_t e)
{
	return (uint8_t)(e >> ENTRY_EPOCH_SHIFT);
}

/* Composes an entry; flags are the ENTRY_ bits (PINNED, REMOVED, LOADING). */
static inline shadow_entry_t entry_make(enum page_state state, slot_t slot, unsigned age, uint8_t epoch, uint64_t flags)
{
	return (uint64_t)state | flags | (uint64_t)age << ENTRY_AGE_SHIFT | (uint64_t)epoch << ENTRY_EPOCH_SHIFT |
	       (uint64_t)slot << ENTRY_SLOT_SHIFT;
}

static inline shadow_entry_t entry_with_age(shadow_entry_t e, unsigned age)
{
	return (e & ~((uint64_t)ENTRY_AGE_MAX << ENTRY_AGE_SHIFT)) | (uint64_t)age << ENTRY_AGE_SHIFT;
}

static inline bool entry_is_saved(shadow_entry_t e)
{
	return e & ENTRY_SAVED && entry_state(e) == STATE_RESIDENT && (entry_slot(e) != NO_SLOT || e & ENTRY_ZEROS);
}

static inline bool entry_is_evicted(shadow_entry_t e)
{
	return entry_state(e) >= STATE_STAGED;
}

struct shadow;

struct shadow *shadow_new(void); /* NULL when out of memory */
void shadow_free(struct shadow *shadow);

/* The entry of a page; 0 (NONE without flags) where nothing is known. */
shadow_entry_t shadow_get(const struct shadow *shadow, remote_addr_t addr);

/*
 * The one place where an entry changes. Checks the transition (debug builds), keeps the counters. Returns false when a leaf was needed
 * and memory ran out (never when the leaf exists, that is for a page that already has an entry).
 */
bool shadow_set(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry);

/*
 * nr pages from addr on, of which nothing is known but that they may be pinned, are SWAPPED, in as many slots from `slot` on. False: memory ran out, with
 * some of them set.
 */
bool shadow_set_swapped(struct shadow *shadow, remote_addr_t addr, uint64_t nr, slot_t slot, uint8_t epoch);

/* Makes sure that shadow_set on these pages cannot fail. */
bool shadow_reserve(struct shadow *shadow, remote_addr_t start, remote_addr_t end);

/*
 * Calls visit for every entry that is not 0 in [start, end), in address order; the visitor may change that entry through shadow_set.
 * Absent subtrees cost nothing.
 */
void shadow_for_each(struct shadow *shadow, remote_addr_t start, remote_addr_t end,
		     void (*visit)(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context),
		     void *context);

/* The first page at or after start whose content is in a slot (STAGED or SWAPPED). False: there is none. */
bool shadow_next_evicted(const struct shadow *shadow, remote_addr_t start, remote_addr_t *ret_addr);

/*
 * The first pages in [start, end) that are SAVED, in slots that follow each other or (slot NO_SLOT) zeros: how many they are, 0 for none. As above, absent subtrees cost
 * nothing.
 */
uint64_t shadow_next_saved(const struct shadow *shadow, remote_addr_t start, remote_addr_t end, remote_addr_t *ret_addr, slot_t *ret_slot);

uint64_t shadow_count(const struct shadow *shadow, enum page_state state);
uint64_t shadow_evicted(const struct shadow *shadow); /* in whatever state */
uint64_t shadow_active(const struct shadow *shadow);  /* RESIDENT with age > 0 */
uint64_t shadow_pinned(const struct shadow *shadow);
uint64_t shadow_slots(const struct shadow *shadow);   /* entries that hold a slot reference */
uint64_t shadow_bytes(const struct shadow *shadow);   /* memory the table itself takes */

/* For tests: true when the counters agree with a full walk. */
bool shadow_check(const struct shadow *shadow);
