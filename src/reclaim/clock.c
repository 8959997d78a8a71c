#include "reclaim/clock.h"

unsigned clock_age_at_refault(uint8_t evicted, uint8_t now)
{
	uint8_t distance = (uint8_t)(now - evicted);
	if (distance <= CLOCK_EPOCHS_PER_MEMORY / 2)
		return 2;
	return distance <= CLOCK_EPOCHS_PER_MEMORY ? 1 : 0;
}

bool clock_hand_passes(unsigned age, unsigned *ret_age)
{
	if (age == 0)
		return true;
	*ret_age = age - 1;
	return false;
}

struct watermarks clock_watermarks(uint64_t limit_pages)
{
	return (struct watermarks){
		.start = MIN_OF(MAX_OF(limit_pages / 64, 16), 4096),
		.stop = MIN_OF(MAX_OF(limit_pages / 40, 32), 8192),
	};
}
