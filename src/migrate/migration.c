/*
 * Who else can be there: the members run, fault, fork, unmap and end, reclaim evicts and faults bring back. The kernel sees to it that a page that is moved keeps
 * its content, protection, marks and place on its lists whatever they do; what is asked and moved here are addresses, and an address where there is
 * nothing any more has its status. While a page is under way it looks swapped in the page tables: those who ask what is there (REMOVE, the
 * staging ranges, a fork's child) take that for present.
 *
 * The thread that moves knows processes by number and by files of their memory that were opened before it began. It reads and writes nothing
 * of the container but the swap order to the reclaim thread. The container thread looks at its work only through atomics, or when it has ended.
 */
#include "migrate/migration.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "container/reclaimer.h"
#include "migrate/placement.h"
#include "pager/evict.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/scheduling.h"

#define MAX_FIXED 16            /* mappings of the kernel's in a process */
#define MAX_ROUNDS 4            /* looks for processes that have come meanwhile */
#define WAIT_LONGEST_MS 8
#define ADOPT_TIMEOUT_US 1000u   /* what a process stands still for a thread of its that cannot be held, before it does for its adoption */
#define ADOPT_TRIES 16          /* one a tick: who stands in a fault just now, or forks, cannot be held or adopted in the next moment either */
#define CALL_GROUPS 4           /* of pages that are under way together, in a call that keeps others from the processor */
#define PAUSE_LONGEST_NS 100000000ull
#define MOMENT_NS 100000
#define MOVE_CHUNKS (PASSES_BATCH / 4 + 1)

enum stage { STAGE_DIRECT, STAGE_MOVE, STAGE_REACH, STAGE_SWAP };

struct process {
	pid_t pid;
	int pidfd, pagemap;        /* -1: it has ended */
	struct placement placement;
	bool is_directed;
	bool is_stuck;             /* has pages that could not be moved */
	struct range fixed[MAX_FIXED];
	uint32_t nr_fixed;
	struct address_space *as;  /* with a reference; NULL: nothing can be evicted */
};

struct migration {
	struct container *c;
	struct node_set to;
	struct migrate_kernel kernel;
	struct passes *passes;
	bool moves_shared;
	enum stage stage;
	unsigned rounds, adopt_tries;
	uint64_t begun_ns, resident;
	uint32_t undirected;
	struct process *processes; /* changed only while the thread does not run */
	uint32_t nr_processes, capacity;

	pthread_t thread;
	bool thread_runs;
	_Atomic bool thread_done, stop;
	_Atomic uint64_t looked_at, moved;

	/* The thread's own. */
	uint32_t current; /* process that is looked at */
	remote_addr_t at; /* where the look goes on */
	struct page_run runs[256];
	uint32_t nr_runs, next_run;
	remote_addr_t next_page; /* in it */
	uint64_t moving_ns; /* time in calls */
	void *pages[PASSES_BATCH + MOVE_CHUNKS];
	int status[PASSES_BATCH + MOVE_CHUNKS];
	uint32_t origin[PASSES_BATCH + MOVE_CHUNKS];
};

/* ---- lists of nodes ---- */

static int refuse_nodes(struct migrate_error *error, int r, const char *what, const char *why)
{
	snprintf(error->text, sizeof(error->text), "%s: %s", what, why);
	return r;
}

int migration_read_nodes(const char *what, const char *text, struct node_set *ret, struct migrate_error *error)
{
	struct node_set nodes, online, with_memory;
	char why[96];
	if (!*text)
		return refuse_nodes(error, -EINVAL, what, "no node is given");
	int r = node_set_parse(text, &nodes);
	if (r < 0)
		return refuse_nodes(error, r, what, r == -ERANGE ? "a number is larger than any node's" : "not a list of nodes (as 0 or 0,2-3)");
	r = numa_read_nodes(&online, &with_memory);
	if (r < 0)
		return refuse_nodes(error, r, what, r == -ENOSYS ? "the kernel knows no NUMA nodes" : strerror(-r));
	for (int node = node_set_next(&nodes, 0); node >= 0; node = node_set_next(&nodes, (unsigned)node + 1)) {
		if (node_set_has(&with_memory, (unsigned)node))
			continue;
		snprintf(why, sizeof(why), "node %d %s", node, node_set_has(&online, (unsigned)node) ? "has no memory" : "does not exist");
		return refuse_nodes(error, -ENODEV, what, why);
	}
	*ret = nodes;
	return 0;
}

/* ---- what is resident ---- */

