/* The passes of a migration against a kernel that is played: pages that are busy for a while, shared, gone, and nodes without room. */
#include <errno.h>
#include <string.h>

#include "migrate/passes.h"
#include "unit.h"

#define PAGES 2048
#define NODES 3
#define HUGE (HUGE_PAGE_BYTES / PAGE_BYTES)
#define FOREVER 1000

/* One page as the played kernel has it; its address is (index + 1) pages, so that none is at 0. Page 511 therefore begins a large one. */
struct page {
	int node;             /* negative: the status that it has instead */
	int refuses;          /* so many moves it is busy for */
	int status;           /* of a refused move */
	bool vanishes;        /* when it is to be moved */
	bool can_leave;       /* by eviction */
	bool is_large, splits; /* splits: when it is to be moved, after its first part has moved */
};

static struct script {
	struct page pages[PAGES];
	uint32_t nr, found;
	uint32_t room[NODES]; /* pages */
	int ask_fails, move_fails; /* -errno for all of a process */
	uint32_t moves, waits, asked_to_evict;
	unsigned moves_before_wait, waited_before[PASSES_MAX + 1], nr_waited;
	uint32_t per_batch;
	uint32_t moved_to[NODES];
	uint32_t at_once[64], nr_at_once;
	uint64_t now_ns, ns_per_page;
} script;

static struct page *page_at(remote_addr_t addr)
{
	return &script.pages[addr / PAGE_BYTES - 1];
}

static uint32_t find(void *context, struct place *ret)
{
	uint32_t n = 0;
	while (n < script.per_batch && script.found < script.nr) {
		struct place place = {.addr = (script.found + 1) * PAGE_BYTES, .process = script.found / 1024, .nr_pages = 1};
		if (n && place.process != ret[0].process)
			break;
		if (script.pages[script.found].is_large)
			place.nr_pages = HUGE;
		script.found += place.nr_pages;
		ret[n++] = place;
	}
	return n;
}

static int ask(void *context, const struct place *places, uint32_t nr, int *ret_status)
{
	if (script.ask_fails)
		return script.ask_fails;
	for (uint32_t i = 0; i < nr; i++) {
		assert_int_equal(places[i].process, places[0].process);
		ret_status[i] = places[i].nr_pages > 1 && !page_at(places[i].addr)->is_large ? PLACE_SPLIT : page_at(places[i].addr)->node;
	}
	return 0;
}

static int move_one(const struct place *place, int node)
{
	struct page *page = page_at(place->addr);
	if (page->vanishes)
		return page->node = -ENOENT;
	if (page->refuses) {
		page->refuses--;
		return page->status;
	}
	if (page->splits) {
		page->is_large = page->splits = false;
		page->node = node;
		return PLACE_SPLIT;
	}
	if (script.room[node] < place->nr_pages)
		return -ENOMEM;
	script.room[node] -= place->nr_pages;
	script.moved_to[node] += place->nr_pages;
	page->node = node;
	return node;
}

static int move(void *context, const struct place *places, uint32_t nr, int node, uint32_t at_once, int *ret_status)
{
	script.moves++;
	if (script.nr_at_once < 64)
		script.at_once[script.nr_at_once++] = at_once;
	if (script.move_fails)
		return script.move_fails;
	for (uint32_t i = 0; i < nr; i++) {
		script.now_ns += script.ns_per_page * places[i].nr_pages;
		ret_status[i] = move_one(&places[i], node);
		if (ret_status[i] == -ENOMEM)
			return -ENOMEM;
	}
	return 0;
}

static void evict(void *context, const struct place *places, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++) {
		assert_int_equal(places[i].nr_pages, 1);
		script.asked_to_evict++;
		if (page_at(places[i].addr)->can_leave)
			page_at(places[i].addr)->node = -ENOENT;
	}
}

static void wait_before(void *context, unsigned pass)
{
	if (!script.waits++)
		script.moves_before_wait = script.moves;
	script.waited_before[script.nr_waited++] = pass;
}

