#include "container/attach.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "platform/process.h"

#define NO_SUCH_FD 0x3fffffff
#define STRAYS_INTERVAL_NS 100000000ull

/* Why a process cannot be a member; filled by check_one. */
struct refusal {
	int error;
	char why[192];
};

static int refuse(struct refusal *refusal, int error, const char *why)
{
	refusal->error = error;
	snprintf(refusal->why, sizeof(refusal->why), "%s", why);
	return error;
}

/* True when pid is this process or one that it descends from: membox cannot stop what it needs itself. */
static bool is_ancestor(pid_t pid)
{
	struct process_info info = {.parent = getpid()};
	while (info.parent > 0 && info.parent != pid)
		if (process_info_read(info.parent, &info) < 0)
			return false;
	return info.parent == pid;
}

static bool is_of_membox(const char *name)
{
	static const char *const names[] = {"membox", "membox-agent", "mbx-guardian"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

/* Part of membox, or a descendant of another container's keeper. */
static bool is_below_membox(pid_t pid)
{
	struct process_info info = {.parent = pid};
	while (info.parent > 1) {
		if (process_info_read(info.parent, &info) < 0)
			return false;
		if (is_of_membox(info.name))
			return true;
	}
	return false;
}

static int check_kind(pid_t pid, struct refusal *refusal)
{
	struct process_info info;
	long group;
	if (pid == 1)
		return refuse(refusal, -EPERM, "it is the init process");
	if (process_info_read(pid, &info) < 0 || process_status_number(pid, "Tgid", &group) < 0)
		return refuse(refusal, -ESRCH, "there is no such process");
	if (info.is_kernel_thread)
		return refuse(refusal, -EPERM, "it is a kernel thread");
	if (info.state == 'Z' || info.state == 'X')
		return refuse(refusal, -ESRCH, "it has ended (a zombie)");
	if (group != pid) {
		refusal->error = -EINVAL;
		snprintf(refusal->why, sizeof(refusal->why), "it is a thread of process %ld (give that one)", group);
		return -EINVAL;
	}
	if (is_ancestor(pid))
		return refuse(refusal, -EDEADLK, "membox runs below it (start membox from another shell)");
	return 0;
}

/*
 * Nobody else's: not traced, not registered with another container's userfaultfd, and below no other keeper unless that one says that it is no member (any more).
 */
static int check_is_free(pid_t pid, bool may_leave, struct refusal *refusal)
{
	struct process_info info;
	long tracer;
	if (process_status_number(pid, "TracerPid", &tracer) < 0)
		return refuse(refusal, -ESRCH, "there is no such process");
	bool traced_by_membox = tracer && process_info_read((pid_t)tracer, &info) == 0 && is_of_membox(info.name);
	if ((!may_leave && is_below_membox(pid)) || traced_by_membox || address_space_is_inherited(pid))
		return refuse(refusal, -EBUSY, "it is a member of another container (see membox ps), or of membox itself");
	if (!tracer)
		return 0;
	refusal->error = -EBUSY;
	snprintf(refusal->why, sizeof(refusal->why), "it is traced by process %ld (a debugger? end that first)", tracer);
	return -EBUSY;
}

static int check_owner(pid_t pid, struct refusal *refusal)
{
	int r = process_check_owner(pid);
	if (r == -EPERM)
		return refuse(refusal, r, "it belongs to another user, or has rights of its own (set-user-id, capabilities)");
	return r < 0 ? refuse(refusal, -ESRCH, "there is no such process") : 0;
}

/* The agent's code is of our own kind. */
static bool is_of_another_kind(pid_t pid)
{
	unsigned char ident[EI_NIDENT] = {0};
	char path[48];
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, ident, sizeof(ident)) == (ssize_t)sizeof(ident) && ident[EI_CLASS] != ELFCLASS64;
}

/* pidfd_getfd(2) asks the same rights as PTRACE_ATTACH and disturbs nothing: without them it does not even say that there is no such descriptor. */
static int check_rights(pid_t pid, int pidfd, struct refusal *refusal)
{
	if (pidfd_take_fd(pidfd, NO_SUCH_FD) == -EPERM)
		return refuse(refusal, -EPERM, "no right to trace it (set sysctl kernel.yama.ptrace_scope=0, or give membox CAP_SYS_PTRACE)");
	if (is_of_another_kind(pid))
		return refuse(refusal, -ENOEXEC, "it is not a 64-bit program");
	if (process_is_filtered(pid))
		return refuse(refusal, -EACCES, "it is under a seccomp filter, which would judge membox's system calls");
	return 0;
}

static bool may_leave(const struct container *c, pid_t pid)
{
	const struct attach_source *source = c->config->attach_source;
	return source && source->may_leave(source->context, pid);
}

/* Everything but whose it is when it can be taken out of another container: that shows when it has been. */
static int check_one(const struct container *c, pid_t pid, bool is_taken_out, struct refusal *refusal)
{
	int r = check_kind(pid, refusal);
	_cleanup_close_ int pidfd = r == 0 ? pidfd_open_process(pid) : -1;
	if (r == 0 && pidfd < 0)
		r = refuse(refusal, pidfd, "there is no such process");
	if (r == 0)
		r = check_owner(pid, refusal);
	if (r == 0)
		r = check_rights(pid, pidfd, refusal);
	bool leaves = r == 0 && may_leave(c, pid);
	return r == 0 && (is_taken_out || !leaves) ? check_is_free(pid, leaves, refusal) : r;
}

static int check_all(const struct container *c, bool are_taken_out)
{
	const struct run_config *config = c->config;
	struct refusal refusal;
	for (uint32_t i = 0; i < config->nr_attach; i++) {
		if (check_one(c, config->attach[i], are_taken_out, &refusal) == 0)
			continue;
		log_error("cannot attach process %d: %s", config->attach[i], refusal.why);
		return refusal.error;
	}
	return 0;
}

static int take_all_out(const struct container *c)
{
	const struct attach_source *source = c->config->attach_source;
	int r = 0;
	for (uint32_t i = 0; source && i < c->config->nr_attach && r == 0; i++)
		r = source->take_out(source->context, c->config->attach[i]);
	return r;
}

int container_attach(struct container *c)
{
	const struct run_config *config = c->config;
	int r = check_all(c, false);
	if (r < 0)
		return r;
	r = take_all_out(c);
	if (r == 0)
		r = check_all(c, true);
	if (r < 0 && config->attach_source)
		config->attach_source->not_attached(config->attach_source->context);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < config->nr_attach; i++) {
		r = members_add(&c->members, config->attach[i], false);
		if (r < 0) {
			log_error("cannot attach process %d: %s", config->attach[i], strerror(-r));
			return r;
		}
	}
	c->program = config->attach[0];
	return 0;
}

