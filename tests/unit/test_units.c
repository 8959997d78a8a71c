/* Sizes as people write them. */
#include "unit.h"

#include <errno.h>
#include <string.h>

#include "base/types.h"
#include "base/units.h"

static void reads(const char *text, uint64_t total, uint64_t expected)
{
	uint64_t bytes = 1;

	assert_int_equal(parse_size(text, total, &bytes), 0);
	assert_true(bytes == expected);
}

static void refuses(const char *text, uint64_t total, int expected)
{
	uint64_t bytes = 4711;

	assert_int_equal(parse_size(text, total, &bytes), expected);
	assert_true(bytes == 4711);
}

static void plain_numbers_are_bytes(void **state)
{
	reads("0", 0, 0);
	reads("4096", 0, 4096);
	reads("007", 0, 7);
	reads("18446744073709551615", 0, UINT64_MAX);
}

static void suffixes_are_powers_of_1024(void **state)
{
	reads("3K", 0, 3072);
	reads("512M", 0, (uint64_t)512 << 20);
	reads("512m", 0, (uint64_t)512 << 20);
	reads("2G", 0, (uint64_t)2 << 30);
	reads("16777215T", 0, (uint64_t)16777215 << 40);
}

static void percent_is_of_total(void **state)
{
	reads("10%", 1000, 100);
	reads("100%", 12345, 12345);
	reads("90%", UINT64_MAX, (uint64_t)((unsigned __int128)UINT64_MAX * 90 / 100));
	reads("0%", 1000, 0);
	refuses("200%", UINT64_MAX, -ERANGE);
	refuses("18446744073709551615%", UINT64_MAX, -ERANGE);
}

static void garbage_is_refused(void **state)
{
	static const char *const garbage[] = {"",     "K",    "%",    "-1",  "+1", " 1", "1 ", "1.5G", "1,5G", "5MB",
					      "5KiB", "0x10", "10%%", "1e3", "G2", "1X", "\n", "5\n",  "five", "--"};

	for (size_t i = 0; i < ARRAY_LEN(garbage); i++)
		refuses(garbage[i], 1000, -EINVAL);
}

static void overflow_is_refused(void **state)
{
	refuses("18446744073709551616", 0, -ERANGE);
	refuses("99999999999999999999999999999999999999999", 0, -ERANGE);
	refuses("16777216T", 0, -ERANGE);
	refuses("18014398509481984K", 0, -ERANGE);
	/* Too large and malformed: malformed is the better thing to say. */
	refuses("99999999999999999999999999999999999999999X", 0, -EINVAL);
}

static void shows(uint64_t bytes, const char *expected)
{
	char text[SIZE_TEXT_MAX];

	assert_string_equal(format_size(bytes, text), expected);
}

static void people_read_short_sizes(void **state)
{
	shows(0, "0 bytes");
	shows(1, "1 byte");
	shows(1023, "1023 bytes");
	shows(1024, "1 KiB");
	shows(1536, "1.5 KiB");
	shows((uint64_t)512 << 20, "512 MiB");
	shows(((uint64_t)1 << 30) - 1, "1 GiB");
	shows(((uint64_t)1 << 20) + ((uint64_t)1 << 19), "1.5 MiB");
	shows((uint64_t)3 << 40, "3 TiB");
	shows(UINT64_MAX, "16 EiB");
}

static void tables_read_shorter_ones(void **state)
{
	char text[SIZE_TEXT_MAX];

	assert_string_equal(format_size_short(0, text), "0");
	assert_string_equal(format_size_short(1023, text), "1023");
	assert_string_equal(format_size_short(1536, text), "1.5K");
	assert_string_equal(format_size_short((uint64_t)640 << 20, text), "640M");
	assert_string_equal(format_size_short(UINT64_MAX, text), "16E");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_numbers_are_bytes), cmocka_unit_test(suffixes_are_powers_of_1024),
		cmocka_unit_test(percent_is_of_total),     cmocka_unit_test(garbage_is_refused),
		cmocka_unit_test(overflow_is_refused),     cmocka_unit_test(people_read_short_sizes),
		cmocka_unit_test(tables_read_shorter_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
