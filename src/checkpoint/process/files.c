/*
 * Open files: of whatever kind, each is saved once, however many descriptors lead to it. A restore opens them all in the keeper, with high numbers; the processes, which
 * are made after that, inherit them and put them where they belong (descriptors.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/objects.h"
#include "checkpoint/process/inotify.h"
#include "checkpoint/process/pidfds.h"
#include "checkpoint/process/process.h"
#include "checkpoint/process/sockets.h"
#include "checkpoint/process/terminals.h"
#include "platform/process.h"

#define STATUS_FLAGS (O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_DIRECT | O_NOATIME | O_ASYNC)

/* How a file of the image was found: what it is compared with. */
struct saved_file {
	pid_t pid;
	int fd;
	dev_t dev;
	ino_t inode;
};

static int refuse(struct saved_process *p, int fd, const char *what, const char *why)
{
	return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d, descriptor %d (%.100s): %s", p->pid, fd, what, why);
}

/* --- what a file is --- */

static int save_epoll(struct saved_process *p, Image__File *f, int fd, const char *info)
{
	struct arena *arena = &p->saving->arena;
	f->kind = IMAGE__FILE__KIND__EPOLL;
	for (const char *line = strstr(info, "tfd:"); line; line = strstr(line + 1, "tfd:")) {
		Image__Watch **slot = arena_grow(arena, &f->watches, f->n_watches, sizeof(*slot)), *watch = arena_alloc(arena, sizeof(*watch));
		unsigned int number, events;
		unsigned long long data;
		if (!slot || !watch)
			return saved_no_memory(p->saving);
		if (sscanf(line, "tfd: %u events: %x data: %llx", &number, &events, &data) != 3)
			return refuse(p, fd, "epoll", "what it waits for is not understood");
		image__watch__init(watch);
		watch->descriptor = number;
		watch->events = events;
		watch->data = data;
		*slot = watch;
		f->n_watches++;
	}
	return 0;
}

static uint64_t pair_of_ns(const char *info, const char *key)
{
	unsigned long long seconds = 0, ns = 0;
	const char *at = strstr(info, key);
	if (at)
		sscanf(at + strlen(key), ": (%llu, %llu)", &seconds, &ns);
	return seconds * 1000000000u + ns;
}

static int save_anonymous(struct saved_process *p, Image__File *f, int fd, const char *link, const char *info)
{
	if (!strcmp(link, "anon_inode:[eventfd]")) {
		f->kind = IMAGE__FILE__KIND__EVENTFD;
		f->counter = proc_number(info, "eventfd-count", 16);
		f->semaphore = proc_number(info, "eventfd-semaphore", 10) != 0;
	} else if (!strcmp(link, "anon_inode:[eventpoll]")) {
		return save_epoll(p, f, fd, info);
	} else if (!strcmp(link, "anon_inode:[timerfd]")) {
		f->kind = IMAGE__FILE__KIND__TIMERFD;
		f->clock = (uint32_t)proc_number(info, "clockid", 10);
		f->counter = proc_number(info, "ticks", 10);
		f->value_ns = pair_of_ns(info, "it_value");
		f->interval_ns = pair_of_ns(info, "it_interval");
	} else if (!strcmp(link, "anon_inode:[signalfd]")) {
		f->kind = IMAGE__FILE__KIND__SIGNALFD;
		f->mask = proc_number(info, "sigmask", 16);
	} else if (!strcmp(link, "anon_inode:inotify")) {
		return inotify_save(p, f, fd, info);
	} else if (!strcmp(link, "anon_inode:[pidfd]")) {
		return pidfd_save(p, f, fd, info);
	} else {
		return refuse(p, fd, link, "not supported");
	}
	return 0;
}

