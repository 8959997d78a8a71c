/* One thread that takes slots, as reclaim does, others that share them, check them and give them back, and the trimmer, all on one swap file. */
#include "swap/swap.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "unit.h"

#define NR_USERS 3
#define RUN_SLOTS 128
#define SIZE_SLOTS 12000u /* more than is in use at once */
#define DURATION_MS 300    /* the trimmer begins after 100 */
#define BOX 4

struct run {
	slot_t first;
	uint32_t nr;
};

/* Runs on their way from the taker to one user. */
struct box {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct run runs[BOX];
	int nr;
	bool closed;
};

static struct swap *swap;
static struct box boxes[NR_USERS];
static atomic_uint wrong;

static void box_put(struct box *box, struct run run)
{
	pthread_mutex_lock(&box->mutex);
	while (box->nr == BOX)
		pthread_cond_wait(&box->changed, &box->mutex);
	box->runs[box->nr++] = run;
	pthread_cond_broadcast(&box->changed);
	pthread_mutex_unlock(&box->mutex);
}

static bool box_take(struct box *box, struct run *ret_run)
{
	pthread_mutex_lock(&box->mutex);
	while (!box->nr && !box->closed)
		pthread_cond_wait(&box->changed, &box->mutex);
	bool found = box->nr > 0;
	if (found)
		*ret_run = box->runs[--box->nr];
	pthread_cond_broadcast(&box->changed);
	pthread_mutex_unlock(&box->mutex);
	return found;
}

static void box_close(struct box *box)
{
	pthread_mutex_lock(&box->mutex);
	box->closed = true;
	pthread_cond_broadcast(&box->changed);
	pthread_mutex_unlock(&box->mutex);
}

static void *use(void *argument)
{
	struct run run;
	while (box_take(argument, &run)) {
		for (slot_t slot = run.first; slot < run.first + run.nr; slot++) {
			swap_get(swap, slot);
			wrong += swap_checksum(swap, slot) != slot * 3ull;
			swap_put(swap, slot);
			wrong += swap_references(swap, slot) != 1;
			swap_put(swap, slot);
		}
	}
	return NULL;
}

static long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Leaves most clusters empty: something to trim. */
static void fill_and_empty(void)
{
	struct run run;
	while (swap_alloc(swap, RUN_SLOTS, &run.first, &run.nr) == 0)
		;
	for (slot_t slot = 1; slot <= SIZE_SLOTS; slot++)
		swap_put(swap, slot);
}

static void slots_go_round(void **state)
{
	char path[64];
	struct swap_error error;
	pthread_t users[NR_USERS];
	snprintf(path, sizeof(path), "test-swap-threads-%d", (int)getpid());
	struct swap_options options = {.path = path, .container = "tested", .size_bytes = SIZE_SLOTS * PAGE_BYTES};
	assert_int_equal(swap_open(&options, &swap, &error), 0);
	for (int i = 0; i < NR_USERS; i++) {
		boxes[i] = (struct box){.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
		assert_int_equal(pthread_create(&users[i], NULL, use, &boxes[i]), 0);
	}
	fill_and_empty();
	long end = now_ms() + DURATION_MS;
	for (int i = 0; now_ms() < end; i++) {
		struct run run;
		assert_int_equal(swap_alloc(swap, RUN_SLOTS, &run.first, &run.nr), 0);
		for (slot_t slot = run.first; slot < run.first + run.nr; slot++)
			swap_set_checksum(swap, slot, slot * 3ull);
		box_put(&boxes[i % NR_USERS], run);
	}
	for (int i = 0; i < NR_USERS; i++)
		box_close(&boxes[i]);
	for (int i = 0; i < NR_USERS; i++)
		pthread_join(users[i], NULL);
	assert_int_equal(wrong, 0);
	assert_int_equal(swap_used_slots(swap), 0);
	assert_true(swap_check(swap));
	swap_close(swap, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(slots_go_round),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
