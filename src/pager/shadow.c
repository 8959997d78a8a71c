#include "pager/shadow.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/huge_memory.h"

#define FANOUT_SHIFT 9
#define FANOUT (1u << FANOUT_SHIFT)
#define NR_LEVELS 4 /* 3 of pointers, 1 of entries: 4 * 9 + 12 = 48 bits */
#define ADDRESS_LIMIT (1ull << (NR_LEVELS * FANOUT_SHIFT + PAGE_SHIFT))
#define FIRST_NODES 4u
#define MOST_NODES ((uint32_t)(HUGE_PAGE_BYTES / sizeof(struct node)))

struct node {
	union {
		struct node *child[FANOUT];
		shadow_entry_t entry[FANOUT];
	};
};

/* Nodes are taken one after the other and given back all together. */
struct chunk {
	struct chunk *next;
	struct node *nodes;
	uint32_t nr, used;
};

struct counters {
	uint64_t state[NR_STATES];
	uint64_t active, pinned, slots;
};

struct shadow {
	struct node *root;
	struct chunk *chunks; /* the newest first: the others are full */
	uint64_t nr_nodes;
	struct counters count;
};

static unsigned index_at(remote_addr_t addr, unsigned level)
{
	return (unsigned)(addr >> (PAGE_SHIFT + FANOUT_SHIFT * level)) & (FANOUT - 1);
}

static uint64_t span_of(unsigned level)
{
	return 1ull << (PAGE_SHIFT + FANOUT_SHIFT * level);
}

static void chunk_free(struct chunk *chunk)
{
	if (chunk->nr == MOST_NODES)
		huge_memory_free(chunk->nodes, HUGE_PAGE_BYTES);
	else
		free(chunk->nodes);
	free(chunk);
}

/* Each holds as many as all before it, or as are wanted now, and none more than a huge page. */
static bool add_chunk(struct shadow *shadow, uint64_t want)
{
	struct chunk *chunk = calloc(1, sizeof(*chunk));
	if (!chunk)
		return false;
	want = MAX_OF(MAX_OF(shadow->nr_nodes, want), FIRST_NODES);
	chunk->nr = want > MOST_NODES / 2 ? MOST_NODES : (uint32_t)want;
	chunk->nodes = chunk->nr == MOST_NODES ? huge_memory_zeroed(HUGE_PAGE_BYTES) : calloc(chunk->nr, sizeof(*chunk->nodes));
	if (!chunk->nodes) {
		free(chunk);
		return false;
	}
	chunk->next = shadow->chunks;
	shadow->chunks = chunk;
	return true;
}

/* The first of so many that are needed. */
static struct node *node_new(struct shadow *shadow, uint64_t want)
{
	struct chunk *chunk = shadow->chunks;
	if ((!chunk || chunk->used == chunk->nr) && !add_chunk(shadow, want))
		return NULL;
	shadow->nr_nodes++;
	return &shadow->chunks->nodes[shadow->chunks->used++];
}

struct shadow *shadow_new(void)
{
	struct shadow *shadow = calloc(1, sizeof(*shadow));
	if (!shadow)
		return NULL;
	shadow->root = node_new(shadow, 1);
	if (!shadow->root) {
		free(shadow);
		return NULL;
	}
	return shadow;
}

void shadow_free(struct shadow *shadow)
{
	while (shadow && shadow->chunks) {
		struct chunk *chunk = shadow->chunks;
		shadow->chunks = chunk->next;
		chunk_free(chunk);
	}
	free(shadow);
}

static struct node *find_leaf(const struct shadow *shadow, remote_addr_t addr)
{
	struct node *node = shadow->root;
	if (addr >= ADDRESS_LIMIT)
		return NULL;
	for (unsigned level = NR_LEVELS - 1; level && node; level--)
		node = node->child[index_at(addr, level)];
	return node;
}

/* nr_pages: from addr on, that are about to be entered. */
static struct node *make_leaf(struct shadow *shadow, remote_addr_t addr, uint64_t nr_pages)
{
	struct node *node = shadow->root;
	if (addr >= ADDRESS_LIMIT)
		return NULL;
	for (unsigned level = NR_LEVELS - 1; level; level--) {
		struct node **child = &node->child[index_at(addr, level)];
		if (!*child && !(*child = node_new(shadow, nr_pages >> FANOUT_SHIFT)))
			return NULL;
		node = *child;
	}
	return node;
}

