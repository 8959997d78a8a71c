#include "control/runtime_folder.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "platform/folders.h"

#define LOCK_NAME "lock"
#define PID_NAME "pid"
#define SOCKET_NAME "control"
#define ATTACH_LOCK_NAME ".attach" /* not the name of a container */

struct runtime_folder {
	char *name;
	char *path;
	int runtime; /* the folder above */
	int folder;
	int lock;
};

static int fail(struct runtime_error *error, int r, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int fail(struct runtime_error *error, int r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return r;
}

bool runtime_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > RUNTIME_NAME_MAX || name[0] == '.' || name[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++)
		if (!isgraph((unsigned char)name[i]) || (unsigned char)name[i] > 126 || name[i] == '/')
			return false;
	return true;
}

/* RUNTIME; NULL when memory is out. */
static char *runtime_path(void)
{
	const char *chosen = folder_variable("MEMBOX_RUNTIME_DIR");
	const char *of_session = folder_variable("XDG_RUNTIME_DIR");
	char *path;
	int r;

	if (chosen)
		return strdup(chosen);
	if (geteuid() == 0)
		return strdup("/run/membox");
	if (of_session)
		r = asprintf(&path, "%s/membox", of_session);
	else
		r = asprintf(&path, "/tmp/membox-%u", (unsigned)geteuid());
	return r < 0 ? NULL : path;
}

/*
 * Opens RUNTIME, which must be a folder of this user's (no link: in /tmp anybody can make one) that nobody else can change. Root may look
 * into that of another user. The descriptor, or -errno with *error filled; *ret_path, which the caller frees, is set in either case.
 */
static int open_runtime(bool create, char **ret_path, struct runtime_error *error)
{
	char *path = *ret_path = runtime_path();
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	if (!path)
		return fail(error, -ENOMEM, "runtime folder: out of memory");
	if (create) {
		r = folder_create_path(path);
		if (r)
			return fail(error, r, "%s: %s (set MEMBOX_RUNTIME_DIR to a folder of yours)", path, strerror(-r));
	}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return fail(error, -errno, "%s: %s (set MEMBOX_RUNTIME_DIR to a folder of yours)", path, strerror(errno));
	if (st.st_uid != geteuid() && (create || geteuid() != 0))
		return fail(error, -EPERM, "%s: belongs to another user (set MEMBOX_RUNTIME_DIR to a folder of yours)", path);
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return fail(error, -EPERM, "%s: other users may write to it (as its owner: chmod 700)", path);
	return steal_fd(&fd);
}

/* Waits for the lock on RUNTIME, which is held for a few system calls only. */
static int lock_runtime(int runtime)
{
	while (flock(runtime, LOCK_EX))
		if (errno != EINTR)
			return -errno;
	return 0;
}

static void unlock_runtime(int runtime)
{
	flock(runtime, LOCK_UN);
}

