#include "inject/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "inject/agent_blob.h"
#include "inject/ring.h"
#include "platform/process.h"
#include "platform/userfaultfd.h"

/* Offsets in the region; the stages follow at the next 2 MiB boundary. */
#define CODE_BYTES 8192
#define BOOT_OFFSET CODE_BYTES
#define STACK_OFFSET (BOOT_OFFSET + PAGE_BYTES)
#define STACK_BYTES 32768 /* the lower half for the first task, the upper for the agent */
#define RING_OFFSET (STACK_OFFSET + STACK_BYTES + PAGE_BYTES)
#define RING_BYTES 65536
#define BOOT_TIMEOUT_NS 2000000000ull
#define SPIN_ROUNDS 4000 /* pauses while waiting for the agent, before futex */

_Static_assert(sizeof(struct agent_ring) <= RING_BYTES, "the ring does not fit");
_Static_assert(sizeof(struct agent_boot) <= PAGE_BYTES, "the boot page does not fit");

static const char *const step_names[] = {
	[STEP_SOCKET] = "socketpair in the agent",     [STEP_PIDFD] = "pidfd_open in the agent",
	[STEP_USERFAULTFD] = "userfaultfd",            [STEP_RECEIVE] = "handing over the userfaultfd",
	[STEP_MEMFD] = "memfd_create in the agent",    [STEP_MAP_RING] = "mapping the agent's ring",
	[STEP_MAP_STAGE] = "mapping the agent's stage", [STEP_SENTINEL] = "mapping the agent's sentinel",
};

struct creation {
	struct world *world;
	const struct agent_params *params;
	struct agent *agent;
	remote_addr_t boot_addr;
	struct agent_boot boot; /* our copy */
	const char *what;
};

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
	__asm__ volatile("pause");
#else
	__asm__ volatile("yield");
#endif
}

static long remote_mmap(struct world *world, remote_addr_t address, uint64_t len, int protection, int flags)
{
	return world_syscall(world, SYS_mmap,
			     (uint64_t[6]){address, len, (uint64_t)protection, (uint64_t)flags, (uint64_t)-1, 0});
}

