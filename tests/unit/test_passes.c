/* The passes of a migration against a kernel that is played: pages that are busy for a while, shared, gone, and nodes without room. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/passes.h"
#include "unit.h"

#define PAGES 10240
#define NODES 3
#define HUGE (HUGE_PAGE_BYTES / PAGE_BYTES)
#define FOREVER 1000

/* One page as the played kernel has it; its address is (index + 1) pages, so that none is at 0. Page 511 therefore begins a large one. */
struct page {
	int node;             /* negative: the status that it has instead */
	int refuses;          /* so many moves it is busy for */
	int status;           /* of a refused move */
	bool vanishes;        /* when it is to be moved */
	bool moves_unsaid;    /* when it is refused it has moved all the same */
	bool can_leave;       /* by eviction */
	int left_as;          /* then its status, if not -ENOENT */
	uint32_t twin;        /* index of the same page in another process, which leaves with it; 0: none */
	bool is_large, splits; /* splits: when it is to be moved, after its first part has moved */
	bool splits_at_once;  /* when it has been found */
};

static struct script {
	struct page pages[PAGES];
	uint32_t nr, found;
	uint32_t room[NODES]; /* pages */
	int ask_fails, move_fails; /* -errno for all of a process */
	uint32_t moved_before_failure; /* of the pages of a call that fails */
	uint32_t per_process;
	uint32_t moves, waits, asked_to_evict;
	unsigned moves_before_wait, waited_before[2 * PASSES_MAX], nr_waited;
	uint32_t per_batch;
	uint32_t moved_to[NODES];
	uint32_t at_once[64], nr_at_once;
	uint64_t now_ns, ns_per_page;
	bool no_memory;       /* for lists that grow */
} script;

void *__real_reallocarray(void *items, size_t nr, size_t bytes);
void *__wrap_reallocarray(void *items, size_t nr, size_t bytes);

void *__wrap_reallocarray(void *items, size_t nr, size_t bytes)
{
	return script.no_memory ? NULL : __real_reallocarray(items, nr, bytes);
}

static struct page *page_at(remote_addr_t addr)
{
	return &script.pages[addr / PAGE_BYTES - 1];
}

static uint32_t find(void *context, struct place *ret)
{
	uint32_t n = 0;
	while (n < script.per_batch && script.found < script.nr) {
		struct place place = {.addr = (script.found + 1) * PAGE_BYTES, .process = script.found / script.per_process, .nr_pages = 1};
		if (n && place.process != ret[0].process)
			break;
		if (script.pages[script.found].is_large)
			place.nr_pages = HUGE;
		script.pages[script.found].is_large &= !script.pages[script.found].splits_at_once;
		script.found += place.nr_pages;
		ret[n++] = place;
	}
	return n;
}

static int ask(void *context, const struct place *places, uint32_t nr, int *ret_status)
{
	if (script.ask_fails)
		return script.ask_fails;
	uint32_t nr_pages = 0;
	for (uint32_t i = 0; i < nr; i++) {
		nr_pages += places[i].nr_pages;
		assert_int_equal(places[i].process, places[0].process);
		ret_status[i] = places[i].nr_pages > 1 && !page_at(places[i].addr)->is_large ? PLACE_SPLIT : page_at(places[i].addr)->node;
	}
	assert_true(nr_pages <= PASSES_BATCH);
	return 0;
}

/* *ret_full: the node has no room for it. */
static int move_one(const struct place *place, int node, bool *ret_full)
{
	struct page *page = page_at(place->addr);
	if (page->vanishes)
		return page->node = -ENOENT;
	if (page->refuses) {
		page->refuses--;
		page->node = page->moves_unsaid ? node : page->node;
		return page->status;
	}
	if (page->splits) {
		page->is_large = page->splits = false;
		page->node = node;
		return PLACE_SPLIT;
	}
	*ret_full = script.room[node] < place->nr_pages;
	if (*ret_full)
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
	bool is_full = false;
	for (uint32_t i = 0; i < nr; i++) {
		if (script.move_fails && i == script.moved_before_failure)
			return script.move_fails;
		script.now_ns += script.ns_per_page * places[i].nr_pages;
		ret_status[i] = move_one(&places[i], node, &is_full);
		if (is_full)
			return -ENOMEM;
	}
	return script.moved_before_failure == nr ? script.move_fails : 0;
}

