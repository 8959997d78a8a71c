/*
 * What the program calls of the C library, so that it can fail on purpose (base/fault.h): the linker puts these in its place (--wrap), in builds with faults only.
 * The names are those of the functions, without the 64 of their symbols; an ioctl, a ptrace or a bare system call has the name of its request or number.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"

/* True when the call at this site is to fail; errno is set. */
static bool fails(struct fault_site *site)
{
	int error;
	if (fault_pass(site, 0, &error) != FAULT_ERROR)
		return false;
	errno = error;
	return true;
}

/* A function whose failure is the value `failure`, with errno. */
#define CALL(type, failure, symbol, text, parameters, arguments) \
	type __real_##symbol parameters;                         \
	type __wrap_##symbol parameters;                         \
	type __wrap_##symbol parameters                          \
	{                                                        \
		return fails(FAULT_SITE(text)) ? (failure) : __real_##symbol arguments; \
	}

/* One that returns an errno, or its negative. */
#define CALL_RETURNING(sign, symbol, text, parameters, arguments)  \
	int __real_##symbol parameters;                            \
	int __wrap_##symbol parameters;                            \
	int __wrap_##symbol parameters                             \
	{                                                          \
		return fails(FAULT_SITE(text)) ? sign errno : __real_##symbol arguments; \
	}

/* One that transfers bytes: it may be short, or find a flipped bit. */
#define TRANSFER(symbol, text, buffer, parameters, arguments)                                     \
	ssize_t __real_##symbol parameters;                                                       \
	ssize_t __wrap_##symbol parameters;                                                       \
	ssize_t __wrap_##symbol parameters                                                        \
	{                                                                                         \
		int error;                                                                        \
		enum fault_kind kind = fault_pass(FAULT_SITE(text), 0, &error);                   \
		if (kind == FAULT_ERROR) {                                                        \
			errno = error;                                                            \
			return -1;                                                                \
		}                                                                                 \
		if (kind == FAULT_SHORT)                                                          \
			len = len > 1 ? len / 2 : len;                                            \
		ssize_t n = __real_##symbol arguments;                                            \
		if (kind == FAULT_FLIP && n > 0)                                                  \
			((uint8_t *)(uintptr_t)(buffer))[n / 3] ^= 0x10;                          \
		return n;                                                                         \
	}

TRANSFER(read, "read", buffer, (int fd, void *buffer, size_t len), (fd, buffer, len))
TRANSFER(pread64, "pread", buffer, (int fd, void *buffer, size_t len, off_t at), (fd, buffer, len, at))
TRANSFER(write, "write", NULL, (int fd, const void *buffer, size_t len), (fd, buffer, len))
TRANSFER(pwrite64, "pwrite", NULL, (int fd, const void *buffer, size_t len, off_t at), (fd, buffer, len, at))
TRANSFER(send, "send", NULL, (int fd, const void *buffer, size_t len, int flags), (fd, buffer, len, flags))
TRANSFER(recv, "recv", buffer, (int fd, void *buffer, size_t len, int flags), (fd, buffer, len, flags))
CALL(ssize_t, -1, sendmsg, "sendmsg", (int fd, const struct msghdr *m, int flags), (fd, m, flags))
CALL(ssize_t, -1, recvmsg, "recvmsg", (int fd, struct msghdr *m, int flags), (fd, m, flags))
CALL(ssize_t, -1, process_vm_readv, "process_vm_readv",
     (pid_t pid, const struct iovec *to, unsigned long nr_to, const struct iovec *from, unsigned long nr_from, unsigned long flags), (pid, to, nr_to, from, nr_from, flags))
CALL(ssize_t, -1, process_vm_writev, "process_vm_writev",
     (pid_t pid, const struct iovec *from, unsigned long nr_from, const struct iovec *to, unsigned long nr_to, unsigned long flags), (pid, from, nr_from, to, nr_to, flags))

