/*
 * membox's policy in the simulator (bench/policy-sim): what the policy promises, with figures. Everything is deterministic; the floors are below
 * what is reached, so that a change of a constant may shift them a little, and a mistake does not.
 */
#include "policy.h"
#include "unit.h"

#define NR_PAGES 16384u
#define NR_ACCESSES 600000u

/* In percent, for a memory of this many percent of the pages. */
static double ratio(const struct policy *policy, const struct workload *workload, uint32_t percent)
{
	struct outcome outcome;
	assert_int_equal(policy_run(policy, workload, NR_PAGES / 100 * percent, &outcome), 0);
	return 100 * outcome_ratio(&outcome);
}

static struct workload generate(const char *name)
{
	struct workload workload;
	assert_int_equal(workload_generate(name, NR_PAGES, NR_ACCESSES, 30, &workload), 0);
	return workload;
}

/* At every memory size at least LRU's hits plus this many percent of the accesses. */
static void assert_above_lru(const char *name, const double floor[3])
{
	struct workload workload = generate(name);
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t percent = 25 * (i + 1);
		double ours = ratio(&policy_membox, &workload, percent), lru = ratio(&policy_lru, &workload, percent);
		if (ours < lru + floor[i])
			fail_msg("%s in %u%%: %.1f, LRU %.1f", name, percent, ours, lru);
	}
	workload_release(&workload);
}

static void scans_do_not_evict_the_hot_set(void **state)
{
	assert_above_lru("scan", (const double[]){10, 18, 25});
	assert_above_lru("scan-once", (const double[]){-2, 3, 6});
}

static void loops_larger_than_memory_find_a_part(void **state)
{
	assert_above_lru("loop", (const double[]){8, 30, 50});
	assert_above_lru("strided", (const double[]){4, 25, 45});
	assert_above_lru("two-loops", (const double[]){-2, 8, 20});
}

/* Without seeing accesses it cannot be as good as LRU in all sizes; how much worse is bounded. */
static void skew_is_seen_by_refaults_alone(void **state)
{
	assert_above_lru("zipf", (const double[]){-0.5, -1.5, -1.5});
	assert_above_lru("80-20", (const double[]){-0.5, -1.5, -1.5});
	assert_above_lru("uniform", (const double[]){-2, -2.5, -3});
	assert_above_lru("phases", (const double[]){-7, -2, -2});
	assert_above_lru("mixed", (const double[]){4, 10, -5});
}

static void nothing_beats_the_optimum(void **state)
{
	static const struct policy *const all[] = {&policy_membox, &policy_random, &policy_fifo,   &policy_clock,
						   &policy_lru,    &policy_2q,     &policy_s3fifo, &policy_mglru};
	for (size_t w = 0; workload_names[w]; w++) {
		struct workload workload = generate(workload_names[w]);
		double best = ratio(&policy_optimum, &workload, 50);
		for (size_t i = 0; i < ARRAY_LEN(all); i++)
			assert_true(ratio(all[i], &workload, 50) <= best);
		workload_release(&workload);
	}
}

static bool all_hit(const struct policy *policy, const struct workload *workload, uint32_t memory)
{
	struct outcome outcome;
	assert_int_equal(policy_run(policy, workload, memory, &outcome), 0);
	return outcome.misses == 0;
}

static void what_fits_stays(void **state)
{
	struct workload workload = generate("uniform");
	assert_true(all_hit(&policy_lru, &workload, NR_PAGES));
	assert_true(all_hit(&policy_2q, &workload, NR_PAGES));
	assert_true(all_hit(&policy_mglru, &workload, NR_PAGES));
	assert_true(all_hit(&policy_membox, &workload, NR_PAGES * 2));
	workload_release(&workload);
}

/* A few accesses whose outcome is known from paper. */
static void peers_do_as_described(void **state)
{
	struct access accesses[] = {{0, 0}, {1, 0}, {2, 0}, {0, 0}, {3, 0}, {0, 0}, {1, 0}, {2, 0}};
	struct workload workload = {.access = accesses, .nr_accesses = ARRAY_LEN(accesses), .nr_pages = 4};
	static const struct {
		const struct policy *policy;
		uint64_t hits;
	} expected[] = {{&policy_fifo, 1}, {&policy_lru, 2}, {&policy_clock, 2}, {&policy_optimum, 3}};
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		struct outcome outcome;
		assert_int_equal(policy_run(expected[i].policy, &workload, 3, &outcome), 0);
		if (outcome.hits != expected[i].hits)
			fail_msg("%s: %u hits", expected[i].policy->name, (unsigned)outcome.hits);
	}
}

/* A loop's window of readahead survives the pages that were kept: few reads for many pages. */
static void kept_pages_do_not_break_streams(void **state)
{
	struct workload workload = generate("loop");
	for (uint32_t percent = 25; percent <= 75; percent += 25) {
		void *model = model_create(&workload, NR_PAGES / 100 * percent, true);
		assert_non_null(model);
		for (uint64_t i = 0; i < workload.nr_accesses; i++)
			model_access(model, workload.access[i]);
		struct model_costs costs = model_costs(model);
		assert_true(costs.reads * 12 < costs.pages_read);
		model_destroy(model);
	}
	workload_release(&workload);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scans_do_not_evict_the_hot_set), cmocka_unit_test(loops_larger_than_memory_find_a_part),
		cmocka_unit_test(skew_is_seen_by_refaults_alone), cmocka_unit_test(nothing_beats_the_optimum),
		cmocka_unit_test(what_fits_stays),                cmocka_unit_test(peers_do_as_described),
		cmocka_unit_test(kept_pages_do_not_break_streams),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
