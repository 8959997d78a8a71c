/*
 * A whole migration against processes, nodes, reclaim and time that are played: the calls of migration.c to them come here (-Wl,--wrap). Its thread is a real
 * one. What the real kernel does is seen in the virtual machine (tests/e2e/test_migrate_vm.py).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/monotonic.h"
#include "container/container.h"
#include "container/reclaimer.h"
#include "migrate/migration.h"
#include "migrate/placement.h"
#include "pager/evict.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "unit.h"

#define PROCESSES 64
#define PAGES 40000
#define BASE ((remote_addr_t)HUGE_PAGE_BYTES) /* address of the first page of each process */
#define HUGE ((uint32_t)(HUGE_PAGE_BYTES / PAGE_BYTES))
#define BETWEEN 128 /* pages that may be under way together while the machine's pace is not known */
#define TRIES 16 /* to adopt whose pages are to go through swap */

struct page {
	int node;        /* negative: there is none, the status that it has instead */
	bool is_zero, is_large;
	int refuses;     /* so many moves it has this status for */
	int status;
	bool is_pinned;  /* the group in which it is moved fails */
	bool splits;     /* when it is moved */
	int asked;       /* so many times to be moved */
	bool is_ordered, as_shared; /* to be evicted */
};

struct played {
	pid_t pid;
	uint32_t first, nr; /* pages */
	bool has_ended, is_gone_at_once, has_no_pidfd;
	int pidfd, pagemap;
	int ask_fails, move_fails;
	uint32_t scans, asks, moves;
	/* Directing. */
	int directs_as[4], nr_directs, directed;
	/* Adopting. */
	bool is_held, is_stopped;
	int cannot_stop, cannot_adopt; /* this many times */
	int stops, resumes, adoptions, registered, references;
	struct address_space as;
};

static struct {
	struct played processes[PROCESSES];
	uint32_t nr;
	struct page pages[PAGES];
	uint32_t nr_pages;
	struct mapping mappings[24];
	uint32_t nr_mappings;
	int wrong; /* the line of the first thing that must not be, in whichever thread */

	const char *online, *with_memory;
	int nodes_fail;
	bool may_move_shared;
	uint64_t room; /* on each node, pages */
	struct node_set preferred;
	int prefers, follows_after;
	int refreshes;
	void (*at_refresh)(void), (*at_scan)(void), (*at_move)(void), (*at_evict)(void);

	uint32_t calls, most_groups, most_together, in_first_call; /* of numa_move_pages */
	bool is_first, is_soon; /* preempts; prefers latency */
	uint64_t now_ns, ns_per_page;
	uint64_t naps[64];
	uint32_t nr_naps;
	uint32_t processors, runnable, activity_reads, activity_until;
	uint32_t evictions, releases;

	int ticks; /* until it was done */
	bool thread_runs;
	int threads, thread_fails_at, joins;
	sem_t entered, stopped; /* the thread is where it is to be stopped; somebody waits for its end */
} played;

static struct container c;
static struct member members[PROCESSES];
static const int swap_file, no_page = -ENOENT;

#define MUST(condition) ((condition) ? (void)0 : (void)(played.wrong = played.wrong ? played.wrong : __LINE__))

static struct played *by_pid(pid_t pid)
{
	for (uint32_t i = 0; i < played.nr; i++)
		if (played.processes[i].pid == pid)
			return &played.processes[i];
	MUST(false);
	return &played.processes[0];
}

static struct played *by_fd(int fd)
{
	for (uint32_t i = 0; fd >= 0 && i < played.nr; i++)
		if (played.processes[i].pidfd == fd || played.processes[i].pagemap == fd)
			return &played.processes[i];
	return NULL;
}

static struct page *page_at(const struct played *process, remote_addr_t addr)
{
	uint64_t i = (addr - BASE) / PAGE_BYTES;
	MUST(addr >= BASE && i < process->nr);
	return &played.pages[process->first + (addr >= BASE && i < process->nr ? i : 0)];
}

/* ---- what migration.c calls ---- */

int __wrap_numa_read_nodes(struct node_set *ret_online, struct node_set *ret_with_memory);
bool __wrap_numa_may_move_shared(void);
int __wrap_pidfd_open_process(pid_t pid);
bool __wrap_pidfd_has_exited(int pidfd);
int __wrap_pagemap_open(pid_t pid);
int __wrap_pagemap_scan(int fd, const struct pagemap_query *query, struct page_run *runs, uint32_t max_runs, uint64_t *ret_walked_to);
int __wrap_maps_for_each(pid_t pid, int (*visit)(const struct mapping *m, void *context), void *context);
int __wrap_numa_ask_pages(pid_t pid, uint32_t nr, void *const *pages, int *ret_status);
int __wrap_numa_move_pages(pid_t pid, uint32_t nr, void *const *pages, int node, bool shared_too, int *ret_status);
int __wrap_container_refresh_members(struct container *container);
int __wrap_container_adopt_held(struct container *container, struct member *member, struct world *world);
void __wrap_pager_prefer(struct pager *pager, const struct node_set *nodes);
bool __wrap_pager_follows_preference(const struct pager *pager);
int __wrap_placement_step(struct placement *placement, pid_t pid, const struct node_set *nodes);
void __wrap_placement_release(struct placement *placement);
void __wrap_reclaimer_evict(struct reclaimer *reclaimer, struct address_space *as, const struct page_set *set, bool shared);
struct world *__wrap_world_find(pid_t pid);
int __wrap_world_stop(pid_t pid, uint32_t timeout_us, struct world **ret_world);
void __wrap_world_resume(struct world *world);
int __wrap_address_space_register_new(struct address_space *as, int max, bool waits);
struct address_space *__wrap_address_space_get(struct address_space *as);
void __wrap_address_space_put(struct address_space *as);
uint64_t __wrap_monotonic_ns(void);
int __wrap_nanosleep(const struct timespec *time, struct timespec *left);
uint32_t __wrap_scheduling_nr_processors(void);
void __wrap_scheduling_preempt(void);
void __wrap_scheduling_prefer_latency(void);
int __wrap_system_activity_read(struct system_activity *ret);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *argument);
int __real_pthread_join(pthread_t thread, void **ret);
int __wrap_pthread_join(pthread_t thread, void **ret);

static struct node_set nodes(const char *list)
{
	struct node_set set = {0};
	MUST(node_set_parse(list, &set) == 0);
	return set;
}

int __wrap_numa_read_nodes(struct node_set *ret_online, struct node_set *ret_with_memory)
{
	*ret_online = nodes(played.online);
	*ret_with_memory = nodes(played.with_memory);
	return played.nodes_fail;
}

bool __wrap_numa_may_move_shared(void)
{
	return played.may_move_shared;
}

static int open_file(const struct played *process)
{
	return process->is_gone_at_once ? -ESRCH : open("/dev/null", O_RDONLY | O_CLOEXEC);
}

int __wrap_pidfd_open_process(pid_t pid)
{
	return by_pid(pid)->pidfd = by_pid(pid)->has_no_pidfd ? -EMFILE : open_file(by_pid(pid));
}