/* The kernel's own pages ([vdso] and such) cannot be moved, nor need they be. */
static int note_kernel_mapping(const struct mapping *m, void *context)
{
	struct process *process = context;
	bool is_of_kernel = !strncmp(m->name, "[v", 2) || !strcmp(m->name, "[uprobes]");
	if (is_of_kernel && process->nr_fixed < MAX_FIXED)
		process->fixed[process->nr_fixed++] = (struct range){m->start, m->end};
	return 0;
}

static void end_process(struct process *process)
{
	if (process->pidfd >= 0)
		close(process->pidfd);
	if (process->pagemap >= 0)
		close(process->pagemap);
}

static void add_process(struct migration *m, const struct member *member)
{
	if (m->nr_processes == m->capacity) {
		uint32_t capacity = m->capacity ? m->capacity * 2 : 16;
		struct process *bigger = reallocarray(m->processes, capacity, sizeof(*bigger));
		if (!bigger)
			return;
		m->processes = bigger;
		m->capacity = capacity;
	}
	struct process *process = &m->processes[m->nr_processes++];
	*process = (struct process){.pid = member->pid, .pidfd = pidfd_open_process(member->pid), .pagemap = pagemap_open(member->task)};
	maps_for_each(member->task, note_kernel_mapping, process);
}

static bool is_known(const struct migration *m, pid_t pid)
{
	for (uint32_t i = 0; i < m->nr_processes; i++)
		if (m->processes[i].pid == pid && m->processes[i].pidfd >= 0 && !pidfd_has_exited(m->processes[i].pidfd))
			return true;
	return false;
}

/* Members that are not on the list yet. Returns how many. */
static uint32_t add_newcomers(struct migration *m)
{
	struct container *c = m->c;
	uint32_t before = m->nr_processes;
	container_refresh_members(c);
	for (uint32_t i = 0; i < c->members.nr; i++) {
		const struct member *member = &c->members.items[i];
		if (!member->same_memory && !member->leaves && !is_known(m, member->pid))
			add_process(m, member);
	}
	return m->nr_processes - before;
}

/* The next run of resident pages of the process; false: it has no more. */
static bool next_run(struct migration *m, const struct process *process)
{
	while (m->next_run == m->nr_runs) {
		struct pagemap_query query = {.start = m->at,
					      .end = ADDRESS_END,
					      .require = PAGE_PRESENT,
					      .forbid = PAGE_ZERO,
					      .report = PAGE_PRESENT | PAGE_HUGE,
					      .max_pages = PASSES_BATCH};
		if (process->pagemap < 0 || m->at >= ADDRESS_END)
			return false;
		int n = pagemap_scan(process->pagemap, &query, m->runs, ARRAY_LEN(m->runs), &m->at);
		if (n < 0)
			return false;
		m->nr_runs = (uint32_t)n;
		m->next_run = 0;
		m->next_page = n ? m->runs[0].start : 0;
	}
	return true;
}

static bool is_fixed(const struct process *process, remote_addr_t page)
{
	for (uint32_t i = 0; i < process->nr_fixed; i++)
		if (page >= process->fixed[i].start && page < process->fixed[i].end)
			return true;
	return false;
}

/* A page of the run, large where it is. */
static struct place place_at(const struct migration *m, const struct page_run *run)
{
	bool is_large = run->categories & PAGE_HUGE && m->next_page % HUGE_PAGE_BYTES == 0 && run->end - m->next_page >= HUGE_PAGE_BYTES;
	return (struct place){.addr = m->next_page, .process = m->current, .nr_pages = is_large ? HUGE_PAGE_BYTES / PAGE_BYTES : 1};
}

static uint32_t find_in_process(struct migration *m, const struct process *process, struct place *ret)
{
	uint32_t nr = 0, nr_pages = 0;
	while (next_run(m, process)) {
		const struct page_run *run = &m->runs[m->next_run];
		while (m->next_page < run->end) {
			struct place place = place_at(m, run);
			if (nr_pages + place.nr_pages > PASSES_BATCH)
				return nr;
			m->next_page += place.nr_pages * PAGE_BYTES;
			if (is_fixed(process, place.addr))
				continue;
			nr_pages += place.nr_pages;
			ret[nr++] = place;
		}
		if (++m->next_run < m->nr_runs)
			m->next_page = m->runs[m->next_run].start;
		atomic_fetch_add_explicit(&m->looked_at, (run->end - run->start) / PAGE_BYTES, memory_order_relaxed);
	}
	return nr;
}

static uint32_t find(void *context, struct place *ret)
{
	struct migration *m = context;
	uint32_t nr = 0;
	while (!nr && m->current < m->nr_processes && !atomic_load(&m->stop)) {
		nr = find_in_process(m, &m->processes[m->current], ret);
		if (!nr) {
			m->current++;
			m->at = 0;
		}
	}
	return nr;
}