static void evict(void *context, const struct place *places, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++) {
		assert_int_equal(places[i].nr_pages, 1);
		script.asked_to_evict++;
		struct page *page = page_at(places[i].addr);
		if (page->can_leave)
			page->node = page->left_as ? page->left_as : -ENOENT;
		if (page->can_leave && page->twin)
			script.pages[page->twin].node = -ENOENT;
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
	script = (struct script){.room = {PAGES, PAGES, PAGES}, .per_batch = 64, .per_process = 1024, .ns_per_page = 1000};
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

static void step_all(struct passes *passes, int (*step)(struct passes *))
{
	while (step(passes) == -EINPROGRESS)
		;
}

/* The passes are done, what could not be moved is still to be dealt with. */
static struct passes *run_passes(const char *to)
{
	struct node_set to_set = nodes(to);
	struct passes *passes = passes_new(&kernel, &to_set, NULL);
	assert_non_null(passes);
	step_all(passes, passes_step);
	return passes;
}

/* The same after the first pass. */
static struct passes *run_one_step(const char *to)
{
	struct node_set to_set = nodes(to);
	struct passes *passes = passes_new(&kernel, &to_set, NULL);
	assert_non_null(passes);
	assert_int_equal(passes_step(passes), -EINPROGRESS);
	return passes;
}

static struct migrate_figures finish(struct passes *passes)
{
	step_all(passes, passes_step);
	step_all(passes, passes_swap_step);
	struct migrate_figures f = *passes_figures(passes);
	passes_free(passes);
	assert_int_equal(f.found, f.moved + f.swapped + f.freed + migrate_figures_failed(&f) + f.left);
	return f;
}

/* Page 511, so that a large one of the given kind begins where it has to. */
static void add_large(struct page like)
{
	like.is_large = true;
	script.per_batch = 1024; /* it is found with what lies before it */
	add(511, (struct page){.node = 1});
	add(HUGE, (struct page){.node = like.node});
	script.pages[511] = like;
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
	assert_int_equal(script.at_once[0], 128); /* before anything is known */
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

/* ---- large pages: whatever becomes of one, it counts by its size ---- */

static void test_a_large_page_that_has_split_when_it_is_asked_for(void **state)
{
	add_large((struct page){.node = 0, .splits_at_once = true});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.found, HUGE);
	assert_int_equal(f.moved, HUGE);
	assert_int_equal(nr_on(1), 511 + HUGE);
}

static void test_a_large_page_that_splits_while_it_is_busy(void **state)
{
	add_large((struct page){.node = 0, .refuses = 1, .status = -EBUSY});
	struct passes *passes = run_one_step("1");
	script.pages[511].is_large = false;
	assert_int_equal(finish(passes).moved, HUGE);
	assert_int_equal(nr_on(1), 511 + HUGE);
}

static void test_a_large_page_that_moves_unsaid(void **state)
{
	add_large((struct page){.node = 0, .refuses = 1, .status = NUMA_NOT_SAID, .moves_unsaid = true});
	assert_int_equal(run("1", NULL).moved, HUGE);
	assert_int_equal(script.moves, 1);
}

static void test_a_large_page_that_is_freed(void **state)
{
	add_large((struct page){.node = 0, .vanishes = true});
	assert_int_equal(run("1", NULL).freed, HUGE);
	begin(NULL);
	add_large((struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY});
	struct passes *passes = run_one_step("1");
	script.pages[511].node = -ENOENT;
	assert_int_equal(finish(passes).freed, HUGE);
	begin(NULL);
	add_large((struct page){.node = 0});
	script.move_fails = -ESRCH;
	assert_int_equal(run("1", NULL).freed, HUGE);
}

static void test_a_large_page_without_room(void **state)
{
	add_large((struct page){.node = 0});
	script.room[1] = 100;
	assert_int_equal(run("1", NULL).left, HUGE);
}

/* ---- D2 again ---- */

/* It was moved by somebody else meanwhile, or the kernel moved it elsewhere. */
static void test_on_another_node_is_not_moved(void **state)
{
	add(1, (struct page){.node = 0, .refuses = 1, .status = 2});
	assert_int_equal(run("1", NULL).moved, 1);
	assert_int_equal(script.moves, 2);
	assert_int_equal(nr_on(1), 1);
}

static void test_no_memory_for_one_page_is_busy(void **state)
{
	add(2, (struct page){.node = 0});
	script.pages[0].refuses = 1;
	script.pages[0].status = -ENOMEM;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.moved, 2);
	assert_int_equal(f.left, 0);
}

