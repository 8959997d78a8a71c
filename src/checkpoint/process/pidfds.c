#include "checkpoint/process/pidfds.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int refuse(struct saving *saving, pid_t pid, int fd, const char *why)
{
	return checkpoint_fail(&saving->error, -ENOTSUP, "process %d, descriptor %d (pidfd): %s", pid, fd, why);
}

int pidfd_save(struct saved_process *p, Image__File *f, int fd, const char *info)
{
	int pid = (int)proc_number(info, "Pid", 10); /* -1: it has been collected */
	if (!pid)
		return refuse(p->saving, p->pid, fd, "its process is in no namespace that is seen");
	if (proc_number(info, "flags", 8) & O_EXCL) /* PIDFD_THREAD */
		return refuse(p->saving, p->pid, fd, "of a thread");
	f->kind = IMAGE__FILE__KIND__PIDFD;
	f->target = pid > 0 ? saved_id(p->saving, pid) : 0;
	return pid < 0 || f->target ? 0 : refuse(p->saving, p->pid, fd, "of a process outside of the container");
}

int pidfd_complete(struct saving *saving, const Image__File *f, pid_t pid, int fd)
{
	for (size_t i = 0; i < saving->image->n_processes; i++)
		if (saving->image->processes[i]->pid == f->target)
			return 0;
	return f->target ? refuse(saving, pid, fd, "of a process outside of the container") : 0;
}

int pidfd_restore_of_dead(const Image__File *f)
{
	int pidfd = -1;
	struct clone_args args = {.flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&pidfd}; /* no signal when it ends */
	long pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		_exit(0);
	if (pid < 0)
		return -errno;
	while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	if (f->flags & O_NONBLOCK)
		fcntl(pidfd, F_SETFL, O_NONBLOCK);
	return pidfd;
}

bool pidfd_is_of_living(const Image__File *f)
{
	return f->kind == IMAGE__FILE__KIND__PIDFD && f->target;
}

long pidfd_restore(struct restored_process *p, const Image__Descriptor *d, const Image__File *f)
{
	long fd = REMOTE_CALL(&p->remote, SYS_pidfd_open, (uint64_t)f->target, f->flags & O_NONBLOCK, 0, 0, 0, 0);
	if (fd < 0)
		return fd;
	if (fd == d->number)
		return REMOTE_CALL(&p->remote, SYS_fcntl, (uint64_t)fd, F_SETFD, d->close_on_exec ? FD_CLOEXEC : 0, 0, 0, 0);
	long r = REMOTE_CALL(&p->remote, SYS_dup3, (uint64_t)fd, d->number, d->close_on_exec ? O_CLOEXEC : 0, 0, 0, 0);
	REMOTE_CALL(&p->remote, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	return r;
}