static uint64_t now(void *context)
{
	return script.now_ns;
}

static struct migrate_kernel kernel = {.find = find, .ask = ask, .move = move, .evict = evict, .wait = wait_before, .now = now};

static int begin(void **state)
{
	script = (struct script){.room = {PAGES, PAGES, PAGES}, .per_batch = 64, .ns_per_page = 1000};
	kernel.evict = evict;
	return 0;
}

static void add(uint32_t nr, struct page like)
{
	for (uint32_t i = 0; i < nr; i++)
		script.pages[script.nr++] = like;
}

static struct node_set nodes(const char *list)
{
	struct node_set set;
	assert_int_equal(node_set_parse(list, &set), 0);
	return set;
}

static struct migrate_figures run(const char *to, const char *from)
{
	struct node_set to_set = nodes(to), from_set = from ? nodes(from) : (struct node_set){0};
	struct passes *passes = passes_new(&kernel, &to_set, from ? &from_set : NULL);
	assert_non_null(passes);
	while (passes_step(passes) == -EINPROGRESS)
		;
	while (passes_swap_step(passes) == -EINPROGRESS)
		;
	struct migrate_figures f = *passes_figures(passes);
	passes_free(passes);
	assert_int_equal(f.found, f.moved + f.swapped + f.freed + migrate_figures_failed(&f) + f.left);
	return f;
}

static uint32_t nr_on(int node)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < script.nr; i++)
		n += script.pages[i].node == node;
	return n;
}

/* ---- D1: which pages move ---- */

static void test_everything_moves_to_the_target(void **state)
{
	add(1500, (struct page){.node = 0});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.found, 1500);
	assert_int_equal(f.moved, 1500);
	assert_int_equal(nr_on(1), 1500);
	assert_int_equal(script.waits, 0);
	assert_int_equal(script.asked_to_evict, 0);
}

static void test_what_lies_there_does_not_count(void **state)
{
	add(100, (struct page){.node = 1});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.found, 0);
	assert_int_equal(script.moves, 0);
}

static void test_from_limits_what_moves(void **state)
{
	add(10, (struct page){.node = 0});
	add(20, (struct page){.node = 2});
	struct migrate_figures f = run("1", "2");
	assert_int_equal(f.moved, 20);
	assert_int_equal(nr_on(0), 10);
	assert_int_equal(nr_on(2), 0);
}

static void test_what_vanishes_before_it_is_asked_for_was_never_found(void **state)
{
	add(10, (struct page){.node = -ENOENT});
	add(10, (struct page){.node = -EFAULT});
	assert_int_equal(run("1", NULL).found, 0);
}

static void test_targets_take_turns(void **state)
{
	add(1024, (struct page){.node = 0});
	assert_int_equal(run("1,2", NULL).moved, 1024);
	assert_int_equal(script.moved_to[1], 512);
	assert_int_equal(script.moved_to[2], 512);
}

static void test_a_large_page_counts_by_its_size(void **state)
{
	add(511, (struct page){.node = 1});
	add(HUGE, (struct page){.node = 0});
	script.pages[511].is_large = true;
	assert_int_equal(run("1", NULL).moved, HUGE);
	assert_int_equal(script.moves, 1);
}

/* Where the first part is says nothing about the rest: all parts are looked at. */
static void test_a_large_page_that_splits(void **state)
{
	add(511, (struct page){.node = 1});
	add(HUGE, (struct page){.node = 0});
	script.pages[511].is_large = script.pages[511].splits = true;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.found, HUGE);
	assert_int_equal(f.moved, HUGE);
	assert_int_equal(nr_on(1), 511 + HUGE);
}

/* ---- D2: busy pages ---- */

static void test_busy_pages_are_tried_again_and_others_go_on(void **state)
{
	add(100, (struct page){.node = 0});
	script.pages[3] = (struct page){.node = 0, .refuses = 2, .status = -EBUSY};
	script.pages[4] = (struct page){.node = 0, .refuses = 1, .status = -EAGAIN};
	assert_int_equal(run("1", NULL).moved, 100);
	assert_int_equal(script.waits, 0); /* moved in pass 3 */
}

