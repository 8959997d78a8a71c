/*
 * Stopping, remote system calls and the agent, on real victims. Needs a kernel with UFFDIO_MOVE and the right to use userfaultfd for
 * system calls too; exits 77 without.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "inject/agent.h"
#include "inject/world.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/userfaultfd.h"
#include "unit.h"

#define CALL_MS 200
#define STOP_TIMEOUT_US 200000
#define PAGES 64

enum job {
	JOB_NANOSLEEP,
	JOB_READ,
	JOB_FUTEX,
	JOB_POLL,
	JOB_EPOLL_WAIT,
	JOB_EPOLL_PWAIT,
	JOB_RECV_TIMEOUT,
	JOB_SIGTIMEDWAIT,
	JOB_SIGSUSPEND,
	JOB_USER_LOOP,
	JOB_NR_BLOCKING,
	JOB_SPIN_THREADS = JOB_NR_BLOCKING, /* eight, until killed */
	JOB_LEADER_EXITS,
	JOB_VFORK,
	JOB_RING, /* a worker of io_uring that waits */
	JOB_MEMORY, /* serves commands on a memory area */
};

static const char *const job_names[] = {"nanosleep", "read",	   "futex",	   "poll",	 "epoll_wait", "epoll_pwait",
					"recv",	     "sigtimedwait", "sigsuspend", "user loop"};

enum command { COMMAND_NONE, COMMAND_WRITE, COMMAND_CHECK, COMMAND_FORK, COMMAND_END };

/* What victim and test share. */
struct board {
	volatile int ready, done, result, error;
	volatile int sigchlds, stray_children;
	volatile uint64_t elapsed_us;
	volatile uint64_t spins[8];
	volatile int command, command_done, bad_pages;
	volatile pid_t child;
	char *volatile area;
};

static struct board *board;

/* What the next victim does to itself first. */
static enum { AS_IT_IS, IS_SUBREAPER, HAS_FILTER, IS_NOBODY } trait;

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void count_signal(int signal)
{
	board->sigchlds += signal == SIGCHLD;
}

/* --- victims --- */

static void start_timer(void)
{
	const struct itimerval timer = {.it_value = {.tv_usec = CALL_MS * 1000}};

	setitimer(ITIMER_REAL, &timer, NULL);
}

/* 0x55 when a checksum over ten million steps came out right, whatever was done to the registers meanwhile. */
static int user_loop(void)
{
	uint64_t end = now_us() + CALL_MS * 1000;
	uint64_t sums[2] = {0};

	do {
		for (int pass = 0; pass < 2; pass++) {
			uint64_t x = 88172645463325252ULL;

			for (int i = 0; i < 100000; i++) {
				x ^= x << 13;
				x ^= x >> 7;
				x ^= x << 17;
			}
			sums[pass] = x;
		}
		if (sums[0] != sums[1])
			return 0;
	} while (now_us() < end);
	return 0x55;
}

static long receive_with_timeout(void)
{
	const struct timeval timeout = {.tv_usec = CALL_MS * 1000};
	int pair[2];
	char byte;

	socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	return recv(pair[0], &byte, 1, 0);
}

static long read_from_child(void)
{
	int ends[2];
	char byte;

	if (pipe(ends) < 0 || fork() == 0) {
		usleep(CALL_MS * 1000);
		_exit(write(ends[1], "x", 1) == 1 ? 0 : 1);
	}
	return read(ends[0], &byte, 1);
}