static void test_busy_pages_of_several_processes(void **state)
{
	add(1100, (struct page){.node = 0, .refuses = 1, .status = -EBUSY});
	assert_int_equal(run("1", NULL).moved, 1100);
}

static void test_more_busy_pages_than_a_batch(void **state)
{
	script.per_process = PAGES;
	add(PASSES_BATCH + 1000, (struct page){.node = 0, .refuses = 1, .status = -EBUSY});
	script.room[1] = PAGES;
	assert_int_equal(run("1", NULL).moved, PASSES_BATCH + 1000);
}

static void test_busy_pages_that_just_fill_a_batch(void **state)
{
	script.per_batch = script.per_process = PASSES_BATCH;
	add(PASSES_BATCH, (struct page){.node = 0, .refuses = 1, .status = -EBUSY});
	assert_int_equal(run("1", NULL).moved, PASSES_BATCH);
	assert_int_equal(script.moves, 2);
}

static void test_asking_fails_later(void **state)
{
	static const struct {
		int error;
		uint32_t freed, refused;
	} cases[] = {{-ESRCH, 3, 0}, {-EPERM, 0, 3}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		begin(NULL);
		add(3, (struct page){.node = 0, .refuses = 1, .status = -EBUSY});
		struct passes *passes = run_one_step("1");
		script.ask_fails = cases[i].error;
		struct migrate_figures f = finish(passes);
		assert_int_equal(f.freed, cases[i].freed);
		assert_int_equal(f.failed[FAILURE_REFUSED], cases[i].refused);
		assert_int_equal(f.moved, 0);
	}
}

/* The room goes in pass 3 while another page is busy: nobody waits for it. */
static void test_without_room_no_pass_waits(void **state)
{
	add(1024, (struct page){.node = 1});
	script.pages[0] = (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY};
	add(1, (struct page){.node = 0, .refuses = 2, .status = -EBUSY});
	script.room[1] = 0;
	assert_int_equal(run("1", NULL).left, 2);
	assert_int_equal(script.waits, 0);
}

static void test_the_pace_is_that_of_the_first_pass(void **state)
{
	add(1, (struct page){.node = 0, .refuses = 2, .status = -EBUSY});
	struct passes *passes = run_one_step("1");
	script.ns_per_page = 1000000;
	finish(passes);
	assert_int_equal(script.at_once[2], PASSES_AT_ONCE);
}

static void test_the_pace_counts_small_pages(void **state)
{
	script.ns_per_page = 10000;
	add_large((struct page){.node = 0});
	add(1, (struct page){.node = 1});
	add(1, (struct page){.node = 0}); /* of the next process */
	run("1", NULL);
	assert_int_equal(script.at_once[1], 200);
}

/* ---- D3 again ---- */

/* Two processes have the same page: it is out for both when one has evicted it. */
static void test_what_leaves_with_its_twin_went_through_swap(void **state)
{
	add(1025, (struct page){.node = 1});
	script.pages[0] = (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES, .can_leave = true, .twin = 1024};
	script.pages[1024] = (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES, .can_leave = true};
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.swapped, 2);
	assert_int_equal(f.freed, 0);
}

