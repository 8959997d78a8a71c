#include "swap/pins.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64u

bool pins_has(const struct pins *pins, slot_t slot)
{
	return slot / WORD_BITS < pins->words && pins->bits[slot / WORD_BITS] >> slot % WORD_BITS & 1;
}

int pins_add(struct pins *pins, slot_t slot)
{
	if (pins_has(pins, slot))
		return 0;
	if (slot / WORD_BITS >= pins->words) {
		uint32_t words = MAX_OF(slot / WORD_BITS + 1, pins->words + pins->words / 2);
		uint64_t *bits = reallocarray(pins->bits, words, sizeof(*bits));
		if (!bits)
			return -ENOMEM;
		memset(bits + pins->words, 0, (words - pins->words) * sizeof(*bits));
		pins->bits = bits;
		pins->words = words;
	}
	pins->bits[slot / WORD_BITS] |= UINT64_C(1) << slot % WORD_BITS;
	pins->nr++;
	return 1;
}

void pins_for_each(const struct pins *pins, void (*visit)(slot_t slot, void *context), void *context)
{
	for (uint32_t word = 0; word < pins->words; word++)
		for (uint64_t bits = pins->bits[word]; bits; bits &= bits - 1)
			visit(word * WORD_BITS + (uint32_t)__builtin_ctzll(bits), context);
}

void pins_clear(struct pins *pins)
{
	free(pins->bits);
	*pins = (struct pins){0};
}
