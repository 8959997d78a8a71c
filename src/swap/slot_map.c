#include "swap/slot_map.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64u
#define CLUSTER_WORDS (CLUSTER_SLOTS / WORD_BITS)
#define REFERENCES_STUCK UINT16_MAX
#define NO_CLUSTER UINT32_MAX

/* Partly free clusters hang on lists by how much of them is free, so that the emptiest is found without a search. */
#define NR_LEVELS 16u
#define LEVEL_SLOTS (CLUSTER_SLOTS / NR_LEVELS)
#define PARTLY_TRIED 4 /* clusters of one level looked at for a long run */

/* The file may always grow to this many clusters; beyond, only while at least half of it is used. */
#define SPARSE_CLUSTERS 16u

enum cluster_state {
	CLUSTER_RESERVING = 1,
	CLUSTER_USABLE,
	CLUSTER_PUNCHING,
};

enum {
	LIST_EMPTY = 0,
	LIST_PARTLY, /* .. LIST_PARTLY + NR_LEVELS - 1: fullest to emptiest */
	NR_LISTS = LIST_PARTLY + NR_LEVELS,
	LIST_NONE = NR_LISTS,
};

struct cluster {
	uint32_t next, prev; /* cluster numbers on the list */
	uint16_t nr_free;
	uint16_t nr_usable; /* CLUSTER_SLOTS without the header and without what lies beyond the cap */
	uint8_t state;
	uint8_t list;
	uint64_t taken[CLUSTER_WORDS]; /* bit set: not to be handed out */
	uint16_t references[CLUSTER_SLOTS];
	uint64_t checksums[CLUSTER_SLOTS];
};

struct cluster_list {
	uint32_t head, tail;
	uint32_t length;
};

struct slot_map {
	uint32_t nr_slots;
	uint32_t nr_clusters;
	uint32_t nr_reserved; /* not ABSENT */
	uint32_t nr_moving;   /* RESERVING or PUNCHING */
	uint64_t nr_used;
	slot_t cursor;        /* where the last run ended */
	uint32_t absent_hint; /* no absent cluster below this one */
	struct cluster **clusters;
	uint64_t *present; /* one bit a cluster: not ABSENT */
	struct cluster_list lists[NR_LISTS];
};

/* --- bits of one cluster --- */

static bool bit_taken(const struct cluster *cluster, uint32_t index)
{
	return cluster->taken[index / WORD_BITS] >> (index % WORD_BITS) & 1;
}

/* The first bit at or after index whose value is `value`; CLUSTER_SLOTS when there is none. */
static uint32_t next_bit(const struct cluster *cluster, uint32_t index, bool value)
{
	while (index < CLUSTER_SLOTS) {
		uint64_t word = cluster->taken[index / WORD_BITS];
		if (!value)
			word = ~word;
		word >>= index % WORD_BITS;
		if (word != 0)
			return index + (uint32_t)__builtin_ctzll(word);
		index = (index / WORD_BITS + 1) * WORD_BITS;
	}
	return CLUSTER_SLOTS;
}

static void change_bits(struct cluster *cluster, uint32_t index, uint32_t nr, bool taken)
{
	while (nr > 0) {
		uint32_t shift = index % WORD_BITS;
		uint32_t step = MIN_OF(nr, WORD_BITS - shift);
		uint64_t mask = (step == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << step) - 1) << shift;

		if (taken)
			cluster->taken[index / WORD_BITS] |= mask;
		else
			cluster->taken[index / WORD_BITS] &= ~mask;
		index += step;
		nr -= step;
	}
}

/* The first run of `want` free slots, or else the longest one. Returns its length. */
static uint32_t find_run(const struct cluster *cluster, uint32_t want, uint32_t *ret_index)
{
	uint32_t best = 0;

	for (uint32_t start = next_bit(cluster, 0, false); start < CLUSTER_SLOTS;) {
		uint32_t end = next_bit(cluster, start, true);
		if (end - start > best) {
			best = end - start;
			*ret_index = start;
			if (best >= want)
				break;
		}
		start = next_bit(cluster, end, false);
	}
	return best;
}

/* --- lists --- */

static void list_remove(struct slot_map *map, uint32_t number)
{
	struct cluster *cluster = map->clusters[number];
	struct cluster_list *list = &map->lists[cluster->list];

	if (cluster->prev == NO_CLUSTER)
		list->head = cluster->next;
	else
		map->clusters[cluster->prev]->next = cluster->next;
	if (cluster->next == NO_CLUSTER)
		list->tail = cluster->prev;
	else
		map->clusters[cluster->next]->prev = cluster->prev;
	list->length--;
	cluster->list = LIST_NONE;
}