bool __wrap_pidfd_has_exited(int pidfd)
{
	struct played *process = by_fd(pidfd);
	return process && process->has_ended; /* without a pidfd nobody is asked */
}

/* Files in /proc are those of the member's task. */
static struct played *by_task(pid_t task)
{
	MUST(task >= 10000);
	return by_pid(task - 10000);
}

int __wrap_pagemap_open(pid_t pid)
{
	return by_task(pid)->pagemap = open_file(by_task(pid));
}

int __wrap_maps_for_each(pid_t pid, int (*visit)(const struct mapping *m, void *context), void *context)
{
	by_task(pid);
	for (uint32_t i = 0; i < played.nr_mappings; i++)
		visit(&played.mappings[i], context);
	return 0;
}

static uint64_t categories_of(const struct page *page)
{
	return (page->node >= 0 ? PAGE_PRESENT : 0) | (page->is_zero ? PAGE_ZERO : 0) | (page->is_large ? PAGE_HUGE : 0);
}

int __wrap_pagemap_scan(int fd, const struct pagemap_query *query, struct page_run *runs, uint32_t max_runs, uint64_t *ret_walked_to)
{
	struct played *process = by_fd(fd);
	uint32_t nr = 0;
	uint64_t nr_pages = 0;
	MUST(process && query->end <= ADDRESS_END && query->start < query->end);
	if (!process || process->has_ended)
		return -ESRCH;
	MUST(played.is_soon);
	process->scans++;
	remote_addr_t at = MAX_OF(query->start, BASE), end = MIN_OF(query->end, BASE + process->nr * PAGE_BYTES);
	for (; at < end && (!query->max_pages || nr_pages < query->max_pages); at += PAGE_BYTES) {
		uint64_t has = categories_of(page_at(process, at)), report = has & query->report;
		if ((has & query->require) != query->require || has & query->forbid)
			continue;
		if (nr && runs[nr - 1].end == at && runs[nr - 1].categories == report)
			runs[nr - 1].end += PAGE_BYTES;
		else if (nr == max_runs)
			break;
		else
			runs[nr++] = (struct page_run){at, at + PAGE_BYTES, report};
		nr_pages++;
	}
	*ret_walked_to = at < end ? at : query->end;
	if (played.at_scan)
		played.at_scan();
	return (int)nr;
}

int __wrap_numa_ask_pages(pid_t pid, uint32_t nr, void *const *pages, int *ret_status)
{
	struct played *process = by_pid(pid);
	MUST(!process->has_ended && !process->is_gone_at_once && !process->has_no_pidfd);
	process->asks++;
	for (uint32_t i = 0; i < nr && !process->ask_fails; i++)
		ret_status[i] = page_at(process, (remote_addr_t)(uintptr_t)pages[i])->node;
	return process->ask_fails;
}

/* A page of a large one that is not mapped as such counts for itself. */
static uint32_t size_of(const struct played *process, remote_addr_t addr)
{
	uint64_t first = (addr - BASE) / PAGE_BYTES;
	if (addr % HUGE_PAGE_BYTES || first + HUGE > process->nr)
		return 1;
	for (uint32_t i = 0; i < HUGE; i++)
		if (!played.pages[process->first + first + i].is_large)
			return 1;
	return HUGE;
}

/* As the kernel does: a group that does not move as a whole has no statuses, and ends the call. */
static bool move_group(const struct played *process, void *const *pages, uint32_t nr, int node, int *ret_status)
{
	bool is_whole = true;
	uint32_t nr_pages = 0;
	for (uint32_t i = 0; i < nr; i++) {
		struct page *page = page_at(process, (remote_addr_t)(uintptr_t)pages[i]);
		uint32_t size = size_of(process, (remote_addr_t)(uintptr_t)pages[i]);
		nr_pages += size;
		is_whole &= !page->is_pinned;
		page->asked++;
		for (uint32_t part = 0; part < size; part++) {
			page[part].node = page->is_pinned || (page->splits && part) ? page[part].node : node;
			page[part].is_large &= !page->splits;
		}
	}
	for (uint32_t i = 0; is_whole && i < nr; i++)
		ret_status[i] = node;
	MUST(nr <= 1 || nr_pages <= played.most_together);
	played.now_ns += nr_pages * played.ns_per_page;
	return is_whole;
}

static bool is_refused(struct page *page, bool shared_too)
{
	if (page->status == -EACCES && shared_too)
		return false;
	page->asked += page->refuses > 0;
	return page->refuses && page->refuses--;
}

int __wrap_numa_move_pages(pid_t pid, uint32_t nr, void *const *pages, int node, bool shared_too, int *ret_status)
{
	struct played *process = by_pid(pid);
	uint32_t start = 0, groups = 1;
	MUST(nr && pages[0] && pages[nr - 1]);
	MUST(played.is_first == (played.processors == 1 || !played.runnable || played.runnable > played.processors));
	if (!played.calls++)
		played.in_first_call = nr;
	process->moves++;
	if (played.at_move)
		played.at_move();
	if (process->move_fails)
		return process->move_fails;
	if (played.room < nr)
		return -ENOMEM;
	played.room -= nr;
	for (uint32_t i = 0; i < nr; i++)
		ret_status[i] = NUMA_NOT_SAID;
	for (uint32_t i = 0; i <= nr; i++) {
		bool is_refusal = i < nr && pages[i] && is_refused(page_at(process, (remote_addr_t)(uintptr_t)pages[i]), shared_too);
		if (i < nr && pages[i] && !is_refusal)
			continue;
		if (i < nr)
			ret_status[i] = is_refusal ? page_at(process, (remote_addr_t)(uintptr_t)pages[i])->status : -EFAULT;
		MUST(i == nr || is_refusal || (i > 0 && pages[i - 1])); /* no empty group */
		groups += i < nr && !pages[i];
		played.most_groups = MAX_OF(played.most_groups, groups);
		if (i > start && !move_group(process, &pages[start], i - start, node, &ret_status[start]))
			return (int)(nr - start);
		start = i + 1;
	}
	return 0;
}

int __wrap_container_refresh_members(struct container *container)
{
	uint32_t nr = 0;
	for (uint32_t i = 0; i < container->members.nr; i++)
		if (!by_pid(members[i].pid)->has_ended && !(played.refreshes && by_pid(members[i].pid)->is_gone_at_once))
			members[nr++] = members[i];
	container->members.nr = nr;
	played.refreshes++;
	if (played.at_refresh)
		played.at_refresh();
	return (int)container->members.nr;
}

int __wrap_container_adopt_held(struct container *container, struct member *member, struct world *world)
{
	struct played *process = by_pid(member->pid);
	MUST(world == (struct world *)process && (process->is_held || process->is_stopped));
	process->adoptions++;
	if (process->cannot_adopt-- > 0)
		return -EBUSY;
	member->as = &process->as;
	return 0;
}

void __wrap_pager_prefer(struct pager *pager, const struct node_set *to)
{
	MUST(pager == &c.pager);
	played.prefers++;
	played.preferred = *to;
}

bool __wrap_pager_follows_preference(const struct pager *pager)
{
	MUST(pager == &c.pager);
	return played.follows_after-- <= 0;
}

