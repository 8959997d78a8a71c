/* pidfd, process_vm, kcmp, process_madvise and figures of a process from /proc. All return -errno on failure. */
#pragma once

#include "base/types.h"

int pidfd_open_process(pid_t pid);                /* pidfd_open(2), close-on-exec */
int pidfd_take_fd(int pidfd, int target_fd);      /* pidfd_getfd(2) */
int pidfd_kill(int pidfd, int signal);            /* pidfd_send_signal(2) */
bool process_has_ended(pid_t pid);                /* as a whole, or there is none; false when it cannot be asked */
pid_t pidfd_process(int pidfd);                   /* whom it names, for us; -ESRCH: reaped, or no pidfd */
bool pidfd_has_exited(int pidfd);                 /* whole thread group is dead (zombie or reaped) */

/* process_vm_readv(2) / writev(2), whole length or an error. Never on a page that may be missing from the fault thread. */
int process_read(pid_t pid, remote_addr_t src, void *dst, size_t len);
int process_write(pid_t pid, remote_addr_t dst, const void *src, size_t len);

struct remote_range {
	remote_addr_t start;
	size_t len;
};

/* Gathers up to 1024 ranges into one buffer; returns 0 or -errno (-EFAULT when a part could not be read). */
int process_gather(pid_t pid, const struct remote_range *ranges, uint32_t nr_ranges, void *dst, size_t len);

/*
 * 0: the user may do as it likes with the process, whatever capabilities we have; -EPERM: it is another user's, or has rights that the user has not
 * (set-user-id, file capabilities) or has forbidden to be looked at: its files in /proc are not the user's. Root may always. Or -errno.
 */
int process_check_owner(pid_t pid);

/* 1: both share one address space; 0: not; -errno. */
int process_same_memory(pid_t a, pid_t b);

/* False for a task that is on its way out: it has let go of its memory, long before anybody is told that it has ended. */
bool process_has_memory(pid_t pid);

/* process_madvise(2) with MADV_PAGEOUT over one range; bytes advised or -errno. */
ssize_t process_pageout(int pidfd, remote_addr_t start, size_t len);

struct process_memory {
	uint64_t resident_pages; /* anon + file + shmem */
	uint64_t file_pages;     /* mapped file and shmem pages */
};

/* /proc/PID/statm. -ESRCH when gone (also for zombies: all zero counts as 0 pages, not an error). */
int process_memory_read(pid_t pid, struct process_memory *ret);

struct process_residence { /* pages */
	uint64_t anon, file, shmem; /* resident, by kind */
	uint64_t tables;            /* page tables */
};

/* /proc/PID/status. All zero for a process that has no memory any more. 0 or -errno. */
int process_residence_read(pid_t pid, struct process_residence *ret);

/* Pages of a process at one moment, by /proc/PID/smaps_rollup. File pages include shared memory (shmem, memfd). */
struct process_sharing {
	uint64_t anon, file;                           /* resident */
	uint64_t proportional_anon, proportional_file; /* a page that n processes map counts 1/n */
	uint64_t proportional_shmem;                   /* part of proportional_file: shared memory, tmpfs */
	uint64_t own;                                  /* mapped by no other process */
	uint64_t locked;                               /* in mlocked mappings, proportional */
};

/* Walks all pages, 25 to 65 ns each. 0 or -errno (-ESRCH: no memory of its own any more). */
int process_sharing_read(pid_t pid, struct process_sharing *ret);

/* Faults without I/O of all threads since the process began: each touch of a new page is one, and each copy of a page shared by fork. */
int process_minor_faults(pid_t pid, uint64_t *ret);

struct process_info {
	char name[16];
	char state; /* R S D T t Z X */
	bool is_kernel_thread; /* of the kernel itself, or a worker that it has made in a process (io_uring) */
	pid_t parent;
	uint64_t start_time;            /* clock ticks since boot: with the pid names a process for good */
	remote_addr_t arg_start, env_end; /* 0 when not readable */
};

int process_info_read(pid_t pid, struct process_info *ret); /* also of one thread, by its id */

/* A line of /proc/PID/status that holds a number, or the first of several: "Uid", "TracerPid", ... 0, -ESRCH, or -ENODATA: no such line. */
int process_status_number(pid_t pid, const char *key, long *ret);

/* True when the process is under a seccomp filter that is not ours too: system calls that are made in it may be refused, or kill it. */
bool process_is_filtered(pid_t pid);

/* The pid that the process has in its innermost pid namespace; 0: it is gone. */
pid_t process_innermost_pid(pid_t pid);

int process_oom_score_adj(pid_t pid, int *ret);

/* The children of all threads of pid, newest kernel order; returns the count written or -errno. */
int process_children(pid_t pid, pid_t *ret_children, int max);

/* What the whole system does (/proc/loadavg). */
struct system_activity {
	uint32_t runnable; /* tasks that run or wait for a processor */
	pid_t newest_pid;  /* given to the newest task in our pid namespace: while it stays the same nobody has forked */
};

/* 0 or -errno. */
int system_activity_read(struct system_activity *ret);

/* True when the process has asked for I/O that goes on without a thread that waits for it: io_uring, or io_setup(2). Also when that cannot be told. */
bool process_has_asynchronous_io(pid_t pid);

/* All thread ids of pid; returns the count (may exceed max, then only max are written) or -errno. */
int process_threads(pid_t pid, pid_t *ret_tids, int max);

/* get_robust_list(2) of a thread: address of the list head (0 when none). */
int thread_robust_list(pid_t tid, remote_addr_t *ret_head);
