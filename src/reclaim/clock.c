#include "reclaim/clock.h"

unsigned clock_age_at_refault(uint8_t evicted, uint8_t now)
{
	uint8_t distance = (uint8_t)(now - evicted);
	if (distance <= CLOCK_EPOCHS_PER_MEMORY / 2)
		return 2;
	return distance <= CLOCK_EPOCHS_PER_MEMORY ? 1 : 0;
}

bool clock_hand_passes(unsigned age, bool written, unsigned *ret_age)
{
	if (age == 0 && !written)
		return true;
	*ret_age = written ? age : age - 1;
	return false;
}

struct watermarks clock_watermarks(uint64_t limit_pages)
{
	uint64_t start = MIN_OF(MAX_OF(limit_pages / 64, 16), 4096);
	uint64_t batch = MIN_OF(MAX_OF(limit_pages / 32, 16), 128);
	return (struct watermarks){
		.start = start,
		.stop = start + MAX_OF(batch, MIN_OF(limit_pages / 100, 4096)),
		.batch = batch,
	};
}
