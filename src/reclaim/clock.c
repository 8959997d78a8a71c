#include "reclaim/clock.h"

#define IDLE_FOR_URGENCY 1u
#define EPOCHS_PER_LOT 16 /* pages of a group that come back in the same half of a memory size share their lot */

uint32_t clock_typical_distance(uint64_t out_pages, uint64_t memory_pages)
{
	return (uint32_t)(MIN_OF(out_pages, memory_pages * 3 / 2) * CLOCK_EPOCHS_PER_MEMORY / MAX_OF(memory_pages, 1));
}

/* The same for all pages of a group at one time, evenly spread otherwise (the finalizer of MurmurHash3). */
static uint32_t lot_of_group(remote_addr_t page, uint32_t time)
{
	uint64_t z = (page >> (PAGE_SHIFT + CLOCK_GROUP_SHIFT)) * 0x9e3779b97f4a7c15ull + time * 0xd1342543de82ef95ull;
	z = (z ^ z >> 33) * 0xff51afd7ed558ccdull;
	z = (z ^ z >> 33) * 0xc4ceb9fe1a85ec53ull;
	return (uint32_t)(z >> 32);
}

unsigned clock_age_at_refault(remote_addr_t page, uint8_t evicted, uint8_t now, uint32_t typical)
{
	uint8_t distance = (uint8_t)(now - evicted);
	uint32_t lot = lot_of_group(page, now / EPOCHS_PER_LOT);
	if (4u * distance <= typical)
		return 3;
	if (distance <= typical && lot % 2 == 0)
		return 2;
	return lot / 2 % 32 == 0 ? 1 : 0;
}

bool clock_hand_passes(const struct clock_hand *hand, remote_addr_t page, unsigned age, bool written, unsigned *ret_age)
{
	static const uint32_t passes[CLOCK_AGE_MAX + 1] = {1, 8, 8, 32}; /* on average, before one is taken off */
	bool urgent = hand->idle >= IDLE_FOR_URGENCY;
	if (written && !urgent) {
		*ret_age = age;
		return false;
	}
	if (age == 0)
		return true;
	*ret_age = urgent || lot_of_group(page, hand->revolution) % passes[age] == 0 ? age - 1 : age;
	return false;
}

struct watermarks clock_watermarks(uint64_t limit_pages)
{
	uint64_t start = MIN_OF(MAX_OF(limit_pages / 128, 16), 4096);
	uint64_t batch = MIN_OF(MAX_OF(limit_pages / 32, 16), 128);
	return (struct watermarks){
		.start = start,
		.stop = start + MAX_OF(batch, MIN_OF(limit_pages / 256, 4096)),
		.batch = batch,
	};
}