static void test_the_fourth_pass_waits(void **state)
{
	add(1, (struct page){.node = 0, .refuses = 3, .status = -EBUSY});
	assert_int_equal(run("1", NULL).moved, 1);
	assert_int_equal(script.waits, 1);
	assert_int_equal(script.moves_before_wait, PASSES_WITHOUT_WAITING);
	assert_int_equal(script.waited_before[0], 4);
}

static void test_the_tenth_pass_is_the_last(void **state)
{
	kernel.evict = NULL;
	add(1, (struct page){.node = 0, .refuses = 9, .status = -EBUSY});
	add(1, (struct page){.node = 0, .refuses = 10, .status = -EBUSY});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.moved, 1);
	assert_int_equal(f.failed[FAILURE_BUSY], 1);
	assert_int_equal(script.moves, PASSES_MAX);
	assert_int_equal(script.waits, PASSES_MAX - PASSES_WITHOUT_WAITING);
}

/* The kernel's call ends at some group; what it has not said is asked for. */
static void test_a_status_that_was_not_said(void **state)
{
	add(2, (struct page){.node = 0});
	script.pages[0].refuses = 1;
	script.pages[0].status = NUMA_NOT_SAID;
	assert_int_equal(run("1", NULL).moved, 2);
}

static void test_fewer_at_once_in_passes_that_wait(void **state)
{
	script.ns_per_page = 0;
	add(1, (struct page){.node = 0, .refuses = 4, .status = -EBUSY});
	run("1", NULL);
	assert_int_equal(script.at_once[1], PASSES_AT_ONCE);
	assert_int_equal(script.at_once[PASSES_WITHOUT_WAITING], PASSES_AT_ONCE_LATER);
}

/* ---- the pace ---- */

static void test_pace(void **state)
{
	assert_int_equal(passes_pace(512, 500000), PASSES_AT_ONCE);
	assert_int_equal(passes_pace(1000, 10000000), 200); /* 10 us a page: 2 ms */
	assert_int_equal(passes_pace(1, 1000000000), 128);
	assert_int_equal(passes_pace(1, 0), PASSES_AT_ONCE);
}

static void test_a_slow_machine_gets_small_groups(void **state)
{
	script.ns_per_page = 10000;
	add(128, (struct page){.node = 0});
	run("1", NULL);
	assert_int_equal(script.at_once[1], 200);
}

/* ---- D3: through swap ---- */

static void test_what_stays_busy_goes_through_swap(void **state)
{
	add(10, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY, .can_leave = true});
	add(5, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.swapped, 10);
	assert_int_equal(f.failed[FAILURE_BUSY], 5);
}

static void test_shared_pages_are_not_tried_again(void **state)
{
	add(10, (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES, .can_leave = true});
	add(5, (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.swapped, 10);
	assert_int_equal(f.failed[FAILURE_SHARED], 5);
	assert_int_equal(script.moves, 1);
}

static void test_without_swap_nothing_is_evicted(void **state)
{
	kernel.evict = NULL;
	add(10, (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES, .can_leave = true});
	assert_int_equal(run("1", NULL).failed[FAILURE_SHARED], 10);
}

static void test_parts_of_a_large_page_go_through_swap(void **state)
{
	add(511, (struct page){.node = 1});
	add(HUGE, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY, .can_leave = true});
	script.pages[511].is_large = true;
	script.pages[600].can_leave = false;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.swapped, HUGE - 1);
	assert_int_equal(f.failed[FAILURE_BUSY], 1);
}

