/*
 * userfaultfd(2), ioctl_userfaultfd(2) and Documentation/admin-guide/mm/userfaultfd.rst. The structures of Linux 6.8 that Debian 12's
 * headers do not have yet are declared here. All wrappers return 0 or a byte count, or -errno.
 *
 * Legal on another process's userfaultfd (taken by pidfd_getfd or read from a FORK event): everything here but uffd_move, which
 * the kernel allows only from inside the address space (the agent does it).
 */
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "base/types.h"

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

#ifndef UFFDIO_MOVE
struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};
#define _UFFDIO_MOVE (0x05)
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#define UFFDIO_MOVE_MODE_DONTWAKE ((__u64)1 << 0)
#define UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES ((__u64)1 << 1)
#endif

/* Features of the userfaultfd that watches the program's own ranges. */
#define UFFD_PROGRAM_FEATURES                                                                                          \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |   \
	 UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC | \
	 UFFD_FEATURE_MOVE)

/* The same for a caller without CAP_SYS_PTRACE, to whom the kernel does not report forks. */
#define UFFD_FORKLESS_FEATURES (UFFD_PROGRAM_FEATURES & ~UFFD_FEATURE_EVENT_FORK)

/* Handshake: UFFDIO_API with the features wanted. -EINVAL when the kernel lacks one. */
int uffd_api(int uffd, uint64_t features);

/* Registers [start, start+len) MISSING, with WP when asked. -EBUSY: another userfaultfd owns it; -EINVAL: kind of mapping. */
int uffd_register(int uffd, remote_addr_t start, uint64_t len, bool write_protect);

int uffd_unregister(int uffd, remote_addr_t start, uint64_t len);

/*
 * Fills missing pages from the caller's buffer. Returns 0 when all went in, else -errno; *ret_done holds the bytes that went in
 * in both cases. Normal errors: -EAGAIN (an event is pending: read it, look the page up again), -EEXIST (someone filled it),
 * -ENOENT (mapping gone or not registered), -ESRCH (address space gone).
 */
int uffd_copy(int uffd, remote_addr_t dst, const void *src, uint64_t len, bool write_protect, uint64_t *ret_done);

/* Maps the zero page. Errors as uffd_copy. */
int uffd_zeropage(int uffd, remote_addr_t dst, uint64_t len, uint64_t *ret_done);

/* Wakes the threads that wait for a page of the range, which then fault again. */
int uffd_wake(int uffd, remote_addr_t start, uint64_t len);

/* Reads up to max messages without blocking; returns how many, 0 when none. Faults come before older events. */
int uffd_read(int uffd, struct uffd_msg *msgs, int max);

/* True when an event that was not yet read makes COPY and MOVE refuse (EAGAIN). */
bool uffd_event_pending(int uffd);

/*
 * True when no memory stands behind it that could miss its pages: the address space no longer exists, or nothing was ever registered with it. Changes
 * nothing.
 */
bool uffd_is_needless(int uffd);

/* True when the address space behind it no longer exists. probe_addr: an address that is never mapped. */
bool uffd_is_dead(int uffd, remote_addr_t probe_addr);
