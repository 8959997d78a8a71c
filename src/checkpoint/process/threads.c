/* Threads: registers, thread-local state that the kernel keeps, scheduling. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "checkpoint/process/pending.h"
#include "checkpoint/process/process.h"
#include "platform/process.h"
#include "platform/regs.h"

#ifdef __x86_64__
#define EXTENDED_SET NT_X86_XSTATE
#else
#define EXTENDED_SET NT_PRFPREG
#endif
#define EXTENDED_MAX_BYTES 65536
#define AFFINITY_BYTES 1024
#define MAX_THREADS 65536
#define SCHED_DEADLINE_POLICY 6
#define ROBUST_LIST_HEAD_BYTES 24

static int fail_save(struct saved_process *p, pid_t tid, const char *what, long code)
{
	return checkpoint_fail(&p->saving->error, (int)code, "process %d, thread %d: %s: %s", p->pid, tid, what, strerror((int)-code));
}

static int save_registers(struct saved_process *p, Image__Thread *t, pid_t tid)
{
	struct arena *arena = &p->saving->arena;
	struct thread_regs regs;
	_cleanup_free_ uint8_t *extended = malloc(EXTENDED_MAX_BYTES);
	struct iovec iov = {extended, EXTENDED_MAX_BYTES};
	if (!extended)
		return saved_no_memory(p->saving);
	int r = world_read_thread(p->remote.world, tid, &regs, &t->signal_mask);
	if (r < 0)
		return fail_save(p, t->tid, "registers", r);
	if (ptrace(PTRACE_GETREGSET, tid, EXTENDED_SET, &iov) < 0)
		return fail_save(p, t->tid, "vector registers", -errno);
	t->registers.len = sizeof(regs);
	t->registers.data = arena_copy(arena, &regs, sizeof(regs));
	t->extended.len = iov.iov_len;
	t->extended.data = arena_copy(arena, extended, iov.iov_len);
	return t->registers.data && t->extended.data ? 0 : saved_no_memory(p->saving);
}

static int save_rseq(struct saved_process *p, Image__Thread *t, pid_t tid)
{
#ifdef PTRACE_GET_RSEQ_CONFIGURATION
	struct __ptrace_rseq_configuration area = {0};
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(area), &area) < 0)
		return errno == EIO || errno == EINVAL ? 0 : fail_save(p, t->tid, "restartable sequence", -errno);
	t->rseq = area.rseq_abi_pointer;
	t->rseq_bytes = area.rseq_abi_size;
	t->rseq_signature = area.signature;
#endif
	return 0;
}

/* What only the thread itself can ask for. */
static int save_by_asking(struct saved_process *p, Image__Thread *t, pid_t tid)
{
	struct remote by = p->remote;
	stack_t stack;
	uint64_t address = 0;
	int number = 0;
	by.tid = tid;
	long r = REMOTE_CALL(&by, SYS_sigaltstack, 0, by.scratch, 0, 0, 0, 0);
	if (r == 0)
		r = remote_get(&by, 0, &stack, sizeof(stack));
	if (r < 0)
		return fail_save(p, t->tid, "alternate signal stack", r);
	t->alternate_stack = (uint64_t)(uintptr_t)stack.ss_sp;
	t->alternate_stack_bytes = stack.ss_size;
	t->alternate_stack_flags = (uint32_t)stack.ss_flags;
	r = REMOTE_CALL(&by, SYS_prctl, PR_GET_TID_ADDRESS, by.scratch, 0, 0, 0, 0);
	if (r == 0)
		r = remote_get(&by, 0, &address, sizeof(address));
	if (r < 0)
		return fail_save(p, t->tid, "the kernel does not tell where a thread's id is to be cleared (CONFIG_CHECKPOINT_RESTORE)", r);
	t->clear_child_tid = address;
	if (REMOTE_CALL(&by, SYS_prctl, PR_GET_PDEATHSIG, by.scratch, 0, 0, 0, 0) == 0 && remote_get(&by, 0, &number, sizeof(number)) == 0)
		t->parent_death_signal = number;
	r = REMOTE_CALL(&by, SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0, 0);
	t->timer_slack_ns = r > 0 ? (uint64_t)r : 0;
	return 0;
}

