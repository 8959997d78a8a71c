/* Memory that keeper and agent share. Both layouts are private to inject/; the agent is part of the same build, so they never differ. */
#pragma once

#include <stdatomic.h>

#include "inject/agent.h"

/* The command ring: a memfd, mapped by both. Writable by the program: hostile input for the keeper. */
struct agent_ring {
	_Atomic uint32_t request;      /* raised by the keeper: ops are valid */
	_Atomic uint32_t done;         /* follows request when they are executed */
	_Atomic uint32_t sleeping;     /* the agent waits at its doorbell */
	_Atomic uint32_t keeper_waits; /* the keeper waits in futex on done */
	uint32_t nr_ops;
	uint32_t reserved;
	struct agent_op ops[AGENT_MAX_OPS];
};

#define AGENT_QUIT 100 /* opcode: exit at once */

/* In the order in which they are reached. */
enum agent_boot_state {
	BOOT_NONE,
	BOOT_HELLO,          /* socket and pidfd are open: the keeper takes its end */
	BOOT_NEED_DEVICE,    /* userfaultfd(2) was refused: waits for /dev/userfaultfd */
	BOOT_NEED_INHERITED, /* waits for the userfaultfd of the fork */
	BOOT_READY,          /* everything is mapped and open: the keeper takes its copies */
	BOOT_FAILED,
};

enum agent_step { STEP_SOCKET, STEP_PIDFD, STEP_USERFAULTFD, STEP_RECEIVE, STEP_MEMFD, STEP_MAP_RING, STEP_MAP_STAGE, STEP_SENTINEL };

/* The boot page, in the program's memory; read and written by the keeper with process_vm_readv/writev. */
struct agent_boot {
	/* keeper -> agent, before it starts */
	uint64_t base, size;
	uint64_t ring, ring_bytes;
	uint64_t stage1, stage2, stage_bytes;
	uint64_t agent_stack_top;
	uint64_t sentinel;      /* 0: the agent makes one and puts its address here */
	int32_t target_pid;
	uint32_t is_inherited;  /* the userfaultfd comes through the socket */
	/* keeper -> agent, step by step */
	_Atomic uint32_t proceed; /* the boot state that the keeper has answered */
	/* agent -> keeper */
	_Atomic uint32_t state;   /* enum agent_boot_state */
	int32_t error;            /* -errno with BOOT_FAILED */
	uint32_t failed_step;     /* enum agent_step */
	int32_t pid;
	int32_t keeper_socket, own_socket, target_pidfd, uffd, stage_uffd, memfd;
};
