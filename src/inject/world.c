#include "inject/world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "base/cleanup.h"
#include "base/monotonic.h"
#include "inject/late.h"
#include "inject/report.h"
#include "inject/tracees.h"
#include "inject/ward.h"
#include "platform/process.h"

#define RUNNABLE_PATIENCE_NS 500000000ull
#define CLONE_PATIENCE_NS 5000000000ull /* a new task stops before its first instruction, as soon as it has a processor */

struct world {
	pid_t pid;
	bool complete;
	bool accompanied; /* the leader is held alone, the other threads are traced meanwhile */
	bool workers_work; /* at the last look at the list of threads */
	remote_addr_t syscall_pc; /* 0: not looked for yet */
	struct tracees threads;
	struct world *next;
};

static struct world *worlds; /* all there are */

static size_t nr_held; /* threads of all worlds: each may become a late one, room for it is there from the beginning */

bool world_is_late(pid_t tid)
{
	return late_has(tid);
}

int world_collect_late(void)
{
	return (int)late_collect();
}

static struct tracee *find_thread(struct world *world, pid_t tid)
{
	for (size_t i = 0; i < world->threads.nr; i++)
		if (world->threads.items[i].tid == tid && world->threads.items[i].state != TRACEE_GONE)
			return &world->threads.items[i];
	return NULL;
}

/* Room for one more thread, here and, should it be late one day, there. 0 or -ENOMEM. */
static int make_room(struct world *world)
{
	int r = tracees_reserve(&world->threads, world->threads.nr + 1);

	return r < 0 ? r : late_reserve(nr_held + 1);
}

/* Adds one thread: seized now, or taken over from the late ones, which are ours already. -ESRCH when it is dead. */
static int add_thread(struct world *world, pid_t tid)
{
	struct tracee *tracee;
	int r = make_room(world);

	if (r < 0)
		return r;
	tracee = &world->threads.items[world->threads.nr];
	if (ward_has(tid) || ward_has_process(world->pid)) {
		r = ward_add(world->pid, tid);
		if (r < 0)
			return r;
		tracee_take_over(tracee, world->pid, tid);
	} else if (late_take(tid, tracee)) {
		tracee_stop_following(tracee);
	} else {
		r = tracee_seize(tracee, world->pid, tid);
		if (r < 0)
			return r;
	}
	world->threads.nr++;
	nr_held++;
	return 0;
}

/*
 * io_uring's workers are threads of the process that never leave the kernel, so they stop for no tracer. Idle, they do nothing until a thread that
 * is held gives them work.
 */
static bool is_kernel_worker(const struct world *world, pid_t tid, bool *ret_works)
{
	struct process_info info;

	if (tid == world->pid || process_info_read(tid, &info) < 0 || !info.is_kernel_thread)
		return false;
	*ret_works = info.state != 'S';
	return true;
}

/* All threads of a process, in memory that the caller frees. How many, or -errno. */
static int list_threads(pid_t pid, pid_t **ret_tids)
{
	for (int room = 64, nr;; room = nr * 2) {
		pid_t *tids = calloc((size_t)room, sizeof(*tids));

		if (!tids)
			return -ENOMEM;
		nr = process_threads(pid, tids, room);
		if (nr >= 0 && nr <= room) {
			*ret_tids = tids;
			return nr;
		}
		free(tids);
		if (nr < 0)
			return nr == -ENOENT ? -ESRCH : nr;
	}
}

/*
 * Interrupts every thread that is not yet held; returns how many were new, or -errno. The leader, listed first, comes last and goes first: while it is
 * traced, a signal to the process that the program ignores is queued all the same, and wakes a thread that is not held, whose call reports EINTR then.
 * If the leader is late the others therefore stay traced until it is let go: what wakes them is then reported, and undone.
 */
