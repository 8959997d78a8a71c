/* The replacement policy's pure parts: refault distance, the hand, watermarks. */
#include "reclaim/clock.h"
#include "unit.h"

static void near_refaults_become_active(void **state)
{
	assert_int_equal(clock_age_at_refault(10, 10), 2);
	assert_int_equal(clock_age_at_refault(250, 254), 2);
	assert_int_equal(clock_age_at_refault(250, 2), 1); /* 8 epochs later, across the wrap */
	assert_int_equal(clock_age_at_refault(10, 19), 0);
}

static void hand_takes_one_off(void **state)
{
	unsigned age = 2;
	assert_false(clock_hand_passes(age, false, &age));
	assert_int_equal(age, 1);
	assert_false(clock_hand_passes(age, false, &age));
	assert_true(clock_hand_passes(age, false, &age));
	assert_false(clock_hand_passes(0, true, &age)); /* written to: once more */
	assert_int_equal(age, 0);
}

static void watermarks_are_in_order(void **state)
{
	for (uint64_t limit = 256; limit < (1ull << 30); limit *= 3) {
		struct watermarks marks = clock_watermarks(limit);
		assert_true(marks.start > 0 && marks.start <= marks.stop && marks.stop < limit / 4);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(near_refaults_become_active),
		cmocka_unit_test(hand_takes_one_off),
		cmocka_unit_test(watermarks_are_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
