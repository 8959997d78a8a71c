/*
 * The agent's own code. It is copied into the target and runs there, at another address and without a C library: no global data, no
 * string or other constant in memory, no call of a function outside of section membox_agent, no thread-local storage. Everything it
 * needs comes in struct agent_boot.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include "inject/raw_syscall.h"
#include "inject/ring.h"
#include "platform/userfaultfd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define HELPER static inline __attribute__((always_inline))
#define BOOT_TIMEOUT_MS 10000
#define HELD_NAP_MS 1

struct agent_state {
	struct agent_boot *boot;
	struct agent_ring *ring;
	int keeper;  /* our end of the socket: doorbell and lifeline */
	int program; /* pidfd of the process we serve */
	int device;  /* /dev/userfaultfd or -1 */
	int uffd, stage_uffd;
};

HELPER long call0(long n)
{
	return raw_syscall(n, 0, 0, 0, 0, 0, 0);
}

HELPER long call3(long n, long a, long b, long c)
{
	return raw_syscall(n, a, b, c, 0, 0, 0);
}

HELPER long address_of(const void *p)
{
	return (long)(uintptr_t)p;
}

HELPER _Noreturn void leave(void)
{
	for (;;)
		call3(SYS_exit, 0, 0, 0);
}

/* Waits for input or hang-up of up to two descriptors; ms < 0: as long as it takes. */
HELPER long wait_for(struct pollfd *fds, long nr, long ms)
{
	struct timespec timeout;

	timeout.tv_sec = ms / 1000;
	timeout.tv_nsec = ms % 1000 * 1000000;
	return raw_syscall(SYS_ppoll, address_of(fds), nr, ms < 0 ? 0 : address_of(&timeout), 0, 0, 0);
}

/* The keeper reads the error and kills us; until then we stay, so that it finds the task whose error it is. */
HELPER _Noreturn void fail(struct agent_boot *boot, uint32_t step, long error)
{
	boot->report.error = (int32_t)error;
	boot->report.step = step;
	__atomic_store_n(&boot->report.progress, AGENT_FAILED, __ATOMIC_RELEASE);
	wait_for(NULL, 0, BOOT_TIMEOUT_MS);
	leave();
}

/* A task of its own: no descriptor, session, directory, name or processor binding is left of the program. */
HELPER void become_independent(struct agent_boot *boot)
{
	int priority = 0;

	raw_syscall(SYS_prctl, PR_SET_NAME, address_of(boot->name), 0, 0, 0, 0); /* first: whoever sums up memory knows it by its name */
	call3(SYS_close_range, 0, (long)(~0U), 0);
	call0(SYS_setsid);
	call3(SYS_chdir, address_of(boot->root), 0, 0);
	raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0, 0);
	call3(SYS_sched_setscheduler, 0, SCHED_OTHER, address_of(&priority));
	call3(SYS_sched_setaffinity, 0, sizeof(boot->affinity), address_of(boot->affinity));
}

HELPER void open_socket(struct agent_state *s)
{
	int pair[2];
	long r = raw_syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, address_of(pair), 0, 0);

	if (r < 0)
		fail(s->boot, AGENT_STEP_SOCKET, r);
	s->keeper = pair[0];
	s->boot->report.agent_socket = pair[0];
	s->boot->report.keeper_socket = pair[1];
	__atomic_store_n(&s->boot->report.progress, AGENT_HAS_SOCKET, __ATOMIC_RELEASE);
}

/* Receives the descriptors; returns the memfd of the ring. When none come in time, the keeper is dead or does not know of us: nobody would read an error. */
HELPER int receive_fds(struct agent_state *s, int *ret_inherited)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int) * AGENT_BOOT_MAX_FDS)];
	} control;
	const int *fds = (const int *)(control.space + CMSG_LEN(0));
	struct pollfd p;
	struct msghdr msg;
	struct iovec iov;
	char byte;
	long r;

	p.fd = s->keeper;
	p.events = POLLIN;
	r = wait_for(&p, 1, BOOT_TIMEOUT_MS);
	if (r == 0)
		leave();
	if (r < 0)
		fail(s->boot, AGENT_STEP_RECEIVE, r);
	iov.iov_base = &byte;
	iov.iov_len = sizeof(byte);
	msg.msg_name = NULL;
	msg.msg_namelen = 0;
	msg.msg_iov = &iov;
	msg.msg_iovlen = 1;
	msg.msg_control = &control;
	msg.msg_controllen = sizeof(control);
	msg.msg_flags = 0;
	r = call3(SYS_recvmsg, s->keeper, address_of(&msg), MSG_CMSG_CLOEXEC);
	if (r != 1 || msg.msg_controllen < CMSG_LEN(2 * sizeof(int)))
		fail(s->boot, AGENT_STEP_RECEIVE, r < 0 ? r : -EPROTO);
	call3(SYS_close, s->boot->report.keeper_socket, 0, 0);
	s->program = fds[0];
	s->device = s->boot->has_device ? fds[2] : -1;
	*ret_inherited = s->boot->has_inherited ? fds[2 + s->boot->has_device] : -1;
	return fds[1];
}

