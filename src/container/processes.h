/*
 * The processes of `membox run`:
 *
 *   front     what the user started: in the terminal's process group, forwards signals, mirrors stops, returns the exit code
 *   └─ guardian   holds the keeper's descriptor table (CLONE_FILES) and nothing else: if the keeper dies, no userfaultfd is closed, so no
 *      │          page of the program turns into zeros before the guardian has killed every member and seen it dead
 *      └─ keeper  serves the container; child subreaper
 *         ├─ the program and its descendants (in the front's session and process group)
 *         └─ agents
 *
 * Guardian and keeper leave the terminal's session once the program is started: Ctrl-C and Ctrl-Z reach the program and the front only.
 */
#pragma once

#include <signal.h>
#include <stdatomic.h>

#include "container/run.h"

struct swap;

enum report_kind {
	REPORT_STARTED,     /* value: the program's pid */
	REPORT_EXEC_FAILED, /* value: errno */
	REPORT_FAILED,      /* the keeper could not start; it has said why */
	REPORT_STOPPED,     /* the program was stopped by a signal */
	REPORT_TRACED_STOPPED, /* the same of a traced program, at the given time: its state does not tell a job control stop from others */
	REPORT_ARRIVED,     /* value: 0, or errno: some of its pages are missing */
	REPORT_ENDED,       /* value: exit status as the shell sees it; the container is empty */
};

struct report { /* keeper to front, one datagram each */
	int kind;
	int value;
	uint64_t at_ns; /* CLOCK_MONOTONIC, with REPORT_TRACED_STOPPED */
};

/* The signal mask that the program is to start with. */
struct start_state {
	sigset_t mask;
};

/* Forks guardian and keeper. Returns the guardian's pid, or -errno; *ret_channel is the front's end (its closing tells the keeper). */
pid_t guardian_start(const struct run_config *config, struct swap *swap, const struct start_state *start, int *ret_channel);

struct backstop;

/* What the keeper has of the others. */
struct keeper_links {
	int channel;  /* to the front */
	int guardian; /* to the first guardian; -1: it cannot be told of another one */
};

/* The keeper's whole life. Returns when the container is empty. */
void keeper_main(const struct run_config *config, struct swap *swap, const struct backstop *backstop, const struct start_state *start,
		 const struct keeper_links *links);

/*
 * The same after an upgrade: the rest of a keeper's life. What it takes over comes from config->handed. The guardian must have been succeeded before.
 */
struct successor;
void keeper_go_on(const struct run_config *config, const struct keeper_links *links, const struct successor *successor);

/*
 * exec gives the keeper a descriptor table of its own, so it needs another guardian that shares it. That one is a child of the first guardian, which remains the keeper's parent and
 * takes care of its exit status and of orphans.
 */
struct successor {
	pid_t pid;
	_Atomic bool *in_order; /* set by the keeper at its end: nobody is to be killed */
};

/* By a keeper with one thread, before it has threads or reads any message. predecessor: the guardian that shared the table before exec; 0: the first one. 0 or -errno. */
int guardian_succeed(int link, pid_t predecessor, struct successor *ret);