CALL(FILE *, NULL, fopen64, "fopen", (const char *path, const char *mode), (path, mode))
CALL(FILE *, NULL, fdopen, "fdopen", (int fd, const char *mode), (fd, mode))
CALL(DIR *, NULL, opendir, "opendir", (const char *path), (path))
CALL(DIR *, NULL, fdopendir, "fdopendir", (int fd), (fd))
CALL(struct dirent64 *, NULL, readdir64, "readdir", (DIR * dir), (dir))
CALL(ssize_t, -1, readlink, "readlink", (const char *path, char *target, size_t room), (path, target, room))
CALL(int, -1, stat64, "stat", (const char *path, struct stat64 *st), (path, st))
CALL(int, -1, lstat64, "lstat", (const char *path, struct stat64 *st), (path, st))
CALL(int, -1, fstat64, "fstat", (int fd, struct stat64 *st), (fd, st))
CALL(int, -1, fstatat64, "fstatat", (int at, const char *path, struct stat64 *st, int flags), (at, path, st, flags))
CALL(int, -1, access, "access", (const char *path, int mode), (path, mode))
CALL(off_t, -1, lseek64, "lseek", (int fd, off_t to, int whence), (fd, to, whence))
CALL(int, -1, ftruncate64, "ftruncate", (int fd, off_t to), (fd, to))
CALL(int, -1, fsync, "fsync", (int fd), (fd))
CALL(int, -1, fallocate64, "fallocate", (int fd, int mode, off_t at, off_t len), (fd, mode, at, len))
CALL(int, -1, sync_file_range, "sync_file_range", (int fd, off64_t at, off64_t len, unsigned flags), (fd, at, len, flags))
CALL(int, -1, flock, "flock", (int fd, int operation), (fd, operation))
CALL(int, -1, unlink, "unlink", (const char *path), (path))
CALL(int, -1, unlinkat, "unlinkat", (int at, const char *path, int flags), (at, path, flags))
CALL(int, -1, renameat, "renameat", (int from_at, const char *from, int to_at, const char *to), (from_at, from, to_at, to))
CALL(int, -1, renameat2, "renameat2", (int from_at, const char *from, int to_at, const char *to, unsigned flags), (from_at, from, to_at, to, flags))
CALL(int, -1, linkat, "linkat", (int from_at, const char *from, int to_at, const char *to, int flags), (from_at, from, to_at, to, flags))
CALL(char *, NULL, mkdtemp, "mkdtemp", (char *path), (path))
CALL(int, -1, mkdir, "mkdir", (const char *path, mode_t mode), (path, mode))
CALL(int, -1, rmdir, "rmdir", (const char *path), (path))

CALL(int, -1, pipe2, "pipe2", (int ends[2], int flags), (ends, flags))
CALL(int, -1, socket, "socket", (int domain, int type, int protocol), (domain, type, protocol))
CALL(int, -1, socketpair, "socketpair", (int domain, int type, int protocol, int ends[2]), (domain, type, protocol, ends))
CALL(int, -1, accept4, "accept4", (int fd, struct sockaddr * address, socklen_t *len, int flags), (fd, address, len, flags))
CALL(int, -1, getsockopt, "getsockopt", (int fd, int level, int name, void *value, socklen_t *len), (fd, level, name, value, len))
CALL(int, -1, setsockopt, "setsockopt", (int fd, int level, int name, const void *value, socklen_t len), (fd, level, name, value, len))
CALL(int, -1, poll, "poll", (struct pollfd * fds, nfds_t nr, int timeout), (fds, nr, timeout))
CALL(int, -1, ppoll, "ppoll", (struct pollfd * fds, nfds_t nr, const struct timespec *timeout, const sigset_t *set), (fds, nr, timeout, set))
CALL(int, -1, epoll_create1, "epoll_create1", (int flags), (flags))
CALL(int, -1, epoll_ctl, "epoll_ctl", (int epoll, int operation, int fd, struct epoll_event *event), (epoll, operation, fd, event))
CALL(int, -1, epoll_wait, "epoll_wait", (int epoll, struct epoll_event *events, int max, int timeout), (epoll, events, max, timeout))
CALL(int, -1, eventfd, "eventfd", (unsigned value, int flags), (value, flags))
CALL(int, -1, signalfd, "signalfd", (int fd, const sigset_t *set, int flags), (fd, set, flags))
CALL(int, -1, memfd_create, "memfd_create", (const char *name, unsigned flags), (name, flags))
int __real_close(int fd);
int __wrap_close(int fd);

/* It is closed whatever is said. */
int __wrap_close(int fd)
{
	int r = __real_close(fd);
	return fails(FAULT_SITE("close")) ? -1 : r;
}

CALL(pid_t, -1, fork, "fork", (void), ())
CALL(int, -1, kill, "kill", (pid_t pid, int number), (pid, number))
CALL(pid_t, -1, waitpid, "waitpid", (pid_t pid, int *status, int options), (pid, status, options))
CALL(int, -1, waitid, "waitid", (idtype_t type, id_t id, siginfo_t *info, int options), (type, id, info, options))
CALL(void *, MAP_FAILED, mmap64, "mmap", (void *at, size_t len, int protection, int flags, int fd, off_t offset), (at, len, protection, flags, fd, offset))
CALL(int, -1, munmap, "munmap", (void *at, size_t len), (at, len))
CALL(ssize_t, -1, getrandom, "getrandom", (void *buffer, size_t len, unsigned flags), (buffer, len, flags))
CALL_RETURNING(+, pthread_create, "pthread_create", (pthread_t * thread, const pthread_attr_t *attributes, void *(*main)(void *), void *argument),
	       (thread, attributes, main, argument))
CALL_RETURNING(+, posix_memalign, "posix_memalign", (void **ret, size_t alignment, size_t len), (ret, alignment, len))
CALL_RETURNING(-, io_uring_queue_init, "io_uring_queue_init", (unsigned entries, struct io_uring *ring, unsigned flags), (entries, ring, flags))
CALL_RETURNING(-, io_uring_submit, "io_uring_submit", (struct io_uring * ring), (ring))

