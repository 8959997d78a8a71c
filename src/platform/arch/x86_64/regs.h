/* x86_64 registers of a stopped tracee; included by platform/regs.h, which describes the functions. */
#pragma once

#include <sys/user.h>

struct thread_regs {
	struct user_regs_struct user;
};

static const uint8_t syscall_instruction[] = {0x0f, 0x05};

#define SYSCALL_INSTRUCTION_ALIGN 1

static inline int regs_read(pid_t tid, struct thread_regs *ret)
{
	struct thread_regs regs;
	struct iovec iov = {.iov_base = &regs.user, .iov_len = sizeof(regs.user)};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &iov) < 0)
		return -errno;
	if (iov.iov_len != sizeof(regs.user) || regs.user.cs == 0x23)
		return -ENOTSUP;
	*ret = regs;
	return 0;
}

static inline int regs_write(pid_t tid, const struct thread_regs *regs)
{
	struct thread_regs copy = *regs;
	struct iovec iov = {.iov_base = &copy.user, .iov_len = sizeof(copy.user)};

	return ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &iov) < 0 ? -errno : 0;
}

static inline uint64_t regs_pc(const struct thread_regs *regs)
{
	return regs->user.rip;
}

static inline void regs_set_pc(struct thread_regs *regs, uint64_t pc)
{
	regs->user.rip = pc;
}

static inline uint64_t regs_sp(const struct thread_regs *regs)
{
	return regs->user.rsp;
}

static inline long regs_in_syscall(const struct thread_regs *regs)
{
	return (long)regs->user.orig_rax;
}

static inline void regs_set_in_syscall(struct thread_regs *regs, long number)
{
	regs->user.orig_rax = (uint64_t)number;
}

static inline long regs_result(const struct thread_regs *regs)
{
	return (long)regs->user.rax;
}

static inline void regs_set_syscall(struct thread_regs *regs, uint64_t pc, long number, const uint64_t args[6])
{
	regs->user.rip = pc;
	regs->user.rax = (uint64_t)number;
	regs->user.orig_rax = (uint64_t)-1;
	regs->user.rdi = args[0];
	regs->user.rsi = args[1];
	regs->user.rdx = args[2];
	regs->user.r10 = args[3];
	regs->user.r8 = args[4];
	regs->user.r9 = args[5];
}

static inline bool regs_request_restart(struct thread_regs *regs)
{
	enum { ERESTARTNOHAND = 514 }; /* include/linux/errno.h of the kernel; user space never sees it */

	regs->user.rax = (uint64_t)-ERESTARTNOHAND;
	return true;
}

/* XCR0: the sets of vector registers that the system lets programs use (Intel SDM, XGETBV). */
static inline uint64_t regs_vector_features(void)
{
	uint32_t low, high;

	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (uint64_t)high << 32 | low;
}
