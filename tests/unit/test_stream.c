/* Readahead streams: sequential faults grow the window in both directions, random ones do not. */
#include "reclaim/stream.h"
#include "unit.h"

static void upwards_doubles(void **state)
{
	struct streams streams = {0};
	remote_addr_t page = 0x10000000;
	uint32_t expected = 1;
	for (int i = 0; i < 10; i++) {
		struct window window = streams_fault(&streams, page, 64);
		assert_int_equal(window.pages, expected);
		assert_false(window.down);
		streams_filled(&streams, window.stream, page, window.pages);
		page += window.pages * PAGE_BYTES;
		expected = MIN_OF(expected * 2, 64u);
	}
}

static void downwards_is_seen(void **state)
{
	struct streams streams = {0};
	streams_fault(&streams, 0x10000000, 64);
	struct window window = streams_fault(&streams, 0x10000000 - PAGE_BYTES, 64);
	assert_true(window.down);
	assert_int_equal(window.pages, 2);
}

static void random_stays_at_one(void **state)
{
	struct streams streams = {0};
	uint64_t s = 88172645463325252ull;
	for (int i = 0; i < 1000; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		assert_int_equal(streams_fault(&streams, (s % (1u << 30)) * PAGE_BYTES * 4, 64).pages, 1);
	}
}

static void several_readers_do_not_disturb_each_other(void **state)
{
	struct streams streams = {0};
	remote_addr_t page[4] = {1ull << 32, 2ull << 32, 3ull << 32, 4ull << 32};
	for (int round = 0; round < 6; round++)
		for (int i = 0; i < 4; i++) {
			struct window window = streams_fault(&streams, page[i], 1024);
			assert_int_equal(window.pages, 1u << round);
			streams_filled(&streams, window.stream, page[i], window.pages);
			page[i] += window.pages * PAGE_BYTES;
		}
}

/* Ten windows up or down from a page, with room for the largest; returns the stream. */
static uint32_t establish(struct streams *streams, remote_addr_t page)
{
	struct window window = {0};
	for (int i = 0; i < 10; i++) {
		window = streams_fault(streams, page, 64);
		streams_filled(streams, window.stream, page, window.pages);
		page = streams->stream[window.stream].next_up;
	}
	return window.stream;
}

static void what_is_in_memory_is_passed_over(void **state)
{
	for (uint32_t passed = 0; passed <= 100; passed += 50) {
		for (uint32_t at = 0; at <= 101; at++) {
			struct streams streams = {0};
			uint32_t stream = establish(&streams, 1ull << 32);
			streams_pass_over(&streams, stream, passed, 0);
			remote_addr_t page = streams.stream[stream].next_up + at * PAGE_BYTES;
			assert_int_equal(streams_fault(&streams, page, 64).pages, at <= passed ? 64 : 1);
		}
	}
}

static void downwards_too(void **state)
{
	struct streams streams = {0};
	uint32_t stream = establish(&streams, 1ull << 32);
	streams_pass_over(&streams, stream, 0, 7);
	remote_addr_t down = streams.stream[stream].next_down;
	assert_int_equal(streams_fault(&streams, down - 8 * PAGE_BYTES, 64).pages, 1);
	struct window window = streams_fault(&streams, down - 7 * PAGE_BYTES, 64);
	assert_true(window.down);
	assert_int_equal(window.pages, 64);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(upwards_doubles),
		cmocka_unit_test(downwards_is_seen),
		cmocka_unit_test(random_stays_at_one),
		cmocka_unit_test(what_is_in_memory_is_passed_over),
		cmocka_unit_test(downwards_too),
		cmocka_unit_test(several_readers_do_not_disturb_each_other),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