static long block_in(enum job job)
{
	struct timespec ts = {.tv_nsec = CALL_MS * 1000000L};
	struct epoll_event event;
	int epoll = epoll_create1(0);
	sigset_t set;
	int word = 0;

	sigemptyset(&set);
	switch (job) {
	case JOB_NANOSLEEP:
		return nanosleep(&ts, NULL);
	case JOB_READ:
		return read_from_child();
	case JOB_FUTEX:
		return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &ts, NULL, 0);
	case JOB_POLL:
		return poll(NULL, 0, CALL_MS);
	case JOB_EPOLL_WAIT:
		return epoll_wait(epoll, &event, 1, CALL_MS);
	case JOB_EPOLL_PWAIT:
		return epoll_pwait(epoll, &event, 1, CALL_MS, &set);
	case JOB_RECV_TIMEOUT:
		return receive_with_timeout();
	case JOB_SIGTIMEDWAIT:
		sigaddset(&set, SIGUSR2);
		sigprocmask(SIG_BLOCK, &set, NULL);
		return sigtimedwait(&set, NULL, &ts);
	case JOB_SIGSUSPEND:
		start_timer();
		return sigsuspend(&set);
	default:
		return user_loop();
	}
}

static void blocking_victim(enum job job)
{
	uint64_t start = now_us();

	board->ready = 1;
	errno = 0;
	board->result = (int)block_in(job);
	board->error = errno;
	board->elapsed_us = now_us() - start;
	board->done = 1;
	pause();
}

static void *spin(void *counter)
{
	for (;;)
		++*(volatile uint64_t *)counter;
	return NULL;
}

static void spinning_victim(bool leader_exits)
{
	pthread_t thread;

	for (int i = 0; i < 8; i++)
		pthread_create(&thread, NULL, spin, (void *)&board->spins[i]);
	board->ready = 1;
	if (leader_exits)
		pthread_exit(NULL);
	pause();
}

static void vforking_victim(void)
{
	const struct timespec nap = {.tv_nsec = CALL_MS * 1000000L};

	board->ready = 1;
	if (syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0) {
		syscall(SYS_nanosleep, &nap, NULL);
		syscall(SYS_exit, 0);
	}
	board->done = 1;
	pause();
}

static void fill_area(void)
{
	for (size_t i = 0; i < PAGES; i++)
		memset(board->area + i * PAGE_BYTES, (int)(i + 1), PAGE_BYTES);
}

static int count_bad_pages(void)
{
	int bad = 0;

	for (size_t i = 0; i < PAGES; i++)
		bad += board->area[i * PAGE_BYTES] != (char)(i + 1) || board->area[i * PAGE_BYTES + 4095] != (char)(i + 1);
	return bad;
}

/* The child must not write to the board: it shares it with its parent. */
static void fork_child(void)
{
	pid_t child = fork();

	while (child == 0)
		pause();
	board->child = child;
}

static void execute_command(int command)
{
	if (command == COMMAND_WRITE)
		fill_area();
	else if (command == COMMAND_CHECK)
		board->bad_pages = count_bad_pages();
	else if (command == COMMAND_FORK)
		fork_child();
	else
		_exit(7);
}

/* Spends its time in poll, and counts what it sees of children that are not its own. */
static void memory_victim(void)
{
	char *guarded = mmap(NULL, (PAGES + 2) * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	board->area = guarded + PAGE_BYTES;
	mprotect(board->area, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE);
	madvise(board->area, PAGES * PAGE_BYTES, MADV_NOHUGEPAGE);
	fill_area();
	board->ready = 1;
	for (;;) {
		int command = board->command;

		poll(NULL, 0, 1);
		if (!board->child && syscall(SYS_wait4, -1, NULL, WNOHANG | __WALL, NULL) >= 0)
			board->stray_children++;
		if (command == COMMAND_NONE)
			continue;
		board->command = COMMAND_NONE;
		execute_command(command);
		board->command_done++;
	}
}

static void take_on_trait(void)
{
	struct sock_filter allow_all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog filter = {.len = 1, .filter = &allow_all};

	if (trait == IS_SUBREAPER)
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (trait == HAS_FILTER && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0))
		_exit(1);
	if (trait == IS_NOBODY && (setgid(65534) < 0 || setuid(65534) < 0))
		_exit(1);
}

/* The read is handed to a worker at once, and nothing ever comes. */
static void ring_victim(void)
{
	struct io_uring ring;
	int ends[2];
	char byte;

	if (pipe(ends) < 0 || io_uring_queue_init(2, &ring, 0) < 0)
		_exit(1);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
	io_uring_prep_read(sqe, ends[0], &byte, 1, 0);
	sqe->flags |= IOSQE_ASYNC;
	io_uring_submit(&ring);
	board->ready = 1;
	for (;;)
		pause();
}