shadow_entry_t shadow_get(const struct shadow *shadow, remote_addr_t addr)
{
	struct node *leaf = find_leaf(shadow, addr);
	return leaf ? leaf->entry[index_at(addr, 0)] : 0;
}

/* nr entries like e; modulo 2^64, so that (uint64_t)-1 takes one away. */
static void counters_add(struct counters *c, shadow_entry_t e, uint64_t nr)
{
	c->state[entry_state(e)] += nr;
	if (entry_state(e) == STATE_RESIDENT && entry_age(e))
		c->active += nr;
	if (e & ENTRY_PINNED)
		c->pinned += nr;
	if (entry_slot(e) != NO_SLOT)
		c->slots += nr;
}

/* What the life of a page allows; every state may become NONE (unmapped) and may change its flags and age. */
static bool transition_is_legal(enum page_state from, enum page_state to)
{
	switch (to) {
	case STATE_NONE:
	case STATE_RESIDENT:
		return true;
	case STATE_STAGED:
		return from == STATE_NONE || from == STATE_RESIDENT || from == STATE_STAGED;
	case STATE_ZERO:
		return from == STATE_STAGED || from == STATE_ZERO || from == STATE_NONE; /* NONE: moved here by REMAP or fork */
	case STATE_SWAPPED:
		return from == STATE_STAGED || from == STATE_SWAPPED || from == STATE_NONE;
	case NR_STATES:
		break;
	}
	return false;
}

bool shadow_set(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry)
{
	struct node *leaf = entry ? make_leaf(shadow, addr, 1) : find_leaf(shadow, addr);
	if (!leaf)
		return entry == 0;
	shadow_entry_t *place = &leaf->entry[index_at(addr, 0)];
	assert(transition_is_legal(entry_state(*place), entry_state(entry)));
	assert(entry_state(entry) != STATE_NONE || entry_slot(entry) == NO_SLOT);
	assert(entry_state(entry) != STATE_SWAPPED || entry_slot(entry) != NO_SLOT);
	(void)transition_is_legal;
	if (*place)
		counters_add(&shadow->count, *place, (uint64_t)-1);
	if (entry)
		counters_add(&shadow->count, entry, 1);
	*place = entry;
	return true;
}

bool shadow_set_swapped(struct shadow *shadow, remote_addr_t addr, uint64_t nr, slot_t slot, uint8_t epoch)
{
	shadow_entry_t like = entry_make(STATE_SWAPPED, slot, 0, epoch, 0);
	for (uint64_t n; nr; nr -= n, addr += n * PAGE_BYTES, like += n << ENTRY_SLOT_SHIFT) {
		struct node *leaf = make_leaf(shadow, addr, nr);
		if (!leaf)
			return false;
		shadow_entry_t *place = &leaf->entry[index_at(addr, 0)];
		uint64_t nr_pinned = 0;
		n = MIN_OF(nr, FANOUT - index_at(addr, 0));
		for (uint64_t i = 0; i < n; i++) {
			assert(!(place[i] & ~ENTRY_PINNED));
			nr_pinned += place[i] != 0;
			place[i] |= like + (i << ENTRY_SLOT_SHIFT);
		}
		shadow->count.state[STATE_NONE] -= nr_pinned; /* which they were and stay; pinned for the others too */
		counters_add(&shadow->count, like, n);
	}
	return true;
}

bool shadow_reserve(struct shadow *shadow, remote_addr_t start, remote_addr_t end)
{
	for (remote_addr_t addr = start & ~(span_of(1) - 1); addr < end; addr += span_of(1))
		if (!make_leaf(shadow, addr, (end - addr) / PAGE_BYTES))
			return false;
	return true;
}

struct walk {
	struct shadow *shadow;
	remote_addr_t start, end;
	void (*visit)(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context);
	void *context;
};

static void walk_node(const struct walk *w, struct node *node, unsigned level, remote_addr_t base)
{
	uint64_t span = span_of(level);
	unsigned first = w->start > base ? (unsigned)((w->start - base) / span) : 0;
	for (unsigned i = first; i < FANOUT; i++) {
		remote_addr_t addr = base + i * span;
		if (addr >= w->end)
			return;
		if (level == 0) {
			if (node->entry[i])
				w->visit(w->shadow, addr, node->entry[i], w->context);
		} else if (node->child[i]) {
			walk_node(w, node->child[i], level - 1, addr);
		}
	}
}

