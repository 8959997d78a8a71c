/*
 * What keeper and agent share: the boot page (private memory of the target, written once by the keeper with process_vm_writev) and
 * the ring (a sealed memfd mapped by both). Private to inject/.
 *
 * One request at a time:   keeper: ops, nr_ops, then request (release) ─▶ agent: executes, results, then done (release)
 * Each side raises its "sleeping" flag before it sleeps and looks once more after that, so that no wake-up is lost.
 */
#pragma once

#include "inject/agent.h"

struct agent_ring {
	/* written by the keeper */
	_Alignas(64) uint32_t request; /* number of the latest request */
	uint32_t nr_ops;
	uint32_t exit;
	uint32_t hold; /* pages are on their way through staging: the end of the program does not end the agent */
	uint32_t keeper_sleeping;
	/* written by the agent; the program can write all of it */
	_Alignas(64) uint32_t done; /* number of the latest request that is finished; a shared futex */
	uint32_t agent_sleeping;
	_Alignas(64) struct agent_op ops[AGENT_MAX_OPS];
};

enum agent_progress {
	AGENT_BORN = 0,
	AGENT_HAS_SOCKET, /* waits for the descriptors */
	AGENT_READY,
	AGENT_FAILED,
};

/* Steps of the boot, for the message when one fails. */
enum agent_step {
	AGENT_STEP_SOCKET = 1,
	AGENT_STEP_RECEIVE,
	AGENT_STEP_RING,
	AGENT_STEP_MAPPINGS,
	AGENT_STEP_USERFAULTFD,
};

/* The descriptors the keeper sends, in this order; the last two only when the flags say so. */
#define AGENT_BOOT_MAX_FDS 4

struct agent_boot {
	int64_t agent_pid; /* written by the task in between: pid of the agent or -errno; at offset 0 for the entry code */

	/* from the keeper */
	uint64_t base, size;
	uint64_t ring, ring_bytes;
	uint64_t stage1, stage2, stage_bytes;
	uint64_t sentinel; /* 0: the parent's is used */
	uint64_t stamp;    /* 0: there is none */
	uint32_t spin_loops;
	uint8_t has_device, has_inherited; /* /dev/userfaultfd; a userfaultfd to use for the program */
	char name[16];
	char root[2];
	uint8_t affinity[128]; /* a CPU mask: the agent must not inherit a pinned thread's */

	/* from the agent */
	struct agent_boot_report {
		uint32_t progress; /* enum agent_progress, written last */
		int32_t error;     /* -errno of the step that failed */
		uint32_t step;
		int32_t keeper_socket, agent_socket;
		int32_t uffd, stage_uffd;
	} report;
};