static void become_victim(enum job job)
{
	struct sigaction action = {.sa_handler = count_signal};

	take_on_trait();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigaction(SIGCHLD, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	if (job < JOB_NR_BLOCKING)
		blocking_victim(job);
	else if (job == JOB_SPIN_THREADS || job == JOB_LEADER_EXITS)
		spinning_victim(job == JOB_LEADER_EXITS);
	else if (job == JOB_VFORK)
		vforking_victim();
	else if (job == JOB_RING)
		ring_victim();
	else
		memory_victim();
	_exit(1);
}

static pid_t start_victim(enum job job)
{
	pid_t pid;

	memset(board, 0, sizeof(*board));
	pid = fork();
	if (pid == 0)
		become_victim(job);
	assert_true(pid > 0);
	while (!board->ready)
		usleep(100);
	usleep(20000);
	return pid;
}

static void end_victim(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(world_collect_late(), 0);
	while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
		;
}

static long status_number(pid_t pid, const char *key)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[48], line[256];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, key, strlen(key)) == 0)
			return strtol(line + strlen(key) + 1, NULL, 0);
	return -1;
}

static void assert_untraced(pid_t pid)
{
	assert_int_equal(status_number(pid, "TracerPid"), 0);
}

static int count_fds(pid_t pid)
{
	_cleanup_closedir_ DIR *dir = NULL;
	char path[48];
	int nr = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && readdir(dir))
		nr++;
	return nr;
}

/* --- stopping --- */

static const struct agent_params plain = {.stage_pages = 512, .inherited_uffd = -1};

static void drop(struct agent *agent)
{
	int uffd = agent->uffd;

	agent_release(agent);
	close(uffd);
}

static void check_call(enum job job, bool inject)
{
	const uint64_t none[6] = {0};
	pid_t pid = start_victim(job);
	struct world *world = NULL;

	for (int i = 0; i < 3; i++) {
		assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), 0);
		assert_true(world_is_complete(world));
		if (inject)
			assert_int_equal(world_syscall(world, SYS_getpid, none), pid);
		world_resume(world);
		assert_untraced(pid);
		usleep(5000);
	}
	for (int i = 0; i < 2000 && !board->done; i++)
		usleep(1000);
	print_message("%-13s %s result %d errno %d after %lu ms\n", job_names[job], inject ? "injected" : "stopped ", board->result,
		      board->error, (unsigned long)board->elapsed_us / 1000);
	assert_true(board->done);
	assert_true(board->elapsed_us >= CALL_MS * 950 && board->elapsed_us < CALL_MS * 1000 + 300000);
	assert_int_equal(board->result, job == JOB_READ	       ? 1
					: job == JOB_USER_LOOP ? 0x55
					: job == JOB_FUTEX || job == JOB_RECV_TIMEOUT || job == JOB_SIGTIMEDWAIT || job == JOB_SIGSUSPEND
						? -1
						: 0);
	if (board->result == -1 && job != JOB_SIGSUSPEND)
		assert_int_not_equal(board->error, EINTR);
	end_victim(pid);
}

static void test_calls_survive_a_stop(void **state)
{
	for (int job = 0; job < JOB_NR_BLOCKING; job++)
		check_call((enum job)job, false);
}

static void test_calls_survive_an_injection(void **state)
{
	for (int job = 0; job < JOB_NR_BLOCKING; job++)
		check_call((enum job)job, true);
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Median time of world_stop. While the world is held nothing may move. */
static uint64_t measure_stops(pid_t pid)
{
	uint64_t times[51];

	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		struct world *world = NULL;
		uint64_t start = now_us(), before[8];

		assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), 0);
		times[i] = now_us() - start;
		assert_true(world_is_complete(world));
		memcpy(before, (const void *)board->spins, sizeof(before));
		usleep(200);
		assert_memory_equal(before, (const void *)board->spins, sizeof(before));
		world_resume(world);
		usleep(300);
	}
	assert_untraced(pid);
	qsort(times, ARRAY_LEN(times), sizeof(times[0]), compare_u64);
	return times[ARRAY_LEN(times) / 2];
}

