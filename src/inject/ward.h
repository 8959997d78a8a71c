/*
 * Tasks that stay traced while they run: those of adopted processes where the kernel does not announce forks. New threads and children are traced from
 * birth and stop before their first instruction, and if the keeper is killed the kernel kills them all (PTRACE_O_EXITKILL). Used by the one
 * keeper thread that uses ptrace; what to do with a report of such a task is decided by the container (container/traced.c).
 */
#pragma once

#include "inject/world.h"

/* Every thread of the held world stays traced when it goes on. Only a complete world: then nobody of it is inside a fork. 0 or -ENOMEM. */
int ward_take(struct world *world);

/* The opposite: nobody of the held world is traced any more when it goes on. */
void ward_drop(struct world *world);

bool ward_has(pid_t tid);
bool ward_has_process(pid_t pid);

/* A task that is traced since its birth. 0 or -ENOMEM. */
int ward_add(pid_t process, pid_t tid);
void ward_forget(pid_t tid);
void ward_forget_process(pid_t pid);

/* Any process with traced tasks; 0: there is none. */
pid_t ward_any_process(void);

/*
 * Lets a task go on that stands in a ptrace stop. signal: what it gets, 0 for none. A call that reports EINTR although no handler ran is started
 * again, as in world_resume.
 */
void ward_continue(pid_t tid, int signal);

/* The task stays in its job control stop until SIGCONT. False: that it is in one has been known since it went on last; each hold has it reported again. */
bool ward_listen(pid_t tid);

/* It is let go by its world, and is in no such stop. */
void ward_goes_on(pid_t tid);

/* The task is traced no longer. */
void ward_detach(pid_t tid);
