/*
 * General registers of a stopped tracee, as far as remote system calls need them. Each architecture has its own regs.h with the same
 * functions:
 *
 *   regs_read, regs_write      whole set, 0 or -errno (-ENOTSUP: a 32-bit program)
 *   regs_pc, regs_sp           program counter, stack pointer
 *   regs_in_syscall            the number of the interrupted system call, or -1 when the thread was in user code
 *   regs_set_in_syscall        makes it another one
 *   regs_result                what that call is about to return
 *   regs_set_pc                continues at another address
 *   regs_set_syscall           makes the thread execute one call at a given syscall instruction; no restart logic runs
 *   regs_vector_features       which vector registers programs may use on this machine; what one has saved another must have
 *   regs_request_restart       makes the interrupted call start again unless a signal handler runs first; false where its arguments are lost
 */
#pragma once

#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "base/types.h"

#if defined(__x86_64__)
#include "platform/arch/x86_64/regs.h"
#elif defined(__aarch64__)
#include "platform/arch/aarch64/regs.h"
#else
#error "membox knows x86_64 and aarch64"
#endif

/* True when the interrupted call is to go on with what is left of its time, by restart_syscall(2). */
static inline bool regs_wants_rest(const struct thread_regs *regs)
{
	enum { ERESTART_RESTARTBLOCK = 516 }; /* include/linux/errno.h of the kernel; user space never sees it */

	return regs_in_syscall(regs) >= 0 && regs_result(regs) == -ERESTART_RESTARTBLOCK;
}