static void test_stop_time(void **state)
{
	pid_t pid = start_victim(JOB_MEMORY);

	print_message("stop of 1 thread:  median %lu us\n", (unsigned long)measure_stops(pid));
	end_victim(pid);
	pid = start_victim(JOB_SPIN_THREADS);
	print_message("stop of 9 threads, 8 of them spinning: median %lu us\n", (unsigned long)measure_stops(pid));
	end_victim(pid);
}

static void test_leader_has_exited(void **state)
{
	const uint64_t none[6] = {0};
	pid_t pid = start_victim(JOB_LEADER_EXITS);
	struct world *world = NULL;
	struct agent *agent = NULL;
	const char *what;
	uint64_t start = now_us();

	assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), 0);
	assert_true(now_us() - start < STOP_TIMEOUT_US);
	assert_true(world_is_complete(world));
	assert_int_equal(world_syscall(world, SYS_getpid, none), pid);
	assert_int_equal(agent_create(world, &plain, &agent, &what), 0);
	world_resume(world);
	drop(agent);
	end_victim(pid);
}

/* A worker of io_uring is listed as a thread of the process, and never stops: it is not the one that lends itself. */
static void test_kernel_worker(void **state)
{
	const uint64_t none[6] = {0};
	pid_t pid = start_victim(JOB_RING), tids[4];
	struct world *world = NULL;

	assert_int_equal(process_threads(pid, tids, ARRAY_LEN(tids)), 2);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), 0);
		assert_true(world_is_complete(world));
		assert_int_equal(world_thread(world), pid);
		assert_int_equal(world_syscall(world, SYS_getpid, none), pid);
		world_resume(world);
	}
	end_victim(pid);
}

static void test_job_control(void **state)
{
	pid_t pid = start_victim(JOB_SPIN_THREADS);
	struct world *world = NULL;
	uint64_t spins;

	kill(pid, SIGSTOP);
	waitpid(pid, NULL, WUNTRACED);
	assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), -EBUSY);
	assert_int_equal(world_collect_late(), 0);
	assert_untraced(pid);
	spins = board->spins[0];
	usleep(50000);
	assert_true(spins == board->spins[0]);
	kill(pid, SIGCONT);
	usleep(50000);
	assert_true(spins != board->spins[0]);
	end_victim(pid);
}

static void test_late_stopper(void **state)
{
	pid_t pid = start_victim(JOB_VFORK);
	struct world *world = NULL;
	int tries = 0;

	assert_int_equal(world_stop(pid, 10000, &world), -ETIMEDOUT);
	assert_true(world_is_late(pid));
	while (world_collect_late() > 0 && tries++ < 1000)
		usleep(1000);
	assert_false(world_is_late(pid));
	for (int i = 0; i < 500 && !board->done; i++)
		usleep(1000);
	assert_true(board->done);
	assert_untraced(pid);
	end_victim(pid);
}

static void test_death_while_held(void **state)
{
	const uint64_t none[6] = {0};
	pid_t pid = start_victim(JOB_SPIN_THREADS);
	struct world *world = NULL;
	int status = 0;

	assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), 0);
	kill(pid, SIGKILL);
	usleep(20000);
	assert_int_equal(world_syscall(world, SYS_getpid, none), -ESRCH);
	world_resume(world);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), -ESRCH);
	assert_int_equal(world_collect_late(), 0);
}

/* --- the agent --- */

static struct agent *adopt(pid_t pid, uint64_t *ret_us)
{
	struct agent *agent = NULL;
	struct world *world = NULL;
	const char *what = "";
	uint64_t start = now_us();
	int r;

	assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), 0);
	r = agent_create(world, &plain, &agent, &what);
	world_resume(world);
	*ret_us = now_us() - start;
	if (r < 0)
		fail_msg("agent_create: %s: %s", what, strerror(-r));
	return agent;
}

