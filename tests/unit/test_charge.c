/* Two-stage charging: reservations, the limit, and samples that race with commits. */
#include "reclaim/charge.h"
#include "unit.h"

static void prepare_stops_at_the_limit(void **state)
{
	struct charge charge;
	charge_init(&charge, 100);
	assert_int_equal(charge_prepare(&charge, 1, 60, true), 60);
	assert_int_equal(charge_prepare(&charge, 1, 60, true), 40);
	assert_int_equal(charge_prepare(&charge, 1, 1, true), 0);
	assert_int_equal(charge.failcnt, 1);
	charge_commit(&charge, 60);
	charge_cancel(&charge, 40);
	assert_int_equal(charge_usage(&charge), 60);
	charge_uncharge(&charge, 10);
	assert_int_equal(charge_usage(&charge), 50);
	assert_true(charge_is_near_limit(&charge, 51));
	assert_false(charge_is_near_limit(&charge, 50));
}

static void need_is_all_or_nothing(void **state)
{
	struct charge charge;
	charge_init(&charge, 10);
	assert_int_equal(charge_prepare(&charge, 11, 20, false), 0);
	assert_int_equal(charge.failcnt, 0);
	charge_prepare_forced(&charge, 12);
	charge_commit(&charge, 12);
	assert_int_equal(charge_usage(&charge), 12);
	charge_set_limit(&charge, 20);
	assert_int_equal(charge_prepare(&charge, 1, 20, true), 8);
}

static void sample_never_loses_a_commit(void **state)
{
	struct charge charge;
	charge_init(&charge, 1000);
	assert_int_equal(charge_prepare(&charge, 1, 100, true), 100);
	struct charge_sample sample = charge_sample_begin(&charge);
	charge_commit(&charge, 100); /* while the kernel's figure is read: it may or may not have them */
	assert_int_equal(charge_sample_end(&charge, sample, 0), 0);
	assert_int_equal(charge_usage(&charge), 100);
	sample = charge_sample_begin(&charge);
	assert_int_equal(charge_sample_end(&charge, sample, 130), 30); /* growth that nobody asked for */
	assert_int_equal(charge_usage(&charge), 130);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(prepare_stops_at_the_limit),
		cmocka_unit_test(need_is_all_or_nothing),
		cmocka_unit_test(sample_never_loses_a_commit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
