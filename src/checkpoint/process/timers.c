/* Interval timers and POSIX timers. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "checkpoint/process/process.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77 /* Linux 6.16: timer_create takes the id that it is asked for */
#endif
#define MAX_TIMER_ID 100000

static int fail(struct checkpoint_error *error, pid_t pid, long code)
{
	return checkpoint_fail(error, (int)code, "process %d: its timers: %s", pid, strerror((int)-code));
}

static uint64_t us_of(struct timeval t)
{
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_usec;
}

static struct timeval timeval_of(uint64_t us)
{
	return (struct timeval){(time_t)(us / 1000000u), (suseconds_t)(us % 1000000u)};
}

static uint64_t ns_of(struct timespec t)
{
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

static int save_interval_timer(struct saved_process *p, uint32_t which)
{
	struct itimerval value;
	long r = REMOTE_CALL(&p->remote, SYS_getitimer, which, p->remote.scratch, 0, 0, 0, 0);
	if (r == 0)
		r = remote_get(&p->remote, 0, &value, sizeof(value));
	if (r < 0)
		return fail(&p->saving->error, p->pid, r);
	if (!us_of(value.it_value)) /* it has just expired: the kernel starts it again when the signal, which waits, is taken */
		value.it_value = value.it_interval;
	if (!us_of(value.it_value))
		return 0;
	Image__IntervalTimer **slot = arena_grow(&p->saving->arena, &p->message->interval_timers, p->message->n_interval_timers, sizeof(*slot));
	Image__IntervalTimer *message = arena_alloc(&p->saving->arena, sizeof(*message));
	if (!slot || !message)
		return saved_no_memory(p->saving);
	image__interval_timer__init(message);
	message->which = which;
	message->interval_us = us_of(value.it_interval);
	message->value_us = us_of(value.it_value);
	*slot = message;
	p->message->n_interval_timers++;
	return 0;
}

/* The description of one in /proc/PID/timers (proc(5)): from "ID:" to the next one. */
static int save_posix_timer(struct saved_process *p, const char *text)
{
	Image__PosixTimer **slot = arena_grow(&p->saving->arena, &p->message->posix_timers, p->message->n_posix_timers, sizeof(*slot));
	Image__PosixTimer *message = arena_alloc(&p->saving->arena, sizeof(*message));
	struct itimerspec value;
	unsigned int id, number;
	unsigned long long pointer;
	char how[16], whom[4];
	int tid, clock;
	if (!slot || !message)
		return saved_no_memory(p->saving);
	if (sscanf(text, "ID: %u signal: %u/%llx notify: %15[a-z]/%3[a-z].%d ClockID: %d", &id, &number, &pointer, how, whom, &tid, &clock) != 7)
		return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d: /proc/%d/timers is not understood", p->pid, p->pid);
	if (clock < 0)
		return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d: timer %u counts the time of a process or device", p->pid, id);
	long r = REMOTE_CALL(&p->remote, SYS_timer_gettime, id, p->remote.scratch, 0, 0, 0, 0);
	if (r == 0)
		r = remote_get(&p->remote, 0, &value, sizeof(value));
	if (r < 0)
		return fail(&p->saving->error, p->pid, r);
	image__posix_timer__init(message);
	message->id = id;
	message->clock = (uint32_t)clock;
	message->signal = number;
	message->value_pointer = pointer;
	message->notify = !strcmp(how, "none") ? SIGEV_NONE : !strcmp(how, "thread") ? SIGEV_THREAD : SIGEV_SIGNAL;
	if (!strcmp(whom, "tid")) {
		message->notify |= SIGEV_THREAD_ID;
		message->tid = saved_id(p->saving, tid);
	}
	message->interval_ns = ns_of(value.it_interval);
	message->value_ns = ns_of(value.it_value);
	*slot = message;
	p->message->n_posix_timers++;
	return 0;
}

int timers_save(struct saved_process *p)
{
	char *text = proc_text(&p->saving->arena, p->pid, "timers", NULL);
	int r = text || errno == ENOENT ? 0 : -errno; /* ENOENT: no such timers in this kernel */
	if (r < 0)
		return fail(&p->saving->error, p->pid, r);
	for (uint32_t which = ITIMER_REAL; r == 0 && which <= ITIMER_PROF; which++)
		r = save_interval_timer(p, which);
	for (const char *at = text ? strstr(text, "ID: ") : NULL; r == 0 && at; at = strstr(at + 1, "\nID: ") ? strstr(at + 1, "\nID: ") + 1 : NULL)
		r = save_posix_timer(p, at);
	return r;
}

static int restore_interval_timer(struct restored_process *p, const Image__IntervalTimer *message)
{
	struct itimerval value = {timeval_of(message->interval_us), timeval_of(message->value_us)};
	remote_addr_t at = remote_put(&p->remote, 0, &value, sizeof(value));
	long r = at ? REMOTE_CALL(&p->remote, SYS_setitimer, message->which, at, 0, 0, 0, 0) : -EFAULT;
	return r < 0 ? fail(&p->restoring->error, p->pid, r) : 0;
}

/* Older kernels count the ids up: those before are made and given back. */
static int create_with_id(struct restored_process *p, const Image__PosixTimer *message)
{
	struct {
		struct sigevent event;
		int32_t id;
	} data = {.id = (int32_t)message->id};
	data.event.sigev_notify = (int)message->notify;
	data.event.sigev_signo = (int)message->signal;
	data.event.sigev_value.sival_ptr = (void *)(uintptr_t)message->value_pointer;
	data.event._sigev_un._tid = message->tid;
	for (int tries = 0; tries < MAX_TIMER_ID; tries++) {
		int32_t id = -1;
		remote_addr_t at = remote_put(&p->remote, 0, &data, sizeof(data));
		long r = at ? REMOTE_CALL(&p->remote, SYS_timer_create, message->clock, at, at + offsetof(typeof(data), id), 0, 0, 0) : -EFAULT;
		if (r == 0)
			r = remote_get(&p->remote, offsetof(typeof(data), id), &id, sizeof(id));
		if (r < 0)
			return (int)r;
		if (id == (int32_t)message->id)
			return 0;
		REMOTE_CALL(&p->remote, SYS_timer_delete, (uint64_t)id, 0, 0, 0, 0, 0);
		if (id > (int32_t)message->id)
			return -EEXIST;
	}
	return -EEXIST;
}

static int restore_posix_timer(struct restored_process *p, const Image__PosixTimer *message)
{
	struct itimerspec value = {timespec_of(message->interval_ns), timespec_of(message->value_ns)};
	long r = create_with_id(p, message);
	if (r == 0 && message->value_ns) {
		remote_addr_t at = remote_put(&p->remote, 0, &value, sizeof(value));
		r = at ? REMOTE_CALL(&p->remote, SYS_timer_settime, message->id, 0, at, 0, 0, 0) : -EFAULT;
	}
	return r < 0 ? fail(&p->restoring->error, p->pid, r) : 0;
}

int timers_restore(struct restored_process *p)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < p->message->n_interval_timers; i++)
		r = restore_interval_timer(p, p->message->interval_timers[i]);
	if (p->message->n_posix_timers)
		REMOTE_CALL(&p->remote, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0, 0);
	for (size_t i = 0; r == 0 && i < p->message->n_posix_timers; i++)
		r = restore_posix_timer(p, p->message->posix_timers[i]);
	if (p->message->n_posix_timers)
		REMOTE_CALL(&p->remote, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0, 0);
	return r;
}