static void test_unmapped_at_the_eviction_is_freed(void **state)
{
	add(1, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY, .can_leave = true, .left_as = -EFAULT});
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.freed, 1);
	assert_int_equal(f.swapped, 0);
}

static void test_the_process_ends_before_the_eviction(void **state)
{
	add(3, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY, .can_leave = true});
	struct passes *passes = run_passes("1");
	script.ask_fails = -ESRCH;
	assert_int_equal(finish(passes).freed, 3);
	assert_int_equal(script.asked_to_evict, 0);
	begin(NULL);
	add(3, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY});
	passes = run_passes("1");
	script.ask_fails = -EIO;
	assert_int_equal(finish(passes).failed[FAILURE_BUSY], 3);
}

/* It would come back to where it was. */
static void test_when_the_target_is_full_nothing_is_evicted(void **state)
{
	uint32_t seen = 0;
	add(64, (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES, .can_leave = true});
	add(10, (struct page){.node = 0});
	script.room[1] = 0;
	struct passes *passes = run_passes("1");
	passes_visit_stuck(passes, note_process, &seen);
	assert_int_equal(seen, 0);
	struct migrate_figures f = finish(passes);
	assert_int_equal(f.failed[FAILURE_SHARED], 64);
	assert_int_equal(f.left, 10);
	assert_int_equal(script.asked_to_evict, 0);
}

static void count_visit(uint32_t process, void *context)
{
	(*(uint32_t *)context)++;
}

static void test_each_process_with_stuck_pages_is_visited_once(void **state)
{
	uint32_t seen = 0, visits = 0;
	add(1034, (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES});
	struct passes *passes = run_passes("1");
	passes_visit_stuck(passes, note_process, &seen);
	passes_visit_stuck(passes, count_visit, &visits);
	assert_int_equal(seen, 3);
	assert_int_equal(visits, 2);
	finish(passes);
}

/* ---- D4 again ---- */

static void test_gone_in_each_way_is_no_failure(void **state)
{
	static const int ways[] = {-ENOENT, -EFAULT, -ESRCH};
	uint32_t visits = 0;
	for (size_t i = 0; i < ARRAY_LEN(ways); i++)
		add(1, (struct page){.node = 0, .refuses = FOREVER, .status = ways[i]});
	struct passes *passes = run_passes("1");
	passes_visit_stuck(passes, count_visit, &visits);
	assert_int_equal(visits, 0);
	assert_int_equal(finish(passes).freed, ARRAY_LEN(ways));
}

static void test_reasons_of_a_call_that_fails(void **state)
{
	static const struct {
		int error;
		enum migrate_failure why;
	} cases[] = {{-EPERM, FAILURE_REFUSED}, {-EACCES, FAILURE_REFUSED}, {-ENODEV, FAILURE_REFUSED}, {-EIO, FAILURE_OTHER}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		begin(NULL);
		add(3, (struct page){.node = 0});
		script.move_fails = cases[i].error;
		script.moved_before_failure = 1;
		struct migrate_figures f = run("1", NULL);
		assert_int_equal(f.failed[cases[i].why], 2);
		assert_int_equal(f.moved, 1);
	}
}

static void test_a_call_that_fails_when_all_have_moved(void **state)
{
	uint32_t visits = 0;
	add(3, (struct page){.node = 0});
	script.move_fails = -EIO;
	script.moved_before_failure = 3;
	struct passes *passes = run_passes("1");
	passes_visit_stuck(passes, count_visit, &visits);
	assert_int_equal(visits, 0);
	assert_int_equal(finish(passes).moved, 3);
}

/* Of a process that has ended nothing is anywhere, whatever had moved before. */
static void test_a_process_that_ends_while_it_is_moved(void **state)
{
	add(3, (struct page){.node = 0});
	script.move_fails = -ESRCH;
	script.moved_before_failure = 1;
	assert_int_equal(run("1", NULL).freed, 3);
}

