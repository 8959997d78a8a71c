/*
 * One thread held by ptrace. Private to inject/; world.h is the interface.
 *
 *              seize              poll                    syscall (any number of times)
 *   (foreign) ───────▶ RUNNING ─────────▶ STOPPED ─────────────────┐
 *                        │   │              │ ▲ settle             ▼
 *                        │   └─ poll ─▶ GONE│ └────────────── BORROWED
 *                        ▼                  ▼ release
 *                    JOB_STOPPED ────────▶ (foreign)
 *
 * STOPPED is a PTRACE_EVENT_STOP: the thread is on its way to user space, and what it does next is decided by its registers. BORROWED
 * is the exit stop of a system call that was not its own; its registers and signal mask are kept here until it is released.
 */
#pragma once

#include "platform/regs.h"
#include "platform/scheduling.h"

enum tracee_state {
	TRACEE_RUNNING,     /* seized and interrupted, has not stopped yet */
	TRACEE_STOPPED,     /* held */
	TRACEE_JOB_STOPPED, /* held, and stopped by job control before we came */
	TRACEE_BORROWED,    /* held, after a foreign system call */
	TRACEE_GONE,        /* dead or not ours any more */
};

struct tracee {
	pid_t process, tid;
	enum tracee_state state;
	bool own_child_leader; /* its exit status belongs to whoever waits for the keeper's children */
	bool ward;             /* stays traced when it is let go, see ward.h */
	bool in_event;         /* with ward: stands where it has made a child or called exec, which is not dealt with yet; as good as held */
	int signal;            /* with ward: to be delivered when it goes on */
	bool goes_first;       /* while it lends itself; with BORROWED: was has what it was before */
	struct scheduling was;
	bool follows;          /* goes on, but traced, until the leader of its process is let go, see world.c; or could not be told to stop */
	bool dead_leader;      /* a zombie whose other threads live: it never stops, only its death is reported one day */
	int deferred_signal;   /* arrived during a foreign system call; sent again at release */
	uint64_t saved_mask;   /* with BORROWED */
	struct thread_regs saved_regs;
};

/* Takes hold of a thread and interrupts it. -ESRCH: it is dead; -EPERM: not ours to trace. */
int tracee_seize(struct tracee *tracee, pid_t process, pid_t tid);

/* Takes hold of a thread that runs on for the present. The same errors. */
int tracee_accompany(struct tracee *tracee, pid_t process, pid_t tid);

/* Interrupts a thread that is traced already. */
void tracee_take_over(struct tracee *tracee, pid_t process, pid_t tid);

/* Lets a stopped thread go on, traced; false: it is in no state for that. */
bool tracee_follow(struct tracee *tracee);

/* One that follows is told to stop. */
void tracee_stop_following(struct tracee *tracee);

/* Looks, without waiting, whether a RUNNING thread has stopped or died; returns the new state. */
enum tracee_state tracee_poll(struct tracee *tracee);

/* True when ptrace can reach the thread now, whatever was reported about it. */
bool tracee_is_held(const struct tracee *tracee);

/* Asks a thread again to stop. */
void tracee_interrupt(struct tracee *tracee);

/* Puts back what a held thread had before it was stopped; the last step before tracee_release. */
void tracee_prepare_release(struct tracee *tracee);

/*
 * Lets a held thread go on as if nothing had happened. False when it cannot be let go yet: it still runs, or was killed while held and
 * is dying. It is RUNNING then and must be polled on, so that its death does not stay unseen and keep its process from ending.
 */
bool tracee_release(struct tracee *tracee);

/* Executes one system call at the syscall instruction at pc. Its result, or -ESRCH when the thread died. */
long tracee_syscall(struct tracee *tracee, remote_addr_t pc, long number, const uint64_t args[6]);

/* With what a held thread would go on, and with what it goes on instead. 0 or -errno. */
int tracee_read(struct tracee *tracee, struct thread_regs *ret_regs, uint64_t *ret_mask);
int tracee_write(struct tracee *tracee, const struct thread_regs *regs, uint64_t mask);

/* The letter of /proc/PID/task/TID/stat, 'X' when there is no such thread. */
char thread_state(pid_t process, pid_t tid);

/* Gives the processor away between two looks: at first only a yield, later a short sleep. */
void poll_nap(unsigned int *rounds);