static void list_push(struct slot_map *map, uint32_t number, uint8_t which)
{
	struct cluster *cluster = map->clusters[number];
	struct cluster_list *list = &map->lists[which];

	cluster->list = which;
	cluster->prev = NO_CLUSTER;
	cluster->next = list->head;
	if (list->head == NO_CLUSTER)
		list->tail = number;
	else
		map->clusters[list->head]->prev = number;
	list->head = number;
	list->length++;
}

static uint8_t list_for(const struct cluster *cluster)
{
	if (cluster->state != CLUSTER_USABLE || cluster->nr_free == 0)
		return LIST_NONE;
	if (cluster->nr_free == cluster->nr_usable)
		return LIST_EMPTY;
	return (uint8_t)(LIST_PARTLY + (cluster->nr_free - 1u) / LEVEL_SLOTS);
}

/* Puts a cluster on the list that its state asks for; to be called after every change. */
static void relist(struct slot_map *map, uint32_t number)
{
	struct cluster *cluster = map->clusters[number];
	uint8_t list = list_for(cluster);

	if (list == cluster->list)
		return;
	if (cluster->list != LIST_NONE)
		list_remove(map, number);
	if (list != LIST_NONE)
		list_push(map, number, list);
}

/* --- clusters come and go --- */

static bool is_present(const struct slot_map *map, uint32_t number)
{
	return map->present[number / WORD_BITS] >> (number % WORD_BITS) & 1;
}

static uint32_t lowest_absent(struct slot_map *map)
{
	uint32_t number = map->absent_hint;

	while (number < map->nr_clusters) {
		uint64_t word = ~map->present[number / WORD_BITS] >> (number % WORD_BITS);
		if (word != 0) {
			number += (uint32_t)__builtin_ctzll(word);
			break;
		}
		number = (number / WORD_BITS + 1) * WORD_BITS;
	}
	map->absent_hint = MIN_OF(number, map->nr_clusters);
	return number < map->nr_clusters ? number : NO_CLUSTER;
}

int slot_map_begin_reserve(struct slot_map *map, uint32_t number)
{
	uint64_t first = (uint64_t)number * CLUSTER_SLOTS;
	uint32_t inside = (uint32_t)MIN_OF((uint64_t)CLUSTER_SLOTS, map->nr_slots - first);
	struct cluster *cluster;

	assert(number < map->nr_clusters && !is_present(map, number));
	cluster = calloc(1, sizeof(*cluster));
	if (!cluster)
		return -ENOMEM;
	change_bits(cluster, inside, CLUSTER_SLOTS - inside, true);
	if (number == 0)
		change_bits(cluster, 0, 1, true);
	cluster->nr_usable = (uint16_t)(number == 0 ? inside - 1 : inside);
	cluster->nr_free = cluster->nr_usable;
	cluster->state = CLUSTER_RESERVING;
	cluster->list = LIST_NONE;

	map->clusters[number] = cluster;
	map->present[number / WORD_BITS] |= UINT64_C(1) << (number % WORD_BITS);
	map->nr_reserved++;
	map->nr_moving++;
	return 0;
}

static void make_absent(struct slot_map *map, uint32_t number)
{
	free(map->clusters[number]);
	map->clusters[number] = NULL;
	map->present[number / WORD_BITS] &= ~(UINT64_C(1) << (number % WORD_BITS));
	map->absent_hint = MIN_OF(map->absent_hint, number);
	map->nr_reserved--;
}

/* Ends RESERVING or PUNCHING, one way or the other. */
static void settle(struct slot_map *map, uint32_t number, bool usable)
{
	map->nr_moving--;
	if (!usable) {
		make_absent(map, number);
		return;
	}
	map->clusters[number]->state = CLUSTER_USABLE;
	relist(map, number);
}

void slot_map_finish_reserve(struct slot_map *map, uint32_t number, bool ok)
{
	assert(map->clusters[number]->state == CLUSTER_RESERVING);
	settle(map, number, ok);
}

