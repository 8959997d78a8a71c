/* Names of signals. */
#include "unit.h"

#include <signal.h>

#include "base/signals.h"

static void names_and_numbers(void **state)
{
	assert_int_equal(parse_signal("TERM"), SIGTERM);
	assert_int_equal(parse_signal("SIGTERM"), SIGTERM);
	assert_int_equal(parse_signal("sigusr1"), SIGUSR1);
	assert_int_equal(parse_signal("9"), SIGKILL);
	assert_int_equal(parse_signal("1"), SIGHUP);
	assert_int_equal(parse_signal("64"), 64);
}

static void nothing_else(void **state)
{
	static const char *const wrong[] = {"", "SIG", "0", "65", "-9", "9 ", "+9", "999", "TER", "TERMS", "15x", "0x9"};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(parse_signal(wrong[i]), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(names_and_numbers), cmocka_unit_test(nothing_else)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