static int save_by_path(struct saved_process *p, Image__File *f, int fd, const struct stat *st)
{
	struct stat there;
	f->kind = S_ISREG(st->st_mode) ? IMAGE__FILE__KIND__REGULAR : S_ISDIR(st->st_mode) ? IMAGE__FILE__KIND__FOLDER : IMAGE__FILE__KIND__DEVICE;
	f->bytes = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
	if (S_ISREG(st->st_mode) && !st->st_nlink) {
		char path[64];
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", p->pid, fd);
		f->kind = IMAGE__FILE__KIND__OBJECT;
		return p->saving->is_look ? 0 : object_find(p, path, f->path, &f->object);
	}
	if (f->path[0] != '/' || stat(f->path, &there) < 0 || there.st_dev != st->st_dev || there.st_ino != st->st_ino)
		return refuse(p, fd, f->path, "it has been removed or replaced");
	return 0;
}

static bool is_terminal(const struct stat *st)
{
	unsigned int number = major(st->st_rdev);
	return S_ISCHR(st->st_mode) && (number == 4 || number == 5 || (number >= 136 && number <= 143));
}

/* The end of a pseudo terminal that makes one. */
static bool is_pseudo_terminal_maker(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(5, 2);
}

/* Devices that are the same whenever they are opened: null, zero, full, random, urandom. */
static bool is_simple_device(const struct stat *st)
{
	unsigned int number = minor(st->st_rdev);
	return S_ISCHR(st->st_mode) && major(st->st_rdev) == 1 && (number == 3 || number == 5 || number == 7 || number == 8 || number == 9);
}

static int save_file(struct saved_process *p, Image__File *f, int fd, const struct stat *st, const char *info)
{
	const char *link = f->path;
	f->flags = (uint32_t)proc_number(info, "flags", 8) & (STATUS_FLAGS | O_PATH);
	f->position = proc_number(info, "pos", 10);
	f->outside = (uint32_t)fd;
	if (f->flags & O_PATH)
		return refuse(p, fd, link, "opened with O_PATH");
	if (!strncmp(link, "anon_inode:", 11))
		return save_anonymous(p, f, fd, link, info);
	if (S_ISFIFO(st->st_mode)) {
		f->kind = IMAGE__FILE__KIND__PIPE;
		f->pipe_id = st->st_ino;
		return link[0] == '/' ? refuse(p, fd, link, "a named pipe") : 0;
	}
	if (S_ISSOCK(st->st_mode))
		return socket_save(p, f, fd);
	if (is_pseudo_terminal_maker(st))
		return terminal_save_maker(p, f, fd);
	if (is_terminal(st))
		return terminal_save(p, f, fd, st);
	if (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode) || is_simple_device(st))
		return save_by_path(p, f, fd, st);
	return refuse(p, fd, link, "a device");
}

/* Lines of fdinfo: "lock:\t1: POSIX  ADVISORY  WRITE 4711 08:01:12345 0 EOF" (proc(5)). */
static int save_locks(struct saved_process *p, Image__File *f, int fd, const char *info)
{
	struct arena *arena = &p->saving->arena;
	for (const char *line = strstr(info, "lock:"); line; line = strstr(line + 1, "lock:")) {
		char kind[16], way[16], end[24];
		unsigned long long start;
		int pid;
		if (sscanf(line, "lock: %*d: %15s %*s %15s %d %*s %llu %23s", kind, way, &pid, &start, end) != 5 || !strcmp(kind, "LEASE") || !strcmp(kind, "DELEG"))
			return refuse(p, fd, f->path, "a lease, or a lock that is not understood");
		Image__Lock **slot = arena_grow(arena, &f->locks, f->n_locks, sizeof(*slot)), *lock = arena_alloc(arena, sizeof(*lock));
		if (!slot || !lock)
			return saved_no_memory(p->saving);
		image__lock__init(lock);
		lock->kind = !strcmp(kind, "FLOCK") ? IMAGE__LOCK__KIND__FLOCK : !strcmp(kind, "POSIX") ? IMAGE__LOCK__KIND__POSIX : IMAGE__LOCK__KIND__OFD;
		lock->exclusive = !strcmp(way, "WRITE");
		lock->start = start;
		lock->bytes = strcmp(end, "EOF") ? strtoull(end, NULL, 10) - start + 1 : 0;
		lock->pid = pid > 0 ? saved_id(p->saving, pid) : pid;
		*slot = lock;
		f->n_locks++;
	}
	return 0;
}

