/* The replacement policy's pure parts: refault distance, the hand, watermarks. */
#include "reclaim/clock.h"
#include "unit.h"

#define GROUP_BYTES (PAGE_BYTES << CLOCK_GROUP_SHIFT)
#define TYPICAL 16u

static unsigned count_of_age(unsigned age, uint8_t distance)
{
	unsigned count = 0;
	for (uint64_t group = 0; group < 6400; group++)
		count += clock_age_at_refault(group * GROUP_BYTES, 0, distance, TYPICAL) == age;
	return count;
}

static void near_refaults_become_active(void **state)
{
	assert_int_equal(clock_age_at_refault(0x1000, 10, 10, TYPICAL), 3);
	assert_int_equal(clock_age_at_refault(0x1000, 254, 2, TYPICAL), 3); /* 4 epochs later, across the wrap */
	assert_int_equal(count_of_age(3, TYPICAL / 4), 6400);
	assert_int_equal(count_of_age(3, TYPICAL / 4 + 1), 0);
	assert_in_range(count_of_age(2, TYPICAL), 3000, 3400);
	assert_int_equal(count_of_age(2, TYPICAL + 1), 0);
	assert_in_range(count_of_age(1, TYPICAL + 1), 140, 260); /* of 6400, 200 */
}

static void age_never_rises_with_distance(void **state)
{
	for (uint64_t page = 0; page < 1000 * PAGE_BYTES; page += PAGE_BYTES) {
		unsigned before = CLOCK_AGE_MAX;
		for (uint8_t distance = 0; distance < 200; distance++) {
			uint8_t evicted = (uint8_t)(192 - distance); /* one time of return, so one lot */
			unsigned age = clock_age_at_refault(page, evicted, 192, TYPICAL);
			assert_true(age <= before);
			before = age;
		}
	}
}

static void typical_distance_is_bounded_by_memory(void **state)
{
	assert_int_equal(clock_typical_distance(0, 1000), 0);
	assert_int_equal(clock_typical_distance(500, 1000), CLOCK_EPOCHS_PER_MEMORY / 2);
	assert_int_equal(clock_typical_distance(1ull << 40, 1000), CLOCK_EPOCHS_PER_MEMORY * 3 / 2);
	assert_int_equal(clock_typical_distance(1, 0), 0);
}

static void neighbours_share_their_lot(void **state)
{
	for (uint32_t revolution = 0; revolution < 100; revolution++) {
		struct clock_hand hand = {.revolution = revolution};
		unsigned first, age;
		clock_hand_passes(&hand, 5 * GROUP_BYTES, 3, false, &first);
		for (uint64_t i = 1; i < 1 << CLOCK_GROUP_SHIFT; i++) {
			assert_false(clock_hand_passes(&hand, 5 * GROUP_BYTES + i * PAGE_BYTES, 3, false, &age));
			assert_int_equal(age, first);
		}
	}
}

/* Revolutions until a page of this age leaves. */
static uint32_t life(remote_addr_t page, unsigned age, bool written, uint32_t idle)
{
	struct clock_hand hand = {.idle = idle};
	while (!clock_hand_passes(&hand, page, age, written, &age)) {
		assert_true(age <= CLOCK_AGE_MAX);
		hand.revolution++;
		assert_true(hand.revolution < 2000);
	}
	return hand.revolution;
}

static void higher_ages_live_longer(void **state)
{
	uint64_t sum[CLOCK_AGE_MAX + 1] = {0};
	for (unsigned age = 0; age <= CLOCK_AGE_MAX; age++)
		for (uint64_t group = 0; group < 1000; group++)
			sum[age] += life(group * GROUP_BYTES, age, false, 0);
	assert_int_equal(sum[0], 0);
	assert_in_range(sum[1], 7 * 1000, 9 * 1000);
	assert_in_range(sum[2], 14 * 1000, 18 * 1000);
	assert_in_range(sum[3], 44 * 1000, 52 * 1000);
}

static void written_pages_are_passed(void **state)
{
	struct clock_hand hand = {.revolution = 3};
	unsigned age = 9;
	assert_false(clock_hand_passes(&hand, 0x1000, 0, true, &age));
	assert_int_equal(age, 0);
	assert_true(clock_hand_passes(&hand, 0x1000, 0, false, &age));
}

/* Else reclaim would state that nothing is left, and faults would go over the limit. */
static void every_page_leaves_before_reclaim_gives_up(void **state)
{
	for (unsigned age = 0; age <= CLOCK_AGE_MAX; age++)
		for (uint64_t group = 0; group < 1000; group++)
			assert_true(1 + life(group * GROUP_BYTES, age, true, 1) < CLOCK_IDLE_MAX);
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
		cmocka_unit_test(age_never_rises_with_distance),
		cmocka_unit_test(typical_distance_is_bounded_by_memory),
		cmocka_unit_test(neighbours_share_their_lot),
		cmocka_unit_test(higher_ages_live_longer),
		cmocka_unit_test(written_pages_are_passed),
		cmocka_unit_test(every_page_leaves_before_reclaim_gives_up),
		cmocka_unit_test(watermarks_are_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
