#include "platform/scheduling.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_NS 100000ull /* the shortest the kernel grants */
#define LONG_SLICE_NS 50000000ull
#define KEEPER_NICE (-10)
#define FIRST_PRIORITY 1 /* of the real-time class */
#ifndef SCHED_FLAG_RESET_ON_FORK
#define SCHED_FLAG_RESET_ON_FORK 1
#endif

struct sched_attributes { /* struct sched_attr, first version */
	uint32_t size;
	uint32_t policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime;
	uint64_t deadline;
	uint64_t period;
};

/*
 * The real-time class preempts at once; a fair thread that wakes up may have to wait for the next tick of the clock, up to 4 ms. Only for a
 * thread that sleeps nearly all the time. Without the right to it the fair class has to do.
 */
void scheduling_preempt(void)
{
	struct sched_attributes attributes = {.size = sizeof(attributes), .policy = SCHED_RR, .flags = SCHED_FLAG_RESET_ON_FORK, .priority = FIRST_PRIORITY};
	if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0)
		scheduling_prefer_latency();
}

void scheduling_read(pid_t tid, struct scheduling *ret)
{
	struct sched_attributes now = {0};
	*ret = (struct scheduling){0};
	if (syscall(SYS_sched_getattr, tid, &now, sizeof(now), 0) < 0)
		return;
	bool is_fair = now.policy == SCHED_OTHER || now.policy == SCHED_BATCH || now.policy == SCHED_IDLE;
	*ret = (struct scheduling){.is_fair = is_fair, .policy = now.policy, .flags = now.flags, .slice_ns = now.runtime};
}

void scheduling_put_first(pid_t tid, struct scheduling *ret_was)
{
	struct sched_attributes first = {.size = sizeof(first), .policy = SCHED_RR, .priority = FIRST_PRIORITY};
	scheduling_read(tid, ret_was);
	if (ret_was->is_fair)
		syscall(SYS_sched_setattr, tid, &first, 0);
}

/* The nice value is kept by the kernel meanwhile, and may have been changed. */
void scheduling_put_back(pid_t tid, const struct scheduling *was)
{
	struct sched_attributes now = {0}, back = {.size = sizeof(back), .policy = was->policy, .flags = was->flags, .runtime = was->slice_ns};
	if (!was->is_fair || syscall(SYS_sched_getattr, tid, &now, sizeof(now), 0) < 0 || now.policy != SCHED_RR || now.priority != FIRST_PRIORITY)
		return;
	back.nice = getpriority(PRIO_PROCESS, (id_t)tid);
	syscall(SYS_sched_setattr, tid, &back, 0);
}

static void prefer_latency(pid_t tid)
{
	struct sched_attributes attributes = {.size = sizeof(attributes), .nice = KEEPER_NICE, .runtime = SLICE_NS};
	if (syscall(SYS_sched_setattr, tid, &attributes, 0) == 0)
		return;
	attributes.nice = getpriority(PRIO_PROCESS, (id_t)tid);
	syscall(SYS_sched_setattr, tid, &attributes, 0);
}

void scheduling_prefer_latency(void)
{
	prefer_latency(0);
}

void scheduling_prefer_latency_of(pid_t tid)
{
	struct scheduling now;
	scheduling_read(tid, &now);
	if (now.is_fair)
		prefer_latency(tid);
}

void scheduling_give_way(void)
{
	static _Thread_local bool knows_usual;
	static _Thread_local int usual; /* a user may have been nice to others */
	if (!knows_usual)
		usual = getpriority(PRIO_PROCESS, 0);
	knows_usual = true;
	struct sched_attributes attributes = {.size = sizeof(attributes), .nice = usual, .runtime = LONG_SLICE_NS};
	syscall(SYS_sched_setattr, 0, &attributes, 0);
}

uint32_t scheduling_nr_processors(void)
{
	static _Atomic uint32_t known;
	uint32_t nr = atomic_load_explicit(&known, memory_order_relaxed);
	cpu_set_t set;
	if (nr)
		return nr;
	nr = sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
	nr = nr ? nr : 1;
	atomic_store_explicit(&known, nr, memory_order_relaxed);
	return nr;
}