/* --- finding --- */

static bool is_same_file(const struct saved_file *a, pid_t pid, int fd)
{
	return syscall(SYS_kcmp, a->pid, pid, KCMP_FILE, (unsigned long)a->fd, (unsigned long)fd) == 0;
}

int files_find(struct saved_process *p, int fd)
{
	struct saving *saving = p->saving;
	Image__Image *image = saving->image;
	char path[64];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", p->pid, fd);
	if (stat(path, &st) < 0)
		return checkpoint_fail(&saving->error, -errno, "process %d, descriptor %d: %s", p->pid, fd, strerror(errno));
	for (size_t i = 0; i < image->n_files; i++) {
		if (saving->files[i].dev != st.st_dev || saving->files[i].inode != st.st_ino || !is_same_file(&saving->files[i], p->pid, fd))
			continue;
		image->files[i]->outside = MIN_OF(image->files[i]->outside, (uint32_t)fd);
		return (int)i;
	}
	Image__File **slot = arena_grow(&saving->arena, &image->files, image->n_files, sizeof(*slot));
	struct saved_file *found = arena_grow(&saving->arena, &saving->files, image->n_files, sizeof(*found));
	Image__File *f = arena_alloc(&saving->arena, sizeof(*f));
	snprintf(path, sizeof(path), "fd/%d", fd);
	char *link = proc_link(&saving->arena, p->pid, path);
	snprintf(path, sizeof(path), "fdinfo/%d", fd);
	char *info = proc_text(&saving->arena, p->pid, path, NULL);
	if (!slot || !found || !f || !link || !info)
		return saved_no_memory(saving);
	image__file__init(f);
	f->id = (uint32_t)image->n_files;
	f->path = link;
	*found = (struct saved_file){p->pid, fd, st.st_dev, st.st_ino};
	int r = save_file(p, f, fd, &st, info);
	if (r == 0)
		r = save_locks(p, f, fd, info);
	if (r < 0)
		return r;
	*slot = f;
	return (int)image->n_files++;
}

/* --- pipes --- */

static bool is_reading_end(const Image__File *f)
{
	return (f->flags & O_ACCMODE) == O_RDONLY;
}

static Image__File *other_end(const Image__Image *image, const Image__File *f)
{
	for (size_t i = 0; i < image->n_files; i++) {
		Image__File *other = image->files[i];
		if (other->kind == IMAGE__FILE__KIND__PIPE && other->pipe_id == f->pipe_id && is_reading_end(other) != is_reading_end(f))
			return other;
	}
	return NULL;
}

/* Copies what waits in the pipe, by tee(2): it stays where it is. */
static int copy_content(int from, int copy[2], Image__File *f, struct arena *arena)
{
	int waiting = 0, capacity = fcntl(from, F_GETPIPE_SZ);
	if (capacity < 0 || fcntl(copy[1], F_SETPIPE_SZ, capacity) < 0 || ioctl(from, FIONREAD, &waiting) < 0)
		return -errno;
	f->capacity = (uint32_t)capacity;
	f->content.data = arena_alloc(arena, (size_t)waiting);
	if (!f->content.data)
		return -ENOMEM;
	ssize_t n = waiting ? tee(from, copy[1], (size_t)waiting, SPLICE_F_NONBLOCK) : 0;
	while (n > 0) {
		ssize_t got = read(copy[0], f->content.data + f->content.len, (size_t)n);
		if (got <= 0)
			return -EIO;
		f->content.len += (size_t)got;
		n -= got;
	}
	return n < 0 ? -errno : f->content.len == (size_t)waiting ? 0 : -EIO;
}

static int save_content(struct saving *saving, const struct saved_file *found, Image__File *f)
{
	char path[64];
	int copy[2];
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", found->pid, found->fd);
	int from = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), r = from < 0 ? -errno : 0;
	if (r == 0 && pipe2(copy, O_CLOEXEC | O_NONBLOCK) < 0)
		r = -errno;
	if (r == 0) {
		r = copy_content(from, copy, f, &saving->arena);
		close(copy[0]);
		close(copy[1]);
	}
	if (from >= 0)
		close(from);
	return r < 0 ? checkpoint_fail(&saving->error, r, "process %d, descriptor %d: what is in the pipe: %s", found->pid, found->fd, strerror(-r)) : 0;
}