static int interrupt_new_threads(struct world *world)
{
	_cleanup_free_ pid_t *tids = NULL;
	int nr = list_threads(world->pid, &tids), nr_new = 0;

	if (nr < 0)
		return nr;
	world->workers_work = false;
	for (int i = nr - 1; i >= 0; i--) {
		bool works;
		int r;

		if (find_thread(world, tids[i]))
			continue;
		if (is_kernel_worker(world, tids[i], &works)) {
			world->workers_work |= works;
			continue;
		}
		r = add_thread(world, tids[i]);
		if (r < 0 && r != -ESRCH)
			return r;
		nr_new += r == 0;
	}
	return nr_new;
}

/*
 * A leader that is held alone: the others are traced too, though they run on, because of what wakes them (see above). One that is started in the few
 * microseconds until the leader stands still is not.
 */
static int accompany_leader(struct world *world)
{
	_cleanup_free_ pid_t *tids = NULL;
	int nr = list_threads(world->pid, &tids);

	for (int i = 0; i < nr; i++) {
		struct tracee tracee;
		bool works;
		int r;

		if (tids[i] == world->pid || late_has(tids[i]) || is_kernel_worker(world, tids[i], &works))
			continue;
		r = late_reserve(nr_held + 1);
		if (r == 0)
			r = tracee_accompany(&tracee, world->pid, tids[i]);
		if (r == 0)
			late_add(&tracee);
		else if (r != -ESRCH)
			return r;
	}
	return nr < 0 ? nr : 0;
}

/* A thread that vanished may have called exec and now bears the leader's id: then the leader runs again. */
static void recheck_leader(struct world *world)
{
	struct tracee *leader = find_thread(world, world->pid);

	if (!leader || leader->state != TRACEE_STOPPED || tracee_is_held(leader))
		return;
	leader->state = TRACEE_RUNNING;
	tracee_interrupt(leader);
}

/* One look at all threads that still run; returns how many do. */
static int poll_threads(struct world *world)
{
	int running = 0;

	for (size_t i = 0; i < world->threads.nr; i++) {
		struct tracee *tracee = &world->threads.items[i];

		if (tracee->state != TRACEE_RUNNING)
			continue;
		tracee_poll(tracee);
		if (tracee->state == TRACEE_GONE && tracee->tid != world->pid)
			recheck_leader(world);
		if (tracee->state == TRACEE_GONE && tracee->ward)
			ward_forget(tracee->tid);
		running += tracee->state == TRACEE_RUNNING && !tracee->dead_leader && !tracee->in_event;
	}
	return running;
}

/* A leader that has called pthread_exit stays as a zombie until the last thread ends: it is no thread that runs. */
static void mark_dead_leader(struct world *world)
{
	struct tracee *leader = find_thread(world, world->pid);

	if (leader && leader->state == TRACEE_RUNNING)
		leader->dead_leader = thread_state(world->pid, world->pid) == 'Z';
}

/* True when a thread only waits for a processor: it will stop as soon as it has one. */
static bool some_are_runnable(const struct world *world)
{
	for (size_t i = 0; i < world->threads.nr; i++)
		if (world->threads.items[i].state == TRACEE_RUNNING && thread_state(world->pid, world->threads.items[i].tid) == 'R')
			return true;
	return false;
}

/*
 * Waits until all known threads are held; -ETIMEDOUT when some still run at the deadline. It is meant for threads that sleep where they cannot be
 * interrupted; on a busy machine others are waited for longer.
 */
static int wait_threads(struct world *world, uint64_t deadline)
{
	unsigned int rounds = 0;

	while (poll_threads(world) > 0) {
		uint64_t now = monotonic_ns();

		if (now >= deadline && (now >= deadline + RUNNABLE_PATIENCE_NS || !some_are_runnable(world)))
			return -ETIMEDOUT;
		if (world->accompanied)
			late_follow(world->pid);
		poll_nap(&rounds);
		if (rounds % 64 == 0)
			mark_dead_leader(world);
	}
	return 0;
}

