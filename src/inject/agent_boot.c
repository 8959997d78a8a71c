/* How an agent comes to be; agent.h is the interface. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/monotonic.h"
#include "inject/agent.h"
#include "inject/raw_syscall.h"
#include "inject/ring.h"
#include "inject/tracee.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "platform/userfaultfd.h"


/*
 * Where the region is asked for: far from where the kernel puts mappings of its own choice. A program that maps again, at a fixed
 * address, where it has unmapped something must not find the agent there. Each process asks for another place, because a fork's child
 * still has its parent's sentinel.
 */
#define REGION_HINT UINT64_C(0x200000000000)
#define REGION_SPACING (UINT64_C(64) << 20)
#define STACK_BYTES (4 * PAGE_BYTES)
#define AGENT_SPIN_US 60
#define AGENT_SPIN_PROCESSORS 4 /* with fewer somebody else needs the one that spins */
#define BOOT_TIMEOUT_MS 5000
#define MAX_SIBLINGS 256 /* children of the reaper in which the agent is looked for first */
#define DEATH_TIMEOUT_MS 2000

/* The agent's code, as the linker gathered it (agent_blob.c and agent_entry.S). */
extern const char __start_membox_agent[], __stop_membox_agent[];
extern const char membox_agent_entry[], membox_agent_direct_entry[];

/* An agent that is being made. What is here is undone when a step fails. */
struct birth {
	struct world *world;
	pid_t memory; /* the thread by which memory is reached, see world_thread() */
	const struct agent_params *params;
	struct agent *agent;
	struct agent_boot boot;
	remote_addr_t code, boot_page, stack_top;
	int program_pidfd, memfd, device;
	const char *what;
};

/* How many pauses fill a time: they cost 3 to 150 cycles, depending on the processor. */
static uint32_t pauses_in(uint64_t us)
{
	static uint32_t pauses_per_ms;

	if (!pauses_per_ms) {
		uint64_t start = monotonic_ns(), taken;

		for (int i = 0; i < 1000; i++)
			cpu_pause();
		taken = MAX_OF(monotonic_ns() - start, (uint64_t)1);
		pauses_per_ms = (uint32_t)(1000000000 / taken);
	}
	return (uint32_t)(pauses_per_ms * us / 1000) + 1;
}

static size_t code_bytes(void)
{
	return (size_t)(__stop_membox_agent - __start_membox_agent);
}

static long remote3(struct birth *birth, long number, uint64_t a, uint64_t b, uint64_t c)
{
	const uint64_t args[6] = {a, b, c};

	return world_syscall(birth->world, number, args);
}

static unsigned long seccomp_figure(const char *status, const char *key)
{
	const char *at = strstr(status, key);

	return at ? strtoul(at + strlen(key), NULL, 10) : 0;
}

/* Seccomp mode and number of filters of a process; filters it shares with us judge us in the same way. */
static unsigned long seccomp_filters(const char *pid)
{
	_cleanup_close_ int fd = -1;
	char path[48], status[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%s/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, status, sizeof(status) - 1);
	if (n < 0)
		return 0;
	status[n] = '\0';
	if (seccomp_figure(status, "\nSeccomp:") == 1)
		return ~0UL;
	return seccomp_figure(status, "\nSeccomp_filters:");
}

static int check_seccomp(struct birth *birth)
{
	char pid[16];

	birth->what = "seccomp filter of the program";
	snprintf(pid, sizeof(pid), "%d", world_pid(birth->world));
	return seccomp_filters(pid) > seccomp_filters("self") ? -EACCES : 0;
}

static uint64_t huge_ceil(uint64_t addr)
{
	return (addr + HUGE_PAGE_BYTES - 1) & ~(uint64_t)(HUGE_PAGE_BYTES - 1);
}