HELPER void map_ring(struct agent_state *s, int memfd)
{
	long r = raw_syscall(SYS_mmap, (long)s->boot->ring, (long)s->boot->ring_bytes, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_FIXED, memfd, 0);

	if (r < 0 && r > -4096)
		fail(s->boot, AGENT_STEP_RING, r);
	s->ring = (struct agent_ring *)(uintptr_t)s->boot->ring;
	call3(SYS_close, memfd, 0, 0);
}

HELPER void make_writable(struct agent_state *s, uint64_t start, uint64_t len)
{
	long r = call3(SYS_mprotect, (long)start, (long)len, PROT_READ | PROT_WRITE);

	if (r < 0)
		fail(s->boot, AGENT_STEP_MAPPINGS, r);
	call3(SYS_madvise, (long)start, (long)len, MADV_NOHUGEPAGE); /* fails where there are none */
}

HELPER void keep_private(struct agent_state *s, uint64_t start, uint64_t end)
{
	long r = call3(SYS_madvise, (long)start, (long)(end - start), MADV_DONTFORK);

	if (r == 0)
		r = call3(SYS_madvise, (long)start, (long)(end - start), MADV_DONTDUMP);
	if (r < 0)
		fail(s->boot, AGENT_STEP_MAPPINGS, r);
}

/* The staging ranges, the sentinel, and what fork and core dumps see of the region. A program under mlockall must not fill it. */
HELPER void set_up_region(struct agent_state *s)
{
	const struct agent_boot *b = s->boot;
	uint64_t end = b->base + b->size;

	call3(SYS_munlock, (long)b->base, (long)b->size, 0);
	make_writable(s, b->stage1, b->stage_bytes);
	make_writable(s, b->stage2, b->stage_bytes);
	if (b->stamp)
		make_writable(s, b->stamp, PAGE_BYTES);
	if (b->sentinel) {
		make_writable(s, b->sentinel, PAGE_BYTES);
		call3(SYS_madvise, (long)b->sentinel, (long)PAGE_BYTES, MADV_WIPEONFORK); /* a grandchild must not show its parent's token */
		keep_private(s, b->base, b->sentinel);
		keep_private(s, (b->stamp ? b->stamp : b->sentinel) + PAGE_BYTES, end);
	} else {
		keep_private(s, b->base, end);
	}
}