/* Nobody has the other end any more. */
static bool is_left_alone(const struct saved_file *found)
{
	_cleanup_close_ int pidfd = pidfd_open_process(found->pid);
	_cleanup_close_ int end = pidfd < 0 ? pidfd : pidfd_take_fd(pidfd, found->fd);
	struct pollfd state = {.fd = end};
	return end >= 0 && poll(&state, 1, 0) == 1 && state.revents & (POLLHUP | POLLERR);
}

/* A pipe with one end elsewhere is taken from whoever restores if it was given to the program as one of its first three descriptors. */
static int complete_pipe(struct saving *saving, size_t i)
{
	Image__File *f = saving->image->files[i];
	const struct saved_file *found = &saving->files[i];
	if (!other_end(saving->image, f) && !is_left_alone(found)) {
		f->kind = IMAGE__FILE__KIND__OUTSIDE;
		return f->outside <= STDERR_FILENO ? 0
						   : checkpoint_fail(&saving->error, -ENOTSUP, "process %d, descriptor %d (%.100s): the other end of the pipe is not in the container",
								     found->pid, found->fd, f->path);
	}
	for (size_t k = 0; k < i; k++)
		if (saving->image->files[k]->pipe_id == f->pipe_id && is_reading_end(saving->image->files[k]) == is_reading_end(f))
			return checkpoint_fail(&saving->error, -ENOTSUP, "process %d, descriptor %d (%.100s): the pipe was opened more than once", found->pid,
					       found->fd, f->path);
	return is_reading_end(f) && !saving->is_look ? save_content(saving, found, f) : 0;
}

/* As with pipes. */
static int complete_socket(struct saving *saving, size_t i)
{
	Image__File *f = saving->image->files[i];
	if (f->outside > STDERR_FILENO || socket_has_its_peer(saving->image, f))
		return socket_complete(saving, f, saving->files[i].pid, saving->files[i].fd);
	f->kind = IMAGE__FILE__KIND__OUTSIDE;
	return 0;
}

int files_complete(struct saving *saving)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < saving->image->n_files; i++)
		if (saving->image->files[i]->kind == IMAGE__FILE__KIND__PIPE)
			r = complete_pipe(saving, i);
		else if (saving->image->files[i]->kind == IMAGE__FILE__KIND__SOCKET)
			r = complete_socket(saving, i);
		else if (saving->image->files[i]->kind == IMAGE__FILE__KIND__PIDFD)
			r = pidfd_complete(saving, saving->image->files[i], saving->files[i].pid, saving->files[i].fd);
	for (size_t i = 0; r == 0 && i < saving->image->n_files; i++) /* the ends before what makes them: a maker's content depends on who has it open */
		if (saving->image->files[i]->kind == IMAGE__FILE__KIND__TERMINAL || saving->image->files[i]->kind == IMAGE__FILE__KIND__TERMINAL_MAKER)
			r = terminal_complete(saving, saving->image->files[i], saving->files[i].pid, saving->files[i].fd);
	return r;
}

/* --- restore --- */

/*
 * The files of the memory cgroup that the container was in (a JVM keeps some open) are those of the one that the restored container is in: its name is that of the
 * container with a number, in the folder of another one. NULL: it is no such file.
 */
static char *path_in_cgroup(const struct restoring *r, const char *path)
{
	char name[160], *found = NULL;
	const char *last = strrchr(path, '/');
	snprintf(name, sizeof(name), "/membox-%.100s-", r->image->message->container->name);
	const char *folder = r->cgroup && !strncmp(path, "/sys/fs/cgroup/", 15) ? strstr(path, name) : NULL;
	if (!folder || strchr(folder + 1, '/') != last || asprintf(&found, "%s%s", r->cgroup, last) < 0)
		return NULL;
	return found;
}

