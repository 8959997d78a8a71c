/* aarch64 registers of a stopped tracee; included by platform/regs.h, which describes the functions. */
#pragma once

#include <sys/user.h>

struct thread_regs {
	struct user_regs_struct user;
	int syscall_number; /* NT_ARM_SYSTEM_CALL; -1 outside of a call */
};

static const uint8_t syscall_instruction[] = {0x01, 0x00, 0x00, 0xd4}; /* svc #0 */

#define SYSCALL_INSTRUCTION_ALIGN 4

static inline int regs_read(pid_t tid, struct thread_regs *ret)
{
	struct thread_regs regs;
	struct iovec iov = {.iov_base = &regs.user, .iov_len = sizeof(regs.user)};
	struct iovec number = {.iov_base = &regs.syscall_number, .iov_len = sizeof(regs.syscall_number)};

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &iov) < 0)
		return -errno;
	if (iov.iov_len != sizeof(regs.user))
		return -ENOTSUP;
	if (ptrace(PTRACE_GETREGSET, tid, NT_ARM_SYSTEM_CALL, &number) < 0)
		return -errno;
	*ret = regs;
	return 0;
}

/* The number goes last: writing it tells the kernel which call, if any, a later restart would concern. */
static inline int regs_write(pid_t tid, const struct thread_regs *regs)
{
	struct thread_regs copy = *regs;
	struct iovec iov = {.iov_base = &copy.user, .iov_len = sizeof(copy.user)};
	struct iovec number = {.iov_base = &copy.syscall_number, .iov_len = sizeof(copy.syscall_number)};

	if (ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &iov) < 0)
		return -errno;
	return ptrace(PTRACE_SETREGSET, tid, NT_ARM_SYSTEM_CALL, &number) < 0 ? -errno : 0;
}

static inline uint64_t regs_pc(const struct thread_regs *regs)
{
	return regs->user.pc;
}

static inline void regs_set_pc(struct thread_regs *regs, uint64_t pc)
{
	regs->user.pc = pc;
}

static inline uint64_t regs_sp(const struct thread_regs *regs)
{
	return regs->user.sp;
}

static inline long regs_in_syscall(const struct thread_regs *regs)
{
	return regs->syscall_number;
}

static inline void regs_set_in_syscall(struct thread_regs *regs, long number)
{
	regs->syscall_number = (int)number;
	regs->user.regs[8] = (uint64_t)number;
}

static inline long regs_result(const struct thread_regs *regs)
{
	return (long)regs->user.regs[0];
}

static inline void regs_set_syscall(struct thread_regs *regs, uint64_t pc, long number, const uint64_t args[6])
{
	regs->user.pc = pc;
	regs->user.regs[8] = (uint64_t)number;
	for (int i = 0; i < 6; i++)
		regs->user.regs[i] = args[i];
	regs->syscall_number = -1;
}

/*
 * The kernel has forgotten the call and its first argument (orig_x0) by the time of the stop; -ERESTART* it has already handled. What
 * shows -EINTR cannot be started again.
 */
static inline bool regs_request_restart(struct thread_regs *regs)
{
	(void)regs;
	return false;
}

static inline uint64_t regs_vector_features(void)
{
	return 0;
}
