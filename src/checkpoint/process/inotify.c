#include "checkpoint/process/inotify.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "platform/process.h"

/* As in a line of fdinfo (proc(5)). */
struct watched {
	unsigned int number, mask;
	unsigned long inode;
	unsigned int dev; /* the kernel's: 12 bits and 20 */
	struct {
		struct file_handle head;
		unsigned char bytes[MAX_HANDLE_SZ];
	} handle;
};

static int refuse(struct saved_process *p, int fd, const char *why)
{
	return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d, descriptor %d (inotify): %s", p->pid, fd, why);
}

static bool parse(const char *line, struct watched *ret)
{
	int at = 0;
	*ret = (struct watched){0};
	if (sscanf(line, "inotify wd:%x ino:%lx sdev:%x mask:%x ignored_mask:%*x fhandle-bytes:%x fhandle-type:%x f_handle:%n", &ret->number, &ret->inode, &ret->dev, &ret->mask,
		   &ret->handle.head.handle_bytes, (unsigned int *)&ret->handle.head.handle_type, &at) != 6 || !at || ret->handle.head.handle_bytes > MAX_HANDLE_SZ)
		return false;
	for (size_t i = 0; i < ret->handle.head.handle_bytes; i++)
		if (sscanf(line + at + i * 2, "%2hhx", &ret->handle.bytes[i]) != 1)
			return false;
	return true;
}

static bool is_on(const struct watched *w, const struct stat *st)
{
	return major(st->st_dev) == w->dev >> 20 && minor(st->st_dev) == (w->dev & 0xfffff);
}

/* The path that a handle of a file system leads to, when that is mounted at `mount`. */
static bool follow(struct watched *w, const char *mount, char path[PATH_MAX])
{
	struct stat st;
	_cleanup_close_ int folder = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0 || fstat(folder, &st) < 0 || !is_on(w, &st))
		return false;
	_cleanup_close_ int fd = open_by_handle_at(folder, &w->handle.head, O_PATH | O_CLOEXEC);
	char link[48];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = fd < 0 ? -1 : readlink(link, path, PATH_MAX - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	return lstat(path, &st) == 0 && st.st_ino == w->inode && is_on(w, &st);
}

/* Every mount of the file system is tried: behind one of them the path may be covered by another mount. */
static char *find_path(struct arena *arena, struct watched *w)
{
	char line[PATH_MAX + 512], mount[PATH_MAX], path[PATH_MAX];
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	bool found = false;
	while (mounts && !found && fgets(line, sizeof(line), mounts)) {
		unsigned int high, low;
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &high, &low, mount) == 3)
			found = follow(w, mount, path);
	}
	if (mounts)
		fclose(mounts);
	return found ? arena_strdup(arena, path) : NULL;
}

static int save_mark(struct saved_process *p, Image__File *f, int fd, const char *line)
{
	struct arena *arena = &p->saving->arena;
	Image__Mark **slot = arena_grow(arena, &f->marks, f->n_marks, sizeof(*slot)), *mark = arena_alloc(arena, sizeof(*mark));
	struct watched w;
	if (!slot || !mark)
		return saved_no_memory(p->saving);
	if (!parse(line, &w))
		return refuse(p, fd, "it watches a file system whose files cannot be found again");
	if (w.number > INOTIFY_NUMBER_MAX)
		return refuse(p, fd, "its numbers are too high");
	image__mark__init(mark);
	mark->number = w.number;
	mark->mask = w.mask;
	mark->path = find_path(arena, &w);
	if (!mark->path)
		return refuse(p, fd, "what it watches cannot be found (it has been removed, or that needs CAP_DAC_READ_SEARCH)");
	*slot = mark;
	f->n_marks++;
	return 0;
}

static int compare_marks(const void *a, const void *b)
{
	const Image__Mark *const *x = a, *const *y = b;
	return (*x)->number < (*y)->number ? -1 : (*x)->number > (*y)->number;
}

int inotify_save(struct saved_process *p, Image__File *f, int fd, const char *info)
{
	_cleanup_close_ int pidfd = pidfd_open_process(p->pid);
	_cleanup_close_ int copy = pidfd < 0 ? pidfd : pidfd_take_fd(pidfd, fd);
	int waiting = 0, r = 0;
	if (copy < 0 || ioctl(copy, FIONREAD, &waiting) < 0)
		return refuse(p, fd, strerror(copy < 0 ? -copy : errno));
	if (waiting)
		return checkpoint_fail(&p->saving->error, -EBUSY, "process %d, descriptor %d (inotify): events wait to be read", p->pid, fd);
	f->kind = IMAGE__FILE__KIND__INOTIFY;
	for (const char *line = strstr(info, "inotify wd:"); r == 0 && line; line = strstr(line + 1, "inotify wd:"))
		r = save_mark(p, f, fd, line);
	if (r == 0 && f->n_marks)
		qsort(f->marks, f->n_marks, sizeof(*f->marks), compare_marks);
	return r;
}

/* --- restore --- */

/* Numbers are given in turn, so those between two that are wanted are taken and given back. */
static int add_mark(int fd, const Image__Mark *mark)
{
	for (;;) {
		int number = inotify_add_watch(fd, mark->path, (mark->mask & (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)) | IN_DONT_FOLLOW);
		if (number < 0)
			return -errno;
		if ((unsigned int)number == mark->number)
			return 0;
		if ((unsigned int)number > mark->number)
			return -EEXIST;
		inotify_rm_watch(fd, number);
	}
}

/* What the object has seen while it was made: nothing that the program did. */
static void drain(int fd)
{
	char events[4096];
	while (read(fd, events, sizeof(events)) > 0)
		;
}

int inotify_restore(const Image__File *f)
{
	_cleanup_close_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK); /* the flags that it had are given to it later */
	int r = fd < 0 ? -errno : 0;
	for (size_t i = 0; r == 0 && i < f->n_marks; i++) {
		r = add_mark(fd, f->marks[i]);
		drain(fd);
	}
	return r < 0 ? r : steal_fd(&fd);
}
