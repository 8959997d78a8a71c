/* Private to swap/: what the file, its I/O queues and its hand-over need of each other. */
#pragma once

#include <stdatomic.h>
#include <sys/types.h>

#include "base/lock.h"
#include "swap/pins.h"
#include "swap/slot_map.h"
#include "swap/swap.h"
#include "swap/swap_claim.h"
#include "swap/swap_header.h"
#include "swap/trimmer.h"

struct swap {
	struct swap_claim claim;
	char *path;
	struct swap_header header;
	uint64_t seed;
	uint8_t *key;      /* NULL: not encrypted */
	uint32_t nr_slots; /* the cap, with the header's slot 0 */
	bool has_fallocate, is_direct;
	struct lock lock; /* LOCK_SWAP: the books */
	struct slot_map *map;
	uint64_t full_until_ns; /* growing failed: not tried again before */
	int grow_error;         /* and why: -errno */
	_Atomic uint64_t no_space_until_ns; /* a write met a full disk: nothing is given out before */
	off_t ahead_from, ahead_to; /* allocator's thread: space at the end of the file, promised and not used by any cluster yet */
	struct trimmer *trimmer;
	void (*freed)(void *context, slot_t slot);
	void *freed_context;
	const struct swap_base *base; /* NULL: none */
	struct pins pinned, collected; /* one reference for each slot of each */
};

/* Everything but the file: -errno with nothing left. */
int swap_new(const char *path, uint32_t nr_slots, const struct swap_base *base, struct swap **ret_swap);
void swap_free(struct swap *swap);

int swap_fd(const struct swap *swap);
int swap_fd_of(const struct swap *swap, slot_t slot); /* the base's, for a slot of the base */
bool swap_is_direct(const struct swap *swap); /* O_DIRECT */

/*
 * MEMBOX_IO names ways that tests and comparisons ask for: "sync" (no ring), "buffered" (no O_DIRECT), or both with a comma.
 */
bool swap_io_is_forced(const char *way);