CALL(void *, NULL, malloc, "malloc", (size_t len), (len))
CALL(void *, NULL, calloc, "calloc", (size_t nr, size_t len), (nr, len))
CALL(void *, NULL, realloc, "realloc", (void *at, size_t len), (at, len))
CALL(void *, NULL, reallocarray, "reallocarray", (void *at, size_t nr, size_t len), (at, nr, len))
CALL(char *, NULL, strdup, "strdup", (const char *text), (text))

/* Those with a variable number of arguments: as many as a system call can have are handed on, whatever was given. */
#define NEXT(args) va_arg(args, unsigned long)

#define VARIADIC(type, failure, symbol, first, site, ...)                                                                       \
	type __real_##symbol(first arg0, ...);                                                                                   \
	type __wrap_##symbol(first arg0, ...);                                                                                   \
	type __wrap_##symbol(first arg0, ...)                                                                                    \
	{                                                                                                                        \
		va_list args;                                                                                                    \
		va_start(args, arg0);                                                                                            \
		unsigned long a = NEXT(args), b = NEXT(args), c = NEXT(args), d = NEXT(args), e = NEXT(args), f = NEXT(args);     \
		va_end(args);                                                                                                    \
		return fails(site) ? (failure) : __real_##symbol(arg0, a, b, c, d, e, f);                                        \
	}

VARIADIC(int, -1, open64, const char *, FAULT_SITE("open"))
VARIADIC(int, -1, openat64, int, FAULT_SITE("openat"))
VARIADIC(int, -1, fcntl64, int, FAULT_SITE("fcntl"))
VARIADIC(int, -1, prctl, int, FAULT_SITE("prctl"))

struct named_site {
	unsigned long number;
	struct fault_site site;
};

#define NAMED(prefix, word) {prefix##word, {.name = #word}}

static struct fault_site *find_site(struct named_site *known, size_t nr, unsigned long number, struct fault_site *other)
{
	for (size_t i = 0; i < nr; i++)
		if (known[i].number == number)
			return &known[i].site;
	return other;
}

static struct fault_site *site_of_ioctl(unsigned long request)
{
	static struct named_site known[] = {
		NAMED(, UFFDIO_API), NAMED(, UFFDIO_REGISTER), NAMED(, UFFDIO_UNREGISTER), NAMED(, UFFDIO_COPY), NAMED(, UFFDIO_ZEROPAGE), NAMED(, UFFDIO_WAKE),
		NAMED(, UFFDIO_WRITEPROTECT), {0xc0606610, {.name = "PAGEMAP_SCAN"}}, {0xc0686611, {.name = "PROCMAP_QUERY"}},
	};
	return find_site(known, ARRAY_LEN(known), request, FAULT_SITE("ioctl"));
}

static struct fault_site *site_of_ptrace(unsigned long request)
{
	static struct named_site known[] = {
		{PTRACE_SEIZE, {.name = "PTRACE_SEIZE"}}, {PTRACE_INTERRUPT, {.name = "PTRACE_INTERRUPT"}}, {PTRACE_DETACH, {.name = "PTRACE_DETACH"}},
		{PTRACE_CONT, {.name = "PTRACE_CONT"}}, {PTRACE_GETREGSET, {.name = "PTRACE_GETREGSET"}}, {PTRACE_SETREGSET, {.name = "PTRACE_SETREGSET"}},
		{PTRACE_SYSCALL, {.name = "PTRACE_SYSCALL"}},
	};
	return find_site(known, ARRAY_LEN(known), request, FAULT_SITE("ptrace"));
}

static struct fault_site *site_of_syscall(unsigned long number)
{
	static struct named_site known[] = {
		NAMED(SYS_, pidfd_open), NAMED(SYS_, pidfd_getfd), NAMED(SYS_, pidfd_send_signal), NAMED(SYS_, kcmp), NAMED(SYS_, process_madvise),
		NAMED(SYS_, clone3), NAMED(SYS_, futex), NAMED(SYS_, get_robust_list), NAMED(SYS_, userfaultfd), NAMED(SYS_, sched_setattr),
		NAMED(SYS_, execveat),
	};
	return find_site(known, ARRAY_LEN(known), number, FAULT_SITE("syscall"));
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

/* Of a COPY that fails nothing is done, and its structure says so. */
int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	if (!fails(site_of_ioctl(request)))
		return __real_ioctl(fd, request, argument);
	if (request == UFFDIO_COPY)
		((struct uffdio_copy *)argument)->copy = 0;
	if (request == UFFDIO_ZEROPAGE)
		((struct uffdio_zeropage *)argument)->zeropage = 0;
	return -1;
}

VARIADIC(long, -1, ptrace, int, site_of_ptrace((unsigned long)arg0))
VARIADIC(long, -1, syscall, long, site_of_syscall((unsigned long)arg0))

struct world;
long __real_world_syscall(struct world *world, long number, const uint64_t args[6]);
long __wrap_world_syscall(struct world *world, long number, const uint64_t args[6]);

/* A system call that a held process makes for us. */
long __wrap_world_syscall(struct world *world, long number, const uint64_t args[6])
{
	return fails(FAULT_SITE("remote call")) ? -errno : __real_world_syscall(world, number, args);
}
