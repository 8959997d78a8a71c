/*
 * PID, IPC and mount namespaces for one container (`membox run --isolate`), and a user namespace where the user may not make the others.
 *
 *   keeper ──┬─ init      pid 1 inside: gets the orphans (and the agents) and reaps them
 *            └─ program   pid 2 inside, its parent is outside: the keeper waits for it as for any other
 *
 * Inside, /proc shows the namespace's own processes, /dev/shm is a new tmpfs and /dev/mqueue the namespace's own: no System V or POSIX IPC object
 * has an owner outside. Everything else of the file system is as outside; what is mounted outside later appears inside, not the other way round.
 *
 * Init's end is the end of every process inside: the kernel sees to that. It ends
 *   after isolate_drain, when it has no child left
 *   when it is killed from outside, which keeper and guardian do (it shares no descriptor with them, so no userfaultfd is closed by that)
 *   when nobody holds the other end of its lifeline any more: keeper and guardian were killed
 */
#pragma once

#include <sys/types.h>

struct isolation {
	pid_t init;   /* our number for pid 1 inside, a child of ours; 0: not isolated, or it has been reaped */
	int lifeline; /* the pipe to init, writing end */
	int proc;     /* the folder /proc as it is inside */
};

struct isolate_failure {
	char text[256]; /* "WHAT: WHY (HINT)" */
};

/*
 * As fork(2), with one thread, but the child is the first process of new namespaces; its number inside is inner_pid (0: whichever). Returns 0 in the child, its pid in the caller, or a negative
 * number with *ret saying why and nothing left over. *iso is the caller's: isolate_release gives it back, after the child was reaped.
 */
pid_t isolate_fork(struct isolation *iso, pid_t inner_pid, struct isolate_failure *ret);

/* The first process has ended: init ends when all others have. */
void isolate_drain(const struct isolation *iso);

/* Kills and reaps init, if it is there, with everything inside; closes. */
void isolate_release(struct isolation *iso);