/* Reserves the region and lays it out; see agent.h. The reservation is large enough for stages aligned to huge pages. */
static int reserve_region(struct birth *birth)
{
	struct agent_boot *boot = &birth->boot;
	uint64_t code = page_ceil(code_bytes());
	uint64_t head = code + PAGE_BYTES + STACK_BYTES + page_ceil(sizeof(struct agent_ring)) + (birth->params->stamped ? 4 : 3) * PAGE_BYTES;
	uint64_t hint = REGION_HINT + REGION_SPACING * ((uint64_t)world_pid(birth->world) & 0xffff);
	uint64_t args[6] = {hint, 0, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, (uint64_t)-1, 0};
	long r;

	birth->what = "reservation of the agent's memory";
	boot->stage_bytes = (uint64_t)birth->params->stage_pages * PAGE_BYTES;
	boot->size = head + 2 * (HUGE_PAGE_BYTES + boot->stage_bytes + PAGE_BYTES);
	args[1] = boot->size;
	r = world_syscall(birth->world, SYS_mmap, args);
	if (r < 0 && r > -4096)
		return (int)r;
	boot->base = (uint64_t)r;
	birth->code = boot->base;
	birth->boot_page = birth->code + code;
	birth->stack_top = birth->boot_page + PAGE_BYTES + STACK_BYTES;
	boot->ring = birth->stack_top;
	boot->ring_bytes = page_ceil(sizeof(struct agent_ring));
	boot->sentinel = birth->params->inherited_uffd < 0 ? boot->ring + boot->ring_bytes + PAGE_BYTES : 0;
	boot->stamp = birth->params->stamped ? boot->sentinel + PAGE_BYTES : 0;
	boot->stage1 = huge_ceil(boot->base + head);
	boot->stage2 = huge_ceil(boot->stage1 + boot->stage_bytes + PAGE_BYTES);
	return 0;
}

static void fill_boot_page(struct birth *birth)
{
	struct agent_boot *boot = &birth->boot;

	_Static_assert(sizeof(*boot) <= PAGE_BYTES, "one page");
	boot->spin_loops = pauses_in(scheduling_nr_processors() >= AGENT_SPIN_PROCESSORS ? AGENT_SPIN_US : 1);
	boot->has_device = birth->device >= 0;
	boot->has_inherited = birth->params->inherited_uffd >= 0;
	strcpy(boot->name, "membox-agent");
	strcpy(boot->root, "/");
	_Static_assert(sizeof(cpu_set_t) == sizeof(boot->affinity), "1024 processors");
	if (sched_getaffinity(0, sizeof(cpu_set_t), (cpu_set_t *)boot->affinity) < 0)
		memset(boot->affinity, 0xff, sizeof(boot->affinity));
}

static int place_code(struct birth *birth)
{
	long r;

	birth->what = "placing the agent's code";
	r = remote3(birth, SYS_mprotect, birth->code, birth->stack_top - birth->code, PROT_READ | PROT_WRITE);
	if (!r)
		r = process_write(birth->memory, birth->code, __start_membox_agent, code_bytes());
	if (!r)
		r = process_write(birth->memory, birth->boot_page, &birth->boot, sizeof(birth->boot));
	if (!r)
		r = remote3(birth, SYS_mprotect, birth->code, birth->boot_page - birth->code, PROT_READ | PROT_EXEC);
	return (int)r;
}

static remote_addr_t remote_code(const struct birth *birth, const char *here)
{
	return birth->code + (uint64_t)(here - __start_membox_agent);
}

/* The agent as a child of the thread that lends itself; its exit signal is 0, so the program's own waits do not see it. */
static long clone_direct(struct birth *birth)
{
	const uint64_t args[6] = {CLONE_VM, birth->stack_top, birth->boot_page};

	return world_syscall_at(birth->world, remote_code(birth, membox_agent_direct_entry), SYS_clone, args);
}

/*
 * Double clone: a short-lived task makes the agent and ends, so that the agent passes to the nearest child subreaper. CLONE_VFORK holds
 * the thread until the task has ended; it is reaped in the same breath. It runs on the lower half of the agent's stack.
 */
static long clone_orphan(struct birth *birth)
{
	const uint64_t args[6] = {CLONE_VM | CLONE_VFORK, birth->stack_top - STACK_BYTES / 2, birth->boot_page, 0, 0, birth->stack_top};
	uint64_t wait_args[6] = {0, 0, __WALL, 0};
	int64_t pid = 0;
	long r = world_syscall_at(birth->world, remote_code(birth, membox_agent_entry), SYS_clone, args);

	if (r < 0)
		return r;
	wait_args[0] = (uint64_t)r;
	r = world_syscall(birth->world, SYS_wait4, wait_args);
	if (r < 0)
		return r;
	r = process_read(birth->memory, birth->boot_page + offsetof(struct agent_boot, agent_pid), &pid, sizeof(pid));
	return r < 0 ? r : pid == 0 ? -ECHILD : (long)pid;
}