int __wrap_placement_step(struct placement *placement, pid_t pid, const struct node_set *to)
{
	struct played *process = by_pid(pid);
	MUST(node_set_has(to, 1) && node_set_next(to, 2) < 0 && process->directed < process->nr_directs);
	placement->tries++;
	return process->directs_as[process->directed++];
}

void __wrap_placement_release(struct placement *placement)
{
	played.releases++;
	*placement = (struct placement){0};
}

void __wrap_reclaimer_evict(struct reclaimer *reclaimer, struct address_space *as, const struct page_set *set, bool shared)
{
	struct played *process = NULL;
	for (uint32_t i = 0; i < played.nr; i++)
		process = as == &played.processes[i].as ? &played.processes[i] : process;
	MUST(process && process->references > 0 && reclaimer == c.reclaimer);
	if (!process)
		return;
	played.evictions++;
	for (uint32_t i = 0; i < BATCH_PAGES; i++) {
		if (!set->has[i])
			continue;
		struct page *page = page_at(process, set->start + i * PAGE_BYTES);
		MUST(page->node >= 0 && !page->is_ordered);
		page->is_ordered = true;
		page->as_shared = shared;
		page->node = no_page;
	}
	if (played.at_evict)
		played.at_evict();
}

struct world *__wrap_world_find(pid_t pid)
{
	return by_pid(pid)->is_held ? (struct world *)by_pid(pid) : NULL;
}

int __wrap_world_stop(pid_t pid, uint32_t timeout_us, struct world **ret_world)
{
	struct played *process = by_pid(pid);
	MUST(!process->is_held && !process->is_stopped);
	process->stops++;
	if (process->cannot_stop-- > 0)
		return -ETIMEDOUT;
	process->is_stopped = true;
	*ret_world = (struct world *)process;
	return 0;
}

void __wrap_world_resume(struct world *world)
{
	struct played *process = (struct played *)world;
	MUST(process->is_stopped);
	process->is_stopped = false;
	process->resumes++;
}

static struct played *by_space(const struct address_space *as)
{
	for (uint32_t i = 0; i < played.nr; i++)
		if (as == &played.processes[i].as)
			return &played.processes[i];
	MUST(false);
	return &played.processes[0];
}

int __wrap_address_space_register_new(struct address_space *as, int max, bool waits)
{
	MUST(waits && as->agent);
	by_space(as)->registered++;
	return 0;
}

struct address_space *__wrap_address_space_get(struct address_space *as)
{
	by_space(as)->references++;
	return as;
}

void __wrap_address_space_put(struct address_space *as)
{
	by_space(as)->references--;
}

uint64_t __wrap_monotonic_ns(void)
{
	return played.now_ns;
}

int __wrap_nanosleep(const struct timespec *time, struct timespec *left)
{
	MUST(time->tv_sec == 0 && time->tv_nsec < 1000000000);
	if (played.nr_naps < ARRAY_LEN(played.naps))
		played.naps[played.nr_naps++] = (uint64_t)time->tv_nsec;
	return 0;
}

uint32_t __wrap_scheduling_nr_processors(void)
{
	return played.processors;
}

void __wrap_scheduling_preempt(void)
{
	played.is_first = true;
}

void __wrap_scheduling_prefer_latency(void)
{
	played.is_first = false;
	played.is_soon = true;
}

int __wrap_system_activity_read(struct system_activity *ret)
{
	MUST(!played.is_first);
	if (played.activity_reads++ >= played.activity_until)
		ret->runnable = 1;
	else
		ret->runnable = played.runnable;
	return ret->runnable ? 0 : -EMFILE;
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*main)(void *), void *argument)
{
	MUST(!played.thread_runs);
	if (++played.threads == played.thread_fails_at)
		return EAGAIN;
	played.thread_runs = true;
	sem_trywait(&played.stopped); /* that was the one before */
	return __real_pthread_create(thread, attributes, main, argument);
}

int __wrap_pthread_join(pthread_t thread, void **ret)
{
	MUST(played.thread_runs);
	played.thread_runs = false;
	played.joins++;
	sem_post(&played.stopped);
	return __real_pthread_join(thread, ret);
}

/* ---- the play ---- */

static int begin(void **state)
{
	memset(&played, 0, sizeof(played));
	played.online = "0-2";
	played.with_memory = "0-1";
	played.may_move_shared = true;
	played.room = PAGES * 10;
	played.now_ns = 5000000000;
	played.ns_per_page = 100000;
	played.most_together = BETWEEN;
	played.processors = 2;
	played.runnable = 2; /* each has its own */
	played.activity_until = UINT32_MAX;
	alarm(20);
	sem_init(&played.entered, 0, 0);
	sem_init(&played.stopped, 0, 0);
	memset(&c, 0, sizeof(c));
	memset(members, 0, sizeof(members));
	c.members.items = members;
	c.swap = (struct swap *)(uintptr_t)&swap_file;
	c.reclaimer = (struct reclaimer *)&members;
	c.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return c.event < 0;
}

/* Nobody has a file or a reference any more. */
static int end(void **state)
{
	for (uint32_t i = 0; i < played.nr; i++) {
		const struct played *process = &played.processes[i];
		bool is_open = process->pidfd > 0 && fcntl(process->pidfd, F_GETFD) >= 0;
		MUST(!is_open && (process->pagemap <= 0 || fcntl(process->pagemap, F_GETFD) < 0));
		MUST(!process->references && !process->is_stopped);
	}
	close(c.event);
	if (played.wrong)
		fprintf(stderr, "wrong: line %d\n", played.wrong);
	return played.wrong;
}

static struct played *add_process(pid_t pid)
{
	struct played *process = &played.processes[played.nr];
	*process = (struct played){.pid = pid, .first = played.nr_pages, .nr_directs = 1};
	process->as.agent = (struct agent *)process;
	members[played.nr++] = (struct member){.pid = pid, .task = pid + 10000, .resident = 10};
	c.members.nr = played.nr;
	return process;
}

/* To the process that was added last. Returns the first of them. */
static struct page *add_pages(uint32_t nr, struct page like)
{
	struct page *first = &played.pages[played.nr_pages];
	assert_true(played.nr_pages + nr <= PAGES);
	for (uint32_t i = 0; i < nr; i++)
		first[i] = like;
	played.nr_pages += nr;
	played.processes[played.nr - 1].nr += nr;
	return first;
}

static void add_mapping(remote_addr_t first_page, uint32_t nr, const char *name)
{
	struct mapping *m = &played.mappings[played.nr_mappings++];
	*m = (struct mapping){.start = BASE + first_page * PAGE_BYTES, .end = BASE + (first_page + nr) * PAGE_BYTES};
	strcpy(m->name, name);
}

static struct migration *start(const char *to, const char *from)
{
	struct node_set to_set = nodes(to), from_set = from ? nodes(from) : to_set;
	struct migration *m;
	assert_int_equal(migration_begin(&c, &to_set, from ? &from_set : NULL, &m), 0);
	assert_ptr_equal(c.migration, m);
	return m;
}

