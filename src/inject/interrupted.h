/*
 * Which system call a thread was in before the kernel made it another one. A wait with a relative timeout (poll, nanosleep, futex) that was interrupted goes on as
 * restart_syscall(2), in which only this task of the kernel knows what it was and how much is left. When such a thread is saved, and goes on as another task, it has to
 * begin with the call itself. So whoever lets a thread go notes the call; it is found again by where the thread was. One that was interrupted by others only
 * (a stop by SIGSTOP) is not known: its call reports EINTR. Container thread.
 */
#pragma once

#include "platform/regs.h"

/* The thread is let go with these registers. */
void interrupted_note(pid_t tid, const struct thread_regs *regs);

/* The number of the call that a thread in restart_syscall was in; -1: not known. */
long interrupted_call(pid_t tid, const struct thread_regs *regs);