/* ---- asking and moving ---- */

static bool is_still_large(const struct process *process, const struct place *place)
{
	struct page_run run;
	uint64_t walked;
	struct pagemap_query query = {.start = place->addr,
				      .end = place->addr + place->nr_pages * PAGE_BYTES,
				      .require = PAGE_PRESENT | PAGE_HUGE,
				      .report = PAGE_PRESENT | PAGE_HUGE};
	return pagemap_scan(process->pagemap, &query, &run, 1, &walked) == 1 && run.end - run.start == query.end - query.start;
}

/* Where the first page of a large one is says something about the others only while it is one. */
static void mark_split(const struct process *process, const struct place *places, uint32_t nr, int *status)
{
	for (uint32_t i = 0; i < nr; i++)
		if (places[i].nr_pages > 1 && status[i] >= 0 && !is_still_large(process, &places[i]))
			status[i] = PLACE_SPLIT;
}

static struct process *process_of(struct migration *m, const struct place *places)
{
	return &m->processes[places[0].process];
}

static int ask(void *context, const struct place *places, uint32_t nr, int *ret_status)
{
	struct migration *m = context;
	struct process *process = process_of(m, places);
	if (process->pidfd < 0 || pidfd_has_exited(process->pidfd))
		return -ESRCH;
	for (uint32_t i = 0; i < nr; i++)
		m->pages[i] = (void *)(uintptr_t)places[i].addr;
	int r = numa_ask_pages(process->pid, nr, m->pages, ret_status);
	if (r == 0)
		mark_split(process, places, nr, ret_status);
	return r;
}

/*
 * The kernel unmaps pages by hundreds, copies them and maps them again; the program cannot use them meanwhile. An address where nothing is ends such a
 * group, so that it takes no longer than it may though one call brings some of them. Fills m->pages; returns the length.
 */
static uint32_t arrange(struct migration *m, const struct place *places, uint32_t first, uint32_t nr, uint32_t at_once, uint32_t max_groups)
{
	uint32_t n = 0, together = 0, groups = 1;
	for (uint32_t i = first; i < nr; i++) {
		if (together && together + places[i].nr_pages > at_once) {
			if (groups++ == max_groups)
				break;
			m->origin[n] = UINT32_MAX;
			m->pages[n++] = NULL;
			together = 0;
		}
		together += places[i].nr_pages;
		m->origin[n] = i;
		m->pages[n++] = (void *)(uintptr_t)places[i].addr;
	}
	return n;
}

/*
 * A group of which some did not move ends the call, and those behind it have not been tried: the call is made again for them. Returns where to go on, or nr.
 */
static uint32_t take_statuses(const struct migration *m, uint32_t n, uint32_t nr, bool is_cut_short, int *ret_status)
{
	bool behind = false;
	for (uint32_t i = 0; i < n; i++) {
		if (m->origin[i] == UINT32_MAX) {
			if (behind)
				return m->origin[i + 1];
			continue;
		}
		ret_status[m->origin[i]] = m->status[i];
		behind |= is_cut_short && m->status[i] == NUMA_NOT_SAID;
	}
	return nr;
}

/* More want to run than there are processors; we are one of them. */
static bool is_crowded(void)
{
	struct system_activity activity;
	return system_activity_read(&activity) < 0 || activity.runnable > scheduling_nr_processors();
}

/* Nobody is kept from a processor then, and a call may be long: each has to wait for all processors once, which takes milliseconds in some machines. */
static bool has_processor_to_spare(void)
{
	return scheduling_nr_processors() > 1 && !is_crowded();
}

/* Other than for a moment: the kernel's own threads, and the container thread, have waited for the end of the call too. */
static bool somebody_waits_for_the_processor(void)
{
	struct timespec moment = {.tv_nsec = MOMENT_NS};
	if (scheduling_nr_processors() > 1 || !is_crowded())
		return false;
	nanosleep(&moment, NULL);
	return is_crowded();
}

static int call(struct migration *m, pid_t pid, uint32_t n, int node)
{
	uint64_t begin = monotonic_ns();
	int r = numa_move_pages(pid, n, m->pages, node, m->moves_shared, m->status);
	m->moving_ns += monotonic_ns() - begin;
	return r;
}

/*
 * Whoever wants a page that is under way waits for us, also when somebody else has the processor: so a call is not interrupted. They are short, and where
 * there is one processor only, whoever wants it has it afterwards for as long.
 */