static void test_adoption_is_invisible(void **state)
{
	pid_t pid = start_victim(JOB_MEMORY);
	int fds = count_fds(pid);
	uint64_t took;
	struct agent *agent = adopt(pid, &took);
	struct process_info info;

	usleep(20000);
	assert_untraced(pid);
	assert_untraced(agent->pid);
	assert_int_equal(count_fds(pid), fds);
	assert_int_equal(board->sigchlds, 0);
	assert_int_equal(board->stray_children, 0);
	assert_int_equal(process_info_read(agent->pid, &info), 0);
	assert_int_equal(info.parent, getpid());
	assert_string_equal(info.name, "membox-agent");
	assert_int_equal(process_children(pid, (pid_t[1]){0}, 1), 0);
	assert_int_equal(process_same_memory(pid, agent->pid), 1);
	assert_int_equal(agent->stage1 % HUGE_PAGE_BYTES, 0);
	assert_int_equal(agent->stage2 % HUGE_PAGE_BYTES, 0);
	board->command = COMMAND_END;
	for (int i = 0; i < 1000 && !pidfd_has_exited(agent->pidfd); i++)
		usleep(1000);
	assert_true(pidfd_has_exited(agent->pidfd));
	drop(agent);
	end_victim(pid);
}

/* From world_stop to the end of world_resume; returns the median. */
/* The shortest of some: of the others a part is what else the machine does. */
static uint64_t measure_adoptions(enum job job)
{
	uint64_t times[15];

	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		pid_t pid = start_victim(job);

		drop(adopt(pid, &times[i]));
		end_victim(pid);
	}
	qsort(times, ARRAY_LEN(times), sizeof(times[0]), compare_u64);
	return times[0];
}

/* With more spinning threads than processors the last ones wait for the first to be preempted: told, not judged. */
static void test_adoption_time(void **state)
{
	uint64_t quiet = measure_adoptions(JOB_MEMORY);

	print_message("adoption: %lu us; of 9 threads, 8 of them spinning: %lu us\n", (unsigned long)quiet,
		      (unsigned long)measure_adoptions(JOB_SPIN_THREADS));
	assert_true(quiet < 5000);
}

static uint64_t count_present(pid_t pid, remote_addr_t start, uint64_t pages)
{
	_cleanup_close_ int fd = pagemap_open(pid);
	struct pagemap_query query = {.start = start, .end = start + pages * PAGE_BYTES, .require = PAGE_PRESENT, .report = PAGE_PRESENT};
	struct page_run runs[PAGES];
	uint64_t walked, nr = 0;
	int n = pagemap_scan(fd, &query, runs, PAGES, &walked);

	assert_true(n >= 0);
	for (int i = 0; i < n; i++)
		nr += (runs[i].end - runs[i].start) / PAGE_BYTES;
	return nr;
}

/* Moves the victim's area to stage 2 and reads it there. */
static void evict_area(pid_t pid, struct agent *agent, char *copy)
{
	remote_addr_t area = (remote_addr_t)(uintptr_t)board->area;
	uint64_t len = PAGES * PAGE_BYTES;
	struct agent_op ops[] = {
		{.opcode = AGENT_MOVE_IN, .dst = agent->stage1, .src = area, .len = len},
		{.opcode = AGENT_MOVE_ON, .dst = agent->stage2, .src = agent->stage1, .len = len},
	};
	struct agent_op discard = {.opcode = AGENT_DISCARD, .dst = agent->stage2, .len = len};

	assert_int_equal(agent_execute(agent, ops, 2), 0);
	assert_int_equal(ops[0].result, len);
	assert_int_equal(ops[1].result, len);
	assert_int_equal(count_present(pid, area, PAGES), 0);
	assert_int_equal(count_present(pid, agent->stage1, PAGES), 0);
	assert_int_equal(count_present(pid, agent->stage2, PAGES), PAGES);
	assert_int_equal(process_read(pid, agent->stage2, copy, len), 0);
	assert_int_equal(agent_execute(agent, &discard, 1), 0);
	assert_int_equal(discard.result, len);
	assert_int_equal(count_present(pid, agent->stage2, PAGES), 0);
}

