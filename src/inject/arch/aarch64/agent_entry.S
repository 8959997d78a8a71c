/*
 * Where clone(2) goes on. The call is made with x2 = address of struct agent_boot and x5 = top of the agent's stack (clone ignores both
 * with these flags); the calling thread is stopped by its tracer when the call returns, so only the new task comes behind `svc`.
 */
	.section membox_agent, "ax", @progbits
	.balign 4
	.globl membox_agent_entry, membox_agent_direct_entry
	.hidden membox_agent_entry, membox_agent_direct_entry

/* The task in between: makes the agent, tells its pid, ends. */
membox_agent_entry:
	svc	#0
	mov	x19, x2
	mov	x8, #220	/* clone */
	mov	x0, #0x100	/* CLONE_VM, no signal at exit */
	mov	x1, x5
	mov	x2, xzr
	mov	x3, xzr
	mov	x4, xzr
	svc	#0
	cbz	x0, 1f
	str	x0, [x19]	/* agent_pid */
	mov	x8, #93		/* exit */
	mov	x0, xzr
	svc	#0

/* The agent as a child of the program itself. */
membox_agent_direct_entry:
	svc	#0
	mov	x19, x2
1:	mov	x0, x19
	mov	x29, xzr
	mov	x30, xzr
	bl	membox_agent_main
	brk	#0

	.section .note.GNU-stack, "", %progbits
