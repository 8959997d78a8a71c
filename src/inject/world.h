/*
 * Stopping the world: every thread of one process held by ptrace (PTRACE_SEIZE + PTRACE_INTERRUPT), for adoption, for registering
 * new ranges of a program that outruns its keeper, and as a barrier (no thread is inside a system call while all are stopped).
 *
 * All calls on one world come from one keeper thread (ptrace ties tracees to the tracer thread), and that thread is also the only one
 * that waits for children, so no stop report is lost to another waiter.
 */
#pragma once

#include "base/types.h"

struct world;

/* What the keeper waits for the threads of a process that sleep where they cannot be interrupted. */
#define WORLD_STOP_TIMEOUT_US 20000

/*
 * Stops all threads of pid. 0 and *ret_world, or -errno with everything let go again:
 *   -ESRCH     the process is gone or going
 *   -EPERM     not ours to trace, or traced by somebody else (a debugger)
 *   -EBUSY     the process is stopped by job control (state T): it does not run, so nothing is urgent
 *   -ETIMEDOUT no thread reached a stop within timeout_us
 * A thread that does not stop in time (inside vfork, uninterruptible) is let go; world_is_complete() then says false.
 */
int world_stop(pid_t pid, uint32_t timeout_us, struct world **ret_world);

/* The same in two steps, so that several processes come to a stop at the same time: to tell them, and to wait (an error frees the world). */
int world_interrupt(pid_t pid, struct world **ret_world);
int world_wait(struct world *world, uint32_t timeout_us);

/*
 * Holds one thread only; the others run on. For what each thread has to do for itself: nobody stands still while another one is waited for. The same errors,
 * and -ESRCH when the thread has ended or is a worker of io_uring's. Such a world is not complete.
 */
int world_stop_thread(pid_t pid, pid_t tid, uint32_t timeout_us, struct world **ret_world);

/* A process of one thread that stands in the stop of its birth, traced since then (ward.h). 0 or -ENOMEM. */
int world_of_newborn(pid_t pid, struct world **ret_world);

/*
 * A task that stands in a stop which has been reported and is not a late one's, if it is in no world: the program has cloned it (CLONE_PTRACE) from a
 * thread that was held just then, so that the kernel has made it our tracee too.
 */
void world_let_stranger_go(pid_t tid, int report);

/* The world in which a process is held, or NULL; true when a thread is. */
struct world *world_find(pid_t pid);
bool world_holds(pid_t tid);

/* True when every thread is stopped, and io_uring's workers are idle: then none is inside madvise, munmap or any other system call. */
bool world_is_complete(const struct world *world);

pid_t world_pid(const struct world *world);

/*
 * Lets everything go on as if nothing had happened (also system calls that report EINTR though no signal was there: they are
 * restarted, a relative timeout of theirs from its beginning), frees the world. NULL is allowed.
 */
void world_resume(struct world *world);

/*
 * Executes one system call in a stopped thread of the world that can do so. Returns what the call returned (-errno on failure), or
 * -ESRCH when the process died meanwhile. No memory of the program is modified: the call runs on a `syscall` instruction found in its vdso.
 */
long world_syscall(struct world *world, long number, const uint64_t args[6]);

/*
 * From now on a thread that lends itself does so before all others that want its processor (where the keeper has the right to it): where many do, each
 * call would wait for them twice. Until it goes on its scheduling class is another one, which what it clones inherits. Before the first call.
 */
void world_go_first(struct world *world);

/* The same at a syscall instruction of the caller's choice: a task made by clone(2) goes on right behind it. */
long world_syscall_at(struct world *world, remote_addr_t pc, long number, const uint64_t args[6]);

/*
 * A held thread of the world, or -ESRCH. Its id, not world_pid(), is what memory is read and written by: a leader that has called
 * pthread_exit has none any more.
 */
pid_t world_thread(struct world *world);

/* --- for checkpoint and restore: single threads of a world --- */

/* world_syscall in a thread of the caller's choice. */
long world_syscall_by(struct world *world, pid_t tid, long number, const uint64_t args[6]);

/* The syscall instruction to be used from now on: the program's vdso has moved, or moves. 0: to be looked for. */
void world_use_syscall_at(struct world *world, remote_addr_t pc);
remote_addr_t world_syscall_address(struct world *world); /* 0: there is none */

/* The threads, the leader first; returns how many there are (may exceed max). */
size_t world_threads(const struct world *world, pid_t *ret_tids, size_t max);

struct thread_regs;

/* With what a thread would go on: its registers (an interrupted call starts again or is over, as the kernel decides by them) and signal mask. 0 or -errno. */
int world_read_thread(struct world *world, pid_t tid, struct thread_regs *ret_regs, uint64_t *ret_mask);

/* With what it goes on instead. 0 or -errno. */
int world_write_thread(struct world *world, pid_t tid, const struct thread_regs *regs, uint64_t mask);

/*
 * A thread, or another process of one thread, that a held thread has just made by clone(2) with CLONE_PTRACE: waits until it stands still, and holds it. 0 or
 * -errno.
 */
int world_add_clone(struct world *world, pid_t tid);
int world_of_clone(pid_t pid, struct world **ret_world);

/*
 * Late stoppers: threads that world_stop() could not wait for stop some time later and must then be set going. The keeper calls
 * world_collect_late() on every SIGCHLD and now and then; it returns how many are still outstanding. A loop that waits for all
 * children ignores stop reports of threads for which world_is_late() is true (taking one does no harm).
 */
int world_collect_late(void);
bool world_is_late(pid_t tid);
