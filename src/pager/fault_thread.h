/*
 * A thread that serves the userfaultfds of the address spaces attached to it: reads messages, applies events, fills missing pages, has
 * reads of the swap file in flight. It spins a little after work (a fault answered by a spinning thread takes 11 us, by a sleeping one
 * 40 us), then sleeps in epoll.
 */
#pragma once

#include "pager/address_space.h"

int fault_thread_new(struct pager *pager, struct fault_thread **ret_thread);
void fault_thread_free(struct fault_thread *thread);

/* Takes a reference. Any thread. 0 or -errno. */
int fault_thread_attach(struct fault_thread *thread, struct address_space *as);

/* Any thread: look at waiting faults and dead address spaces again. */
void fault_thread_wake(struct fault_thread *thread);

/* The preference of nodes (preference.h) that the thread follows. Any thread. */
uint32_t fault_thread_preference(const struct fault_thread *thread);

/*
 * The pager's swap file has changed: the thread closes its I/O queue and opens one on the new file. Returns when it has, 0 or -errno. Before a file
 * is taken away nothing may refer to it; after the return the thread does not use it any more.
 */
int fault_thread_reopen(struct fault_thread *thread);
