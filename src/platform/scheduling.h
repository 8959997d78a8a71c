/* How soon the keeper's threads run when they are woken. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Asks for a short time slice (sched_setattr(2): sched_runtime of a SCHED_OTHER task, Linux 6.12) and, where the right exists, a better nice
 * value, for the calling thread: it works little and is waited for. Silently without effect where the kernel does not offer it.
 */
void scheduling_prefer_latency(void);

/* The same for another thread, unless it is in a real-time class. */
void scheduling_prefer_latency_of(pid_t tid);

/*
 * The opposite: a long slice and the nice value that the thread had when it first called this, so that whoever wakes up goes first. For work that nobody
 * waits for just now.
 */
void scheduling_give_way(void);

/* Processors that this process may use; asked for once. */
uint32_t scheduling_nr_processors(void);

/* The calling thread runs as soon as it wakes up, whoever runs there; as above where that is not allowed. */
void scheduling_preempt(void);

/*
 * Another thread, and what it starts, runs as soon as it can until it is put back: for the moment in which it works for us and others wait for it. Nothing
 * happens to one that is in a real-time class already, nor without the right to it. Who changes its class meanwhile has the last word.
 */
struct scheduling {
	bool is_fair;
	uint32_t policy;
	uint64_t flags, slice_ns;
};
void scheduling_read(pid_t tid, struct scheduling *ret);
void scheduling_put_first(pid_t tid, struct scheduling *ret_was);
void scheduling_put_back(pid_t tid, const struct scheduling *was);