/* One reservation; code and boot page readable and writable until the code is in. */
static int reserve_region(struct creation *c)
{
	struct agent *a = c->agent;
	uint64_t stage_bytes = (uint64_t)c->params->stage_pages * PAGE_BYTES;
	uint64_t stage_room = (stage_bytes + HUGE_PAGE_BYTES) & ~(HUGE_PAGE_BYTES - 1); /* at least a guard page behind each */
	if (stage_room == stage_bytes)
		stage_room += HUGE_PAGE_BYTES;
	c->what = "reserving address space";
	a->size = 2 * HUGE_PAGE_BYTES + 2 * stage_room;
	long base = remote_mmap(c->world, 0, a->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
	if (base < 0 && base > -4096)
		return (int)base;
	a->base = (remote_addr_t)base;
	a->stage1 = (a->base + RING_OFFSET + RING_BYTES + HUGE_PAGE_BYTES) & ~(HUGE_PAGE_BYTES - 1);
	a->stage2 = a->stage1 + stage_room;
	a->stage_pages = c->params->stage_pages;
	long r = remote_mmap(c->world, a->base, STACK_OFFSET + STACK_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED);
	return r < 0 && r > -4096 ? (int)r : 0;
}

static int write_code_and_boot(struct creation *c)
{
	struct agent *a = c->agent;
	size_t code = (size_t)(__stop_membox_agent - __start_membox_agent);
	c->what = "writing the agent's code";
	c->boot_addr = a->base + BOOT_OFFSET;
	c->boot = (struct agent_boot){.base = a->base,
				      .size = a->size,
				      .ring = a->base + RING_OFFSET,
				      .ring_bytes = RING_BYTES,
				      .stage1 = a->stage1,
				      .stage2 = a->stage2,
				      .stage_bytes = (uint64_t)a->stage_pages * PAGE_BYTES,
				      .agent_stack_top = a->base + STACK_OFFSET + STACK_BYTES,
				      .sentinel = c->params->sentinel,
				      .target_pid = world_pid(c->world),
				      .is_inherited = c->params->inherited_uffd >= 0};
	int r = code <= CODE_BYTES ? process_write(world_pid(c->world), a->base, __start_membox_agent, code) : -E2BIG;
	if (r == 0)
		r = process_write(world_pid(c->world), c->boot_addr, &c->boot, sizeof(c->boot));
	if (r < 0)
		return r;
	return (int)world_syscall(c->world, SYS_mprotect, (uint64_t[6]){a->base, CODE_BYTES, PROT_READ | PROT_EXEC});
}

/*
 * Double clone: the first task is a child of the program with exit signal 0, waited for here with __WALL, so neither a zombie nor a
 * SIGCHLD is seen; the agent is its child and comes to the nearest subreaper, the keeper (FACTS section 3).
 */
static int clone_tasks(struct creation *c)
{
	struct agent *a = c->agent;
	uint64_t stack = a->base + STACK_OFFSET + STACK_BYTES / 2;
	c->what = "making the agent";
	uint64_t entry = a->base + (uint64_t)(agent_blob_entry - __start_membox_agent);
	long first = world_syscall_at(c->world, entry, SYS_clone, (uint64_t[6]){CLONE_VM | CLONE_VFORK, stack, 0, 0, 0, c->boot_addr});
	if (first < 0)
		return (int)first;
	world_syscall(c->world, SYS_wait4, (uint64_t[6]){(uint64_t)first, 0, __WALL, 0});
	return 0;
}

static int read_boot(struct creation *c)
{
	return process_read(world_pid(c->world), c->boot_addr, &c->boot, sizeof(c->boot));
}

/* Waits until the agent has gone on from the state answered last; 0 with c->boot fresh, or -errno. */
static int wait_for_progress(struct creation *c, uint32_t answered)
{
	uint64_t deadline = now_ns() + BOOT_TIMEOUT_NS;
	for (;;) {
		int r = read_boot(c);
		if (r < 0)
			return r;
		if (c->boot.state == BOOT_FAILED) {
			c->what = c->boot.failed_step < ARRAY_LEN(step_names) ? step_names[c->boot.failed_step] : "the agent";
			return c->boot.error < 0 ? c->boot.error : -EIO;
		}
		if (c->boot.state > answered)
			return 0;
		if (now_ns() > deadline)
			return -ETIMEDOUT;
		struct timespec nap = {.tv_nsec = 10000};
		nanosleep(&nap, NULL);
	}
}

static int answer(struct creation *c, uint32_t state)
{
	return process_write(world_pid(c->world), c->boot_addr + offsetof(struct agent_boot, proceed), &state, sizeof(state));
}

static int send_fd(int socket, int fd)
{
	char byte = 0;
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof(control.space)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The agent may not call userfaultfd(2): the device's permissions may still allow it. */
static int lend_device(struct creation *c)
{
	_cleanup_close_ int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	c->what = "userfaultfd (run `membox doctor`)";
	return device < 0 ? -EPERM : send_fd(c->agent->doorbell, device);
}

static int take_fd(struct creation *c, int number, int *ret_fd)
{
	int fd = pidfd_take_fd(c->agent->pidfd, number);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return 0;
}

static int greet(struct creation *c)
{
	struct agent *a = c->agent;
	a->pid = c->boot.pid;
	a->pidfd = pidfd_open_process(a->pid);
	return a->pidfd < 0 ? a->pidfd : take_fd(c, c->boot.keeper_socket, &a->doorbell);
}

/* Answers the agent step by step until it is ready. */
static int boot_agent(struct creation *c)
{
	uint32_t answered = BOOT_NONE;
	for (;;) {
		c->what = "starting the agent";
		int r = wait_for_progress(c, answered);
		if (r < 0 || c->boot.state == BOOT_READY)
			return r;
		answered = c->boot.state;
		if (answered == BOOT_HELLO)
			r = greet(c);
		else if (answered == BOOT_NEED_DEVICE)
			r = lend_device(c);
		else if (answered == BOOT_NEED_INHERITED)
			r = send_fd(c->agent->doorbell, c->params->inherited_uffd);
		if (r == 0)
			r = answer(c, answered);
		if (r < 0)
			return r;
	}
}

static int share_ring(struct creation *c)
{
	_cleanup_close_ int memfd = -1;
	c->what = "mapping the agent's ring";
	int r = take_fd(c, c->boot.memfd, &memfd);
	if (r < 0)
		return r;
	void *ring = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (ring == MAP_FAILED)
		return -errno;
	c->agent->ring = ring;
	return 0;
}

static int set_up_userfaultfds(struct creation *c)
{
	struct agent *a = c->agent;
	uint64_t stage_bytes = (uint64_t)a->stage_pages * PAGE_BYTES;
	bool inherited = c->params->inherited_uffd >= 0;
	a->sentinel = c->boot.sentinel;
	c->what = "taking the userfaultfds";
	int r = take_fd(c, c->boot.stage_uffd, &a->stage_uffd);
	if (r == 0 && !inherited)
		r = take_fd(c, c->boot.uffd, &a->uffd);
	c->what = "userfaultfd features (Linux 6.8 or newer is needed)";
	if (r == 0)
		r = uffd_api(a->stage_uffd, UFFD_FEATURE_MOVE);
	if (r == 0 && !inherited)
		r = uffd_api(a->uffd, UFFD_PROGRAM_FEATURES);
	int program_uffd = inherited ? c->params->inherited_uffd : a->uffd;
	c->what = "registering the staging ranges";
	if (r == 0)
		r = uffd_register(program_uffd, a->stage1, stage_bytes, true);
	if (r == 0 && !inherited)
		r = uffd_register(program_uffd, a->sentinel, PAGE_BYTES, true);
	if (r == 0)
		r = uffd_register(a->stage_uffd, a->stage2, stage_bytes, false);
	return r;
}

static void close_all(struct agent *a)
{
	int fds[] = {a->pidfd, a->stage_uffd, a->doorbell};
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (a->ring)
		munmap(a->ring, RING_BYTES);
	free(a);
}

/* Nothing of it stays in the process. */
static void undo(struct creation *c)
{
	struct agent *a = c->agent;
	if (a->pidfd >= 0) {
		pidfd_kill(a->pidfd, SIGKILL);
		for (int i = 0; i < 1000 && !pidfd_has_exited(a->pidfd); i++)
			usleep(100);
	}
	if (a->base)
		world_syscall(c->world, SYS_munmap, (uint64_t[6]){a->base, a->size});
	if (c->boot.sentinel && !c->params->sentinel)
		world_syscall(c->world, SYS_munmap, (uint64_t[6]){c->boot.sentinel, PAGE_BYTES});
	if (a->uffd >= 0)
		close(a->uffd);
	close_all(a);
}

int agent_create(struct world *world, const struct agent_params *params, struct agent **ret_agent, const char **ret_what)
{
	struct creation c = {.world = world, .params = params};
	c.agent = calloc(1, sizeof(*c.agent));
	*ret_what = "memory for the agent";
	if (!c.agent)
		return -ENOMEM;
	c.agent->pidfd = c.agent->uffd = c.agent->stage_uffd = c.agent->doorbell = -1;
	int r = reserve_region(&c);
	if (r == 0)
		r = write_code_and_boot(&c);
	if (r == 0)
		r = clone_tasks(&c);
	if (r == 0)
		r = boot_agent(&c);
	if (r == 0)
		r = share_ring(&c);
	if (r == 0)
		r = set_up_userfaultfds(&c);
	if (r == 0)
		r = answer(&c, BOOT_READY);
	if (r < 0) {
		*ret_what = c.what;
		undo(&c);
		return r;
	}
	*ret_agent = c.agent;
	return 0;
}

static void ring_doorbell(struct agent *agent)
{
	char byte = 0;
	if (atomic_load(&agent->ring->sleeping) && send(agent->doorbell, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("agent %d: doorbell: errno %d", agent->pid, errno);
}

/* 0 when done reached the number, -EPIPE when the agent is dead. */
static int wait_done(struct agent *agent, uint32_t number)
{
	struct agent_ring *ring = agent->ring;
	for (int i = 0; i < SPIN_ROUNDS; i++) {
		if (atomic_load_explicit(&ring->done, memory_order_acquire) == number)
			return 0;
		pause_cpu();
	}
	for (;;) {
		struct timespec slice = {.tv_nsec = 5000000};
		atomic_store(&ring->keeper_waits, 1);
		uint32_t done = atomic_load(&ring->done);
		if (done != number)
			syscall(SYS_futex, &ring->done, FUTEX_WAIT, done, &slice, NULL, 0);
		atomic_store(&ring->keeper_waits, 0);
		if (atomic_load_explicit(&ring->done, memory_order_acquire) == number)
			return 0;
		if (pidfd_has_exited(agent->pidfd))
			return -EPIPE;
		ring_doorbell(agent);
	}
}

int agent_execute(struct agent *agent, struct agent_op *ops, uint32_t nr)
{
	struct agent_ring *ring = agent->ring;
	nr = MIN_OF(nr, (uint32_t)AGENT_MAX_OPS);
	memcpy(ring->ops, ops, nr * sizeof(*ops));
	ring->nr_ops = nr;
	uint32_t number = atomic_load(&ring->request) + 1;
	atomic_store(&ring->request, number);
	ring_doorbell(agent);
	int r = wait_done(agent, number);
	for (uint32_t i = 0; r == 0 && i < nr; i++)
		ops[i].result = ring->ops[i].result;
	return r;
}

void agent_release(struct agent *agent)
{
	struct agent_ring *ring = agent->ring;
	ring->ops[0] = (struct agent_op){.opcode = AGENT_QUIT};
	ring->nr_ops = 1;
	atomic_fetch_add(&ring->request, 1);
	ring_doorbell(agent);
	/*
	 * Should it not see the request before the doorbell closes, it takes the hangup for the keeper's death and kills its target: that is gone
	 * already when an agent is released. But an address space given up by exec still has a live process: wait for the agent's end.
	 */
	for (int i = 0; i < 1000 && !pidfd_has_exited(agent->pidfd); i++)
		usleep(20);
	if (!pidfd_has_exited(agent->pidfd))
		pidfd_kill(agent->pidfd, SIGKILL);
	close_all(agent);
}
