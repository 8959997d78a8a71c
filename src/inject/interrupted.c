#include "inject/interrupted.h"

#include <sys/syscall.h>

#define PLACES 4096 /* a thread whose place another one has taken is not known any more */

static struct note {
	pid_t tid;
	long number;
	uint64_t pc, sp;
} notes[PLACES];

static struct note *place_of(pid_t tid)
{
	return &notes[(unsigned int)tid % PLACES];
}

void interrupted_note(pid_t tid, const struct thread_regs *regs)
{
	if (regs_wants_rest(regs) && regs_in_syscall(regs) != SYS_restart_syscall)
		*place_of(tid) = (struct note){tid, regs_in_syscall(regs), regs_pc(regs), regs_sp(regs)};
}

long interrupted_call(pid_t tid, const struct thread_regs *regs)
{
	const struct note *note = place_of(tid);
	return note->tid == tid && note->pc == regs_pc(regs) && note->sp == regs_sp(regs) ? note->number : -1;
}
