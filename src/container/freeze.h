/*
 * A container that stands still: all members held until further notice, for `park` and for the OOM policy `stop`. A frozen container is not
 * stalled, adopted into or searched for OOM victims; its tick only samples and lets reclaim work. Container thread.
 */
#pragma once

struct container;

/*
 * Holds every thread of every member until container_thaw. 0, also when it is frozen already; -EBUSY with nothing held: a thread is in a state in which
 * it cannot be held just now (a parent in vfork), to be tried again at the next tick.
 */
int container_freeze(struct container *c);

void container_thaw(struct container *c);