HELPER int make_uffd(struct agent_state *s)
{
	long r = call3(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK, 0, 0);

	if (r == -EPERM && s->device >= 0)
		r = call3(SYS_ioctl, s->device, (long)USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (r < 0)
		fail(s->boot, AGENT_STEP_USERFAULTFD, r);
	return (int)r;
}

HELPER void boot_agent(struct agent_state *s)
{
	int inherited, memfd;

	become_independent(s->boot);
	open_socket(s);
	memfd = receive_fds(s, &inherited);
	map_ring(s, memfd);
	set_up_region(s);
	s->uffd = inherited >= 0 ? inherited : make_uffd(s);
	s->stage_uffd = make_uffd(s);
	if (s->device >= 0)
		call3(SYS_close, s->device, 0, 0);
	s->boot->report.uffd = s->uffd;
	s->boot->report.stage_uffd = s->stage_uffd;
	__atomic_store_n(&s->boot->report.progress, AGENT_READY, __ATOMIC_RELEASE);
}

HELPER long move_pages_to(int uffd, const struct agent_op *op, uint64_t mode)
{
	struct uffdio_move move;
	long r;

	move.dst = op->dst;
	move.src = op->src;
	move.len = op->len;
	move.mode = mode;
	move.move = 0;
	r = call3(SYS_ioctl, uffd, (long)UFFDIO_MOVE, address_of(&move));
	return move.move > 0 ? (long)move.move : r;
}

HELPER long advise(const struct agent_op *op, long advice)
{
	long r = call3(SYS_madvise, (long)op->dst, (long)op->len, advice);

	return r < 0 ? r : (long)op->len;
}

HELPER long execute_op(const struct agent_state *s, const struct agent_op *op)
{
	if (op->opcode == AGENT_MOVE_IN)
		return move_pages_to(s->uffd, op, UFFDIO_MOVE_MODE_DONTWAKE);
	if (op->opcode == AGENT_MOVE_ON)
		return move_pages_to(s->stage_uffd, op, UFFDIO_MOVE_MODE_DONTWAKE | UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
	if (op->opcode == AGENT_DISCARD)
		return advise(op, MADV_DONTNEED);
	if (op->opcode == AGENT_POPULATE_WRITE)
		return advise(op, MADV_POPULATE_WRITE);
	if (op->opcode == AGENT_FUTEX_WAKE)
		return call3(SYS_futex, (long)op->dst, FUTEX_WAKE, INT32_MAX);
	return -EINVAL;
}

HELPER void serve(const struct agent_state *s, uint32_t request)
{
	struct agent_ring *ring = s->ring;
	uint32_t nr = ring->nr_ops;

	for (uint32_t i = 0; i < nr && i < AGENT_MAX_OPS; i++)
		ring->ops[i].result = execute_op(s, &ring->ops[i]);
	__atomic_store_n(&ring->done, request, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&ring->keeper_sleeping, __ATOMIC_SEQ_CST))
		call3(SYS_futex, address_of(&ring->done), FUTEX_WAKE, 1);
}

/* The keeper is gone and pages are out: no thread of the program may run on to see what is missing. */
HELPER _Noreturn void end_program(const struct agent_state *s)
{
	struct pollfd p;

	raw_syscall(SYS_pidfd_send_signal, s->program, SIGKILL, 0, 0, 0, 0);
	p.fd = s->program;
	p.events = POLLIN;
	while (wait_for(&p, 1, -1) <= 0)
		;
	leave();
}

/* Sleeps until the doorbell rings, the program ends or the keeper dies. The latter two end the agent, the program's end not in the middle of a transaction. */
HELPER void sleep_until_doorbell(const struct agent_state *s)
{
	struct pollfd p[2];
	char bell[8];

	p[0].fd = s->keeper;
	p[0].events = POLLIN;
	p[0].revents = 0;
	p[1].fd = s->program;
	p[1].events = POLLIN;
	p[1].revents = 0;
	if (wait_for(p, 2, -1) <= 0)
		return;
	if (__atomic_load_n(&s->ring->exit, __ATOMIC_ACQUIRE) || (p[1].revents && !__atomic_load_n(&s->ring->hold, __ATOMIC_SEQ_CST)))
		leave();
	if (p[0].revents & (POLLHUP | POLLERR | POLLNVAL))
		end_program(s);
	if (p[0].revents)
		raw_syscall(SYS_recvfrom, s->keeper, address_of(bell), sizeof(bell), MSG_DONTWAIT, 0, 0);
	else if (p[1].revents)
		wait_for(p, 1, HELD_NAP_MS); /* held */
}

HELPER uint32_t next_request(const struct agent_state *s, uint32_t last)
{
	struct agent_ring *ring = s->ring;

	for (;;) {
		uint32_t request = last;

		for (uint32_t i = 0; i < s->boot->spin_loops && request == last; i++) {
			cpu_pause();
			request = __atomic_load_n(&ring->request, __ATOMIC_ACQUIRE);
		}
		if (request != last)
			return request;
		__atomic_store_n(&ring->agent_sleeping, 1, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&ring->request, __ATOMIC_SEQ_CST) == last)
			sleep_until_doorbell(s);
		__atomic_store_n(&ring->agent_sleeping, 0, __ATOMIC_SEQ_CST);
	}
}

/* Called by the entry code, on the agent's own stack. */
__attribute__((section("membox_agent"), visibility("hidden"), used, noreturn)) void
membox_agent_main(struct agent_boot *boot)
{
	struct agent_state s;
	uint32_t request = 0;

	s.boot = boot;
	boot_agent(&s);
	for (;;) {
		request = next_request(&s, request);
		serve(&s, request);
	}
}