/* What was stuck before counts once, and the passes begin with the first. */
static void test_begin_again_after_ten_passes(void **state)
{
	add(1, (struct page){.node = 0, .refuses = FOREVER, .status = -EBUSY});
	struct passes *passes = run_passes("1");
	add(10, (struct page){.node = 0, .refuses = 9, .status = -EBUSY});
	passes_begin_again(passes);
	struct migrate_figures f = finish(passes);
	assert_int_equal(f.moved, 10);
	assert_int_equal(f.failed[FAILURE_BUSY], 1);
}

/* ---- node 0, and lists without room ---- */

static void test_node_0_is_a_target_like_others(void **state)
{
	add(10, (struct page){.node = 1});
	add(2, (struct page){.node = 0});
	add(3, (struct page){.node = 1, .refuses = 1, .status = -EBUSY, .moves_unsaid = true});
	struct migrate_figures f = run("0", NULL);
	assert_int_equal(f.found, 13);
	assert_int_equal(f.moved, 13);
	assert_int_equal(script.moves, 1);
}

static void test_still_on_node_0_is_tried_again(void **state)
{
	add(1, (struct page){.node = 0, .refuses = 1, .status = 0});
	assert_int_equal(run("1", NULL).moved, 1);
	assert_int_equal(script.asked_to_evict, 0);
}

static void test_stuck_and_yet_moved_to_node_0(void **state)
{
	add(2, (struct page){.node = 1, .refuses = 1, .status = -EACCES, .moves_unsaid = true});
	assert_int_equal(run("0", NULL).moved, 2);
	assert_int_equal(script.asked_to_evict, 0);
}

static void test_the_first_target_is_the_first(void **state)
{
	add(10, (struct page){.node = 1});
	assert_int_equal(finish(run_one_step("0,2")).moved, 10);
	assert_int_equal(script.moved_to[0], 10);
}

static void test_without_memory_for_what_is_busy(void **state)
{
	add(3, (struct page){.node = 0});
	add(2, (struct page){.node = 0, .refuses = 1, .status = -EBUSY});
	script.no_memory = true;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.moved, 3);
	assert_int_equal(f.failed[FAILURE_BUSY], 2);
}

static void test_without_memory_for_what_is_stuck(void **state)
{
	add(3, (struct page){.node = 0});
	add(2, (struct page){.node = 0, .refuses = FOREVER, .status = -EACCES});
	script.no_memory = true;
	struct migrate_figures f = run("1", NULL);
	assert_int_equal(f.moved, 3);
	assert_int_equal(f.failed[FAILURE_SHARED], 2);
	assert_int_equal(script.asked_to_evict, 0);
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
		TEST(a_large_page_that_has_split_when_it_is_asked_for),
		TEST(a_large_page_that_splits_while_it_is_busy),
		TEST(a_large_page_that_moves_unsaid),
		TEST(a_large_page_that_is_freed),
		TEST(a_large_page_without_room),
		TEST(on_another_node_is_not_moved),
		TEST(no_memory_for_one_page_is_busy),
		TEST(busy_pages_of_several_processes),
		TEST(more_busy_pages_than_a_batch),
		TEST(busy_pages_that_just_fill_a_batch),
		TEST(asking_fails_later),
		TEST(without_room_no_pass_waits),
		TEST(the_pace_is_that_of_the_first_pass),
		TEST(the_pace_counts_small_pages),
		TEST(what_leaves_with_its_twin_went_through_swap),
		TEST(unmapped_at_the_eviction_is_freed),
		TEST(the_process_ends_before_the_eviction),
		TEST(when_the_target_is_full_nothing_is_evicted),
		TEST(each_process_with_stuck_pages_is_visited_once),
		TEST(gone_in_each_way_is_no_failure),
		TEST(reasons_of_a_call_that_fails),
		TEST(a_call_that_fails_when_all_have_moved),
		TEST(a_process_that_ends_while_it_is_moved),
		TEST(begin_again_after_ten_passes),
		TEST(node_0_is_a_target_like_others),
		TEST(still_on_node_0_is_tried_again),
		TEST(stuck_and_yet_moved_to_node_0),
		TEST(the_first_target_is_the_first),
		TEST(without_memory_for_what_is_busy),
		TEST(without_memory_for_what_is_stuck),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
