#include "swap/swap_hand_over.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "swap/cipher.h"
#include "swap/swap_internal.h"

struct swap_handed swap_hand_over(const struct swap *swap)
{
	return (struct swap_handed){.path = swap->path,
				    .fd = swap->claim.fd,
				    .directory = swap->claim.directory,
				    .nr_slots = swap->nr_slots,
				    .seed = swap->seed,
				    .was_created = swap->claim.created,
				    .has_fallocate = swap->has_fallocate,
				    .is_direct = swap->is_direct,
				    .base = swap->base};
}

const uint8_t *swap_base_key(const struct swap *swap)
{
	return swap->base ? swap->base->key : NULL;
}

void swap_for_each_used(struct swap *swap, void (*visit)(slot_t slot, uint64_t checksum, void *context), void *context)
{
	lock_take(&swap->lock);
	for (slot_t slot = slot_map_next_used(swap->map, 1); slot != NO_SLOT; slot = slot_map_next_used(swap->map, slot + 1))
		visit(slot, slot_map_checksum(swap->map, slot), context);
	lock_drop(&swap->lock);
}

void swap_for_each_pinned(const struct swap *swap, void (*visit)(slot_t slot, void *context), void *context)
{
	pins_for_each(&swap->pinned, visit, context);
}

static int read_header(struct swap *swap)
{
	_Alignas(4096) uint8_t page[PAGE_BYTES];
	if (pread(swap->claim.fd, page, sizeof(page), 0) != (ssize_t)sizeof(page))
		return -EIO;
	return swap_header_decode(page, &swap->header) == SWAP_HEADER_OURS ? 0 : -EBADMSG;
}

int swap_take_over(const struct swap_handed *handed, int key, struct swap **ret_swap)
{
	struct swap *swap;
	int r = swap_new(handed->path, handed->nr_slots, handed->base, &swap);
	if (r < 0)
		return r;
	const char *slash = strrchr(swap->path, '/');
	swap->claim = (struct swap_claim){
		.fd = handed->fd, .directory = handed->directory, .name = slash ? slash + 1 : swap->path, .created = handed->was_created};
	swap->seed = handed->seed;
	swap->has_fallocate = handed->has_fallocate;
	swap->is_direct = handed->is_direct;
	r = read_header(swap);
	if (r == 0 && swap->header.is_encrypted)
		r = key < 0 ? -ENOKEY : cipher_key_read(key, &swap->key);
	if (r < 0)
		swap_free(swap);
	else
		*ret_swap = swap;
	return r;
}

bool swap_adopt(struct swap *swap, slot_t slot)
{
	if (slot & SLOT_OF_BASE)
		return swap->base && (slot & ~SLOT_OF_BASE) < swap->base->nr_slots;
	lock_take(&swap->lock);
	bool done = slot_map_adopt(swap->map, slot);
	lock_drop(&swap->lock);
	return done;
}

bool swap_adopt_pinned(struct swap *swap, slot_t slot)
{
	return pins_add(&swap->pinned, slot) == 1 && swap_adopt(swap, slot);
}
