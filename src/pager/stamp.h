/*
 * The stamp: a number in a page of the program's memory that the child of a fork gets a copy of. By it the child shows whose it is and when the
 * kernel copied the page tables, where the kernel does not announce forks. Under the layout lock but for stamp_read.
 *
 * Why it tells the time: fork copies the page tables in one hold of the memory's mmap lock for writing, and a write through /proc/PID/mem holds that
 * lock for reading from the look at the page to the end of the copy. So the whole fork is either before or after a raise of the stamp,
 * and with it before or after what was done before the raise began or after it had ended.
 */
#pragma once

#include "base/types.h"

struct stamp {
	remote_addr_t page; /* 0: forks are announced, there is none */
	int mem;            /* /proc/PID/mem: belongs to the memory, not to the process */
	uint64_t owner;     /* number of the address space: nobody else's stamp, in this container or before, has it */
	uint64_t value;
};

struct stamp_copy {
	uint64_t owner, value;
};

/* Writes the first value. 0 or -errno. */
int stamp_init(struct stamp *stamp, pid_t pid, remote_addr_t page);
void stamp_release(struct stamp *stamp);

/* The next value: 0, or -ESRCH: the memory is gone. */
int stamp_raise(struct stamp *stamp);

/* What a process has at the place of a stamp. False: it has nothing there. */
bool stamp_read(pid_t pid, remote_addr_t page, struct stamp_copy *ret);
