/* What the reclaim thread does when somebody wants certain pages to be evicted (reclaimer_evict). Eviction itself is played. */
#include <string.h>
#include <unistd.h>

#include "container/container.h"
#include "container/reclaimer.h"
#include "pager/shared_pages.h"
#include "unit.h"

static struct container c;
static struct address_space space, other;
static struct page_set set;
static struct {
	bool has_failed;
	int later; /* so many times pages are busy */
	int evictions, shared_evictions, references;
} played;

struct evict_result __wrap_evict_set(struct address_space *as, const struct page_set *pages);
uint64_t __wrap_shared_pages_evict(struct address_space **spaces, uint32_t nr, remote_addr_t start);
bool __wrap_writeback_has_failed(struct writeback *wb);
struct address_space *__wrap_address_space_get(struct address_space *as);
void __wrap_address_space_put(struct address_space *as);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);

struct evict_result __wrap_evict_set(struct address_space *as, const struct page_set *pages)
{
	played.evictions += as == &space && pages == &set;
	return (struct evict_result){.later = played.later-- > 0};
}

uint64_t __wrap_shared_pages_evict(struct address_space **spaces, uint32_t nr, remote_addr_t start)
{
	bool is_right = nr == 2 && spaces[0] == &space && spaces[1] == &other && start == set.start && played.references == 2 && !played.evictions;
	played.shared_evictions += is_right;
	return 0;
}

bool __wrap_writeback_has_failed(struct writeback *wb)
{
	return played.has_failed;
}

struct address_space *__wrap_address_space_get(struct address_space *as)
{
	played.references++;
	return as;
}

void __wrap_address_space_put(struct address_space *as)
{
	played.references--;
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	return 0;
}

static int begin(void **state)
{
	alarm(20);
	memset(&c, 0, sizeof(c));
	memset(&played, 0, sizeof(played));
	set.start = 0x10000;
	space.next = &other;
	c.spaces = &space;
	c.swap = (struct swap *)&c;
	c.squeeze_to = NO_SQUEEZE;
	lock_init(&c.spaces_lock, LOCK_CONTAINER);
	charge_init(&c.charge, 1 << 20);
	return reclaimer_start(&c, &c.reclaimer);
}

static int end(void **state)
{
	reclaimer_stop(c.reclaimer);
	return played.references;
}

static void expect(bool shared, int evictions, int shared_evictions)
{
	reclaimer_evict(c.reclaimer, &space, &set, shared);
	assert_int_equal(played.evictions, evictions);
	assert_int_equal(played.shared_evictions, shared_evictions);
}

static void pages_are_evicted(void **state)
{
	expect(false, 1, 0);
	expect(false, 2, 0);
}

static void shared_ones_from_everybody_first(void **state)
{
	expect(true, 1, 1);
}

static void busy_ones_are_tried_again(void **state)
{
	played.later = 3;
	expect(false, 4, 0);
}

static void but_not_for_ever(void **state)
{
	played.later = 1000;
	reclaimer_evict(c.reclaimer, &space, &set, false);
	assert_in_range(played.evictions, 10, 100);
}

static void not_without_a_file(void **state)
{
	c.swap = NULL;
	expect(true, 0, 0);
}

static void not_when_the_file_leaves(void **state)
{
	c.swap_leaves = true;
	expect(true, 0, 0);
}

static void not_into_a_file_that_has_failed(void **state)
{
	played.has_failed = true;
	expect(true, 0, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(pages_are_evicted),
		TEST(shared_ones_from_everybody_first),
		TEST(busy_ones_are_tried_again),
		TEST(but_not_for_ever),
		TEST(not_without_a_file),
		TEST(not_when_the_file_leaves),
		TEST(not_into_a_file_that_has_failed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