static int open_by_path(const struct restoring *r, const Image__File *f)
{
	_cleanup_free_ char *moved = path_in_cgroup(r, f->path);
	int fd = open(moved ? moved : f->path, (int)f->flags | O_CLOEXEC | O_NOCTTY | (f->kind == IMAGE__FILE__KIND__FOLDER ? O_DIRECTORY : 0));
	if (fd < 0)
		return -errno;
	if (f->kind == IMAGE__FILE__KIND__REGULAR && lseek(fd, (off_t)f->position, SEEK_SET) < 0) {
		int error = -errno;
		close(fd);
		return error;
	}
	return fd;
}

static int open_timer(const Image__File *f)
{
	struct itimerspec value = {{(time_t)(f->interval_ns / 1000000000u), (long)(f->interval_ns % 1000000000u)},
				   {(time_t)(f->value_ns / 1000000000u), (long)(f->value_ns % 1000000000u)}};
	int fd = timerfd_create((clockid_t)f->clock, TFD_CLOEXEC | (f->flags & O_NONBLOCK ? TFD_NONBLOCK : 0));
	if (fd < 0)
		return -errno;
	if (f->counter && !f->value_ns)
		value.it_value.tv_nsec = 1; /* it has expired and has not been read */
	timerfd_settime(fd, 0, &value, NULL);
	return fd;
}

static int open_signals(const Image__File *f)
{
	sigset_t set;
	memset(&set, 0, sizeof(set));
	memcpy(&set, &f->mask, sizeof(f->mask));
	int fd = signalfd(-1, &set, SFD_CLOEXEC | (f->flags & O_NONBLOCK ? SFD_NONBLOCK : 0));
	return fd < 0 ? -errno : fd;
}