/* Kills an agent that is not wanted and waits until its memory is let go; reaps it when it is our child. */
static void kill_agent(struct agent *agent)
{
	uint64_t deadline = monotonic_ns() + DEATH_TIMEOUT_MS * 1000000ull;
	unsigned int rounds = 0;

	pidfd_kill(agent->pidfd, SIGKILL);
	while (!pidfd_has_exited(agent->pidfd) && monotonic_ns() < deadline)
		poll_nap(&rounds);
	waitpid(agent->pid, NULL, WNOHANG | __WALL);
	close(agent->pidfd);
	agent->pidfd = -1;
	agent->pid = 0;
}

/* True when the program is a descendant of this process. One that membox has not started (attach) is not. */
static bool is_descendant(pid_t program)
{
	struct process_info info = {.parent = program};

	while (info.parent > 1 && info.parent != getpid())
		if (process_info_read(info.parent, &info) < 0)
			return true;
	return info.parent == getpid();
}

/*
 * True when another subreaper, a process of the container or the program itself, has become the agent's parent: it would meet a child
 * that it has not made.
 */
static bool is_strange_child(pid_t program, pid_t agent, pid_t reaper)
{
	struct process_info info;
	bool between = false;
	pid_t parent, p;

	if (process_info_read(agent, &info) < 0 || info.parent == getpid() || info.parent == reaper)
		return false;
	parent = info.parent;
	for (p = program; p > 1 && p != getpid(); p = info.parent) {
		between = between || p == parent;
		if (process_info_read(p, &info) < 0)
			return false;
	}
	return between && (p == getpid() || parent == program);
}

/* True when p is the task that the program knows as inner and with which it shares its memory. */
static bool is_sharer(pid_t p, pid_t program, pid_t inner)
{
	return p > 0 && p != program && process_innermost_pid(p) == inner && process_same_memory(p, program) == 1;
}

/*
 * Our number for the task that the program knows as inner: the same, unless the program lives in a pid namespace of its own. Then it is
 * looked for where it should be, and at last everywhere. The number came through the program's memory, so it is checked in any case.
 */
static pid_t find_sharer(pid_t program, pid_t inner, pid_t reaper)
{
	_cleanup_closedir_ DIR *proc = NULL;
	pid_t children[MAX_SIBLINGS];
	struct dirent *entry;
	int nr;

	if (is_sharer(inner, program, inner))
		return inner;
	nr = reaper ? process_children(reaper, children, MAX_SIBLINGS) : 0;
	for (int i = nr - 1; i >= 0; i--) /* the newest is the last */
		if (is_sharer(children[i], program, inner))
			return children[i];
	proc = opendir("/proc");
	while (proc && (entry = readdir(proc))) {
		pid_t p = (pid_t)strtol(entry->d_name, NULL, 10);

		if (is_sharer(p, program, inner))
			return p;
	}
	return -ESRCH;
}

static int adopt_child(struct birth *birth, long pid)
{
	struct agent *agent = birth->agent;

	if (pid < 0)
		return (int)pid;
	agent->inner_pid = (pid_t)pid;
	agent->pid = find_sharer(birth->memory, agent->inner_pid, birth->params->reaper);
	if (agent->pid < 0)
		return agent->pid;
	agent->pidfd = pidfd_open_process(agent->pid);
	if (agent->pidfd < 0) /* it would wait for us until its patience ends */
		kill(agent->pid, SIGKILL);
	scheduling_prefer_latency_of(agent->pid); /* whoever waits for it holds the lock that the program's faults wait for */
	return agent->pidfd < 0 ? agent->pidfd : 0;
}

/* Asked beforehand, because an orphan that turns out to be the program's would be seen by it. The answer goes through the boot page. */
static bool program_is_subreaper(struct birth *birth)
{
	int answer = 0;

	if (remote3(birth, SYS_prctl, PR_GET_CHILD_SUBREAPER, birth->boot_page, 0) < 0)
		return false;
	return process_read(birth->memory, birth->boot_page, &answer, sizeof(answer)) == 0 && answer;
}

static int make_task(struct birth *birth)
{
	int r;

	birth->what = "clone of the agent";
	/* An orphan would go to the program itself, or to a stranger that waits for its own children. */
	if (program_is_subreaper(birth) || !is_descendant(world_pid(birth->world)))
		return adopt_child(birth, clone_direct(birth));
	r = adopt_child(birth, clone_orphan(birth));
	if (r < 0 || !is_strange_child(world_pid(birth->world), birth->agent->pid, birth->params->reaper))
		return r;
	kill_agent(birth->agent);
	r = process_write(birth->memory, birth->boot_page, &birth->boot, sizeof(birth->boot));
	return r < 0 ? r : adopt_child(birth, clone_direct(birth));
}