/* Ticks; the end of the thread is one too. */
static int step(struct migration **m, struct migrate_result *ret)
{
	uint64_t count;
	struct pollfd event = {.fd = c.event, .events = POLLIN};
	if (played.thread_runs) {
		assert_int_equal(poll(&event, 1, 10000), 1);
		assert_int_equal(read(c.event, &count, sizeof(count)), sizeof(count));
	}
	return migration_step(m, ret);
}

static struct migrate_result finish(struct migration *m)
{
	struct migrate_result result;
	int r;
	played.ticks = 0;
	while ((r = step(&m, &result)) == -EINPROGRESS)
		assert_true(++played.ticks < 1000);
	assert_int_equal(r, 0);
	assert_null(m);
	assert_null(c.migration);
	assert_false(played.thread_runs);
	const struct migrate_figures *f = &result.figures;
	assert_int_equal(f->found, f->moved + f->swapped + f->freed + migrate_figures_failed(f) + f->left);
	return result;
}

static struct migrate_result run(void)
{
	return finish(start("1", NULL));
}

static uint32_t count_on(int node)
{
	uint32_t nr = 0;
	for (uint32_t i = 0; i < played.nr_pages; i++)
		nr += played.pages[i].node == node;
	return nr;
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) < 0 && errno == EINTR)
		;
}

static void wait_until_stopped(void)
{
	sem_post(&played.entered);
	wait_for(&played.stopped);
}

/* ---- lists of nodes ---- */

static void expect_refusal(const char *list, int r, const char *text)
{
	struct migrate_error error = {0};
	struct node_set set = {0};
	assert_int_equal(migration_read_nodes("--to-node", list, &set, &error), r);
	assert_string_equal(error.text, text);
	assert_int_equal(node_set_next(&set, 0), -1); /* untouched */
}

static void test_nodes_that_can_be_used(void **state)
{
	struct migrate_error error;
	struct node_set set;
	assert_int_equal(migration_read_nodes("--to-node", "0-1", &set, &error), 0);
	assert_true(node_set_has(&set, 0) && node_set_has(&set, 1) && !node_set_has(&set, 2));
	assert_int_equal(migration_read_nodes("--to-node", "1", &set, &error), 0);
	assert_true(!node_set_has(&set, 0) && node_set_has(&set, 1));
}

static void test_nodes_that_cannot(void **state)
{
	expect_refusal("", -EINVAL, "--to-node: no node is given");
	expect_refusal("1;2", -EINVAL, "--to-node: not a list of nodes (as 0 or 0,2-3)");
	expect_refusal("0-1024", -ERANGE, "--to-node: a number is larger than any node's");
	expect_refusal("0-2", -ENODEV, "--to-node: node 2 has no memory");
	expect_refusal("1,3", -ENODEV, "--to-node: node 3 does not exist");
	played.with_memory = "1";
	expect_refusal("0", -ENODEV, "--to-node: node 0 has no memory");
	played.nodes_fail = -ENOSYS;
	expect_refusal("1", -ENOSYS, "--to-node: the kernel knows no NUMA nodes");
	played.nodes_fail = -EACCES;
	expect_refusal("1", -EACCES, "--to-node: Permission denied");
}

/* ---- what is found ---- */

static void test_all_processes_move(void **state)
{
	for (int i = 0; i < 40; i++) {
		add_process(100 + i);
		add_pages(10, (struct page){0});
	}
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, 400);
	assert_int_equal(result.figures.moved, 400);
	assert_int_equal(count_on(1), 400);
	assert_int_equal(result.undirected, 0);
	for (int i = 0; i < 40; i++)
		assert_int_equal(played.processes[i].directed, 1);
	assert_int_equal(played.prefers, 1);
	assert_true(node_set_has(&played.preferred, 1) && node_set_next(&played.preferred, 2) < 0);
}

static void test_only_what_is_resident(void **state)
{
	struct played *process = add_process(100);
	for (int i = 0; i < 300; i++) { /* more runs than are looked at together */
		add_pages(1, (struct page){0});
		add_pages(1, (struct page){.node = no_page});
		add_pages(1, (struct page){.is_zero = true});
	}
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, 300);
	assert_int_equal(result.figures.moved, 300);
	assert_int_equal(count_on(0), 300); /* the zero page */
	assert_int_equal(process->scans, 2);
}

static void test_what_lies_elsewhere_stays(void **state)
{
	add_process(100);
	add_pages(5, (struct page){.node = 0});
	add_pages(7, (struct page){.node = 2});
	struct migrate_result result = finish(start("1", "2"));
	assert_int_equal(result.figures.found, 7);
	assert_int_equal(count_on(0), 5);
	assert_int_equal(count_on(1), 7);
}

static void test_more_than_a_batch(void **state)
{
	add_process(100);
	add_pages(3 * PASSES_BATCH, (struct page){0});
	struct migration *m = start("1", NULL);
	struct migrate_progress progress;
	assert_true(migration_progress(&c, &progress));
	assert_int_equal(progress.resident, 10);
	assert_int_equal(progress.looked_at, 0);
	played.ns_per_page = 10000; /* at most 200 together */
	played.most_together = 200;
	struct migrate_result result = finish(m);
	assert_false(migration_progress(&c, &progress));
	assert_int_equal(result.figures.moved, 3 * PASSES_BATCH);
	for (uint32_t i = 0; i < played.nr_pages; i++)
		assert_int_equal(played.pages[i].asked, 1);
	assert_int_equal(result.took_ns, 3ull * PASSES_BATCH * 10000);
	assert_int_equal(played.most_groups, PASSES_BATCH / BETWEEN); /* nobody waits for a processor: a call is the whole batch */
	assert_int_equal(played.in_first_call, played.most_groups * (BETWEEN + 1) - 1);
}

static void expect_short_calls(uint32_t processors, uint32_t runnable)
{
	memset(played.pages, 0, sizeof(played.pages));
	played.calls = played.most_groups = 0;
	played.processors = processors;
	played.runnable = runnable;
	assert_int_equal(run().figures.moved, PASSES_BATCH);
	assert_true(played.most_groups > 1 && played.most_groups < PASSES_BATCH / BETWEEN);
	assert_int_equal(played.in_first_call, played.most_groups * (BETWEEN + 1) - 1);
}

/* Or may wait, or it is not known. */
static void test_calls_are_short_when_somebody_waits_for_the_processor(void **state)
{
	add_process(100);
	add_pages(PASSES_BATCH, (struct page){0});
	played.processes[0].nr_directs += 2;
	expect_short_calls(4, 5);
	expect_short_calls(1, 1);
	expect_short_calls(4, 0);
}

