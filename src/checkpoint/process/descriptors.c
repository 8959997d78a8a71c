/* Which of a process's descriptors is which open file. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"
#include "checkpoint/process/pidfds.h"
#include "checkpoint/process/process.h"

/* What /proc says it does. A terminal that was opened by TIOCGPTPEER may show so for all its descriptors: then the process itself is asked. */
static bool closes_on_exec(struct saved_process *p, int fd, const Image__File *file)
{
	if (file->kind != IMAGE__FILE__KIND__TERMINAL || p->saving->is_look)
		return true;
	long r = REMOTE_CALL(&p->remote, SYS_fcntl, (uint64_t)fd, F_GETFD, 0, 0, 0, 0);
	return r < 0 || r & FD_CLOEXEC;
}

static int save_descriptor(struct saved_process *p, int fd)
{
	struct arena *arena = &p->saving->arena;
	Image__Descriptor **slot = arena_grow(arena, &p->message->descriptors, p->message->n_descriptors, sizeof(*slot));
	Image__Descriptor *d = arena_alloc(arena, sizeof(*d));
	char name[32];
	if (!slot || !d)
		return saved_no_memory(p->saving);
	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	const char *info = proc_text(arena, p->pid, name, NULL), *flags = info ? proc_value(info, "flags") : NULL;
	if (!flags)
		return checkpoint_fail(&p->saving->error, -EIO, "process %d, descriptor %d: nothing is known of it: %s", p->pid, fd, info ? "no flags" : strerror(errno));
	int file = files_find(p, fd);
	if (file < 0)
		return file;
	image__descriptor__init(d);
	d->number = (uint32_t)fd;
	d->file = (uint32_t)file;
	d->close_on_exec = (strtoul(flags, NULL, 8) & O_CLOEXEC) != 0 && closes_on_exec(p, fd, p->saving->image->files[file]);
	*slot = d;
	p->message->n_descriptors++;
	return 0;
}

static int compare_numbers(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

int descriptors_save(struct saved_process *p)
{
	char path[48];
	int *numbers = NULL;
	size_t nr = 0;
	struct dirent *entry;
	snprintf(path, sizeof(path), "/proc/%d/fd", p->pid);
	_cleanup_closedir_ DIR *dir = opendir(path);
	if (!dir)
		return checkpoint_fail(&p->saving->error, -errno, "process %d: its descriptors: %s", p->pid, strerror(errno));
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		int *number = arena_grow(&p->saving->arena, &numbers, nr, sizeof(*number));
		if (!number)
			return saved_no_memory(p->saving);
		*number = atoi(entry->d_name);
		nr++;
	}
	if (nr)
		qsort(numbers, nr, sizeof(*numbers), compare_numbers);
	int r = 0;
	for (size_t i = 0; r == 0 && i < nr; i++)
		r = save_descriptor(p, numbers[i]);
	return r;
}

static int fail_restore(struct restored_process *p, unsigned int number, long code)
{
	return checkpoint_fail(&p->restoring->error, (int)code, "process %d, descriptor %u: %s", p->pid, number, strerror((int)-code));
}

/* An epoll object knows its descriptors by number and file, so it is told of them by the first process that has it. */
static int restore_watches(struct restored_process *p, const Image__Descriptor *d, const Image__File *file)
{
	for (size_t i = 0; i < file->n_watches; i++) {
		const Image__Watch *watch = file->watches[i];
		struct {
			uint32_t events;
			uint64_t data;
		} __attribute__((packed)) event = {watch->events, watch->data};
		remote_addr_t at = remote_put(&p->remote, 0, &event, sizeof(event));
		long r = at ? REMOTE_CALL(&p->remote, SYS_epoll_ctl, d->number, 1 /* EPOLL_CTL_ADD */, watch->descriptor, at, 0, 0) : -EFAULT;
		if (r < 0 && r != -EEXIST)
			return fail_restore(p, d->number, r);
	}
	return 0;
}

/* Closing any descriptor of a file gives a process's locks up, so they come last. */
static int restore_locks(struct restored_process *p, const Image__Descriptor *d, const Image__File *file)
{
	for (size_t i = 0; i < file->n_locks; i++) {
		const Image__Lock *lock = file->locks[i];
		struct flock range = {.l_type = lock->exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET, .l_start = (off_t)lock->start, .l_len = (off_t)lock->bytes};
		if (lock->kind != IMAGE__LOCK__KIND__POSIX || lock->pid != p->message->pid)
			continue;
		remote_addr_t at = remote_put(&p->remote, 0, &range, sizeof(range));
		long r = at ? REMOTE_CALL(&p->remote, SYS_fcntl, d->number, F_SETLK, at, 0, 0, 0) : -EFAULT;
		if (r < 0)
			return fail_restore(p, d->number, r);
	}
	return 0;
}

int descriptors_restore(struct restored_process *p)
{
	const Image__Process *message = p->message;
	unsigned int first = (unsigned int)p->restoring->first_file;
	long r = REMOTE_CALL(&p->remote, SYS_close_range, 0, first - 1, 0, 0, 0, 0);
	for (size_t i = 0; r >= 0 && i < message->n_descriptors; i++) {
		const Image__Descriptor *d = message->descriptors[i];
		const Image__File *file = p->restoring->image->message->files[d->file];
		r = pidfd_is_of_living(file) ? pidfd_restore(p, d, file)
					     : REMOTE_CALL(&p->remote, SYS_dup3, (uint64_t)p->restoring->files[d->file], d->number, d->close_on_exec ? O_CLOEXEC : 0, 0, 0, 0);
		if (r < 0)
			return fail_restore(p, d->number, r);
	}
	if (r >= 0)
		r = REMOTE_CALL(&p->remote, SYS_close_range, first, UINT32_MAX, 0, 0, 0, 0);
	for (size_t i = 0; r >= 0 && i < message->n_descriptors; i++) {
		const Image__File *file = p->restoring->image->message->files[message->descriptors[i]->file];
		r = restore_watches(p, message->descriptors[i], file);
		if (r >= 0)
			r = restore_locks(p, message->descriptors[i], file);
	}
	return r < 0 ? fail_restore(p, 0, r) : 0;
}