/* The copy is not one load: what was written before the progress is read after it, not with it. */
static int read_report(struct birth *birth)
{
	struct agent_boot_report *report = &birth->boot.report, rest;
	const remote_addr_t at = birth->boot_page + offsetof(struct agent_boot, report);
	int r = process_read(birth->memory, at + offsetof(struct agent_boot_report, progress), &report->progress, sizeof(report->progress));

	if (r == 0)
		r = process_read(birth->memory, at, &rest, sizeof(rest));
	if (r < 0)
		return r;
	rest.progress = report->progress;
	*report = rest;
	return 0;
}

/* Waits until the agent has come as far as wanted; its own error when it says so. */
static int wait_progress(struct birth *birth, uint32_t wanted)
{
	static const char *const steps[] = {
		[0] = "start of the agent",
		[AGENT_STEP_SOCKET] = "socketpair of the agent",
		[AGENT_STEP_RECEIVE] = "handshake with the agent",
		[AGENT_STEP_RING] = "mapping of the agent's ring",
		[AGENT_STEP_MAPPINGS] = "mapping of the staging ranges",
		[AGENT_STEP_USERFAULTFD] = "userfaultfd",
	};
	struct agent_boot_report *report = &birth->boot.report;
	uint64_t deadline = monotonic_ns() + BOOT_TIMEOUT_MS * 1000000ull;
	unsigned int rounds = 0;

	birth->what = steps[0];
	for (;;) {
		int r = read_report(birth);

		if (r < 0)
			return r;
		if (report->progress == AGENT_FAILED) {
			birth->what = steps[report->step < ARRAY_LEN(steps) ? report->step : 0];
			return report->error < 0 ? report->error : -EPROTO;
		}
		if (report->progress >= wanted)
			return 0;
		if (pidfd_has_exited(birth->agent->pidfd))
			return -EPIPE;
		if (monotonic_ns() > deadline)
			return -ETIMEDOUT;
		poll_nap(&rounds);
	}
}

/*
 * The ring's file cannot be made smaller: the keeper would die of SIGBUS. It belongs to the keeper, not to the program's limits.
 */
static int make_ring(struct birth *birth)
{
	void *ring;

	birth->what = "memory of the agent's ring";
	birth->memfd = memfd_create("membox-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (birth->memfd < 0 || ftruncate(birth->memfd, (off_t)birth->boot.ring_bytes) < 0 ||
	    fcntl(birth->memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	ring = mmap(NULL, birth->boot.ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, birth->memfd, 0);
	if (ring == MAP_FAILED)
		return -errno;
	birth->agent->ring = ring;
	return 0;
}

static int send_descriptors(struct birth *birth)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int) * AGENT_BOOT_MAX_FDS)];
	} control = {0};
	int fds[AGENT_BOOT_MAX_FDS] = {birth->program_pidfd, birth->memfd};
	size_t nr = 2;
	struct iovec iov = {.iov_base = (char[]){0}, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control};

	birth->what = "handshake with the agent";
	birth->agent->doorbell = pidfd_take_fd(birth->agent->pidfd, birth->boot.report.keeper_socket);
	if (birth->agent->doorbell < 0)
		return birth->agent->doorbell;
	if (birth->boot.has_device)
		fds[nr++] = birth->device;
	if (birth->boot.has_inherited)
		fds[nr++] = birth->params->inherited_uffd;
	msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
	control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(nr * sizeof(int))};
	memcpy(CMSG_DATA(&control.header), fds, nr * sizeof(int));
	return sendmsg(birth->agent->doorbell, &msg, MSG_NOSIGNAL) == 1 ? 0 : -errno;
}

static int take_userfaultfds(struct birth *birth)
{
	struct agent *agent = birth->agent;

	birth->what = "taking the agent's userfaultfd";
	agent->stage_uffd = pidfd_take_fd(agent->pidfd, birth->boot.report.stage_uffd);
	if (agent->stage_uffd < 0)
		return agent->stage_uffd;
	if (birth->boot.has_inherited) {
		agent->uffd = birth->params->inherited_uffd;
		return 0;
	}
	agent->uffd = pidfd_take_fd(agent->pidfd, birth->boot.report.uffd);
	return agent->uffd < 0 ? agent->uffd : 0;
}