/* It moved after all, or is gone: nobody needs to evict it. */
static void test_a_last_look_before_eviction(void **state)
{
	struct node_set to = nodes("1");
	add(2, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY, .can_leave = true});
	struct passes *passes = passes_new(&kernel, &to, NULL);
	while (passes_step(passes) == -EINPROGRESS)
		;
	script.pages[0].node = 1;
	script.pages[1].node = -ENOENT;
	while (passes_swap_step(passes) == -EINPROGRESS)
		;
	assert_int_equal(passes_figures(passes)->moved, 1);
	assert_int_equal(passes_figures(passes)->freed, 1);
	assert_int_equal(script.asked_to_evict, 0);
	passes_free(passes);
}

static void note_process(uint32_t process, void *context)
{
	*(uint32_t *)context |= 1u << process;
}

static void test_processes_with_stuck_pages(void **state)
{
	struct node_set to = nodes("1");
	uint32_t seen = 0;
	add(1024, (struct page){.node = 0});
	add(10, (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES});
	struct passes *passes = passes_new(&kernel, &to, NULL);
	while (passes_step(passes) == -EINPROGRESS)
		;
	passes_visit_stuck(passes, note_process, &seen);
	assert_int_equal(seen, 1u << 1);
	passes_free(passes);
}

/* ---- D4: freed, and permanent failures ---- */

static void test_freed_is_no_failure(void **state)
{
	add(10, (struct page){.node = 0, .vanishes = true});
	add(10, (struct page){.node = 0});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.freed, 10);
	assert_int_equal(f.moved, 10);
	assert_int_equal(migrate_figures_failed(&f), 0);
}

static void test_freed_while_busy(void **state)
{
	struct node_set to = nodes("1");
	add(4, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY});
	struct passes *passes = passes_new(&kernel, &to, NULL);
	assert_int_equal(passes_step(passes), -EINPROGRESS);
	script.pages[0].node = -ENOENT;
	script.pages[1].node = -EFAULT;
	while (passes_step(passes) == -EINPROGRESS)
		;
	assert_int_equal(passes_figures(passes)->freed, 2);
	passes_free(passes);
}

static void test_other_refusals_of_the_kernel(void **state)
{
	add(3, (struct page){.node = 0, .refuses = FOREVER, .status = -EIO});
	assert_int_equal(run("1", NULL).failed[FAILURE_OTHER], 3);
	assert_int_equal(script.moves, 1);
}

static void test_a_process_that_may_not_be_moved(void **state)
{
	add(3, (struct page){.node = 0});
	script.move_fails = -EACCES;
	assert_int_equal(run("1", NULL).failed[FAILURE_REFUSED], 3);
	begin(NULL);
	add(3, (struct page){.node = 0});
	script.ask_fails = -EPERM;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.found, 3);
	assert_int_equal(f.failed[FAILURE_REFUSED], 3);
}

static void test_a_process_that_ends(void **state)
{
	add(3, (struct page){.node = 0});
	script.move_fails = -ESRCH;
	assert_int_equal(run("1", NULL).freed, 3);
	begin(NULL);
	add(3, (struct page){.node = 0});
	script.ask_fails = -ESRCH;
	assert_int_equal(run("1", NULL).found, 0);
}

/* ---- D5: no room ---- */

static void test_a_full_target_stops_it_with_the_number_left(void **state)
{
	add(1000, (struct page){.node = 0});
	script.pages[900] = (struct page){.node = 1};
	script.room[1] = 300;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.moved, 300);
	assert_int_equal(f.left, 699);
	assert_int_equal(script.asked_to_evict, 0);
	assert_int_equal(script.moves, 300 / 64 + 1);
}

static void test_when_one_is_full_the_other_takes_the_rest(void **state)
{
	add(1000, (struct page){.node = 0});
	script.room[1] = 100;
	struct migrate_figures f = run("1,2", NULL);
	assert_int_equal(f.moved, 1000);
	assert_int_equal(script.moved_to[1], 100);
	assert_int_equal(f.left, 0);
}