static void wait_command(int command)
{
	int before = board->command_done;

	board->command = command;
	for (int i = 0; i < 2000 && board->command_done == before; i++)
		usleep(1000);
	assert_true(board->command_done > before);
}

static void register_area(struct agent *agent)
{
	assert_int_equal(uffd_register(agent->uffd, (remote_addr_t)(uintptr_t)board->area, PAGES * PAGE_BYTES, true), 0);
}

static void test_pages_go_out_and_come_back(void **state)
{
	pid_t pid = start_victim(JOB_MEMORY);
	uint64_t took, done;
	struct agent *agent = adopt(pid, &took);
	static char copy[PAGES * PAGE_BYTES];

	register_area(agent);
	for (int round = 0; round < 20; round++) {
		memset(copy, 0, sizeof(copy));
		evict_area(pid, agent, copy);
		for (size_t i = 0; i < PAGES; i++)
			assert_int_equal((uint8_t)copy[i * PAGE_BYTES + 17], i + 1);
		assert_false(uffd_event_pending(agent->uffd));
		assert_int_equal(uffd_copy(agent->uffd, (remote_addr_t)(uintptr_t)board->area, copy, sizeof(copy), round % 2, &done), 0);
		assert_int_equal(done, sizeof(copy));
		wait_command(COMMAND_CHECK);
		assert_int_equal(board->bad_pages, 0);
	}
	/* a sleeping agent and a sleeping keeper */
	usleep(10000);
	evict_area(pid, agent, copy);
	assert_int_equal(uffd_copy(agent->uffd, (remote_addr_t)(uintptr_t)board->area, copy, sizeof(copy), true, &done), 0);
	drop(agent);
	end_victim(pid);
}

static void test_agent_dies(void **state)
{
	pid_t pid = start_victim(JOB_MEMORY);
	uint64_t took;
	struct agent *agent = adopt(pid, &took);
	struct agent_op op = {.opcode = AGENT_DISCARD, .dst = agent->stage2, .len = PAGE_BYTES};

	kill(agent->pid, SIGSTOP);
	assert_int_equal(agent_execute(agent, &op, 1), 0);
	kill(agent->pid, SIGKILL);
	assert_int_equal(agent_execute(agent, &op, 1), -EPIPE);
	drop(agent);
	end_victim(pid);
}

/* An event that follows a system call of the victim: read for up to a second. */
static int wait_event(int uffd, struct uffd_msg *msg)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};

	return poll(&p, 1, 1000) == 1 ? uffd_read(uffd, msg, 1) : 0;
}