static int call_without_interruption(struct migration *m, pid_t pid, uint32_t n, int node)
{
	scheduling_preempt();
	uint64_t begin = m->moving_ns;
	int r = call(m, pid, n, node);
	uint64_t took = m->moving_ns - begin;
	scheduling_prefer_latency();
	if (!atomic_load(&m->stop) && somebody_waits_for_the_processor()) {
		struct timespec pause = {.tv_nsec = (long)MIN_OF(took, PAUSE_LONGEST_NS)};
		nanosleep(&pause, NULL);
	}
	return r;
}

static int move(void *context, const struct place *places, uint32_t nr, int node, uint32_t at_once, int *ret_status)
{
	struct migration *m = context;
	struct process *process = process_of(m, places);
	for (uint32_t next = 0; next < nr;) {
		bool is_long = has_processor_to_spare();
		uint32_t n = arrange(m, places, next, nr, at_once, is_long ? UINT32_MAX : CALL_GROUPS);
		int r = (is_long ? call : call_without_interruption)(m, process->pid, n, node);
		if (r < 0)
			return r;
		next = take_statuses(m, n, m->origin[n - 1] + 1, r > 0, ret_status);
	}
	mark_split(process, places, nr, ret_status);
	return 0;
}

/* ---- through the swap file ---- */

static void evict_window(const struct process *process, struct migration *m, const struct page_set *set, bool shared)
{
	if (!atomic_load(&m->stop))
		reclaimer_evict(m->c->reclaimer, process->as, set, shared);
}

static void evict_stuck(void *context, const struct place *places, uint32_t nr)
{
	struct migration *m = context;
	struct process *process = process_of(m, places);
	for (uint32_t i = 0; process->as && i < nr;) {
		struct page_set set = {.start = places[i].addr};
		bool shared = false;
		for (; i < nr && places[i].addr >= set.start && places[i].addr < set.start + BATCH_PAGES * PAGE_BYTES; i++) {
			set.has[(places[i].addr - set.start) / PAGE_BYTES] = true;
			shared |= places[i].why == FAILURE_SHARED;
		}
		evict_window(process, m, &set, shared);
	}
}

/* ---- the thread ---- */

static void wait_before(void *context, unsigned pass)
{
	unsigned ms = MIN_OF(1u << MIN_OF(pass - PASSES_WITHOUT_WAITING - 1, 8u), WAIT_LONGEST_MS);
	struct timespec nap = {.tv_nsec = (long)ms * 1000000};
	nanosleep(&nap, NULL);
}

/* The clock runs while pages are under way. */
static uint64_t now(void *context)
{
	const struct migration *m = context;
	return m->moving_ns;
}

static void *mover_main(void *argument)
{
	struct migration *m = argument;
	int (*step)(struct passes *) = m->stage == STAGE_SWAP ? passes_swap_step : passes_step;
	uint64_t one = 1;
	pthread_setname_np(pthread_self(), "mbx-migrate");
	scheduling_prefer_latency();
	while (!atomic_load(&m->stop) && step(m->passes) == -EINPROGRESS)
		atomic_store_explicit(&m->moved, passes_figures(m->passes)->moved, memory_order_relaxed);
	atomic_store(&m->thread_done, true);
	if (write(m->c->event, &one, sizeof(one)) < 0)
		log_debug("migration: event: errno %d", errno);
	return NULL;
}

static int start_thread(struct migration *m, enum stage stage)
{
	m->stage = stage;
	atomic_store(&m->thread_done, false);
	int e = pthread_create(&m->thread, NULL, mover_main, m);
	m->thread_runs = e == 0;
	return -e;
}

static void join_thread(struct migration *m)
{
	if (m->thread_runs)
		pthread_join(m->thread, NULL);
	m->thread_runs = false;
}

/* ---- the container thread ---- */

static void direct(struct migration *m, struct process *process)
{
	int r = placement_step(&process->placement, process->pid, &m->to);
	if (r == -EAGAIN)
		return;
	process->is_directed = true;
	placement_release(&process->placement);
	if (r < 0 && r != -ESRCH) {
		m->undirected++;
		log_debug("migration: the policy of process %d: %s", process->pid, strerror(-r));
	}
}

/* One process a tick, and as much of it as the time for a stop allows. True: all have the policy. */
static bool direct_next(struct migration *m)
{
	for (uint32_t i = 0; i < m->nr_processes; i++) {
		if (m->processes[i].is_directed)
			continue;
		direct(m, &m->processes[i]);
		return false;
	}
	return true;
}

static void note_stuck_process(uint32_t process, void *context)
{
	struct migration *m = context;
	m->processes[process].is_stuck = true;
}

