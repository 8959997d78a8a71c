/* A file in the place of the device keeps what is written to it. */
#include "platform/idle_latency.h"

#include <stdlib.h>
#include <unistd.h>

#include "unit.h"

#define MS 1000000ull
#define NO_REQUEST (-1)

static struct idle_latency on_a_file(void)
{
	char path[] = "/tmp/idle-latency-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	unlink(path);
	return (struct idle_latency){.fd = fd};
}

/* How many requests were made; the last one in *ret. */
static unsigned requests(const struct idle_latency *latency, int32_t *ret)
{
	off_t bytes = lseek(latency->fd, 0, SEEK_END);
	if (bytes)
		assert_int_equal(pread(latency->fd, ret, sizeof(*ret), bytes - (off_t)sizeof(*ret)), sizeof(*ret));
	return (unsigned)bytes / sizeof(*ret);
}

static void many_in_a_short_time_make_one_request(void **state)
{
	struct idle_latency latency = on_a_file();
	int32_t last = NO_REQUEST;
	for (uint64_t i = 0; i < 15; i++)
		idle_latency_note_work(&latency, 50 * MS + i);
	assert_int_equal(requests(&latency, &last), 0);
	for (uint64_t i = 15; i < 1000; i++)
		idle_latency_note_work(&latency, 50 * MS + i);
	assert_int_equal(requests(&latency, &last), 1);
	assert_in_range(last, 0, 100);
	assert_true(latency.is_low);
	idle_latency_close(&latency);
}

static void rest_takes_it_back_and_it_comes_again(void **state)
{
	struct idle_latency latency = on_a_file();
	int32_t last = 0;
	idle_latency_rest(&latency);
	assert_int_equal(requests(&latency, &last), 0);
	for (uint64_t i = 0; i < 100; i++)
		idle_latency_note_work(&latency, 50 * MS);
	idle_latency_rest(&latency);
	assert_int_equal(requests(&latency, &last), 2);
	assert_int_equal(last, NO_REQUEST);
	assert_false(latency.is_low);
	for (uint64_t i = 0; i < 100; i++)
		idle_latency_note_work(&latency, 60 * MS);
	assert_int_equal(requests(&latency, &last), 3);
	idle_latency_close(&latency);
}

static void few_in_a_long_time_make_none(void **state)
{
	struct idle_latency latency = on_a_file();
	int32_t last;
	for (uint64_t i = 1; i < 1000; i++)
		idle_latency_note_work(&latency, i * MS);
	assert_int_equal(requests(&latency, &last), 0);
	idle_latency_close(&latency);
}

static void without_the_device_nothing_happens(void **state)
{
	struct idle_latency latency = {.fd = -1};
	for (uint64_t i = 0; i < 100; i++)
		idle_latency_note_work(&latency, 50 * MS);
	assert_false(latency.is_low);
	idle_latency_rest(&latency);
	idle_latency_close(&latency);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_in_a_short_time_make_one_request),
		cmocka_unit_test(rest_takes_it_back_and_it_comes_again),
		cmocka_unit_test(few_in_a_long_time_make_none),
		cmocka_unit_test(without_the_device_nothing_happens),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
