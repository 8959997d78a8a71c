/*
 * A swap file that goes over to another keeper of the same container with its descriptors (docs/architecture.md, "Upgrade"). What is kept in memory goes over as well, but for
 * the books: these are made again from what refers to slots. Everything that was to be written is in the file, and nobody takes slots or gives them back meanwhile.
 */
#pragma once

#include "swap/swap.h"

struct swap_handed {
	const char *path;
	int fd, directory;
	uint32_t nr_slots;
	uint64_t seed;
	bool was_created, has_fallocate, is_direct;
	const struct swap_base *base; /* NULL: none */
};

const uint8_t *swap_base_key(const struct swap *swap); /* CIPHER_KEY_BYTES; NULL: not encrypted, or no base */

struct swap_handed swap_hand_over(const struct swap *swap);

/* Calls visit with the checksum of each slot in use, in order; and with each pinned one. */
void swap_for_each_used(struct swap *swap, void (*visit)(slot_t slot, uint64_t checksum, void *context), void *context);
void swap_for_each_pinned(const struct swap *swap, void (*visit)(slot_t slot, void *context), void *context);

/*
 * Nothing is written. key: a pipe from which the key comes, if the file is encrypted; -1: there is none. The base outlives the swap. 0 or -errno, with the descriptors still the
 * caller's.
 */
int swap_take_over(const struct swap_handed *handed, int key, struct swap **ret_swap);

/* One more reference to a slot, also of the base; the slots of earlier checkpoints. False: there is no such slot, or no memory. */
bool swap_adopt(struct swap *swap, slot_t slot);
bool swap_adopt_pinned(struct swap *swap, slot_t slot);