static void adopt(struct container *c, struct member *member)
{
	struct world *held = world_find(member->pid), *world = held;
	if (held || world_stop(member->pid, ADOPT_TIMEOUT_US, &world) == 0) {
		container_adopt_held(c, member, world);
		if (!held)
			world_resume(world);
	}
}

/* False: it has to be adopted, and could not be just now. */
static bool reach(struct container *c, struct process *process)
{
	struct member *member = pidfd_has_exited(process->pidfd) ? NULL : members_find(&c->members, process->pid);
	if (!member || member->leaves)
		return true;
	if (!member->as && !member->unadoptable)
		adopt(c, member);
	else if (member->as && member->as->agent)
		address_space_register_new(member->as, INT32_MAX, true);
	if (member->as)
		process->as = address_space_get(member->as);
	return member->as || member->unadoptable;
}

/* What is to be evicted has to be under a userfaultfd. False: not all is yet. */
static bool reach_stuck(struct migration *m)
{
	bool all = true;
	passes_visit_stuck(m->passes, note_stuck_process, m);
	for (uint32_t i = 0; m->c->swap && i < m->nr_processes; i++) {
		struct process *process = &m->processes[i];
		if (process->is_stuck && !process->as)
			all &= reach(m->c, process);
	}
	return all;
}

/* Pages that are left over when a thread could not be started are counted all the same. */
static int end(struct migration **migration, struct migrate_result *ret)
{
	struct migration *m = *migration;
	m->kernel.evict = NULL;
	while (passes_swap_step(m->passes) == -EINPROGRESS)
		;
	*ret = (struct migrate_result){
		.figures = *passes_figures(m->passes), .took_ns = monotonic_ns() - m->begun_ns, .undirected = m->undirected};
	migration_free(m);
	*migration = NULL;
	return 0;
}

int migration_step(struct migration **migration, struct migrate_result *ret)
{
	struct migration *m = *migration;
	if (m->thread_runs && !atomic_load(&m->thread_done))
		return -EINPROGRESS;
	join_thread(m);
	switch (m->stage) {
	case STAGE_DIRECT:
		if (!direct_next(m) || !pager_follows_preference(&m->c->pager))
			return -EINPROGRESS;
		return start_thread(m, STAGE_MOVE) < 0 ? end(migration, ret) : -EINPROGRESS;
	case STAGE_MOVE:
		if (++m->rounds < MAX_ROUNDS && add_newcomers(m)) {
			passes_begin_again(m->passes);
			m->stage = STAGE_DIRECT;
			return -EINPROGRESS;
		}
		m->stage = STAGE_REACH;
		return -EINPROGRESS;
	case STAGE_REACH:
		if (!reach_stuck(m) && ++m->adopt_tries < ADOPT_TRIES)
			return -EINPROGRESS;
		return start_thread(m, STAGE_SWAP) < 0 ? end(migration, ret) : -EINPROGRESS;
	case STAGE_SWAP:
		break;
	}
	return end(migration, ret);
}

bool migration_progress(const struct container *c, struct migrate_progress *ret)
{
	const struct migration *m = c->migration;
	if (!m)
		return false;
	*ret = (struct migrate_progress){
		.resident = m->resident, .looked_at = atomic_load(&m->looked_at), .moved = atomic_load(&m->moved)};
	return true;
}

int migration_begin(struct container *c, const struct node_set *to, const struct node_set *from, struct migration **ret)
{
	if (c->migration)
		return -EBUSY;
	struct migration *m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	*m = (struct migration){.c = c, .to = *to, .begun_ns = monotonic_ns(), .moves_shared = numa_may_move_shared()};
	m->kernel = (struct migrate_kernel){
		.find = find, .ask = ask, .move = move, .evict = c->swap ? evict_stuck : NULL, .wait = wait_before, .now = now, .context = m};
	m->passes = passes_new(&m->kernel, to, from);
	if (!m->passes) {
		free(m);
		return -ENOMEM;
	}
	pager_prefer(&c->pager, to);
	add_newcomers(m);
	for (uint32_t i = 0; i < c->members.nr; i++)
		m->resident += c->members.items[i].resident;
	c->migration = *ret = m;
	return 0;
}

void migration_free(struct migration *m)
{
	if (!m)
		return;
	atomic_store(&m->stop, true);
	join_thread(m);
	for (uint32_t i = 0; i < m->nr_processes; i++) {
		end_process(&m->processes[i]);
		placement_release(&m->processes[i].placement);
		if (m->processes[i].as)
			address_space_put(m->processes[i].as);
	}
	m->c->migration = NULL;
	free(m->processes);
	passes_free(m->passes);
	free(m);
}