static void test_child_inherits(void **state)
{
	pid_t pid = start_victim(JOB_MEMORY), child;
	static char copy[PAGES * PAGE_BYTES], token[PAGE_BYTES] = "token", back[8];
	struct agent *agent, *child_agent = NULL;
	struct agent_params params = plain;
	struct world *world = NULL;
	struct uffd_msg msg;
	const char *what = "";
	uint64_t took, done;

	agent = adopt(pid, &took);
	register_area(agent);
	board->command = COMMAND_FORK;
	assert_int_equal(wait_event(agent->uffd, &msg), 1);
	assert_int_equal(msg.event, UFFD_EVENT_FORK);
	while (!board->command_done || board->child == 0)
		usleep(1000);
	child = board->child;
	params.inherited_uffd = (int)msg.arg.fork.ufd;
	params.sentinel = agent->sentinel;
	assert_int_equal(uffd_copy(params.inherited_uffd, agent->sentinel, token, sizeof(token), false, &done), 0);
	assert_int_equal(process_read(child, agent->sentinel, back, sizeof(back)), 0);
	assert_string_equal(back, "token");
	assert_int_equal(count_present(pid, agent->sentinel, 1), 0);
	assert_int_equal(process_read(child, agent->stage1 - PAGE_BYTES, back, 1), -EFAULT);
	assert_int_equal(process_read(child, agent->base, back, 1), -EFAULT);

	assert_int_equal(world_stop(child, STOP_TIMEOUT_US, &world), 0);
	assert_int_equal(agent_create(world, &params, &child_agent, &what), 0);
	world_resume(world);
	assert_int_equal(child_agent->uffd, params.inherited_uffd);
	assert_int_equal(process_same_memory(child, child_agent->pid), 1);
	{
		/* memory shared by fork cannot be moved until the sharing is broken */
		remote_addr_t area = (remote_addr_t)(uintptr_t)board->area;
		struct agent_op ops[] = {
			{.opcode = AGENT_MOVE_IN, .dst = child_agent->stage1, .src = area, .len = PAGES * PAGE_BYTES},
			{.opcode = AGENT_POPULATE_WRITE, .dst = area, .len = PAGES * PAGE_BYTES},
		};

		assert_int_equal(agent_execute(child_agent, ops, 2), 0);
		assert_int_equal(ops[0].result, -EBUSY);
		assert_int_equal(ops[1].result, PAGES * PAGE_BYTES);
	}
	evict_area(child, child_agent, copy);
	assert_int_equal(copy[5 * PAGE_BYTES], 6);
	assert_int_equal(count_present(pid, (remote_addr_t)(uintptr_t)board->area, PAGES), PAGES);
	kill(child, SIGKILL);
	drop(child_agent);
	drop(agent);
	end_victim(pid);
}

static int count_mappings(const struct mapping *m, void *context)
{
	++*(int *)context;
	return 0;
}

static void expect_failure(pid_t pid, int error)
{
	struct world *world = NULL;
	struct agent *agent = NULL;
	const char *what = NULL;
	int before = 0, after = 0, fds = count_fds(getpid());

	maps_for_each(pid, count_mappings, &before);
	assert_int_equal(world_stop(pid, STOP_TIMEOUT_US, &world), 0);
	assert_int_equal(agent_create(world, &plain, &agent, &what), error);
	print_message("refused: %s: %s\n", what, strerror(-error));
	world_resume(world);
	maps_for_each(pid, count_mappings, &after);
	assert_int_equal(before, after);
	assert_int_equal(count_fds(getpid()), fds);
	wait_command(COMMAND_CHECK);
	assert_int_equal(board->bad_pages, 0);
}

static void test_clean_failures(void **state)
{
	struct rlimit limit, old;
	pid_t pid = start_victim(JOB_MEMORY);
	struct process_memory memory;

	assert_int_equal(process_memory_read(pid, &memory), 0);
	assert_int_equal(prlimit(pid, RLIMIT_AS, NULL, &old), 0);
	limit = old;
	limit.rlim_cur = 1 << 20;
	assert_int_equal(prlimit(pid, RLIMIT_AS, &limit, NULL), 0);
	expect_failure(pid, -ENOMEM);
	assert_int_equal(prlimit(pid, RLIMIT_AS, &old, NULL), 0);
	limit = (struct rlimit){.rlim_cur = 0, .rlim_max = 0};
	assert_int_equal(prlimit(pid, RLIMIT_NOFILE, &limit, NULL), 0);
	expect_failure(pid, -EMFILE);
	end_victim(pid);
}

static void test_filtered_program_is_refused(void **state)
{
	pid_t pid;

	trait = HAS_FILTER;
	pid = start_victim(JOB_MEMORY);
	trait = AS_IT_IS;
	expect_failure(pid, -EACCES);
	end_victim(pid);
}

/* The program would inherit an orphaned agent; as a child with exit signal 0 its own waits do not see it. */
static void test_program_is_subreaper(void **state)
{
	static char copy[PAGES * PAGE_BYTES];
	struct process_info info;
	struct agent *agent;
	uint64_t took;
	pid_t pid;

	trait = IS_SUBREAPER;
	pid = start_victim(JOB_MEMORY);
	trait = AS_IT_IS;
	agent = adopt(pid, &took);
	assert_int_equal(process_info_read(agent->pid, &info), 0);
	assert_int_equal(info.parent, pid);
	register_area(agent);
	evict_area(pid, agent, copy);
	usleep(20000);
	assert_int_equal(board->sigchlds, 0);
	drop(agent);
	end_victim(pid);
}