static int save_scheduling(struct saved_process *p, Image__Thread *t, pid_t tid)
{
	struct arena *arena = &p->saving->arena;
	Image__Scheduling *s = arena_alloc(arena, sizeof(*s));
	struct sched_param parameter;
	uint8_t bits[AFFINITY_BYTES];
	if (!s)
		return saved_no_memory(p->saving);
	image__scheduling__init(s);
	int policy = sched_getscheduler(tid);
	if (policy < 0 || sched_getparam(tid, &parameter) < 0)
		return fail_save(p, t->tid, "scheduling", -errno);
	if (policy == SCHED_DEADLINE_POLICY)
		return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d, thread %d: it has deadlines (SCHED_DEADLINE)", p->pid, t->tid);
	errno = 0;
	s->nice = getpriority(PRIO_PROCESS, (id_t)tid);
	s->policy = (uint32_t)policy;
	s->priority = (uint32_t)parameter.sched_priority;
	long n = syscall(SYS_sched_getaffinity, tid, sizeof(bits), bits);
	if (n < 0)
		return fail_save(p, t->tid, "affinity", -errno);
	s->affinity.len = (size_t)n;
	s->affinity.data = arena_copy(arena, bits, (size_t)n);
	t->scheduling = s;
	return s->affinity.data ? 0 : saved_no_memory(p->saving);
}

static int save_thread(struct saved_process *p, pid_t tid)
{
	struct arena *arena = &p->saving->arena;
	Image__Thread *t = arena_alloc(arena, sizeof(*t)), **slot;
	char name[48];
	remote_addr_t robust;
	if (!t)
		return saved_no_memory(p->saving);
	image__thread__init(t);
	t->tid = saved_id(p->saving, tid);
	snprintf(name, sizeof(name), "task/%d/comm", tid);
	t->name = proc_text(arena, p->pid, name, NULL);
	if (!t->name)
		return checkpoint_fail(&p->saving->error, -errno, "process %d: thread %d: its name: %s", p->pid, tid, strerror(errno));
	t->name[strcspn(t->name, "\n")] = '\0';
	if (thread_robust_list(tid, &robust) == 0)
		t->robust_list = robust;
	int r = save_registers(p, t, tid);
	if (r == 0)
		r = pending_save(p->saving, tid, false, &t->pending, &t->n_pending);
	if (r == 0)
		r = save_rseq(p, t, tid);
	if (r == 0)
		r = save_scheduling(p, t, tid);
	if (r == 0)
		r = save_by_asking(p, t, tid);
	slot = arena_grow(arena, &p->message->threads, p->message->n_threads, sizeof(*slot));
	if (r == 0 && !slot)
		return saved_no_memory(p->saving);
	if (r == 0) {
		*slot = t;
		p->message->n_threads++;
	}
	return r;
}

int threads_save(struct saved_process *p)
{
	size_t nr = world_threads(p->remote.world, NULL, 0);
	_cleanup_free_ pid_t *tids = calloc(nr + 1, sizeof(*tids));
	int r = tids ? 0 : saved_no_memory(p->saving);
	if (r == 0)
		world_threads(p->remote.world, tids, nr);
	if (r == 0 && nr && tids[0] != p->pid)
		return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d: its first thread has ended while others go on", p->pid);
	for (size_t i = 0; r == 0 && i < nr; i++)
		r = save_thread(p, tids[i]);
	return r;
}