/* Gives up on the threads that still run; returns how many are held, or -EBUSY when job control holds one. */
static int leave_late_ones(struct world *world)
{
	size_t kept = 0;
	bool busy = false;

	for (size_t i = 0; i < world->threads.nr; i++) {
		struct tracee *tracee = &world->threads.items[i];

		busy = busy || tracee->state == TRACEE_JOB_STOPPED;
		if (tracee->state == TRACEE_RUNNING) {
			world->complete = world->complete && tracee->dead_leader;
			if (!tracee->ward)
				late_add(tracee);
		} else if (tracee->state != TRACEE_GONE) {
			world->threads.items[kept++] = *tracee;
		}
	}
	nr_held -= world->threads.nr - kept;
	world->threads.nr = kept;
	return busy ? -EBUSY : (int)kept;
}

/* After the wait, which had this result. 0 when at least one thread is held. */
static int keep_held(struct world *world, int r)
{
	int held = leave_late_ones(world);

	if (held)
		return held < 0 ? held : 0;
	if (r == 0 && !world->complete) /* its only thread stands in a fork or exec */
		return -ETIMEDOUT;
	return r < 0 ? r : -ESRCH;
}

/* Stops what runs until a look at the list shows nobody new: a running thread may start others, a stopped one cannot. */
static int stop_all(struct world *world, uint32_t timeout_us)
{
	uint64_t deadline = monotonic_ns() + timeout_us * 1000ull;
	int nr_new = 0, r;

	do {
		r = wait_threads(world, deadline);
		nr_new = r == 0 ? interrupt_new_threads(world) : 0;
	} while (nr_new > 0);
	return nr_new < 0 ? nr_new : keep_held(world, r);
}

/* NULL: no memory. world_resume gives it back. */
static struct world *world_new(pid_t pid)
{
	struct world *world = calloc(1, sizeof(*world));

	if (!world)
		return NULL;
	world->pid = pid;
	world->complete = true;
	world->next = worlds;
	worlds = world;
	return world;
}

static void delist(const struct world *world)
{
	struct world **link = &worlds;

	while (*link != world)
		link = &(*link)->next;
	*link = world->next;
}

struct world *world_find(pid_t pid)
{
	struct world *world = worlds;

	while (world && world->pid != pid)
		world = world->next;
	return world;
}

bool world_holds(pid_t tid)
{
	for (struct world *world = worlds; world; world = world->next)
		if (find_thread(world, tid))
			return true;
	return false;
}

void world_let_stranger_go(pid_t tid, int report)
{
	if (!world_holds(tid))
		ptrace(PTRACE_DETACH, tid, NULL, (void *)(intptr_t)report_signal(report));
}

int world_of_newborn(pid_t pid, struct world **ret_world)
{
	struct world *world = world_new(pid);
	int r = world ? make_room(world) : -ENOMEM;

	if (r < 0) {
		world_resume(world);
		return r;
	}
	world->threads.items[0] = (struct tracee){.process = pid, .tid = pid, .state = TRACEE_STOPPED, .ward = true};
	world->threads.nr = 1;
	nr_held++;
	*ret_world = world;
	return 0;
}

/* All or nothing. */
int ward_take(struct world *world)
{
	for (size_t i = 0; i < world->threads.nr; i++) {
		if (world->threads.items[i].state != TRACEE_GONE && ward_add(world->pid, world->threads.items[i].tid) < 0) {
			ward_forget_process(world->pid);
			return -ENOMEM;
		}
	}
	for (size_t i = 0; i < world->threads.nr; i++)
		world->threads.items[i].ward = true;
	return 0;
}

void ward_drop(struct world *world)
{
	for (size_t i = 0; i < world->threads.nr; i++)
		world->threads.items[i].ward = false;
	ward_forget_process(world->pid);
}

int world_interrupt(pid_t pid, struct world **ret_world)
{
	struct world *world = world_new(pid);
	int r;

	if (!world)
		return -ENOMEM;
	r = interrupt_new_threads(world);
	if (r <= 0) {
		world_resume(world);
		return r < 0 ? r : -ESRCH;
	}
	*ret_world = world;
	return 0;
}

int world_wait(struct world *world, uint32_t timeout_us)
{
	int r = stop_all(world, timeout_us);

	if (r < 0)
		world_resume(world);
	return r;
}

int world_stop(pid_t pid, uint32_t timeout_us, struct world **ret_world)
{
	int r = world_interrupt(pid, ret_world);

	return r < 0 ? r : world_wait(*ret_world, timeout_us);
}

