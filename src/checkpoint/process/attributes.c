/* Working directory, umask, limits, rights, and the other small things that a whole process has. */
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/process/process.h"
#include "platform/process.h"

static bool is_same_value(const char *a, const char *b)
{
	size_t length = strcspn(a, "\n");
	return length == strcspn(b, "\n") && !memcmp(a, b, length);
}

/* Rights that are not ours: to give them back would need more than we have. */
static int check_rights(struct saved_process *p, const char *status)
{
	static const char *const keys[] = {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp"};
	char *own = proc_text(&p->saving->arena, getpid(), "status", NULL);
	for (size_t i = 0; own && i < ARRAY_LEN(keys); i++) {
		const char *theirs = proc_value(status, keys[i]), *ours = proc_value(own, keys[i]);
		bool is_of_namespace = p->saving->is_isolated && geteuid() && !strcmp(keys[i], "CapBnd"); /* what nobody has there */
		if (!is_of_namespace && (!theirs || !ours || !is_same_value(theirs, ours)))
			return checkpoint_fail(&p->saving->error, -ENOTSUP,
					       "process %d: its user, groups, rights or filters are not those that membox runs with (%s)", p->pid, keys[i]);
	}
	return own ? 0 : saved_no_memory(p->saving);
}

static int save_folder(struct saved_process *p, Image__Attributes *a)
{
	char path[48];
	struct stat inside, outside;
	snprintf(path, sizeof(path), "/proc/%d/root", p->pid);
	if (stat(path, &inside) < 0 || stat("/", &outside) < 0)
		return checkpoint_fail(&p->saving->error, -errno, "process %d: its root: %s", p->pid, strerror(errno));
	if (inside.st_dev != outside.st_dev || inside.st_ino != outside.st_ino)
		return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d: it has another root folder", p->pid);
	snprintf(path, sizeof(path), "/proc/%d/cwd", p->pid);
	a->folder = proc_link(&p->saving->arena, p->pid, "cwd");
	if (!a->folder)
		return checkpoint_fail(&p->saving->error, -errno, "process %d: its working directory: %s", p->pid, strerror(errno));
	if (stat(path, &inside) < 0 || stat(a->folder, &outside) < 0 || inside.st_ino != outside.st_ino || inside.st_dev != outside.st_dev)
		return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d: its working directory %.100s is removed or not reachable", p->pid, a->folder);
	return 0;
}

static int save_limits(struct saved_process *p, Image__Attributes *a)
{
	for (unsigned int resource = 0; resource < RLIM_NLIMITS; resource++) {
		struct rlimit64 limit;
		Image__Limit **slot = arena_grow(&p->saving->arena, &a->limits, a->n_limits, sizeof(*slot));
		Image__Limit *message = arena_alloc(&p->saving->arena, sizeof(*message));
		if (!slot || !message)
			return saved_no_memory(p->saving);
		if (prlimit64(p->pid, resource, NULL, &limit) < 0)
			return checkpoint_fail(&p->saving->error, -errno, "process %d: its limits: %s", p->pid, strerror(errno));
		image__limit__init(message);
		message->resource = resource;
		message->soft = limit.rlim_cur;
		message->hard = limit.rlim_max;
		*slot = message;
		a->n_limits++;
	}
	return 0;
}

static long ask_prctl(struct saved_process *p, int option, uint64_t argument)
{
	return REMOTE_CALL(&p->remote, SYS_prctl, (uint64_t)option, argument, 0, 0, 0, 0);
}

#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9) /* Linux 6.3 */

int attributes_save(struct saved_process *p)
{
	struct arena *arena = &p->saving->arena;
	Image__Attributes *a = arena_alloc(arena, sizeof(*a));
	char *status = proc_text(arena, p->pid, "status", NULL), *personality = proc_text(arena, p->pid, "personality", NULL);
	if (!a || !status || !personality)
		return checkpoint_fail(&p->saving->error, -errno, "process %d: what it may do: %s", p->pid, strerror(errno));
	image__attributes__init(a);
	p->message->attributes = a;
	int r = check_rights(p, status), adjust = 0;
	if (r == 0)
		r = save_folder(p, a);
	if (r == 0)
		r = save_limits(p, a);
	if (r < 0)
		return r;
	const char *umask_text = proc_value(status, "Umask"), *no_new = proc_value(status, "NoNewPrivs");
	a->umask = umask_text ? (uint32_t)strtoul(umask_text, NULL, 8) : 022;
	a->no_new_privileges = no_new && no_new[0] == '1';
	a->personality = (uint32_t)strtoul(personality, NULL, 16);
	process_oom_score_adj(p->pid, &adjust);
	a->oom_score_adj = adjust;
	a->dumpable = (uint32_t)ask_prctl(p, PR_GET_DUMPABLE, 0);
	long barriers = REMOTE_CALL(&p->remote, SYS_membarrier, MEMBARRIER_CMD_GET_REGISTRATIONS, 0, 0, 0, 0, 0);
	a->membarrier = barriers > 0 ? (uint32_t)barriers : 0;
	a->no_huge_pages = ask_prctl(p, PR_GET_THP_DISABLE, 0) > 0;
	int is_subreaper = 0;
	if (ask_prctl(p, PR_GET_CHILD_SUBREAPER, p->remote.scratch) == 0 && remote_get(&p->remote, 0, &is_subreaper, sizeof(is_subreaper)) == 0)
		a->subreaper = is_subreaper;
	return 0;
}

static int restore_oom_score(const struct restored_process *p, int adjust)
{
	char path[64];
	int now = 0;
	process_oom_score_adj(p->pid, &now);
	if (now == adjust)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", p->pid);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || dprintf(fd, "%d", adjust) < 0 ? -errno : 0;
}

static int restore_limits(struct restored_process *p, const Image__Attributes *a)
{
	for (size_t i = 0; i < a->n_limits; i++) {
		struct rlimit64 limit = {a->limits[i]->soft, a->limits[i]->hard}, now;
		if (prlimit64(p->pid, a->limits[i]->resource, NULL, &now) == 0 && now.rlim_cur == limit.rlim_cur && now.rlim_max == limit.rlim_max)
			continue;
		if (prlimit64(p->pid, a->limits[i]->resource, &limit, NULL) < 0)
			return checkpoint_fail(&p->restoring->error, -errno, "process %d: limit %u (see `ulimit -a`): %s", p->pid, a->limits[i]->resource,
					       strerror(errno));
	}
	return 0;
}

int attributes_allow_huge_pages(struct restored_process *p)
{
	long r = p->message->attributes->no_huge_pages ? 0 : REMOTE_CALL(&p->remote, SYS_prctl, PR_SET_THP_DISABLE, 0, 0, 0, 0, 0);
	return r < 0 ? checkpoint_fail(&p->restoring->error, (int)r, "process %d: huge pages: %s", p->pid, strerror((int)-r)) : 0;
}

int attributes_restore(struct restored_process *p)
{
	const Image__Attributes *a = p->message->attributes;
	remote_addr_t folder = remote_put(&p->remote, 0, a->folder, strlen(a->folder) + 1);
	long r = folder ? REMOTE_CALL(&p->remote, SYS_chdir, folder, 0, 0, 0, 0, 0) : -EFAULT;
	if (r < 0)
		return checkpoint_fail(&p->restoring->error, (int)r, "process %d: working directory %.100s: %s", p->pid, a->folder, strerror((int)-r));
	REMOTE_CALL(&p->remote, SYS_umask, a->umask, 0, 0, 0, 0, 0);
	REMOTE_CALL(&p->remote, SYS_personality, a->personality, 0, 0, 0, 0, 0);
	if (a->no_new_privileges)
		REMOTE_CALL(&p->remote, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
	REMOTE_CALL(&p->remote, SYS_prctl, PR_SET_CHILD_SUBREAPER, (uint64_t)a->subreaper, 0, 0, 0, 0);
	for (uint32_t left = a->membarrier; left; left &= left - 1)
		REMOTE_CALL(&p->remote, SYS_membarrier, left & -left, 0, 0, 0, 0, 0);
	if (a->dumpable <= 1)
		REMOTE_CALL(&p->remote, SYS_prctl, PR_SET_DUMPABLE, a->dumpable, 0, 0, 0, 0);
	int error = restore_oom_score(p, a->oom_score_adj);
	if (error < 0)
		return checkpoint_fail(&p->restoring->error, error, "process %d: oom_score_adj %d: %s", p->pid, a->oom_score_adj, strerror(-error));
	return restore_limits(p, a);
}