static void test_large_pages(void **state)
{
	add_process(100);
	add_pages(HUGE, (struct page){.is_large = true});     /* one */
	add_pages(1, (struct page){0});
	add_pages(HUGE - 1, (struct page){.is_large = true}); /* the rest of one whose address is shifted: small pages */
	add_pages(HUGE - 1, (struct page){.is_large = true}); /* not all of it is there */
	add_pages(1, (struct page){.node = no_page});
	add_pages(2 * HUGE, (struct page){.is_large = true});
	struct page *small = add_pages(HUGE, (struct page){0});
	struct migrate_result result = run();
	uint32_t asked = 0;
	for (uint32_t i = 0; i < played.nr_pages; i++)
		asked += (uint32_t)played.pages[i].asked;
	assert_int_equal(result.figures.found, 6 * HUGE - 1);
	assert_int_equal(result.figures.moved, 6 * HUGE - 1);
	assert_int_equal(asked, 3 + 1 + 2 * (HUGE - 1) + HUGE);
	assert_int_equal(played.pages[0].asked, 1);
	assert_int_equal(played.pages[1].asked, 0);
	assert_int_equal(small[1].asked, 1);
}

/* A batch counts large pages by their size; the one that does not fit any more comes first in the next. What cannot be moved leaves room for others. */
static void test_a_batch_of_large_pages(void **state)
{
	struct played *process = add_process(100);
	add_pages(HUGE, (struct page){0});
	add_mapping(0, HUGE, "[vvar]");
	add_pages(PASSES_BATCH + 2 * HUGE, (struct page){.is_large = true});
	assert_int_equal(run().figures.moved, PASSES_BATCH + 2 * HUGE);
	assert_int_equal(process->asks, 2);
}

static void test_a_batch_that_is_just_full(void **state)
{
	struct played *process = add_process(100);
	add_pages(PASSES_BATCH, (struct page){.is_large = true});
	assert_int_equal(run().figures.moved, PASSES_BATCH);
	assert_int_equal(process->asks, 1);
}

static void test_a_large_page_that_splits_when_it_is_moved(void **state)
{
	add_process(100);
	struct page *page = add_pages(HUGE, (struct page){.is_large = true, .splits = true});
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, HUGE);
	assert_int_equal(result.figures.moved, HUGE);
	assert_int_equal(count_on(1), HUGE);
	assert_int_equal(page[HUGE - 1].asked, 1);
}

static void split_half(void)
{
	for (size_t i = HUGE / 2; i < HUGE; i++)
		played.pages[i].is_large = false;
}

/* Between the look at the page table and the question where it is. */
static void test_a_large_page_that_splits_before(void **state)
{
	struct played *process = add_process(100);
	add_pages(HUGE, (struct page){.is_large = true});
	played.at_scan = split_half;
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, HUGE);
	assert_int_equal(result.figures.moved, HUGE);
	assert_int_equal(process->asks, 2);
	assert_int_equal(played.pages[HUGE - 1].asked, 1);
}

static void unmap_all(void)
{
	for (uint32_t i = 0; i < played.nr_pages; i++)
		played.pages[i] = (struct page){.node = no_page};
}

static void test_a_large_page_that_is_freed(void **state)
{
	add_process(100);
	add_pages(HUGE, (struct page){.is_large = true});
	played.at_scan = unmap_all;
	assert_int_equal(run().figures.found, 0);
}

static void test_mappings_of_the_kernel_stay(void **state)
{
	add_process(100);
	add_pages(10, (struct page){0});
	add_mapping(1, 2, "[vdso]");
	add_mapping(4, 1, "[uprobes]");
	add_mapping(6, 1, "[heap]");
	add_mapping(7, 1, "");
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, 7);
	assert_int_equal(count_on(0), 3);
	for (uint32_t i = 0; i < 10; i++)
		assert_int_equal(played.pages[i].node, i == 1 || i == 2 || i == 4 ? 0 : 1);
}

/* There are three or four; if there were more than are noted, the kernel would refuse them. */
static void test_many_mappings_of_the_kernel(void **state)
{
	add_process(100);
	add_pages(40, (struct page){0});
	for (uint32_t i = 0; i < 20; i++)
		add_mapping(2 * i, 1, "[vvar]");
	assert_int_equal(run().figures.found, 24);
}

/* ---- who is there ---- */

static void test_who_has_no_memory_of_its_own_is_passed_over(void **state)
{
	add_process(100);
	add_pages(1, (struct page){0});
	add_process(101);
	add_pages(2, (struct page){0});
	members[1].same_memory = true;
	add_process(102);
	add_pages(4, (struct page){0});
	members[2].leaves = true;
	assert_int_equal(run().figures.found, 1);
	assert_int_equal(played.processes[1].directed + played.processes[2].directed, 0);
}

static void test_who_is_gone_already(void **state)
{
	struct played *process = add_process(100); /* its number is somebody else's */
	process->is_gone_at_once = true;
	add_pages(1, (struct page){0});
	add_process(101);
	add_pages(2, (struct page){0});
	assert_int_equal(run().figures.moved, 2);
	assert_int_equal(process->scans + process->asks + process->moves, 0);
}

/* Nobody could say whether its number still is its own. */
static void test_who_has_no_pidfd(void **state)
{
	struct played *process = add_process(100);
	process->has_no_pidfd = true;
	process->nr_directs = 4;
	add_pages(1, (struct page){0});
	assert_int_equal(run().figures.found, 0);
}

static void end_first(void)
{
	played.processes[0].has_ended = true;
}

static void test_who_ends_before_it_is_asked(void **state)
{
	struct played *process = add_process(100);
	add_pages(1, (struct page){0});
	add_process(101);
	add_pages(2, (struct page){0});
	played.at_scan = end_first;
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, 2);
	assert_int_equal(result.figures.moved, 2);
	assert_int_equal(process->asks, 0);
}

static void test_who_ends_before_it_is_looked_at(void **state)
{
	struct played *process = add_process(100);
	add_pages(1, (struct page){0});
	struct migration *m = start("1", NULL);
	process->has_ended = true;
	assert_int_equal(finish(m).figures.found, 0);
	assert_int_equal(process->scans, 0);
}

static void test_who_ends_while_it_is_moved(void **state)
{
	struct played *process = add_process(100);
	add_pages(3, (struct page){0});
	process->move_fails = -ESRCH;
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, 3);
	assert_int_equal(result.figures.freed, 3);
}

static void test_who_may_not_be_asked(void **state)
{
	struct played *process = add_process(100);
	add_pages(HUGE, (struct page){.is_large = true});
	process->ask_fails = -EPERM;
	c.swap = NULL;
	assert_int_equal(run().figures.failed[FAILURE_REFUSED], HUGE);
}

static void a_child_comes(void)
{
	if (played.refreshes > 1 && played.nr < 8) {
		add_process(200 + (int)played.nr);
		add_pages(10, (struct page){0});
	}
}

/* They are looked for as often as four times, and get the policy before they are moved. */
static void test_newcomers(void **state)
{
	add_process(100);
	add_pages(1, (struct page){.refuses = 1, .status = -EBUSY});
	played.at_refresh = a_child_comes;
	struct migrate_result result = run();
	assert_int_equal(result.figures.moved, 31);
	assert_int_equal(played.nr, 4);
	for (int i = 0; i < 4; i++)
		assert_int_equal(played.processes[i].directed, 1);
	assert_int_equal(played.processes[0].scans, 1);
}

static void use_number_again(void)
{
	if (played.refreshes == 2) {
		played.processes[0].has_ended = !played.processes[0].is_gone_at_once;
		played.processes[0].pid = 1000;
		add_process(100);
		add_pages(5, (struct page){0});
		members[0] = members[1];
		c.members.nr = 1;
	}
}

