/* The nodes on which the keeper's threads allocate: each takes over what is wanted, once, and it is known when all have. */
#include <pthread.h>
#include <string.h>

#include "pager/pager.h"
#include "platform/numa.h"
#include "unit.h"

#define THREADS PAGER_MAX_FAULT_THREADS

struct fault_thread;

static struct pager pager;
static uint32_t followed[THREADS]; /* by the fault threads */
static int wakes, prefers;
static struct node_set preferred;

int __wrap_numa_prefer(const struct node_set *nodes);
uint32_t __wrap_fault_thread_preference(const struct fault_thread *thread);
void __wrap_fault_thread_wake(struct fault_thread *thread);

int __wrap_numa_prefer(const struct node_set *nodes)
{
	prefers++;
	preferred = *nodes;
	return 0;
}

uint32_t __wrap_fault_thread_preference(const struct fault_thread *thread)
{
	return *(const uint32_t *)(const void *)thread;
}

void __wrap_fault_thread_wake(struct fault_thread *thread)
{
	assert_ptr_equal(thread, &followed[wakes]);
	wakes++;
}

static int begin(void **state)
{
	memset(&pager, 0, sizeof(pager));
	memset(followed, 0, sizeof(followed));
	for (int i = 0; i < THREADS; i++)
		pager.threads[i] = (struct fault_thread *)&followed[i];
	pager.nr_threads = THREADS;
	wakes = prefers = 0;
	return 0;
}

static struct node_set nodes(const char *list)
{
	struct node_set set;
	assert_int_equal(node_set_parse(list, &set), 0);
	return set;
}

static void *follow(void *argument)
{
	uint32_t first = preference_follow(&pager.preference), second = preference_follow(&pager.preference);
	assert_int_equal(first, second);
	return NULL;
}

static void follow_in_a_thread(void)
{
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, follow, NULL), 0);
	pthread_join(thread, NULL);
}

static void nothing_is_changed_while_nothing_is_wanted(void **state)
{
	follow_in_a_thread();
	assert_int_equal(prefers, 0);
	assert_true(pager_follows_preference(&pager));
}

static void each_thread_follows_once(void **state)
{
	const struct node_set wanted = nodes("1,70"), later = nodes("2");
	pager_prefer(&pager, &wanted);
	assert_int_equal(prefers, 1); /* the caller itself */
	assert_memory_equal(&preferred, &wanted, sizeof(wanted));
	assert_int_equal(wakes, THREADS);
	follow_in_a_thread();
	assert_int_equal(prefers, 2);
	assert_memory_equal(&preferred, &wanted, sizeof(wanted));
	assert_int_equal(preference_follow(&pager.preference), 1);
	assert_int_equal(prefers, 2);
	wakes = 0;
	pager_prefer(&pager, &later);
	assert_int_equal(prefers, 3);
	assert_memory_equal(&preferred, &later, sizeof(later));
}

static void it_is_followed_when_the_last_thread_does(void **state)
{
	const struct node_set wanted = nodes("1");
	pager_prefer(&pager, &wanted);
	assert_false(pager_follows_preference(&pager));
	for (int late = 0; late < THREADS; late++) {
		for (int i = 0; i < THREADS; i++)
			followed[i] = i != late;
		assert_false(pager_follows_preference(&pager));
	}
	followed[THREADS - 1] = 1;
	assert_true(pager_follows_preference(&pager));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(nothing_is_changed_while_nothing_is_wanted, begin),
		cmocka_unit_test_setup(each_thread_follows_once, begin),
		cmocka_unit_test_setup(it_is_followed_when_the_last_thread_does, begin),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