int threads_for_each_record(const Image__Process *message, int (*visit)(remote_addr_t addr, void *context), void *context)
{
	for (size_t i = 0; i < message->n_threads; i++) {
		const Image__Thread *t = message->threads[i];
		const remote_addr_t records[] = {t->clear_child_tid, t->robust_list, t->rseq, t->rseq ? t->rseq + t->rseq_bytes - 1 : 0};
		for (size_t k = 0; k < ARRAY_LEN(records); k++) {
			int r = records[k] ? visit(records[k], context) : 0;
			if (r)
				return r;
		}
	}
	return 0;
}

static int fail_restore(struct restored_process *p, pid_t tid, const char *what, long code)
{
	return checkpoint_fail(&p->restoring->error, (int)code, "process %d, thread %d: %s: %s", p->pid, tid, what, strerror((int)-code));
}

/* Our number for a thread that has been made. */
static pid_t find_tid(const struct restored_process *p, pid_t tid)
{
	_cleanup_free_ pid_t *tids = calloc(MAX_THREADS, sizeof(*tids));
	int nr = tids ? process_threads(p->pid, tids, MAX_THREADS) : 0;
	for (int i = MIN_OF(nr, MAX_THREADS) - 1; i >= 0; i--)
		if (process_innermost_pid(tids[i]) == tid)
			return tids[i];
	return 0;
}

static int create_thread(struct restored_process *p, pid_t tid, pid_t *ret)
{
	struct {
		struct clone_args args;
		pid_t tid;
	} data = {.tid = tid};
	data.args.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE;
	data.args.set_tid = p->remote.scratch + offsetof(typeof(data), tid);
	data.args.set_tid_size = 1;
	remote_addr_t at = remote_put(&p->remote, 0, &data, sizeof(data));
	long r = at ? REMOTE_CALL(&p->remote, SYS_clone3, at, sizeof(data.args), 0, 0, 0, 0) : -EFAULT;
	*ret = r < 0 || p->pid == p->message->pid ? tid : find_tid(p, tid);
	if (r == tid)
		r = *ret ? world_add_clone(p->remote.world, *ret) : -ESRCH;
	else if (r >= 0)
		r = -EEXIST;
	return r < 0 ? fail_restore(p, tid, "cannot be made", r) : 0;
}

int threads_create(struct restored_process *p)
{
	int r = 0;
	p->tids = calloc(p->message->n_threads, sizeof(*p->tids));
	if (!p->tids)
		return fail_restore(p, p->message->pid, "no memory", -ENOMEM);
	p->tids[0] = p->pid;
	for (size_t i = 1; r == 0 && i < p->message->n_threads; i++)
		r = create_thread(p, p->message->threads[i]->tid, &p->tids[i]);
	return r;
}

static int restore_scheduling(struct restored_process *p, const Image__Thread *t, pid_t tid)
{
	const Image__Scheduling *s = t->scheduling;
	struct sched_param parameter = {.sched_priority = (int)s->priority};
	uint8_t bits[AFFINITY_BYTES];
	long n = syscall(SYS_sched_getaffinity, tid, sizeof(bits), bits);
	bool is_other = n < 0 || (size_t)n != s->affinity.len || memcmp(bits, s->affinity.data, s->affinity.len);
	if (is_other) /* this machine may have other processors: then it may use all */
		syscall(SYS_sched_setaffinity, tid, s->affinity.len, s->affinity.data);
	if (sched_getscheduler(tid) != (int)s->policy && sched_setscheduler(tid, (int)s->policy, &parameter) < 0)
		return fail_restore(p, t->tid, "scheduling", -errno);
	if (getpriority(PRIO_PROCESS, (id_t)tid) != s->nice && setpriority(PRIO_PROCESS, (id_t)tid, s->nice) < 0)
		return fail_restore(p, t->tid, "niceness", -errno);
	return 0;
}