/* The number of a process that has ended is given to a new one. */
static void test_a_number_that_is_used_again(void **state)
{
	add_process(100);
	add_pages(1, (struct page){0});
	played.at_refresh = use_number_again;
	assert_int_equal(run().figures.moved, 6);
}

static void test_a_number_that_is_used_again_at_once(void **state)
{
	add_process(100)->is_gone_at_once = true;
	played.at_refresh = use_number_again;
	assert_int_equal(run().figures.moved, 5);
}

/* ---- new memory ---- */

static void test_new_memory_comes_from_the_target_first(void **state)
{
	struct played *slow = add_process(100), *next;
	add_pages(1, (struct page){0});
	slow->directs_as[0] = slow->directs_as[1] = -EAGAIN;
	slow->nr_directs = 3;
	next = add_process(101);
	played.follows_after = 2;
	struct migration *m = start("1", NULL);
	struct migrate_result result;
	for (int tick = 1; tick <= 6; tick++) { /* one process a tick; then the keeper's threads */
		assert_int_equal(migration_step(&m, &result), -EINPROGRESS);
		assert_int_equal(slow->directed, MIN_OF(tick, 3));
		assert_int_equal(next->directed, tick > 3);
		assert_int_equal(played.releases, (tick > 2) + (tick > 3));
		assert_int_equal(played.threads, 0);
	}
	assert_int_equal(migration_step(&m, &result), -EINPROGRESS);
	assert_int_equal(played.threads, 1);
	assert_int_equal(finish(m).figures.moved, 1);
}

static void test_processes_that_cannot_be_told(void **state)
{
	static const int results[] = {-ESRCH, -EACCES, 0, -EPERM, -ETIMEDOUT};
	for (size_t i = 0; i < ARRAY_LEN(results); i++)
		add_process(100 + (int)i)->directs_as[0] = results[i];
	assert_int_equal(run().undirected, 3);
}

/* ---- calls ---- */

/* In the second pass all others have moved. */
static void expect_busy_ones_only(void)
{
	for (uint32_t i = 0; played.processes[0].asks > 1 && i < played.nr_pages; i++)
		MUST(played.pages[i].node == 1 || played.pages[i].is_pinned || played.pages[i].status);
}

/* A page that cannot move spoils its group; those behind it are tried at once, those before it have moved. */
static void test_a_busy_page_holds_up_its_group_only(void **state)
{
	add_process(100);
	add_pages(BETWEEN, (struct page){0});
	add_pages(1, (struct page){.is_pinned = true});
	add_pages(BETWEEN - 2, (struct page){0});
	add_pages(1, (struct page){.refuses = 1, .status = -EBUSY});
	add_pages(BETWEEN, (struct page){0});
	c.swap = NULL;
	played.at_move = expect_busy_ones_only;
	struct migrate_result result = run();
	assert_int_equal(result.figures.found, 3 * BETWEEN);
	assert_int_equal(result.figures.moved, 3 * BETWEEN - 1);
	assert_int_equal(result.figures.failed[FAILURE_BUSY], 1);
	for (uint32_t i = 0; i < 3 * BETWEEN; i++)
		assert_int_equal(played.pages[i].asked, i == BETWEEN ? PASSES_MAX : i == 2 * BETWEEN - 1 ? 2 : 1);
}

/* Each of several groups in a call. */
static void test_a_busy_page_in_each_group(void **state)
{
	add_process(100);
	for (int i = 0; i < 10; i++) {
		add_pages(BETWEEN - 1, (struct page){0});
		add_pages(1, (struct page){.is_pinned = true});
	}
	c.swap = NULL;
	played.at_move = expect_busy_ones_only;
	struct migrate_result result = run();
	assert_int_equal(result.figures.moved, 10 * (BETWEEN - 1));
	assert_int_equal(result.figures.failed[FAILURE_BUSY], 10);
	for (uint32_t i = 0; i < played.nr_pages; i++)
		assert_int_equal(played.pages[i].asked, played.pages[i].is_pinned ? PASSES_MAX : 1);
}

static void test_waits_between_passes(void **state)
{
	static const uint64_t ms[] = {1, 2, 4, 8, 8, 8, 8};
	add_process(100);
	add_pages(1, (struct page){.refuses = 100, .status = -EBUSY});
	c.swap = NULL;
	assert_int_equal(run().figures.failed[FAILURE_BUSY], 1);
	assert_int_equal(played.nr_naps, ARRAY_LEN(ms));
	for (size_t i = 0; i < ARRAY_LEN(ms); i++)
		assert_int_equal(played.naps[i], ms[i] * 1000000);
}

static void test_shared_pages_need_a_right(void **state)
{
	add_process(100);
	add_pages(3, (struct page){.refuses = 100, .status = -EACCES});
	assert_int_equal(run().figures.moved, 3);
	played.pages[0] = played.pages[1] = played.pages[2] = (struct page){.refuses = 100, .status = -EACCES};
	played.may_move_shared = false;
	c.swap = NULL;
	played.processes[0].nr_directs++;
	assert_int_equal(run().figures.failed[FAILURE_SHARED], 3);
}

static void test_calls_that_fail(void **state)
{
	struct played *process = add_process(100);
	add_pages(1000, (struct page){0});
	process->move_fails = -EACCES;
	c.swap = NULL;
	assert_int_equal(run().figures.failed[FAILURE_REFUSED], 1000);
	assert_int_equal(process->moves, 1);
}

static void test_no_room(void **state)
{
	add_process(100);
	add_pages(PASSES_BATCH + 10, (struct page){0});
	add_process(101);
	add_pages(10, (struct page){0});
	played.room = PASSES_BATCH * 2;
	struct migration *m = start("1", NULL);
	played.room = 1000;
	struct migrate_result result = finish(m);
	assert_int_equal(result.figures.found, PASSES_BATCH + 20);
	assert_int_equal(result.figures.moved, count_on(1));
	assert_int_equal(result.figures.left, count_on(0));
	assert_true(result.figures.left > 0);
	assert_int_equal(played.evictions, 0);
}

static void expect_naps(const uint64_t *ns, uint32_t nr)
{
	assert_int_equal(played.nr_naps, nr);
	for (uint32_t i = 0; i < nr; i++)
		assert_int_equal(played.naps[i], ns[i]);
}

/* On the only processor whoever waits for it has it afterwards for as long; whoever waits for a moment only does not count. */
static void test_others_have_the_processor_too(void **state)
{
	add_process(100);
	add_pages(10, (struct page){0});
	played.processors = 1;
	played.runnable = 2;
	run();
	expect_naps((const uint64_t[]){100000, 1000000}, 2);

	played.nr_naps = played.activity_reads = 0;
	played.activity_until = 1;
	played.processes[0].nr_directs++;
	played.pages[0].node = 0;
	run();
	expect_naps((const uint64_t[]){100000}, 1);

	played.nr_naps = played.activity_reads = played.activity_until = 0;
	played.processes[0].nr_directs++;
	played.pages[0].node = 0;
	run();
	expect_naps(NULL, 0);
}