uint32_t slot_map_begin_punch(struct slot_map *map, uint32_t keep, uint32_t max, uint32_t *ret_cluster)
{
	const struct cluster_list *empty = &map->lists[LIST_EMPTY];
	uint32_t first = empty->tail, nr = 0;

	if (empty->length <= keep || max == 0)
		return 0;
	max = MIN_OF(max, empty->length - keep);
	for (uint32_t back = 1; back < max && first > 0; back++, first--) {
		const struct cluster *below = map->clusters[first - 1];
		if (!below || below->list != LIST_EMPTY)
			break;
	}
	for (; nr < max && first + nr < map->nr_clusters; nr++) {
		struct cluster *cluster = map->clusters[first + nr];
		if (!cluster || cluster->list != LIST_EMPTY)
			break;
		cluster->state = CLUSTER_PUNCHING;
		relist(map, first + nr);
	}
	map->nr_moving += nr;
	*ret_cluster = first;
	return nr;
}

void slot_map_finish_punch(struct slot_map *map, uint32_t number, uint32_t nr, bool gone)
{
	for (uint32_t i = 0; i < nr; i++) {
		assert(map->clusters[number + i]->state == CLUSTER_PUNCHING);
		settle(map, number + i, !gone);
	}
}

/* --- slots --- */

static struct cluster *cluster_of(const struct slot_map *map, slot_t slot)
{
	assert(slot != NO_SLOT && slot < map->nr_slots && map->clusters[slot / CLUSTER_SLOTS]);
	return map->clusters[slot / CLUSTER_SLOTS];
}

static bool cursor_is_free(const struct slot_map *map)
{
	const struct cluster *cluster;

	if (map->cursor >= map->nr_slots)
		return false;
	cluster = map->clusters[map->cursor / CLUSTER_SLOTS];
	return cluster && cluster->state == CLUSTER_USABLE && !bit_taken(cluster, map->cursor % CLUSTER_SLOTS);
}

/* Growing keeps what is evicted together lying together; it stops paying when most of the file is holes. */
static bool worth_growing(const struct slot_map *map)
{
	return map->nr_reserved < map->nr_clusters &&
	       (uint64_t)map->nr_reserved * CLUSTER_SLOTS <= 2 * map->nr_used + (uint64_t)SPARSE_CLUSTERS * CLUSTER_SLOTS;
}

/* The best start of a run in the partly free clusters, or NO_SLOT. */
static slot_t find_partly_free(const struct slot_map *map, uint32_t want)
{
	slot_t best = NO_SLOT;
	uint32_t best_length = 0;

	for (uint32_t list = NR_LISTS; list-- > LIST_PARTLY && best == NO_SLOT;) {
		uint32_t number = map->lists[list].head;

		for (int tried = 0; tried < PARTLY_TRIED && number != NO_CLUSTER && best_length < want; tried++) {
			const struct cluster *cluster = map->clusters[number];
			uint32_t index = 0;
			uint32_t length = find_run(cluster, want, &index);

			if (length > best_length) {
				best_length = length;
				best = number * CLUSTER_SLOTS + index;
			}
			number = cluster->next;
		}
	}
	return best;
}

/*
 * How many slots are free from start on, up to want. When the run ends only because the next cluster is absent, that one's number is in
 * *ret_absent, else NO_CLUSTER.
 */
static uint32_t run_length(const struct slot_map *map, slot_t start, uint32_t want, uint32_t *ret_absent)
{
	uint32_t number = start / CLUSTER_SLOTS, index = start % CLUSTER_SLOTS, nr = 0;

	*ret_absent = NO_CLUSTER;
	for (;;) {
		uint32_t end = next_bit(map->clusters[number], index, true);

		nr += end - index;
		if (nr >= want)
			return want;
		if (end < CLUSTER_SLOTS || ++number >= map->nr_clusters)
			return nr;
		if (!map->clusters[number]) {
			*ret_absent = number;
			return nr;
		}
		if (map->clusters[number]->list != LIST_EMPTY)
			return nr;
		index = 0;
	}
}

static void take_run(struct slot_map *map, slot_t first, uint32_t nr)
{
	map->nr_used += nr;
	map->cursor = first + nr;
	while (nr > 0) {
		uint32_t number = first / CLUSTER_SLOTS, index = first % CLUSTER_SLOTS;
		uint32_t step = MIN_OF(nr, CLUSTER_SLOTS - index);
		struct cluster *cluster = map->clusters[number];

		change_bits(cluster, index, step, true);
		for (uint32_t i = index; i < index + step; i++)
			cluster->references[i] = 1;
		memset(&cluster->checksums[index], 0, step * sizeof(cluster->checksums[0]));
		cluster->nr_free = (uint16_t)(cluster->nr_free - step);
		relist(map, number);
		first += step;
		nr -= step;
	}
}