/* Without a right of its own it uses what the keeper hands over. */
static void test_unprivileged_program(void **state)
{
	static char copy[PAGES * PAGE_BYTES];
	struct agent *agent;
	uint64_t took;
	pid_t pid;

	trait = IS_NOBODY;
	pid = start_victim(JOB_MEMORY);
	trait = AS_IT_IS;
	agent = adopt(pid, &took);
	register_area(agent);
	evict_area(pid, agent, copy);
	assert_int_equal(copy[9 * PAGE_BYTES], 10);
	drop(agent);
	end_victim(pid);
}

/* The keeper of the victim is a process of its own, which is killed while pages are out. */
static void test_keeper_death(void **state)
{
	pid_t pid = start_victim(JOB_MEMORY);
	int pidfd = pidfd_open_process(pid), ends[2];
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	pid_t keeper, agent_pid = 0;
	uint64_t start;

	assert_int_equal(pipe(ends), 0);
	keeper = fork();
	if (keeper == 0) {
		static char copy[PAGES * PAGE_BYTES];
		uint64_t took;
		struct agent *agent;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		agent = adopt(pid, &took);
		register_area(agent);
		evict_area(pid, agent, copy);
		_exit(write(ends[1], &agent->pid, sizeof(agent->pid)) == sizeof(agent->pid) ? (pause(), 0) : 1);
	}
	assert_int_equal(read(ends[0], &agent_pid, sizeof(agent_pid)), sizeof(agent_pid));
	board->command = COMMAND_CHECK;
	usleep(20000);
	start = now_us();
	kill(keeper, SIGKILL);
	assert_int_equal(poll(&p, 1, 1000), 1);
	print_message("program dead %lu us after its keeper\n", (unsigned long)(now_us() - start));
	assert_int_equal(board->command_done, 0); /* it never got past a missing page */
	for (int i = 0; i < 1000 && kill(agent_pid, 0) == 0; i++) {
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		usleep(1000);
	}
	assert_int_not_equal(kill(agent_pid, 0), 0);
	close(ends[0]);
	close(ends[1]);
	close(pidfd);
	end_victim(pid);
}

/* --- */

static int skip_reason(const char **ret_why)
{
	long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int r;

	*ret_why = "userfaultfd(2) is not allowed (root or vm.unprivileged_userfaultfd=1)";
	if (fd < 0)
		return -errno;
	*ret_why = "the kernel lacks UFFDIO_MOVE or WP_ASYNC (Linux 6.8), or events need CAP_SYS_PTRACE";
	r = uffd_api((int)fd, UFFD_PROGRAM_FEATURES);
	close((int)fd);
	return r;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_calls_survive_a_stop),
		cmocka_unit_test(test_calls_survive_an_injection),
		cmocka_unit_test(test_stop_time),
		cmocka_unit_test(test_leader_has_exited),
		cmocka_unit_test(test_kernel_worker),
		cmocka_unit_test(test_job_control),
		cmocka_unit_test(test_late_stopper),
		cmocka_unit_test(test_death_while_held),
		cmocka_unit_test(test_adoption_is_invisible),
		cmocka_unit_test(test_adoption_time),
		cmocka_unit_test(test_pages_go_out_and_come_back),
		cmocka_unit_test(test_agent_dies),
		cmocka_unit_test(test_child_inherits),
		cmocka_unit_test(test_clean_failures),
		cmocka_unit_test(test_filtered_program_is_refused),
		cmocka_unit_test(test_program_is_subreaper),
		cmocka_unit_test(test_unprivileged_program),
		cmocka_unit_test(test_keeper_death),
	};
	const char *why;
	int r = skip_reason(&why);

	if (r < 0) {
		printf("skipped: %s: %s\n", why, strerror(-r));
		return 77;
	}
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