static void test_the_processor_is_not_given_away_where_there_are_more(void **state)
{
	add_process(100);
	add_pages(10, (struct page){0});
	played.runnable = 5;
	run();
	expect_naps(NULL, 0);
}

/* Not for long; and it is not known who waits. */
static void test_a_call_that_took_long(void **state)
{
	add_process(100);
	add_pages(1, (struct page){0});
	played.processors = 1;
	played.runnable = 0;
	played.ns_per_page = 900000000;
	run();
	expect_naps((const uint64_t[]){100000, 100000000}, 2);
}

/* ---- through swap ---- */

static struct page *add_stuck(uint32_t nr, int status)
{
	return add_pages(nr, (struct page){.refuses = 100, .status = status});
}

static void test_what_is_stuck_goes_through_swap(void **state)
{
	struct played *process = add_process(100);
	add_pages(10, (struct page){0});
	add_stuck(BATCH_PAGES + 1, -EBUSY); /* two windows, the first from page 10 on */
	add_pages(1000, (struct page){.node = no_page});
	add_stuck(3, -EBUSY);
	struct played *other = add_process(101);
	add_pages(5, (struct page){0});
	struct migrate_result result = run();
	assert_int_equal(result.figures.swapped, BATCH_PAGES + 4);
	assert_int_equal(played.evictions, 3);
	for (uint32_t i = 0; i < played.nr_pages; i++)
		assert_false(played.pages[i].as_shared);
	assert_int_equal(process->adoptions, 1);
	assert_int_equal(process->stops, 1);
	assert_int_equal(process->resumes, 1);
	assert_int_equal(process->registered, 0);
	assert_int_equal(other->stops + other->adoptions, 0);
}

/* What is stuck at once comes before what is busy to the end, wherever they lie. */
static void test_stuck_in_descending_order(void **state)
{
	add_process(100);
	add_stuck(1, -EBUSY);
	add_stuck(1, -EINVAL);
	assert_int_equal(run().figures.swapped, 2);
	assert_int_equal(played.evictions, 2);
}

/* Several processes: each one's own space, whatever order their addresses have. */
static void test_stuck_in_several_processes(void **state)
{
	for (int i = 0; i < 3; i++) {
		add_process(100 + i);
		add_pages((uint32_t)(10 - i), (struct page){0});
		add_stuck(2, -EBUSY);
	}
	assert_int_equal(run().figures.swapped, 6);
	assert_int_equal(played.evictions, 3);
}

static void test_shared_pages_are_evicted_from_all(void **state)
{
	played.may_move_shared = false;
	add_process(100);
	struct page *shared = add_stuck(1, -EACCES);
	add_pages(BATCH_PAGES, (struct page){0});
	struct page *own = add_stuck(1, -EINVAL);
	add_stuck(1, -EACCES);
	add_stuck(1, -EINVAL);
	add_pages(BATCH_PAGES, (struct page){0});
	struct page *alone = add_stuck(1, -EINVAL);
	assert_int_equal(run().figures.swapped, 5);
	assert_true(shared->as_shared && own->as_shared); /* in a window with one that is shared */
	assert_false(alone->as_shared);
}

/* Whoever needs no second try is not waited for. */
static void expect_no_tries(void)
{
	assert_in_range(played.ticks, 1, TRIES / 2);
}

static void test_who_is_adopted_already(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	members[0].as = &process->as;
	assert_int_equal(run().figures.swapped, 3);
	assert_int_equal(process->registered, 1);
	assert_int_equal(process->stops + process->adoptions, 0);
	expect_no_tries();
}

static void test_who_has_no_agent(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	members[0].as = &process->as;
	process->as.agent = NULL;
	assert_int_equal(run().figures.swapped, 3);
	assert_int_equal(process->registered, 0);
	expect_no_tries();
}

static void test_who_is_held_anyway(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	process->is_held = true;
	assert_int_equal(run().figures.swapped, 3);
	assert_int_equal(process->adoptions, 1);
	assert_int_equal(process->stops + process->resumes, 0);
	expect_no_tries();
}

static void expect_no_swap(struct played *process, int adoptions)
{
	struct migrate_result result = run();
	assert_int_equal(result.figures.failed[FAILURE_BUSY], 3);
	assert_int_equal(played.evictions, 0);
	assert_int_equal(process->adoptions, adoptions);
}

static void test_who_cannot_be_stopped(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	process->cannot_stop = INT_MAX;
	expect_no_swap(process, 0);
	assert_int_equal(process->stops, TRIES);
	assert_int_equal(process->resumes, 0);
}

static void test_who_cannot_be_adopted(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	process->cannot_adopt = INT_MAX;
	expect_no_swap(process, TRIES);
	assert_int_equal(process->resumes, TRIES);
}

/* It stands in a fault or forks just then; whoever is reached already is left alone meanwhile. */
static void test_who_cannot_be_adopted_at_once(void **state)
{
	struct played *first = add_process(100);
	add_stuck(3, -EBUSY);
	struct played *second = add_process(101);
	add_stuck(3, -EBUSY);
	second->cannot_stop = TRIES - 2;
	second->cannot_adopt = 1;
	assert_int_equal(run().figures.swapped, 6);
	assert_int_equal(first->stops, 1);
	assert_int_equal(second->stops, TRIES);
	assert_int_equal(second->resumes, 2);
}

/* Nor does a later one hide that the first has to be tried again. */
static void test_the_first_cannot_be_adopted_at_once(void **state)
{
	add_process(100)->cannot_adopt = 1;
	add_stuck(3, -EBUSY);
	add_process(101);
	add_stuck(3, -EBUSY);
	assert_int_equal(run().figures.swapped, 6);
}

static void test_who_is_not_to_be_adopted(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	members[0].unadoptable = true;
	expect_no_swap(process, 0);
	assert_int_equal(process->stops, 0);
	expect_no_tries();
}

static void let_leave(void)
{
	members[0].leaves = true;
}

static void test_who_leaves_meanwhile(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	played.at_move = let_leave;
	expect_no_swap(process, 0);
	expect_no_tries();
}

static void forget(void)
{
	c.members.nr = 0;
}

static void test_who_is_no_member_any_more(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	played.at_move = forget;
	expect_no_swap(process, 0);
	expect_no_tries();
}

static void replace(void)
{
	if (played.processes[0].has_ended)
		return;
	played.processes[0].has_ended = true;
	played.processes[0].pid = 1000;
	add_process(100);
	add_pages(1, (struct page){0});
	members[0] = members[1];
	c.members.nr = 1;
}

/* The new process of its number is not touched. */
static void test_who_has_ended_meanwhile(void **state)
{
	add_process(100);
	add_stuck(3, -EACCES);
	played.may_move_shared = false;
	played.at_move = replace;
	struct migrate_result result = run();
	assert_int_equal(result.figures.freed, 3);
	assert_int_equal(result.figures.moved, 1);
	assert_int_equal(played.processes[1].stops, 0);
	expect_no_tries();
}

static void test_without_swap(void **state)
{
	struct played *process = add_process(100);
	add_stuck(3, -EBUSY);
	c.swap = NULL;
	expect_no_swap(process, 0);
}