static int open_name(int runtime, const char *name)
{
	int fd = openat(runtime, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* True when the file at its path in the folder is the one that was opened. */
static bool is_lock_of(int folder, int lock)
{
	struct stat opened, at_path;

	return !fstat(lock, &opened) && !fstatat(folder, LOCK_NAME, &at_path, AT_SYMLINK_NOFOLLOW) && opened.st_dev == at_path.st_dev &&
	       opened.st_ino == at_path.st_ino;
}

/* A list of what is in the folder, from its beginning; NULL with errno set. */
static DIR *list_folder(int folder)
{
	int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (fd >= 0 && !dir)
		close(fd);
	return dir;
}

/* Unlinks all files but the lock. What cannot be unlinked stays, and then the folder stays too. */
static void empty_folder(int folder)
{
	_cleanup_closedir_ DIR *dir = list_folder(folder);

	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && strcmp(entry->d_name, LOCK_NAME))
			unlinkat(folder, entry->d_name, 0);
}

/* By the holder of its lock. A creator may use the folder again once the lock is unlinked: then rmdir fails, or the creator begins again. */
static void remove_folder(int runtime, const char *name, int folder)
{
	empty_folder(folder);
	unlinkat(folder, LOCK_NAME, 0);
	unlinkat(runtime, name, AT_REMOVEDIR);
}

/* Under the lock on RUNTIME: the only other one here is an owner that removes. 0: the folder is the caller's; -EEXIST: it has an owner; -ENOENT: it is gone. */
static int take_lock(int folder, int flags, int *ret_lock)
{
	_cleanup_close_ int lock = openat(folder, LOCK_NAME, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | flags, 0600);

	if (lock < 0)
		return -errno;
	if (flock(lock, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? -EEXIST : -errno;
	if (!is_lock_of(folder, lock))
		return -ENOENT;
	*ret_lock = steal_fd(&lock);
	return 0;
}

/* One attempt, under the lock on RUNTIME. -EAGAIN: an owner removed the folder meanwhile. */
static int try_create(struct runtime_folder *f)
{
	int r;

	if (mkdirat(f->runtime, f->name, 0700) && errno != EEXIST)
		return -errno;
	f->folder = open_name(f->runtime, f->name);
	if (f->folder < 0)
		return f->folder == -ENOENT ? -EAGAIN : f->folder;
	r = take_lock(f->folder, O_CREAT, &f->lock);
	if (r) {
		close(f->folder);
		f->folder = -1;
		return r == -ENOENT ? -EAGAIN : r;
	}
	empty_folder(f->folder);
	return fchmod(f->folder, 0700) ? -errno : 0;
}

/* Each attempt that fails with EAGAIN means that another container has ended. */
static int create_locked(struct runtime_folder *f)
{
	int r = lock_runtime(f->runtime);

	if (r)
		return r;
	do {
		r = try_create(f);
	} while (r == -EAGAIN);
	unlock_runtime(f->runtime);
	return r;
}

static struct runtime_folder *new_folder(const char *name)
{
	struct runtime_folder *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->runtime = f->folder = f->lock = -1;
	f->name = strdup(name);
	if (!f->name) {
		free(f);
		return NULL;
	}
	return f;
}

int runtime_folder_create(const char *name, struct runtime_folder **ret, struct runtime_error *error)
{
	_cleanup_free_ char *runtime = NULL;
	struct runtime_folder *f;
	int r;

	if (!runtime_name_is_valid(name))
		return fail(error, -EINVAL, "'%.80s': not a name for a container", name);
	f = new_folder(name);
	if (!f)
		return fail(error, -ENOMEM, "%s: out of memory", name);
	r = f->runtime = open_runtime(true, &runtime, error);
	if (r >= 0 && asprintf(&f->path, "%s/%s", runtime, name) < 0) {
		f->path = NULL;
		r = fail(error, -ENOMEM, "%s: out of memory", name);
	}
	if (r >= 0) {
		r = create_locked(f);
		if (r == -EEXIST)
			fail(error, r, "%s: a container of this name is running (choose another --name, or see `membox ps`)", name);
		else if (r < 0)
			fail(error, r, "%s: %s", f->path, strerror(-r));
	}
	if (r < 0) {
		runtime_folder_release(f);
		return r;
	}
	*ret = f;
	return 0;
}

struct runtime_handed runtime_folder_hand_over(const struct runtime_folder *folder)
{
	return (struct runtime_handed){.path = folder->path, .runtime = folder->runtime, .folder = folder->folder, .lock = folder->lock};
}

struct runtime_folder *runtime_folder_take_over(const struct runtime_handed *handed)
{
	const char *slash = strrchr(handed->path, '/');
	struct runtime_folder *f = new_folder(slash ? slash + 1 : handed->path);

	if (!f)
		return NULL;
	f->path = strdup(handed->path);
	f->runtime = handed->runtime;
	f->folder = handed->folder;
	f->lock = handed->lock;
	if (f->path)
		return f;
	runtime_folder_release(f);
	return NULL;
}

const char *runtime_folder_path(const struct runtime_folder *folder)
{
	return folder->path;
}

/* Through a descriptor of the folder: the real path may be too long for struct sockaddr_un. */
static struct sockaddr_un address_in(int folder)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" SOCKET_NAME, folder);
	return address;
}

int runtime_folder_listen(const struct runtime_folder *folder)
{
	struct sockaddr_un address = address_in(folder->folder);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	/* bind() gives the file the mode of the socket: it is never wider. */
	if (fd < 0 || fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, SOMAXCONN))
		return -errno;
	return steal_fd(&fd);
}

int runtime_folder_lock_fd(const struct runtime_folder *folder)
{
	return folder->lock;
}

/* The file appears with its content, so that a reader never finds it empty. */
int runtime_folder_write_pid(const struct runtime_folder *folder, pid_t pid)
{
	static const char temporary[] = PID_NAME ".new";
	int fd = openat(folder->folder, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = 0;

	if (fd < 0)
		return -errno;
	if (dprintf(fd, "%d\n", (int)pid) < 0)
		r = -errno;
	if (close(fd) && !r)
		r = -errno;
	if (!r && renameat(folder->folder, temporary, folder->folder, PID_NAME))
		r = -errno;
	if (r)
		unlinkat(folder->folder, temporary, 0);
	return r;
}

/*
 * Nobody else changes what lies at the path while the lock there is ours. When it is not, an earlier call got as far as unlinking it: only the
 * empty folder can be left, and rmdir removes no other.
 */
void runtime_folder_remove(const struct runtime_folder *folder)
{
	if (is_lock_of(folder->folder, folder->lock))
		remove_folder(folder->runtime, folder->name, folder->folder);
	else
		unlinkat(folder->runtime, folder->name, AT_REMOVEDIR);
}

void runtime_folder_release(struct runtime_folder *folder)
{
	if (!folder)
		return;
	if (folder->lock >= 0)
		close(folder->lock);
	if (folder->folder >= 0)
		close(folder->folder);
	if (folder->runtime >= 0)
		close(folder->runtime);
	free(folder->path);
	free(folder->name);
	free(folder);
}

/*
 * True when the container lives; removes a leftover. Under the lock on RUNTIME, so that no creator is between making a folder and locking it: a
 * folder without a lock file was left by one that was killed there, or its owner is about to remove it.
 */
static bool lives(int runtime, const char *name)
{
	_cleanup_close_ int folder = open_name(runtime, name);
	_cleanup_close_ int lock = -1;
	int r = folder < 0 ? folder : take_lock(folder, 0, &lock);

	if (folder >= 0 && (r == 0 || r == -ENOENT))
		remove_folder(runtime, name, folder);
	return r == -EEXIST;
}

int runtime_folder_list(int (*each)(const char *name, void *context), void *context, struct runtime_error *error)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int runtime = open_runtime(false, &path, error);
	_cleanup_closedir_ DIR *dir = NULL;
	int r = 0;

	if (runtime < 0)
		return runtime == -ENOENT ? 0 : runtime;
	dir = list_folder(runtime);
	if (!dir)
		return fail(error, -errno, "%s: %s", path, strerror(errno));
	for (struct dirent *entry; !r && (entry = readdir(dir));) {
		bool found;

		if (!runtime_name_is_valid(entry->d_name))
			continue;
		r = lock_runtime(runtime);
		if (r)
			return fail(error, r, "%s: %s", path, strerror(-r));
		found = lives(runtime, entry->d_name);
		unlock_runtime(runtime);
		if (found)
			r = each(entry->d_name, context);
	}
	return r;
}

static int no_such_container(const char *name, struct runtime_error *error)
{
	return fail(error, -ENOENT, "%.80s: no such container (see `membox ps`)", name);
}

/* A descriptor of the folder of a container; -errno with *error filled. */
static int open_for_client(const char *name, struct runtime_error *error)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int runtime = -1;
	int fd = -ENOENT;

	if (runtime_name_is_valid(name)) {
		runtime = open_runtime(false, &path, error);
		if (runtime < 0 && runtime != -ENOENT)
			return runtime;
		if (runtime >= 0)
			fd = open_name(runtime, name);
	}
	if (fd < 0 && fd != -ENOENT)
		return fail(error, fd, "%s/%s: %s", path, name, strerror(-fd));
	return fd < 0 ? no_such_container(name, error) : fd;
}