/* Where the next run begins; NO_SLOT when a new cluster would be better or is the only way. */
static slot_t find_start(const struct slot_map *map, uint32_t want, bool may_grow)
{
	uint32_t empty = map->lists[LIST_EMPTY].head;

	if (cursor_is_free(map))
		return map->cursor;
	if (empty != NO_CLUSTER)
		return empty == 0 ? 1 : empty * CLUSTER_SLOTS;
	if (may_grow && worth_growing(map))
		return NO_SLOT;
	return find_partly_free(map, want);
}

static int no_slot_error(const struct slot_map *map, bool out_of_memory)
{
	if (map->nr_moving > 0)
		return -EBUSY;
	return out_of_memory ? -ENOMEM : -ENOSPC;
}

int slot_map_alloc_run(struct slot_map *map, uint32_t want, bool may_grow, slot_t *ret_first, uint32_t *ret_nr,
                       uint32_t *ret_cluster)
{
	bool out_of_memory = false;

	if (want == 0)
		return -EINVAL;
	for (;;) {
		slot_t start = find_start(map, want, may_grow);
		uint32_t grow = NO_CLUSTER, nr = 0;

		if (start == NO_SLOT) {
			grow = lowest_absent(map);
			if (!may_grow || grow == NO_CLUSTER)
				return no_slot_error(map, out_of_memory);
		} else {
			nr = run_length(map, start, want, &grow);
			if (!may_grow || map->lists[LIST_EMPTY].length > 0 || !worth_growing(map))
				grow = NO_CLUSTER;
		}
		if (grow == NO_CLUSTER) {
			take_run(map, start, nr);
			*ret_first = start;
			*ret_nr = nr;
			return 0;
		}
		if (slot_map_begin_reserve(map, grow) == 0) {
			*ret_cluster = grow;
			return -EAGAIN;
		}
		out_of_memory = true;
		may_grow = false;
	}
}

void slot_map_get(struct slot_map *map, slot_t slot)
{
	uint16_t *references = &cluster_of(map, slot)->references[slot % CLUSTER_SLOTS];

	assert(*references > 0);
	if (*references < REFERENCES_STUCK)
		(*references)++;
}

bool slot_map_adopt(struct slot_map *map, slot_t slot)
{
	uint32_t number = slot / CLUSTER_SLOTS, index = slot % CLUSTER_SLOTS;

	if (slot == NO_SLOT || slot >= map->nr_slots)
		return false;
	if (!is_present(map, number) && slot_map_begin_reserve(map, number) < 0)
		return false;
	struct cluster *cluster = map->clusters[number];
	if (cluster->state == CLUSTER_RESERVING)
		slot_map_finish_reserve(map, number, true);
	if (cluster->references[index]) {
		slot_map_get(map, slot);
		return true;
	}
	cluster->references[index] = 1;
	change_bits(cluster, index, 1, true);
	cluster->nr_free--;
	map->nr_used++;
	relist(map, number);
	return true;
}

bool slot_map_put(struct slot_map *map, slot_t slot)
{
	struct cluster *cluster = cluster_of(map, slot);
	uint32_t index = slot % CLUSTER_SLOTS;

	assert(cluster->references[index] > 0);
	if (cluster->references[index] == REFERENCES_STUCK || --cluster->references[index] > 0)
		return false;
	change_bits(cluster, index, 1, false);
	cluster->nr_free++;
	map->nr_used--;
	relist(map, slot / CLUSTER_SLOTS);
	return cluster->list == LIST_EMPTY;
}

uint32_t slot_map_references(const struct slot_map *map, slot_t slot)
{
	const struct cluster *cluster;

	if (slot == NO_SLOT || slot >= map->nr_slots)
		return 0;
	cluster = map->clusters[slot / CLUSTER_SLOTS];
	return cluster ? cluster->references[slot % CLUSTER_SLOTS] : 0;
}

slot_t slot_map_next_used(const struct slot_map *map, slot_t from)
{
	for (uint64_t slot = from; slot < map->nr_slots; slot++) {
		const struct cluster *cluster = map->clusters[slot / CLUSTER_SLOTS];

		if (!cluster)
			slot |= CLUSTER_SLOTS - 1;
		else if (cluster->references[slot % CLUSTER_SLOTS])
			return (slot_t)slot;
	}
	return NO_SLOT;
}