static int register_ranges(struct birth *birth)
{
	const struct agent_boot *boot = &birth->boot;
	struct agent *agent = birth->agent;
	int r = 0;

	birth->what = "UFFDIO_API";
	if (!boot->has_inherited)
		r = uffd_api(agent->uffd, boot->stamp ? UFFD_FORKLESS_FEATURES : UFFD_PROGRAM_FEATURES);
	if (!r)
		r = uffd_api(agent->stage_uffd, UFFD_FEATURE_MOVE);
	if (r < 0)
		return r;
	birth->what = "UFFDIO_REGISTER";
	r = uffd_register(agent->uffd, boot->stage1, boot->stage_bytes, true);
	if (!r)
		r = uffd_register(agent->stage_uffd, boot->stage2, boot->stage_bytes, false);
	if (!r && boot->sentinel)
		r = uffd_register(agent->uffd, boot->sentinel, PAGE_BYTES, true);
	return r;
}

static int run_birth(struct birth *birth)
{
	int (*const steps[])(struct birth *) = {check_seccomp, reserve_region, make_ring};
	struct scheduling usual;
	int r = 0;

	world_go_first(birth->world);
	scheduling_read(birth->memory, &usual);
	for (size_t i = 0; i < ARRAY_LEN(steps) && !r; i++)
		r = steps[i](birth);
	if (r < 0)
		return r;
	fill_boot_page(birth);
	r = place_code(birth);
	if (!r)
		r = make_task(birth);
	FAULT_POINT_OF("agent.born", birth->agent->pid);
	if (!r)
		r = wait_progress(birth, AGENT_HAS_SOCKET);
	if (!r)
		r = send_descriptors(birth);
	if (!r)
		r = wait_progress(birth, AGENT_READY);
	if (!r)
		scheduling_put_back(birth->agent->pid, &usual); /* all wait for its birth, nobody for the rest of its life */
	FAULT_POINT_OF("agent.ready", birth->agent->pid);
	if (!r)
		r = take_userfaultfds(birth);
	return r ? r : register_ranges(birth);
}

static void undo_birth(struct birth *birth)
{
	struct agent *agent = birth->agent;

	if (agent->pidfd >= 0)
		kill_agent(agent);
	if (agent->uffd >= 0 && !birth->boot.has_inherited)
		close(agent->uffd);
	if (agent->stage_uffd >= 0)
		close(agent->stage_uffd);
	if (agent->doorbell >= 0)
		close(agent->doorbell);
	if (agent->ring)
		munmap(agent->ring, birth->boot.ring_bytes);
	if (birth->boot.base)
		remote3(birth, SYS_munmap, birth->boot.base, birth->boot.size, 0);
	free(agent);
}

static void fill_agent(struct birth *birth)
{
	struct agent *agent = birth->agent;

	agent->base = birth->boot.base;
	agent->size = birth->boot.size;
	agent->stage1 = birth->boot.stage1;
	agent->stage2 = birth->boot.stage2;
	agent->stamp = birth->boot.stamp;
	agent->stage_pages = birth->params->stage_pages;
	agent->sentinel = birth->boot.sentinel ? birth->boot.sentinel : birth->params->sentinel;
}

int agent_create(struct world *world, const struct agent_params *params, struct agent **ret_agent, const char **ret_what)
{
	_cleanup_close_ int program_pidfd = pidfd_open_process(world_pid(world));
	_cleanup_close_ int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	struct agent *agent = calloc(1, sizeof(*agent));
	struct birth birth = {.world = world, .memory = world_thread(world), .params = params, .agent = agent, .program_pidfd = program_pidfd, .memfd = -1,
			      .device = device, .what = "pidfd_open"};
	int r;

	if (!agent) {
		*ret_what = "memory of the agent's ring";
		return -ENOMEM;
	}
	agent->pidfd = agent->uffd = agent->stage_uffd = agent->doorbell = agent->ring_fd = -1;
	r = birth.memory < 0 ? birth.memory : program_pidfd;
	if (r >= 0)
		r = run_birth(&birth);
	if (r < 0) {
		if (birth.memfd >= 0)
			close(birth.memfd);
		undo_birth(&birth);
		*ret_what = birth.what;
		return r;
	}
	agent->ring_fd = birth.memfd;
	fill_agent(&birth);
	*ret_agent = agent;
	return 0;
}