int world_stop_thread(pid_t pid, pid_t tid, uint32_t timeout_us, struct world **ret_world)
{
	struct world *world = world_new(pid);
	bool works;
	int r = 0;

	if (!world)
		return -ENOMEM;
	if (is_kernel_worker(world, tid, &works))
		r = -ESRCH;
	world->accompanied = r == 0 && tid == pid && !ward_has_process(pid);
	if (world->accompanied)
		r = accompany_leader(world);
	if (r == 0)
		r = add_thread(world, tid);
	if (r == 0)
		r = keep_held(world, wait_threads(world, monotonic_ns() + timeout_us * 1000ull));
	if (r < 0) {
		world_resume(world);
		return r;
	}
	world->complete = false;
	*ret_world = world;
	return 0;
}

bool world_is_complete(const struct world *world)
{
	return world->complete && !world->workers_work;
}

pid_t world_pid(const struct world *world)
{
	return world->pid;
}

/* What cannot be let go is dying; or it is the leader, and a thread that ran on has called exec and goes by its number now: that one is to stop. */
static void release(struct tracee *tracee, bool follows)
{
	if (tracee->ward && tracee->state == TRACEE_STOPPED)
		ward_goes_on(tracee->tid);
	if (follows && tracee_follow(tracee)) {
		late_add(tracee);
	} else if (!tracee_release(tracee)) {
		tracee_interrupt(tracee);
		tracee->follows = false;
		late_add(tracee);
	}
}

/* Each stands still until our next look, and no longer; one that sleeps where it cannot be interrupted is let go later. */
static void dismiss_followers(pid_t process)
{
	uint64_t deadline = monotonic_ns() + WORLD_STOP_TIMEOUT_US * 1000ull;
	unsigned int rounds = 0;

	while (late_has_process(process) && monotonic_ns() < deadline) {
		poll_nap(&rounds);
		world_collect_late();
	}
}

void world_resume(struct world *world)
{
	if (!world)
		return;
	/* Threads that run again compete with us for the processor, so nothing but the release itself is left for then. */
	for (size_t i = 0; i < world->threads.nr; i++)
		tracee_prepare_release(&world->threads.items[i]);
	struct tracee *leader = find_thread(world, world->pid);
	if (leader)
		release(leader, false);
	bool follow = late_has_leader(world->pid);
	for (size_t i = 0; i < world->threads.nr; i++)
		if (&world->threads.items[i] != leader)
			release(&world->threads.items[i], follow);
	nr_held -= world->threads.nr;
	delist(world);
	world_collect_late();
	if (world->accompanied && !follow)
		dismiss_followers(world->pid);
	free(world->threads.items);
	free(world);
}

/* The base address of the program's vdso, from its auxiliary vector; 0 when it has none. */
static remote_addr_t find_vdso(pid_t tid)
{
	_cleanup_close_ int fd = -1;
	uint64_t auxv[128] = {0};
	char path[48];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/auxv", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, auxv, sizeof(auxv));
	for (size_t i = 0; n > 0 && i + 1 < (size_t)n / sizeof(*auxv); i += 2)
		if (auxv[i] == AT_SYSINFO_EHDR)
			return auxv[i + 1];
	return 0;
}

/* Finds a syscall instruction in the vdso, page by page: its length is not told, and all of it is executable. */
static remote_addr_t find_syscall_instruction(pid_t tid)
{
	remote_addr_t vdso = find_vdso(tid);
	uint8_t page[PAGE_BYTES];

	for (size_t i = 0; vdso && i < 4; i++, vdso += PAGE_BYTES) {
		if (process_read(tid, vdso, page, sizeof(page)) < 0)
			break;
		for (size_t at = 0; at + sizeof(syscall_instruction) <= sizeof(page); at += SYSCALL_INSTRUCTION_ALIGN)
			if (memcmp(page + at, syscall_instruction, sizeof(syscall_instruction)) == 0)
				return vdso + at;
	}
	return 0;
}

/* The thread that lends itself: the one used before, else one inside a system call (nothing of its own can be disturbed), else any. */
static struct tracee *choose_thread(struct world *world)
{
	struct tracee *any = NULL;

