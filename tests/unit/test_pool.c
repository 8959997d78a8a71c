#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pool/block_store.h"
#include "pool/pool.h"
#include "unit.h"

#define NR_SLOTS 4096u

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* `noise` bytes that do not compress, the rest one value. */
static void make_page(uint8_t *page, uint64_t seed, uint32_t noise)
{
	uint64_t state = seed * 2654435761u + 1;
	memset(page, (int)(seed & 0xff), PAGE_BYTES);
	for (uint32_t i = 0; i < noise; i++)
		page[i] = (uint8_t)next_random(&state);
}

struct fixture {
	struct pool *pool;
	struct pool_compressor *compressor;
};

static int set_up(void **state)
{
	static struct fixture f;
	assert_int_equal(pool_new(NR_SLOTS, &f.pool), 0);
	f.compressor = pool_compressor_new();
	assert_non_null(f.compressor);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	assert_true(pool_check(f->pool));
	pool_compressor_free(f->compressor);
	pool_free(f->pool);
	return 0;
}

static void test_what_goes_in_comes_out(void **state)
{
	struct fixture *f = *state;
	uint8_t page[PAGE_BYTES], out[PAGE_BYTES];
	for (uint32_t noise = 0; noise <= 2900; noise += 100) {
		make_page(page, noise, noise);
		assert_true(pool_store(f->pool, f->compressor, noise + 1, page));
	}
	for (uint32_t noise = 0; noise <= 2900; noise += 100) {
		make_page(page, noise, noise);
		assert_true(pool_load(f->pool, noise + 1, out));
		assert_memory_equal(page, out, PAGE_BYTES);
	}
	assert_false(pool_load(f->pool, 2, out));
	assert_int_equal(pool_nr_pages(f->pool), 30);
}

static void test_noise_is_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t page[PAGE_BYTES];
	for (uint32_t i = 1; i < 200; i++) {
		make_page(page, i, PAGE_BYTES);
		assert_false(pool_store(f->pool, f->compressor, i, page));
	}
	assert_int_equal(pool_nr_pages(f->pool), 0);
	/* What compresses again is noticed after a while. */
	uint32_t stored = 0;
	make_page(page, 1, 100);
	for (uint32_t i = 1; i < 40; i++)
		stored += pool_store(f->pool, f->compressor, i, page);
	assert_in_range(stored, 20, 39);
}

static void test_a_slot_is_stored_once(void **state)
{
	struct fixture *f = *state;
	uint8_t page[PAGE_BYTES], out[PAGE_BYTES];
	make_page(page, 1, 64);
	assert_true(pool_store(f->pool, f->compressor, 7, page));
	assert_false(pool_store(f->pool, f->compressor, 7, page));
	assert_false(pool_store(f->pool, f->compressor, NR_SLOTS + 512, page));
	pool_drop(f->pool, 7);
	pool_drop(f->pool, 7);
	assert_false(pool_load(f->pool, 7, out));
	assert_true(pool_store(f->pool, f->compressor, 7, page));
	assert_true(pool_load(f->pool, 7, out));
	assert_memory_equal(page, out, PAGE_BYTES);
}

static void test_oldest_run_is_contiguous_and_first_in(void **state)
{
	struct fixture *f = *state;
	uint8_t page[PAGE_BYTES];
	slot_t first;
	assert_int_equal(pool_choose_leaving(f->pool, 256, &first), 0);
	for (uint32_t i = 0; i < 300; i++) {
		make_page(page, i, 2048);
		assert_true(pool_store(f->pool, f->compressor, 1000 + i, page));
	}
	for (uint32_t i = 0; i < 300; i++) {
		make_page(page, i, 2048);
		assert_true(pool_store(f->pool, f->compressor, 100 + i, page));
	}
	assert_int_equal(pool_choose_leaving(f->pool, 256, &first), 256);
	assert_int_equal(first, 1000);
	for (uint32_t i = 0; i < 128; i++) /* what was chosen is not chosen again, dropped or not */
		pool_drop(f->pool, 1000 + i);
	assert_int_equal(pool_choose_leaving(f->pool, 256, &first), 44);
	assert_int_equal(first, 1256);
}

static void test_memory_is_given_back(void **state)
{
	struct fixture *f = *state;
	uint8_t page[PAGE_BYTES];
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 1; i < NR_SLOTS; i++) {
			make_page(page, i, 1500);
			assert_true(pool_store(f->pool, f->compressor, i, page));
		}
		uint64_t full = atomic_load(pool_memory(f->pool));
		assert_in_range(full, NR_SLOTS * 1500 / PAGE_BYTES, NR_SLOTS * 1700 / PAGE_BYTES);
		for (uint32_t i = 1; i < NR_SLOTS; i++)
			pool_drop(f->pool, i);
		assert_int_equal(atomic_load(pool_memory(f->pool)), 0);
	}
}

/* Random stores and drops against a table of what has to be there; holes are never many. */
static void test_random_use(void **state)
{
	struct fixture *f = *state;
	static uint32_t noise_of[NR_SLOTS];
	uint8_t page[PAGE_BYTES], out[PAGE_BYTES];
	uint64_t random = 42, live = 0;
	memset(noise_of, 0, sizeof(noise_of));
	for (uint32_t step = 0; step < 60000; step++) {
		slot_t slot = (slot_t)(next_random(&random) % (NR_SLOTS - 1)) + 1;
		if (noise_of[slot]) {
			make_page(page, slot * 10000u + noise_of[slot], noise_of[slot]);
			assert_true(pool_load(f->pool, slot, out));
			assert_memory_equal(page, out, PAGE_BYTES);
			pool_drop(f->pool, slot);
			live -= noise_of[slot];
			noise_of[slot] = 0;
		} else {
			noise_of[slot] = (uint32_t)(next_random(&random) % 2800) + 1;
			make_page(page, slot * 10000u + noise_of[slot], noise_of[slot]);
			assert_true(pool_store(f->pool, f->compressor, slot, page));
			live += noise_of[slot];
		}
		if (step % 5000 == 0)
			assert_true(pool_check(f->pool));
	}
	assert_in_range(atomic_load(pool_memory(f->pool)) * PAGE_BYTES, live, live * 14 / 10 + 64 * BLOCK_BYTES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_what_goes_in_comes_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_noise_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_slot_is_stored_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_oldest_run_is_contiguous_and_first_in, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_memory_is_given_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_random_use, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