/* ---- beginning and end ---- */

static void test_one_at_a_time(void **state)
{
	struct node_set to = nodes("1");
	struct migration *m = start("1", NULL), *second = NULL;
	assert_int_equal(migration_begin(&c, &to, NULL, &second), -EBUSY);
	assert_null(second);
	finish(m);
}

static void note_progress(void)
{
	static struct migrate_progress last;
	struct migrate_progress progress;
	MUST(migration_progress(&c, &progress));
	if (played.calls == 1)
		last = progress;
	MUST(progress.looked_at >= PASSES_BATCH && progress.resident == 20);
	MUST(progress.moved >= last.moved && progress.moved <= played.nr_pages);
	last = progress;
	if (played.processes[1].moves)
		MUST(progress.moved == 2 * PASSES_BATCH && progress.looked_at == played.nr_pages);
}

static void test_progress(void **state)
{
	add_process(100);
	add_pages(2 * PASSES_BATCH, (struct page){0});
	add_process(101);
	add_pages(10, (struct page){0});
	played.at_move = note_progress;
	assert_int_equal(run().figures.moved, 2 * PASSES_BATCH + 10);
}

static void test_no_thread(void **state)
{
	add_process(100);
	add_pages(3, (struct page){0});
	played.thread_fails_at = 1;
	assert_int_equal(run().figures.found, 0);
	assert_int_equal(played.joins, 0);
}

/* What is stuck has to be in one of the figures all the same. */
static void test_no_thread_for_the_rest(void **state)
{
	add_process(100);
	add_stuck(3, -EBUSY);
	played.thread_fails_at = 2;
	struct migration *m = start("1", NULL);
	struct migrate_result result;
	while (step(&m, &result) == -EINPROGRESS)
		;
	assert_null(m);
	assert_int_equal(played.joins, 1);
	assert_int_equal(result.figures.failed[FAILURE_BUSY], 3);
}

static void give_up(struct migration *m)
{
	struct migrate_result result;
	while (!played.thread_runs)
		assert_int_equal(migration_step(&m, &result), -EINPROGRESS);
	wait_for(&played.entered);
	assert_int_equal(migration_step(&m, &result), -EINPROGRESS);
	migration_free(m);
	assert_int_equal(played.joins, 1);
	assert_null(c.migration);
}

/* The connection that has asked for it ends. */
static void test_given_up_while_it_looks(void **state)
{
	add_process(100);
	add_process(101);
	add_pages(3, (struct page){0});
	played.at_scan = wait_until_stopped;
	give_up(start("1", NULL));
	assert_int_equal(played.processes[0].scans + played.processes[1].scans, 1);
}

static void wait_in_first_call(void)
{
	if (played.calls == 1)
		wait_until_stopped();
}

static void test_given_up_while_it_moves(void **state)
{
	add_process(100);
	add_pages(2 * PASSES_BATCH, (struct page){0});
	played.at_move = wait_in_first_call;
	played.processors = 1;
	played.runnable = 2;
	give_up(start("1", NULL));
	assert_int_equal(played.processes[0].asks, 1);
	expect_naps(NULL, 0);
}

static void wait_in_second_pass(void)
{
	if (played.processes[0].asks == 2)
		wait_until_stopped();
}

static void test_given_up_between_passes(void **state)
{
	add_process(100);
	add_stuck(1, -EBUSY);
	played.at_move = wait_in_second_pass;
	give_up(start("1", NULL));
	assert_int_equal(played.processes[0].moves, 2);
}

static void test_given_up_before_it_moves(void **state)
{
	add_process(100);
	migration_free(start("1", NULL));
	assert_null(c.migration);
	assert_int_equal(played.releases, 1);
	assert_int_equal(played.joins, 0);
	migration_free(NULL);
}

static void test_given_up_while_it_evicts(void **state)
{
	struct migrate_result result;
	add_process(100);
	add_stuck(3 * BATCH_PAGES, -EBUSY);
	played.at_evict = wait_until_stopped;
	struct migration *m = start("1", NULL);
	while (played.threads < 2)
		assert_int_equal(step(&m, &result), -EINPROGRESS);
	wait_for(&played.entered);
	assert_int_equal(migration_step(&m, &result), -EINPROGRESS);
	migration_free(m);
	assert_int_equal(played.evictions, 1);
	assert_int_equal(played.joins, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nodes_that_can_be_used),
		TEST(nodes_that_cannot),
		TEST(all_processes_move),
		TEST(only_what_is_resident),
		TEST(what_lies_elsewhere_stays),
		TEST(more_than_a_batch),
		TEST(calls_are_short_when_somebody_waits_for_the_processor),
		TEST(large_pages),
		TEST(a_batch_of_large_pages),
		TEST(a_batch_that_is_just_full),
		TEST(a_large_page_that_splits_when_it_is_moved),
		TEST(a_large_page_that_splits_before),
		TEST(a_large_page_that_is_freed),
		TEST(mappings_of_the_kernel_stay),
		TEST(many_mappings_of_the_kernel),
		TEST(who_has_no_memory_of_its_own_is_passed_over),
		TEST(who_is_gone_already),
		TEST(who_has_no_pidfd),
		TEST(who_ends_before_it_is_asked),
		TEST(who_ends_before_it_is_looked_at),
		TEST(who_ends_while_it_is_moved),
		TEST(who_may_not_be_asked),
		TEST(newcomers),
		TEST(a_number_that_is_used_again),
		TEST(a_number_that_is_used_again_at_once),
		TEST(new_memory_comes_from_the_target_first),
		TEST(processes_that_cannot_be_told),
		TEST(a_busy_page_holds_up_its_group_only),
		TEST(a_busy_page_in_each_group),
		TEST(waits_between_passes),
		TEST(shared_pages_need_a_right),
		TEST(calls_that_fail),
		TEST(no_room),
		TEST(others_have_the_processor_too),
		TEST(the_processor_is_not_given_away_where_there_are_more),
		TEST(a_call_that_took_long),
		TEST(what_is_stuck_goes_through_swap),
		TEST(stuck_in_descending_order),
		TEST(stuck_in_several_processes),
		TEST(shared_pages_are_evicted_from_all),
		TEST(who_is_adopted_already),
		TEST(who_has_no_agent),
		TEST(who_is_held_anyway),
		TEST(who_cannot_be_stopped),
		TEST(who_cannot_be_adopted),
		TEST(who_cannot_be_adopted_at_once),
		TEST(the_first_cannot_be_adopted_at_once),
		TEST(who_is_not_to_be_adopted),
		TEST(who_leaves_meanwhile),
		TEST(who_is_no_member_any_more),
		TEST(who_has_ended_meanwhile),
		TEST(without_swap),
		TEST(one_at_a_time),
		TEST(progress),
		TEST(no_thread),
		TEST(no_thread_for_the_rest),
		TEST(given_up_while_it_looks),
		TEST(given_up_while_it_moves),
		TEST(given_up_between_passes),
		TEST(given_up_before_it_moves),
		TEST(given_up_while_it_evicts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
