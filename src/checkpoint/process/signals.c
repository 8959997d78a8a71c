/* What a process does with signals, and those that wait for it. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "checkpoint/process/pending.h"
#include "checkpoint/process/process.h"

#define KERNEL_SIGNALS 64

/* As rt_sigaction(2) of the kernel takes it on x86_64; elsewhere without a restorer, which is 0 there. */
struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

static int save_action(struct saved_process *p, unsigned int number)
{
	struct arena *arena = &p->saving->arena;
	struct kernel_action action;
	long r = REMOTE_CALL(&p->remote, SYS_rt_sigaction, number, 0, p->remote.scratch, sizeof(uint64_t), 0, 0);
	if (r == 0)
		r = remote_get(&p->remote, 0, &action, sizeof(action));
	if (r < 0)
		return checkpoint_fail(&p->saving->error, (int)r, "process %d: signal %u: %s", p->pid, number, strerror((int)-r));
	Image__SignalAction **slot = arena_grow(arena, &p->message->actions, p->message->n_actions, sizeof(*slot));
	Image__SignalAction *message = arena_alloc(arena, sizeof(*message));
	if (!slot || !message)
		return saved_no_memory(p->saving);
	image__signal_action__init(message);
	message->signal = number;
	message->handler = action.handler;
	message->flags = action.flags;
	message->restorer = action.restorer;
	message->mask = action.mask;
	*slot = message;
	p->message->n_actions++;
	return 0;
}

int pending_save(struct saving *saving, pid_t tid, bool shared, ProtobufCBinaryData **array, size_t *nr)
{
	for (;;) {
		siginfo_t info;
		struct __ptrace_peeksiginfo_args args = {.off = *nr, .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0, .nr = 1};
		long n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, &info);
		if (n < 0)
			return checkpoint_fail(&saving->error, -errno, "task %d: its pending signals: %s", tid, strerror(errno));
		if (n == 0)
			return 0;
		ProtobufCBinaryData *slot = arena_grow(&saving->arena, array, *nr, sizeof(*slot));
		if (!slot)
			return saved_no_memory(saving);
		slot->len = sizeof(info);
		slot->data = arena_copy(&saving->arena, &info, sizeof(info));
		if (!slot->data)
			return saved_no_memory(saving);
		++*nr;
	}
}

int pending_restore(struct restored_process *p, const Image__Thread *t, pid_t tid, const ProtobufCBinaryData *array, size_t nr)
{
	struct remote by = p->remote;
	by.tid = t ? tid : p->pid;
	uint64_t process = (uint64_t)p->message->pid;
	for (size_t i = 0; i < nr; i++) {
		siginfo_t info = {0};
		memcpy(&info, array[i].data, MIN_OF(array[i].len, sizeof(info)));
		remote_addr_t at = remote_put(&by, 0, &info, sizeof(info));
		long r = !at ? -EFAULT : t ? REMOTE_CALL(&by, SYS_rt_tgsigqueueinfo, process, (uint64_t)t->tid, (uint64_t)info.si_signo, at, 0, 0)
					     : REMOTE_CALL(&by, SYS_rt_sigqueueinfo, process, (uint64_t)info.si_signo, at, 0, 0, 0);
		if (r < 0)
			return checkpoint_fail(&p->restoring->error, (int)r, "process %d: pending signal %d: %s", p->pid, info.si_signo, strerror((int)-r));
	}
	return 0;
}

int signals_save(struct saved_process *p)
{
	char *status = proc_text(&p->saving->arena, p->pid, "status", NULL);
	if (!status)
		return saved_no_memory(p->saving);
	uint64_t set = proc_number(status, "SigIgn", 16) | proc_number(status, "SigCgt", 16);
	for (unsigned int number = 1; number <= KERNEL_SIGNALS; number++) {
		int r = set >> (number - 1) & 1 ? save_action(p, number) : 0;
		if (r < 0)
			return r;
	}
	return pending_save(p->saving, p->pid, true, &p->message->pending, &p->message->n_pending);
}

static const Image__SignalAction *find_action(const Image__Process *message, unsigned int number)
{
	for (size_t i = 0; i < message->n_actions; i++)
		if (message->actions[i]->signal == number)
			return message->actions[i];
	return NULL;
}

/* Which it has from us, and shall not. */
static uint64_t inherited_actions(void)
{
	uint64_t set = 0;
	for (int number = 1; number <= KERNEL_SIGNALS; number++) {
		struct sigaction action;
		if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
			set |= UINT64_C(1) << (number - 1);
	}
	return set;
}

int signals_restore(struct restored_process *p)
{
	uint64_t inherited = inherited_actions();
	for (unsigned int number = 1; number <= KERNEL_SIGNALS; number++) {
		const Image__SignalAction *message = find_action(p->message, number);
		struct kernel_action action = {0};
		if (!message && !(inherited >> (number - 1) & 1))
			continue;
		if (message)
			action = (struct kernel_action){message->handler, message->flags, message->restorer, message->mask};
		remote_addr_t at = remote_put(&p->remote, 0, &action, sizeof(action));
		long r = at ? REMOTE_CALL(&p->remote, SYS_rt_sigaction, number, at, 0, sizeof(uint64_t), 0, 0) : -EFAULT;
		if (r < 0)
			return checkpoint_fail(&p->restoring->error, (int)r, "process %d: signal %u: %s", p->pid, number, strerror((int)-r));
	}
	return pending_restore(p, NULL, 0, p->message->pending, p->message->n_pending);
}