/* The member that this child of a fork is, or NULL. */
static struct member *find_among_members(struct container *c, struct address_space *as)
{
	for (uint32_t i = 0; i < c->members.nr; i++)
		if (!c->members.items[i].as && address_space_matches(as, c->members.items[i].pid))
			return &c->members.items[i];
	return NULL;
}

static pid_t find_in_system(struct container *c, struct address_space *as)
{
	_cleanup_closedir_ DIR *proc = opendir("/proc");
	struct dirent *entry;
	while (proc && (entry = readdir(proc))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid > 1 && !members_find(&c->members, pid) && !container_is_agent(pid, c) && address_space_matches(as, pid))
			return pid;
	}
	return 0;
}

/*
 * A member may fork and end before its child was seen below it. When it was adopted, its FORK event has brought the child's userfaultfd: the child is
 * looked for in all of /proc, and becomes a member, which leaves if its memory does: it would be counted, with nothing to evict, until the next step of leaving.
 * A look costs some 10 us a process and child, and is taken only for children that no member explains.
 */
static void find_strays(struct container *c)
{
	uint64_t now = monotonic_ns();
	if (now - c->last_strays_ns < STRAYS_INTERVAL_NS)
		return;
	c->last_strays_ns = now;
	container_upkeep(c);
	for (struct address_space *as = c->spaces; as; as = as->next) {
		if (as->agent || as->process_seen || atomic_load(&as->dead))
			continue;
		if (find_among_members(c, as)) {
			as->process_seen = true;
			continue;
		}
		pid_t pid = find_in_system(c, as);
		if (pid && members_add(&c->members, pid, atomic_load(&as->leaves)) == 0)
			log_debug("process %d was not seen below a member", pid);
	}
}

bool container_attached_is_over(struct container *c)
{
	if (c->release == RELEASE_DONE)
		return true;
	find_strays(c);
	c->program_ended = !members_find(&c->members, c->program);
	if (c->members.nr)
		return false;
	container_upkeep(c);
	return !c->spaces && !atomic_load(&c->newborn);
}