static void test_a_full_target_leaves_busy_pages_too(void **state)
{
	add(64, (struct page){.node = 0, .refuses = 1, .status = -EBUSY, .can_leave = true});
	add(64, (struct page){.node = 0});
	script.room[1] = 10;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.moved, 10);
	assert_int_equal(f.left, 118);
	assert_int_equal(f.swapped, 0);
	assert_int_equal(script.waits, 0);
}

/* ---- what comes later ---- */

static void test_begin_again(void **state)
{
	struct node_set to = nodes("1");
	add(10, (struct page){.node = 0});
	struct passes *passes = passes_new(&kernel, &to, NULL);
	while (passes_step(passes) == -EINPROGRESS)
		;
	add(10, (struct page){.node = 0, .refuses = 9, .status = -EBUSY});
	passes_begin_again(passes);
	while (passes_step(passes) == -EINPROGRESS)
		;
	assert_int_equal(passes_figures(passes)->moved, 20);
	passes_free(passes);
}

/* ---- lists of nodes ---- */

static void test_node_lists(void **state)
{
	struct node_set set;
	assert_int_equal(node_set_parse("0,2-3", &set), 0);
	assert_true(node_set_has(&set, 0) && !node_set_has(&set, 1) && node_set_has(&set, 2) && node_set_has(&set, 3));
	assert_int_equal(node_set_next(&set, 1), 2);
	assert_int_equal(node_set_next(&set, 4), -1);
	assert_int_equal(node_set_parse("1023", &set), 0);
	assert_true(node_set_has(&set, 1023));
	static const char *const wrong[] = {"", "x", "1,", ",1", "3-1", "1-", "-1", " 1", "1 ", "+1", "0x1", "1--2"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_int_equal(node_set_parse(wrong[i], &set), -EINVAL);
	assert_int_equal(node_set_parse("1024", &set), -ERANGE);
	assert_int_equal(node_set_parse("0-99999999999999999999", &set), -ERANGE);
	assert_true(node_set_has(&set, 1023)); /* untouched */
}

static void test_policy(void **state)
{
	struct node_set one = nodes("1"), two = nodes("0,65");
	struct numa_policy policy = numa_policy_of(&one);
	assert_int_equal(policy.mode, 1); /* MPOL_PREFERRED */
	assert_int_equal(policy.mask[0], 2);
	policy = numa_policy_of(&two);
	assert_int_equal(policy.mode, 5); /* MPOL_PREFERRED_MANY */
	assert_int_equal(policy.mask[0], 1);
	assert_int_equal(policy.mask[1], 2);
}

#define TEST(name) cmocka_unit_test_setup(test_##name, begin)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(everything_moves_to_the_target),
		TEST(what_lies_there_does_not_count),
		TEST(from_limits_what_moves),
		TEST(what_vanishes_before_it_is_asked_for_was_never_found),
		TEST(targets_take_turns),
		TEST(a_large_page_counts_by_its_size),
		TEST(a_large_page_that_splits),
		TEST(busy_pages_are_tried_again_and_others_go_on),
		TEST(the_fourth_pass_waits),
		TEST(the_tenth_pass_is_the_last),
		TEST(a_status_that_was_not_said),
		TEST(fewer_at_once_in_passes_that_wait),
		TEST(pace),
		TEST(a_slow_machine_gets_small_groups),
		TEST(what_stays_busy_goes_through_swap),
		TEST(shared_pages_are_not_tried_again),
		TEST(without_swap_nothing_is_evicted),
		TEST(parts_of_a_large_page_go_through_swap),
		TEST(a_last_look_before_eviction),
		TEST(processes_with_stuck_pages),
		TEST(freed_is_no_failure),
		TEST(freed_while_busy),
		TEST(other_refusals_of_the_kernel),
		TEST(a_process_that_may_not_be_moved),
		TEST(a_process_that_ends),
		TEST(a_full_target_stops_it_with_the_number_left),
		TEST(when_one_is_full_the_other_takes_the_rest),
		TEST(a_full_target_leaves_busy_pages_too),
		TEST(begin_again),
		TEST(node_lists),
		TEST(policy),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
