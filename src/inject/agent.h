/*
 * The agent: a task that shares only the memory (CLONE_VM) of an adopted process and executes what the kernel allows only from inside
 * an address space. It is made by double clone from a stopped world, owns duplicates of both userfaultfds, and when its lifeline to
 * the keeper hangs up it kills the program, waits until it is gone, and only then exits.
 *
 *   region (one reservation, MADV_DONTFORK but for the sentinel):
 *   base                                                                                                       base + size
 *   | code r-x | params rw | stack | ring (memfd, shared with the keeper) | guard | sentinel | guard | stage 1 | guard | stage 2 | guard |
 *   sentinel: one page registered on the program's userfaultfd, inherited by fork, normally missing; not there with an inherited one
 *   Without fork events one more page follows it, the stamp: present, inherited by fork, written by the keeper (pager/stamp.h).
 *
 * The ring is writable by the program. Nothing that comes back through it is believed: results are hints, the truth is in PAGEMAP_SCAN
 * of the staging ranges.
 */
#pragma once

#include "base/types.h"
#include "inject/world.h"

enum agent_opcode {
	AGENT_MOVE_IN = 1,    /* UFFDIO_MOVE src -> dst on the program's userfaultfd, DONTWAKE: program pages to stage 1 (and back: dst in the program) */
	AGENT_MOVE_ON,        /* UFFDIO_MOVE src -> dst on the staging userfaultfd, DONTWAKE | ALLOW_SRC_HOLES: stage 1 to stage 2 */
	AGENT_DISCARD,        /* MADV_DONTNEED dst, len */
	AGENT_POPULATE_WRITE, /* MADV_POPULATE_WRITE dst, len: breaks sharing left by fork; may fault */
	AGENT_FUTEX_WAKE,     /* FUTEX_WAKE (shared form) of all waiters on dst */
};

struct agent_op {
	uint32_t opcode;
	uint32_t reserved;
	remote_addr_t dst, src;
	uint64_t len;   /* bytes */
	int64_t result; /* out: bytes or -errno as the agent says; a hint */
};

#define AGENT_MAX_OPS 1024

struct agent {
	pid_t pid;        /* the agent's own task; a child of agent_params.reaper where no other subreaper stands between */
	pid_t inner_pid;  /* as the program's pid namespace numbers it, and as messages of the program's userfaultfd name it */
	int pidfd;        /* of the agent */
	int uffd;         /* the program's ranges, UFFD_PROGRAM_FEATURES, non-blocking; owned by the caller after agent_create */
	int stage_uffd;   /* stage 2 only, no event features */
	remote_addr_t base;
	uint64_t size;    /* bytes of the whole region, to be left out of every scan */
	remote_addr_t stage1, stage2; /* 2 MiB aligned, stage_pages each, no huge pages */
	uint32_t stage_pages;
	remote_addr_t sentinel;
	remote_addr_t stamp; /* 0: there is none */
	struct agent_ring *ring; /* mapped here too; private to inject/ */
	int ring_fd;             /* the memfd that it is */
	uint32_t requests;       /* made so far */
	int doorbell;            /* our end of the socket: wakes a sleeping agent; its closing is the lifeline */
};

struct agent_params {
	uint32_t stage_pages;
	/*
	 * -1: the agent makes a userfaultfd of its own. Otherwise (child of an adopted process, whose userfaultfd came with the FORK
	 * event) this one is handed to it; the caller keeps its descriptor. sentinel is then the parent's.
	 */
	int inherited_uffd;
	remote_addr_t sentinel;
	bool stamped; /* no fork events: the region has a stamp, the userfaultfd does not ask for them */
	pid_t reaper; /* who gets the program's orphans and knows an agent for what it is; 0: this process */
};

/*
 * Puts an agent into the stopped world. 0, or -errno with nothing left behind in the process. *ret_what names the step that failed
 * (a string constant). Errors worth a hint: -EPERM from userfaultfd (right missing), -ENOSYS/-EINVAL (kernel too old),
 * -EACCES (the program has put itself under a seccomp filter, which would judge our system calls and may kill it for them).
 */
int agent_create(struct world *world, const struct agent_params *params, struct agent **ret_agent, const char **ret_what);

/*
 * The same agent, in a keeper that has taken the place of another one by exec (docs/architecture.md, "Upgrade"): the caller has filled everything but the ring, which
 * is mapped from ring_fd. 0 or -errno.
 */
int agent_map_ring(struct agent *agent);

/*
 * Hands nr operations (<= AGENT_MAX_OPS) to the agent, which goes through them in order. 0 or -EINVAL. One user at a time (the address space's
 * agent lock); the next thing to be called is agent_wait.
 */
int agent_post(struct agent *agent, const struct agent_op *ops, uint32_t nr);

/*
 * Waits until all that was posted is done: spins a little, then sleeps. Copies the results of the first nr operations. 0, or -EPIPE: the agent is dead, also
 * because it did not answer and was killed for that.
 */
int agent_wait(struct agent *agent, struct agent_op *ops, uint32_t nr);

/* Both. */
int agent_execute(struct agent *agent, struct agent_op *ops, uint32_t nr);

/*
 * Held, the agent outlives its program, so that what is in staging is not lost with it: the memory may be another process's too. An agent that has
 * left before is seen by the next thing it is asked to do, which it has not begun.
 */
void agent_hold(struct agent *agent, bool hold);

/*
 * The opposite of agent_create: the agent exits, is reaped where it is the program's child, and its region is unmapped, by a thread of the held
 * world. Only when no page is out and nothing of the program is registered any more. 0: nothing is left in the process, agent is freed but for
 * agent->uffd, which is the caller's; or -errno with the agent as it was or on its way out, to be tried again (-ETIMEDOUT: it has not ended).
 */
int agent_dismiss(struct agent *agent, struct world *world);

/*
 * Asks the agent to exit, closes what is ours (not agent->uffd), frees. The task is reaped by whoever waits for children (its exit
 * signal may be 0 where it is a child of the program: then the kernel does it). Its region stays mapped. NULL is allowed.
 */
void agent_release(struct agent *agent);
