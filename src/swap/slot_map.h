/*
 * The books of a swap file: which slots are taken, how often each is referenced, and its checksum. Pure: no system calls, no locks, no
 * clocks. The owner serialises all calls except slot_map_checksum and slot_map_set_checksum, which touch only the slot of the caller.
 *
 *   slot      0   1   2  ...            511   512 ...
 *           ┌───┬───┬───┬─────────────────┬──────────────────────┬── ─ ─ ─ ┐
 *           │hdr│          cluster 0      │        cluster 1     │  the last one may be short
 *           └───┴───┴───┴─────────────────┴──────────────────────┴── ─ ─ ─ ┘
 *
 * Life of a cluster:
 *
 *            alloc_run asks for it             finish_reserve(ok)              alloc_run / put
 *   ABSENT ─────────────────────▶ RESERVING ─────────────────────▶ USABLE ◀────────────────────▶ (empty, partly free, full)
 *     ▲                               │ finish_reserve(not ok)       │ ▲
 *     ├───────────────────────────────┘              begin_punch ▼ │ finish_punch(not gone)
 *     └──────────────────────────────────────────────────────── PUNCHING
 *                              finish_punch(gone)
 *
 * An ABSENT cluster owns no memory here and no space on disk; RESERVING and PUNCHING mean that the owner is talking to the file system
 * about it, without its lock.
 */
#pragma once

#include "base/types.h"

#define CLUSTER_SLOTS 512u

struct slot_map;

/* nr_slots counts the header's slot 0, which is never handed out: 2..UINT32_MAX. */
int slot_map_new(uint32_t nr_slots, struct slot_map **ret_map);
void slot_map_free(struct slot_map *map);

/*
 * Takes 1..want contiguous slots with one reference each and checksum 0. Looks, in this order: where the last run ended; in wholly free
 * clusters; in a new cluster, as long as that leaves the file at least half used; in the emptiest partly free clusters, longest run.
 * A run may cross from one cluster into the next.
 * -EAGAIN: first get space on disk for cluster *ret_cluster, call slot_map_finish_reserve and come back (only when may_grow).
 * -EBUSY: nothing free now, but a cluster is RESERVING or PUNCHING and may become usable. -ENOSPC: all slots are taken, or growing was
 * needed and not allowed. -ENOMEM: no memory for a new cluster's books and nothing free in the old ones.
 */
int slot_map_alloc_run(struct slot_map *map, uint32_t want, bool may_grow, slot_t *ret_first, uint32_t *ret_nr,
                       uint32_t *ret_cluster);

/* Asks for one particular ABSENT cluster (the first, when the file is opened). */
int slot_map_begin_reserve(struct slot_map *map, uint32_t cluster);
void slot_map_finish_reserve(struct slot_map *map, uint32_t cluster, bool ok);

/*
 * Marks up to max neighbouring empty clusters PUNCHING, those that have been empty longest first, and leaves `keep` empty ones. Returns how
 * many (0: nothing to give back); the first is *ret_cluster.
 */
uint32_t slot_map_begin_punch(struct slot_map *map, uint32_t keep, uint32_t max, uint32_t *ret_cluster);
void slot_map_finish_punch(struct slot_map *map, uint32_t cluster, uint32_t nr, bool gone);

/*
 * For books that are made again from what refers to slots: one more reference to a slot that may have had none, in a cluster that is USABLE from then on. False: there is no
 * such slot, or no memory.
 */
bool slot_map_adopt(struct slot_map *map, slot_t slot);

void slot_map_get(struct slot_map *map, slot_t slot);
bool slot_map_put(struct slot_map *map, slot_t slot); /* true when that left its cluster wholly empty */
uint32_t slot_map_references(const struct slot_map *map, slot_t slot);

/* The first slot with references at or after this one; NO_SLOT: there is none. */
slot_t slot_map_next_used(const struct slot_map *map, slot_t from);

void slot_map_set_checksum(struct slot_map *map, slot_t slot, uint64_t checksum);
uint64_t slot_map_checksum(const struct slot_map *map, slot_t slot);

uint64_t slot_map_used(const struct slot_map *map);         /* slots with references */
uint32_t slot_map_nr_empty(const struct slot_map *map);     /* clusters USABLE and wholly free */
uint32_t slot_map_nr_reserved(const struct slot_map *map);  /* clusters not ABSENT */

bool slot_map_check(const struct slot_map *map);