/* What only the thread itself can set. */
static int restore_by_asking(struct restored_process *p, const Image__Thread *t, pid_t tid)
{
	struct remote by = p->remote;
	stack_t stack = {.ss_sp = (void *)(uintptr_t)t->alternate_stack,
			 .ss_size = t->alternate_stack_bytes,
			 .ss_flags = (int)t->alternate_stack_flags & ~SS_ONSTACK};
	char name[16] = {0};
	const struct __user_cap_header_struct rights = {.version = _LINUX_CAPABILITY_VERSION_3};
	const struct __user_cap_data_struct none[2] = {0};
	by.tid = tid;
	memcpy(name, t->name, MIN_OF(strlen(t->name), sizeof(name) - 1));
	remote_addr_t stack_at = remote_put(&by, 0, &stack, sizeof(stack)), name_at = remote_put(&by, 256, name, sizeof(name));
	remote_addr_t rights_at = remote_put(&by, 512, &rights, sizeof(rights)), none_at = remote_put(&by, 768, none, sizeof(none));
	if (!stack_at || !name_at || !rights_at || !none_at)
		return fail_restore(p, t->tid, "its memory", -EFAULT);
	const struct {
		const char *what;
		long number;
		uint64_t args[6];
		bool wanted;
	} calls[] = {
		{"alternate signal stack", SYS_sigaltstack, {stack_at}, t->alternate_stack},
		{"name", SYS_prctl, {PR_SET_NAME, name_at}, true},
		{"timer slack", SYS_prctl, {PR_SET_TIMERSLACK, t->timer_slack_ns}, t->timer_slack_ns},
		{"signal at the death of its parent", SYS_prctl, {PR_SET_PDEATHSIG, (uint64_t)t->parent_death_signal}, true},
		{"robust list", SYS_set_robust_list, {t->robust_list, ROBUST_LIST_HEAD_BYTES}, true},
		{"where its id is cleared", SYS_set_tid_address, {t->clear_child_tid}, true},
		{"rights", SYS_capset, {rights_at, none_at}, p->restoring->has_user_namespace},
		{"restartable sequence", SYS_rseq, {t->rseq, t->rseq_bytes, 0, t->rseq_signature}, t->rseq},
	};
	for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
		long r = calls[i].wanted ? remote_call(&by, calls[i].number, calls[i].args) : 0;
		if (r < 0)
			return fail_restore(p, t->tid, calls[i].what, r);
	}
	return 0;
}

/* A processor with more registers than that of the checkpoint wants all of them: those that the thread did not know are as they are at first. */
static int restore_extended(const Image__Thread *t, pid_t tid)
{
	_cleanup_free_ uint8_t *extended = malloc(EXTENDED_MAX_BYTES);
	struct iovec iov = {extended, EXTENDED_MAX_BYTES};
	if (!extended)
		return -ENOMEM;
	if (ptrace(PTRACE_GETREGSET, tid, EXTENDED_SET, &iov) < 0)
		return -errno;
	memset(extended, 0, EXTENDED_MAX_BYTES);
	memcpy(extended, t->extended.data, MIN_OF(t->extended.len, EXTENDED_MAX_BYTES));
	return ptrace(PTRACE_SETREGSET, tid, EXTENDED_SET, &iov) < 0 ? -errno : 0;
}

static int restore_thread(struct restored_process *p, const Image__Thread *t, pid_t tid)
{
	struct thread_regs regs;
	if (t->registers.len != sizeof(regs))
		return fail_restore(p, t->tid, "registers", -EINVAL);
	memcpy(&regs, t->registers.data, sizeof(regs));
	int r = restore_by_asking(p, t, tid);
	if (r == 0)
		r = pending_restore(p, t, tid, t->pending, t->n_pending);
	if (r == 0)
		r = restore_scheduling(p, t, tid);
	if (r < 0)
		return r;
	r = restore_extended(t, tid);
	if (r < 0)
		return fail_restore(p, t->tid, "vector registers", r);
	r = world_write_thread(p->remote.world, tid, &regs, t->signal_mask);
	return r < 0 ? fail_restore(p, t->tid, "registers", r) : 0;
}

int threads_restore(struct restored_process *p)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < p->message->n_threads; i++)
		r = restore_thread(p, p->message->threads[i], p->tids[i]);
	return r;
}
