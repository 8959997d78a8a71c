/*
 * Where clone(2) goes on. The call is made with rdx = address of struct agent_boot and r9 = top of the agent's stack (clone ignores both
 * with these flags); the calling thread is stopped by its tracer when the call returns, so only the new task comes behind `syscall`.
 */
	.section membox_agent, "ax", @progbits
	.globl membox_agent_entry, membox_agent_direct_entry
	.hidden membox_agent_entry, membox_agent_direct_entry

/* The task in between: makes the agent, tells its pid, ends. */
membox_agent_entry:
	syscall
	mov	%rdx, %rbx
	mov	$56, %eax	/* clone */
	mov	$0x100, %edi	/* CLONE_VM, no signal at exit */
	mov	%r9, %rsi
	xor	%edx, %edx
	xor	%r10d, %r10d
	xor	%r8d, %r8d
	syscall
	test	%rax, %rax
	jz	1f
	mov	%rax, (%rbx)	/* agent_pid */
	mov	$60, %eax	/* exit */
	xor	%edi, %edi
	syscall

/* The agent as a child of the program itself. */
membox_agent_direct_entry:
	syscall
	mov	%rdx, %rbx
1:	mov	%rbx, %rdi
	xor	%ebp, %ebp
	call	membox_agent_main
	ud2

	.section .note.GNU-stack, "", @progbits