static int open_outside(const Image__File *f)
{
	int fd = fcntl((int)MIN_OF(f->outside, (uint32_t)STDERR_FILENO), F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

/* One end, to be moved to its place by the caller; the other one goes to its place here. NULL: nobody had it any more. */
static int open_pipe(struct restoring *r, const Image__File *f, const Image__File *other, int above)
{
	const Image__File *reading = is_reading_end(f) ? f : other;
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	if (reading)
		fcntl(ends[1], F_SETPIPE_SZ, (int)reading->capacity);
	ssize_t bytes = reading ? (ssize_t)reading->content.len : 0, n = bytes ? write(ends[1], reading->content.data, (size_t)bytes) : 0;
	int mine = ends[!is_reading_end(f)], theirs = ends[is_reading_end(f)], high = 0;
	if (other) {
		high = r->files[other->id] = fcntl(theirs, F_DUPFD_CLOEXEC, above);
		fcntl(high, F_SETFL, (int)(other->flags & STATUS_FLAGS));
	}
	close(theirs);
	if (n == bytes && high >= 0)
		return mine;
	close(mine);
	return -EIO;
}

static int open_socket(struct restoring *r, const Image__File *f, int above)
{
	size_t other_index;
	int other, fd = socket_restore(r->image->message, f, &other_index, &other);
	if (fd < 0 || other < 0)
		return fd;
	r->files[other_index] = fcntl(other, F_DUPFD_CLOEXEC, above);
	close(other);
	fcntl(r->files[other_index], F_SETFL, (int)(r->image->message->files[other_index]->flags & STATUS_FLAGS));
	return fd;
}

/* The object again, by an open file of its own: with a position and flags. */
static int open_object(const struct restoring *r, const Image__File *f)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", object_fd(r, f->object));
	int fd = open(path, (int)f->flags | O_CLOEXEC);
	if (fd >= 0)
		lseek(fd, (off_t)f->position, SEEK_SET);
	return fd < 0 ? -errno : fd;
}

static int open_anonymous(const Image__File *f)
{
	int flags = O_CLOEXEC | (int)(f->flags & O_NONBLOCK);
	int fd = f->kind == IMAGE__FILE__KIND__EPOLL ? epoll_create1(EPOLL_CLOEXEC)
						     : eventfd(0, flags | (f->semaphore ? EFD_SEMAPHORE : 0));
	if (fd < 0)
		return -errno;
	if (f->counter && write(fd, &f->counter, sizeof(f->counter)) < 0)
		return -EIO;
	return fd;
}

/* Those that belong to the open file; POSIX locks belong to a process (descriptors.c). */
static int take_locks(const Image__File *f, int fd)
{
	for (size_t i = 0; i < f->n_locks; i++) {
		const Image__Lock *lock = f->locks[i];
		struct flock range = {.l_type = lock->exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)lock->start, .l_len = (off_t)lock->bytes};
		int r = lock->kind == IMAGE__LOCK__KIND__FLOCK ? flock(fd, (lock->exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB)
			: lock->kind == IMAGE__LOCK__KIND__OFD ? fcntl(fd, F_OFD_SETLK, &range)
							       : 0;
		if (r < 0)
			return -errno;
	}
	return 0;
}

static int open_file(struct restoring *r, size_t i, int above)
{
	const Image__File *f = r->image->message->files[i];
	switch (f->kind) {
	case IMAGE__FILE__KIND__REGULAR:
	case IMAGE__FILE__KIND__FOLDER:
	case IMAGE__FILE__KIND__DEVICE:
		return open_by_path(r, f);
	case IMAGE__FILE__KIND__OUTSIDE:
		return open_outside(f);
	case IMAGE__FILE__KIND__PIPE:
		return open_pipe(r, f, other_end(r->image->message, f), above);
	case IMAGE__FILE__KIND__EVENTFD:
	case IMAGE__FILE__KIND__EPOLL:
		return open_anonymous(f);
	case IMAGE__FILE__KIND__TIMERFD:
		return open_timer(f);
	case IMAGE__FILE__KIND__SIGNALFD:
		return open_signals(f);
	case IMAGE__FILE__KIND__SOCKET:
		return open_socket(r, f, above);
	case IMAGE__FILE__KIND__OBJECT:
		return open_object(r, f);
	case IMAGE__FILE__KIND__INOTIFY:
		return inotify_restore(f);
	case IMAGE__FILE__KIND__PIDFD:
		return pidfd_restore_of_dead(f);
	case IMAGE__FILE__KIND__TERMINAL_MAKER:
	case IMAGE__FILE__KIND__TERMINAL:
		return terminal_open(r, f);
	default:
		return -ENOTSUP;
	}
}

int files_restore(struct restoring *r, int above)
{
	const Image__Image *image = r->image->message;
	struct rlimit limit;
	r->files = malloc((image->n_files + 1) * sizeof(*r->files));
	if (!r->files)
		return checkpoint_fail(&r->error, -ENOMEM, "restore: %s", strerror(ENOMEM));
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	for (size_t i = 0; i < image->n_files; i++)
		r->files[i] = -1;
	for (size_t i = 0; i < image->n_files; i++) {
		if (r->files[i] >= 0 || pidfd_is_of_living(image->files[i])) /* the other end of a pipe, and what the processes open */
			continue;
		int fd = open_file(r, i, above);
		int high = fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, above);
		if (fd >= 0)
			close(fd);
		if (high < 0)
			return checkpoint_fail(&r->error, fd < 0 ? fd : -errno, "file %.200s: %s", image->files[i]->path, strerror(fd < 0 ? -fd : errno));
		if (image->files[i]->kind != IMAGE__FILE__KIND__OUTSIDE) /* that is somebody else's too */
			fcntl(high, F_SETFL, (int)(image->files[i]->flags & STATUS_FLAGS));
		r->files[i] = high;
		int locked = take_locks(image->files[i], high);
		if (locked < 0)
			return checkpoint_fail(&r->error, locked, "file %.200s: somebody else has locked it", image->files[i]->path);
	}
	return 0;
}

void files_close(struct restoring *r)
{
	for (size_t i = 0; r->files && i < r->image->message->n_files; i++)
		if (r->files[i] >= 0)
			close(r->files[i]);
	free(r->files);
	r->files = NULL;
}