	for (size_t i = 0; i < world->threads.nr; i++)
		if (world->threads.items[i].state == TRACEE_BORROWED)
			return &world->threads.items[i];
	for (size_t i = 0; i < world->threads.nr; i++) {
		struct tracee *tracee = &world->threads.items[i];
		struct thread_regs regs = {0};

		if (tracee->state != TRACEE_STOPPED || regs_read(tracee->tid, &regs) < 0)
			continue;
		if (regs_in_syscall(&regs) >= 0)
			return tracee;
		any = any ? any : tracee;
	}
	return any;
}

void world_go_first(struct world *world)
{
	for (size_t i = 0; i < world->threads.nr; i++)
		if (world->threads.items[i].state == TRACEE_STOPPED)
			world->threads.items[i].goes_first = true;
}

long world_syscall_at(struct world *world, remote_addr_t pc, long number, const uint64_t args[6])
{
	struct tracee *tracee = choose_thread(world);

	return tracee ? tracee_syscall(tracee, pc, number, args) : -ESRCH;
}

pid_t world_thread(struct world *world)
{
	const struct tracee *tracee = choose_thread(world);

	return tracee ? tracee->tid : -ESRCH;
}

remote_addr_t world_syscall_address(struct world *world)
{
	pid_t tid = world->syscall_pc ? 0 : world_thread(world);

	if (tid > 0)
		world->syscall_pc = find_syscall_instruction(tid);
	return world->syscall_pc;
}

void world_use_syscall_at(struct world *world, remote_addr_t pc)
{
	world->syscall_pc = pc;
}

long world_syscall(struct world *world, long number, const uint64_t args[6])
{
	if (world_thread(world) < 0)
		return -ESRCH;
	if (!world_syscall_address(world))
		return -ENOTSUP;
	return world_syscall_at(world, world->syscall_pc, number, args);
}

long world_syscall_by(struct world *world, pid_t tid, long number, const uint64_t args[6])
{
	struct tracee *tracee = find_thread(world, tid);

	if (!tracee)
		return -ESRCH;
	if (!world_syscall_address(world))
		return -ENOTSUP;
	return tracee_syscall(tracee, world->syscall_pc, number, args);
}

size_t world_threads(const struct world *world, pid_t *ret_tids, size_t max)
{
	size_t n = 0;

	for (int leaders = 1; leaders >= 0; leaders--) {
		for (size_t i = 0; i < world->threads.nr; i++) {
			const struct tracee *tracee = &world->threads.items[i];

			if (tracee->state == TRACEE_GONE || (tracee->tid == world->pid) != leaders)
				continue;
			if (n < max)
				ret_tids[n] = tracee->tid;
			n++;
		}
	}
	return n;
}

int world_read_thread(struct world *world, pid_t tid, struct thread_regs *ret_regs, uint64_t *ret_mask)
{
	struct tracee *tracee = find_thread(world, tid);

	return tracee ? tracee_read(tracee, ret_regs, ret_mask) : -ESRCH;
}

int world_write_thread(struct world *world, pid_t tid, const struct thread_regs *regs, uint64_t mask)
{
	struct tracee *tracee = find_thread(world, tid);

	return tracee ? tracee_write(tracee, regs, mask) : -ESRCH;
}

int world_add_clone(struct world *world, pid_t tid)
{
	int r = make_room(world);

	if (r < 0)
		return r;
	world->threads.items[world->threads.nr++] = (struct tracee){.process = world->pid, .tid = tid, .state = TRACEE_RUNNING};
	nr_held++;
	r = wait_threads(world, monotonic_ns() + CLONE_PATIENCE_NS);
	return r < 0 ? r : find_thread(world, tid) ? 0 : -ESRCH;
}

int world_of_clone(pid_t pid, struct world **ret_world)
{
	struct world *world = world_new(pid);
	int r = world ? world_add_clone(world, pid) : -ENOMEM;

	if (r < 0) {
		world_resume(world);
		return r;
	}
	*ret_world = world;
	return 0;
}