static int connect_within(int fd, const struct sockaddr_un *address, int timeout_ms)
{
	struct timeval patience = {.tv_sec = timeout_ms / 1000, .tv_usec = timeout_ms % 1000 * 1000L};

	/* A local socket connects at once, or waits for room in the backlog as long as it may send (0 would mean: without end). */
	if (timeout_ms == 0)
		patience.tv_usec = 1;
	if (timeout_ms >= 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)))
		return -errno;
	while (connect(fd, (const struct sockaddr *)address, sizeof(*address)))
		if (errno != EINTR)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
	return fcntl(fd, F_SETFL, O_NONBLOCK) ? -errno : 0;
}

int runtime_folder_connect(const char *name, int timeout_ms, struct runtime_error *error)
{
	_cleanup_close_ int folder = open_for_client(name, error);
	_cleanup_close_ int fd = -1;
	struct sockaddr_un address;
	int r;

	if (folder < 0)
		return folder;
	address = address_in(folder);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	r = fd < 0 ? -errno : connect_within(fd, &address, timeout_ms);
	if (r == -ENOENT || r == -ECONNREFUSED)
		return no_such_container(name, error);
	if (r == -ETIMEDOUT)
		return fail(error, r, "%s: its keeper does not answer", name);
	if (r)
		return fail(error, r, "%s: cannot connect: %s", name, strerror(-r));
	return steal_fd(&fd);
}

/* A record lock: unlike one by flock(2) it is not the keeper's too, which is forked meanwhile. */
int runtime_folder_lock_attach(void)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct runtime_error error;
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int runtime = open_runtime(true, &path, &error);
	_cleanup_close_ int fd = runtime < 0 ? runtime : openat(runtime, ATTACH_LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (runtime < 0)
		return runtime;
	if (fd < 0)
		return -errno;
	while (fcntl(fd, F_SETLKW, &lock))
		if (errno != EINTR)
			return -errno;
	return steal_fd(&fd);
}