void shadow_for_each(struct shadow *shadow, remote_addr_t start, remote_addr_t end,
		     void (*visit)(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context),
		     void *context)
{
	struct walk w = {shadow, start, MIN_OF(end, ADDRESS_LIMIT), visit, context};
	if (w.start < w.end)
		walk_node(&w, shadow->root, NR_LEVELS - 1, 0);
}

static bool has_content_in_slot(shadow_entry_t entry)
{
	return entry_state(entry) == STATE_STAGED || entry_state(entry) == STATE_SWAPPED;
}

/* The first entry in [start, end) that is as asked for. */
static bool next_in_node(const struct node *node, unsigned level, remote_addr_t base, remote_addr_t start, remote_addr_t end,
			 bool (*matches)(shadow_entry_t entry), remote_addr_t *ret_addr)
{
	uint64_t span = span_of(level);
	for (unsigned i = start > base ? (unsigned)((start - base) / span) : 0; i < FANOUT; i++) {
		remote_addr_t addr = base + i * span;
		if (addr >= end)
			return false;
		if (level) {
			if (node->child[i] && next_in_node(node->child[i], level - 1, addr, start, end, matches, ret_addr))
				return true;
		} else if (matches(node->entry[i])) {
			*ret_addr = addr;
			return true;
		}
	}
	return false;
}

bool shadow_next_evicted(const struct shadow *shadow, remote_addr_t start, remote_addr_t *ret_addr)
{
	return start < ADDRESS_LIMIT && next_in_node(shadow->root, NR_LEVELS - 1, 0, start, UINT64_MAX, has_content_in_slot, ret_addr);
}

uint64_t shadow_next_saved(const struct shadow *shadow, remote_addr_t start, remote_addr_t end, remote_addr_t *ret_addr, slot_t *ret_slot)
{
	if (start >= ADDRESS_LIMIT || !next_in_node(shadow->root, NR_LEVELS - 1, 0, start, end, entry_is_saved, ret_addr))
		return 0;
	remote_addr_t page = *ret_addr;
	const struct node *leaf = find_leaf(shadow, page);
	bool zeros = leaf->entry[index_at(page, 0)] & ENTRY_ZEROS;
	slot_t slot = *ret_slot = zeros ? NO_SLOT : entry_slot(leaf->entry[index_at(page, 0)]);
	for (; leaf && page < end; leaf = find_leaf(shadow, page)) {
		for (unsigned i = index_at(page, 0); i < FANOUT && page < end; i++, page += PAGE_BYTES, slot += !zeros) {
			shadow_entry_t entry = leaf->entry[i];
			if (!entry_is_saved(entry) || !(entry & ENTRY_ZEROS) == zeros || (!zeros && entry_slot(entry) != slot))
				return (page - *ret_addr) / PAGE_BYTES;
		}
	}
	return (page - *ret_addr) / PAGE_BYTES;
}

uint64_t shadow_count(const struct shadow *shadow, enum page_state state)
{
	return shadow->count.state[state];
}

uint64_t shadow_evicted(const struct shadow *shadow)
{
	uint64_t count = 0;
	for (unsigned state = 0; state < NR_STATES; state++)
		count += entry_is_evicted(state) ? shadow->count.state[state] : 0;
	return count;
}

uint64_t shadow_active(const struct shadow *shadow)
{
	return shadow->count.active;
}

uint64_t shadow_pinned(const struct shadow *shadow)
{
	return shadow->count.pinned;
}

uint64_t shadow_slots(const struct shadow *shadow)
{
	return shadow->count.slots;
}

uint64_t shadow_bytes(const struct shadow *shadow)
{
	return shadow->nr_nodes * sizeof(struct node);
}

static void recount(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	counters_add(context, entry, 1);
}

bool shadow_check(const struct shadow *shadow)
{
	struct counters seen = {0};
	struct walk w = {(struct shadow *)shadow, 0, ADDRESS_LIMIT, recount, &seen};
	walk_node(&w, shadow->root, NR_LEVELS - 1, 0);
	return memcmp(&seen, &shadow->count, sizeof(seen)) == 0;
}
