#include "base/units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* Power of two that a suffix stands for, -1 for anything else. */
static int suffix_shift(char suffix)
{
	switch (suffix) {
	case 'k':
	case 'K':
		return 10;
	case 'm':
	case 'M':
		return 20;
	case 'g':
	case 'G':
		return 30;
	case 't':
	case 'T':
		return 40;
	default:
		return -1;
	}
}

/* Digits only, at least one; *rest points behind them. */
static int parse_digits(const char *text, const char **rest, uint64_t *ret_value)
{
	uint64_t value = 0;
	bool overflow = false;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++) {
		overflow |= __builtin_mul_overflow(value, 10u, &value);
		overflow |= __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value);
	}
	*rest = p;
	if (p == text)
		return -EINVAL;
	*ret_value = value;
	return overflow ? -ERANGE : 0;
}

static int percent_of(uint64_t percent, uint64_t total_bytes, uint64_t *ret_bytes)
{
	unsigned __int128 bytes = (unsigned __int128)percent * total_bytes / 100;

	if (bytes > UINT64_MAX)
		return -ERANGE;
	*ret_bytes = (uint64_t)bytes;
	return 0;
}

int parse_size(const char *text, uint64_t total_bytes, uint64_t *ret_bytes)
{
	const char *suffix;
	uint64_t value = 0;
	int r = parse_digits(text, &suffix, &value);
	int shift;

	if (r == -EINVAL || (suffix[0] && suffix[1]))
		return -EINVAL;
	shift = suffix_shift(suffix[0]);
	if (suffix[0] && suffix[0] != '%' && shift < 0)
		return -EINVAL;
	if (r)
		return r;
	if (suffix[0] == '%')
		return percent_of(value, total_bytes, ret_bytes);
	if (shift > 0 && value > UINT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = shift > 0 ? value << shift : value;
	return 0;
}

/* Rounded to tenths of the unit that leaves less than 1024 of it; bytes must be 1024 at least. The unit is the prefix's place in "KMGTPE". */
static unsigned scale(uint64_t bytes, uint64_t *ret_tenths)
{
	unsigned unit = 0;

	for (;;) {
		unsigned shift = 10 * (unit + 1);

		*ret_tenths = (uint64_t)(((unsigned __int128)bytes * 10 + ((uint64_t)1 << (shift - 1))) >> shift);
		if (*ret_tenths < 10240 || unit == 5)
			return unit;
		unit++;
	}
}

/* gap and tail stand around the prefix's letter. */
static const char *format_scaled(uint64_t bytes, const char *gap, const char *tail, char buffer[SIZE_TEXT_MAX])
{
	uint64_t tenths;
	char letter = "KMGTPE"[scale(bytes, &tenths)];

	if (tenths % 10)
		snprintf(buffer, SIZE_TEXT_MAX, "%" PRIu64 ".%" PRIu64 "%s%c%s", tenths / 10, tenths % 10, gap, letter, tail);
	else
		snprintf(buffer, SIZE_TEXT_MAX, "%" PRIu64 "%s%c%s", tenths / 10, gap, letter, tail);
	return buffer;
}

const char *format_size(uint64_t bytes, char buffer[SIZE_TEXT_MAX])
{
	if (bytes >= 1024)
		return format_scaled(bytes, " ", "iB", buffer);
	snprintf(buffer, SIZE_TEXT_MAX, "%" PRIu64 " byte%s", bytes, bytes == 1 ? "" : "s");
	return buffer;
}

const char *format_size_short(uint64_t bytes, char buffer[SIZE_TEXT_MAX])
{
	if (bytes >= 1024)
		return format_scaled(bytes, "", "", buffer);
	snprintf(buffer, SIZE_TEXT_MAX, "%" PRIu64, bytes);
	return buffer;
}