void slot_map_set_checksum(struct slot_map *map, slot_t slot, uint64_t checksum)
{
	cluster_of(map, slot)->checksums[slot % CLUSTER_SLOTS] = checksum;
}

uint64_t slot_map_checksum(const struct slot_map *map, slot_t slot)
{
	return cluster_of(map, slot)->checksums[slot % CLUSTER_SLOTS];
}

uint64_t slot_map_used(const struct slot_map *map)
{
	return map->nr_used;
}

uint32_t slot_map_nr_empty(const struct slot_map *map)
{
	return map->lists[LIST_EMPTY].length;
}

uint32_t slot_map_nr_reserved(const struct slot_map *map)
{
	return map->nr_reserved;
}

/* --- whole map --- */

int slot_map_new(uint32_t nr_slots, struct slot_map **ret_map)
{
	struct slot_map *map;

	if (nr_slots < 2)
		return -EINVAL;
	map = calloc(1, sizeof(*map));
	if (!map)
		return -ENOMEM;
	map->nr_slots = nr_slots;
	map->nr_clusters = (nr_slots - 1) / CLUSTER_SLOTS + 1;
	map->clusters = calloc(map->nr_clusters, sizeof(struct cluster *));
	map->present = calloc((map->nr_clusters + WORD_BITS - 1) / WORD_BITS, sizeof(uint64_t));
	for (uint32_t i = 0; i < NR_LISTS; i++)
		map->lists[i] = (struct cluster_list){ .head = NO_CLUSTER, .tail = NO_CLUSTER };
	if (!map->clusters || !map->present) {
		slot_map_free(map);
		return -ENOMEM;
	}
	*ret_map = map;
	return 0;
}

void slot_map_free(struct slot_map *map)
{
	if (!map)
		return;
	/* Only the clusters that exist are touched: the table of a large file is mostly untouched zero pages. */
	for (uint32_t i = 0; map->clusters && map->present && i < map->nr_clusters && map->nr_reserved > 0; i++) {
		if (is_present(map, i))
			make_absent(map, i);
	}
	free(map->clusters);
	free(map->present);
	free(map);
}

static bool check_cluster(const struct slot_map *map, uint32_t number, uint64_t *used)
{
	const struct cluster *cluster = map->clusters[number];
	uint32_t nr_free = 0;

	for (uint32_t i = 0; i < CLUSTER_SLOTS; i++) {
		uint64_t slot = (uint64_t)number * CLUSTER_SLOTS + i;
		bool usable = slot != NO_SLOT && slot < map->nr_slots;
		bool taken = bit_taken(cluster, i);

		if (usable ? taken != (cluster->references[i] > 0) : (!taken || cluster->references[i] > 0))
			return false;
		nr_free += !taken;
		*used += usable && taken;
	}
	if (nr_free != cluster->nr_free || nr_free > cluster->nr_usable || cluster->list != list_for(cluster))
		return false;
	return cluster->state == CLUSTER_USABLE || nr_free == cluster->nr_usable;
}

static bool check_list(const struct slot_map *map, uint8_t which)
{
	const struct cluster_list *list = &map->lists[which];
	uint32_t length = 0, prev = NO_CLUSTER;

	for (uint32_t number = list->head; number != NO_CLUSTER; number = map->clusters[number]->next) {
		if (number >= map->nr_clusters || !map->clusters[number] || length++ > map->nr_clusters)
			return false;
		if (map->clusters[number]->list != which || map->clusters[number]->prev != prev)
			return false;
		prev = number;
	}
	return length == list->length && list->tail == prev;
}

bool slot_map_check(const struct slot_map *map)
{
	uint64_t used = 0;
	uint32_t reserved = 0, moving = 0, listed = 0, on_lists = 0;

	for (uint32_t i = 0; i < map->nr_clusters; i++) {
		if (is_present(map, i) != (map->clusters[i] != NULL))
			return false;
		if (!map->clusters[i]) {
			if (i < map->absent_hint)
				return false;
			continue;
		}
		if (!check_cluster(map, i, &used))
			return false;
		reserved++;
		moving += map->clusters[i]->state != CLUSTER_USABLE;
		listed += map->clusters[i]->list != LIST_NONE;
	}
	for (uint8_t i = 0; i < NR_LISTS; i++) {
		if (!check_list(map, i))
			return false;
		on_lists += map->lists[i].length;
	}
	return used == map->nr_used && reserved == map->nr_reserved && moving == map->nr_moving && listed == on_lists;
}
