#include "checkpoint/restore.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "checkpoint/family.h"
#include "checkpoint/machine.h"
#include "checkpoint/objects.h"
#include "checkpoint/pages.h"
#include "checkpoint/process/terminals.h"
#include "checkpoint/system_v.h"
#include "container/container.h"
#include "container/isolate.h"
#include "container/prefetch.h"
#include "platform/process.h"
#include "reclaim/clock.h"

#define STOP_TIMEOUT_US 5000000u /* a new process, which only has to reach a stop */

struct restore {
	struct restore_source source;
	struct restoring restoring;
	struct restored_process *processes; /* one for each of the image, in its order */
	size_t nr_processes;
	struct prefetch *prefetch; /* being filled; NULL: no memory */
	struct arrivals *arrivals; /* NULL: all pages are there */
};

static int fail(struct restore *r, pid_t pid, const char *what, long code)
{
	return checkpoint_fail(&r->restoring.error, (int)code, "process %d: %s: %s", pid, what, strerror((int)-code));
}

static int fail_clone(struct restore *r, pid_t pid, long code)
{
	if (code == -EEXIST)
		return checkpoint_fail(&r->restoring.error, (int)code, "process id %d is taken by another process (--isolate gives it a namespace of its own)", pid);
	if (code == -EPERM)
		return checkpoint_fail(&r->restoring.error, (int)code, "process id %d cannot be given again (that needs CAP_CHECKPOINT_RESTORE, or --isolate)", pid);
	return fail(r, pid, "cannot be made", code);
}

/* --- making processes: each is a copy of its parent, which is empty already --- */

/* A copy of the keeper, without other threads, that does nothing until it is held. */
static long clone_keeper(const struct container *c, pid_t pid)
{
	struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)(uintptr_t)&pid, .set_tid_size = 1};
	long r = syscall(SYS_clone3, &args, sizeof(args));
	if (r == 0) {
		backstop_enter(&c->backstop);
		for (;;)
			pause();
	}
	return r < 0 ? -errno : r;
}

static long clone_parent(struct restored_process *parent, pid_t pid)
{
	struct {
		struct clone_args args;
		pid_t pid;
	} data = {.pid = pid};
	data.args.flags = CLONE_PTRACE;
	data.args.exit_signal = SIGCHLD;
	data.args.set_tid = parent->remote.scratch + offsetof(typeof(data), pid);
	data.args.set_tid_size = 1;
	remote_addr_t at = remote_put(&parent->remote, 0, &data, sizeof(data));
	return at ? REMOTE_CALL(&parent->remote, SYS_clone3, at, sizeof(data.args), 0, 0, 0, 0) : -EFAULT;
}

/* The first process of namespaces of its own. */
static long fork_into_namespaces(struct restore *r, struct container *c, pid_t inner_pid)
{
	struct isolate_failure failure;
	if (r->nr_processes)
		return -ENOTSUP; /* it was an orphan: pid 1 would have to make it */
	pid_t pid = isolate_fork(&c->isolation, inner_pid, &failure);
	if (pid == 0) {
		backstop_enter(&c->backstop);
		for (;;)
			pause();
	}
	if (pid < 0)
		checkpoint_fail(&r->restoring.error, pid, "--isolate: %s", failure.text);
	return pid;
}

/* Our number for a child that has been made. */
static long find_child(const struct restored_process *parent, pid_t pid)
{
	enum { MAX_CHILDREN = 4096 };
	pid_t children[MAX_CHILDREN];
	int nr = process_children(parent->pid, children, MAX_CHILDREN);
	for (int i = 0; i < MIN_OF(nr, MAX_CHILDREN); i++)
		if (process_innermost_pid(children[i]) == pid)
			return children[i];
	return -ESRCH;
}

static struct restored_process *find_process(struct restore *r, pid_t pid)
{
	for (size_t i = 0; i < r->nr_processes; i++)
		if (r->processes[i].message->pid == pid)
			return &r->processes[i];
	return NULL;
}

static int make_process(struct restore *r, struct container *c, const Image__Process *message, struct restored_process *p)
{
	struct restored_process *parent = message->parent ? find_process(r, message->parent) : NULL;
	*p = (struct restored_process){.restoring = &r->restoring, .message = message};
	if (message->parent && !parent)
		return fail(r, message->pid, "its parent", -ESRCH);
	long pid = parent ? clone_parent(parent, message->pid) : c->config->isolate ? fork_into_namespaces(r, c, message->pid) : clone_keeper(c, message->pid);
	if (pid > 0 && parent && c->config->isolate)
		pid = find_child(parent, message->pid);
	if (pid < 0)
		return fail_clone(r, message->pid, pid);
	p->pid = (pid_t)pid;
	r->nr_processes++;
	FAULT_POINT("restore.cloned");
	int result = parent ? world_of_clone(p->pid, &p->remote.world) : world_stop(p->pid, STOP_TIMEOUT_US, &p->remote.world);
	if (result < 0)
		return fail(r, p->pid, "does not stop", result);
	if (parent) {
		world_use_syscall_at(p->remote.world, world_syscall_address(parent->remote.world));
		p->has_inherited = parent->has_inherited;
		p->leftover = parent->remote.scratch;
	}
	FAULT_POINT("restore.stopped");
	if (message->is_zombie)
		return 0;
	result = layout_clear(p);
	FAULT_POINT("restore.cleared");
	if (result == 0 && message->session == message->pid) {
		long session = REMOTE_CALL(&p->remote, SYS_setsid, 0, 0, 0, 0, 0, 0);
		result = session < 0 ? fail(r, p->pid, "session", session) : terminal_control(p);
	}
	return result;
}

/* Those that lead a group before those that follow. Zombies are in no group any more that matters. */
static int restore_group(struct restore *r, struct restored_process *p, bool leaders)
{
	const Image__Process *message = p->message;
	bool leads = message->group == message->pid;
	if (!message->group || leads != leaders || message->session == message->pid || message->is_zombie)
		return 0;
	long result = REMOTE_CALL(&p->remote, SYS_setpgid, 0, (uint64_t)message->group, 0, 0, 0, 0);
	return result < 0 ? fail(r, p->pid, "process group", result) : 0;
}

/* It ends as it did before; its parent will ask. */
static int end_zombie(struct restored_process *p)
{
	int status = p->message->zombie_status;
	if (WIFSIGNALED(status))
		kill(p->pid, SIGKILL);
	else
		REMOTE_CALL(&p->remote, SYS_exit_group, (uint64_t)WEXITSTATUS(status), 0, 0, 0, 0, 0);
	world_resume(p->remote.world);
	p->remote.world = NULL;
	return 0;
}

static int restore_state(struct restored_process *p)
{
	if (p->message->is_zombie)
		return end_zombie(p);
	int r = layout_restore(p);
	FAULT_POINT("restore.layout");
	if (r == 0)
		r = pages_restore_now(p);
	if (r == 0)
		r = descriptors_restore(p);
	FAULT_POINT("restore.descriptors");
	if (r == 0)
		r = signals_restore(p);
	if (r == 0)
		r = attributes_restore(p);
	if (r == 0)
		r = threads_create(p);
	FAULT_POINT("restore.threads");
	if (r == 0)
		r = timers_restore(p);
	if (r == 0)
		r = threads_restore(p);
	remote_close(&p->remote);
	FAULT_POINT("restore.process");
	return r;
}

/* The highest descriptor that any of them has, and ours below that, are left free. */
static int lowest_free(const Image__Image *image)
{
	uint32_t highest = 63;
	for (size_t i = 0; i < image->n_processes; i++)
		for (size_t k = 0; k < image->processes[i]->n_descriptors; k++)
			highest = MAX_OF(highest, image->processes[i]->descriptors[k]->number);
	return (int)highest + 1;
}

/* What is shared is brought in while nobody could reclaim anything. */
static uint64_t room_for_family(struct container *c)
{
	uint64_t limit = charge_limit(&c->charge), free = 2 * clock_watermarks(limit).stop;
	return limit > free ? limit - free : 0;
}

static int fill_first(struct restore *r)
{
	uint64_t begin = monotonic_ns();
	int result = family_fill(r->restoring.family, &r->processes[0]);
	r->processes[0].has_inherited = result == 0;
	if (result == 0)
		log_debug("restore: %llu pages that several processes share, brought in within %llu us", (unsigned long long)family_nr_pages(r->restoring.family),
			  (unsigned long long)(monotonic_ns() - begin) / 1000);
	FAULT_POINT("restore.shared");
	return MIN_OF(result, 0);
}

static int make_all(struct restore *r, struct container *c)
{
	const Image__Image *image = r->restoring.image->message;
	r->restoring.cgroup = c->backstop.folder;
	r->restoring.has_user_namespace = c->config->isolate && geteuid();
	int lowest = r->restoring.first_file = lowest_free(image);
	int result = objects_restore(&r->restoring, lowest);
	if (result == 0)
		result = terminals_restore(&r->restoring, lowest);
	FAULT_POINT("restore.terminals");
	if (result == 0)
		result = files_restore(&r->restoring, lowest);
	FAULT_POINT("restore.opened");
	r->restoring.family = family_new(image, r->arrivals ? r->restoring.image->base.checksums : NULL, room_for_family(c));
	for (size_t i = 0; result == 0 && i < image->n_processes; i++) {
		result = make_process(r, c, image->processes[i], &r->processes[i]);
		if (result == 0 && i == 0)
			result = fill_first(r);
		if (result == 0 && i == 0)
			result = system_v_restore(&r->processes[0]);
		FAULT_POINT("restore.made_one");
	}
	FAULT_POINT("restore.made");
	for (int leaders = 1; leaders >= 0; leaders--)
		for (size_t i = 0; result == 0 && i < r->nr_processes; i++)
			result = restore_group(r, &r->processes[i], leaders);
	for (size_t i = 0; result == 0 && i < r->nr_processes; i++)
		if (!r->processes[i].message->is_zombie && r->processes[i].message->session == r->processes[i].message->pid)
			result = terminal_set_foreground(&r->processes[i]);
	for (size_t i = 0; result == 0 && i < r->nr_processes; i++)
		result = restore_state(&r->processes[i]);
	if (result == 0)
		result = system_v_remove(&r->processes[0]);
	FAULT_POINT("restore.filled");
	files_close(&r->restoring);
	terminals_close(&r->restoring);
	objects_close(&r->restoring);
	return result;
}

/* The report of a leader's death comes after that of its last thread, and those that were held are let go by world_collect_late. */
static bool is_gone(pid_t pid)
{
	world_collect_late();
	return waitpid(pid, NULL, __WALL | WNOHANG) != 0;
}

static void kill_all(struct restore *r)
{
	log_error("cannot restore: %s", r->restoring.error.text);
	for (size_t i = 0; i < r->nr_processes; i++)
		kill(r->processes[i].pid, SIGKILL);
	for (size_t i = 0; i < r->nr_processes; i++)
		world_resume(r->processes[i].remote.world);
}

/* There is no container yet that would see them end. */
static void give_up(struct restore *r, struct container *c)
{
	static const struct timespec nap = {.tv_nsec = 1000000};
	kill_all(r);
	for (size_t i = 0; i < r->nr_processes; i++)
		while (!r->processes[i].message->parent && !is_gone(r->processes[i].pid))
			nanosleep(&nap, NULL);
	isolate_release(&c->isolation);
	r->nr_processes = 0;
}

static pid_t create(void *context, struct container *c)
{
	struct restore *r = context;
	int result = make_all(r, c);
	if (result == 0)
		return r->processes[0].pid;
	give_up(r, c);
	return result;
}

/* --- letting them go on --- */

static bool has_pages(const struct restored_process *p)
{
	const Image__Memory *memory = p->message->memory;
	for (size_t i = 0; memory && i < memory->n_mappings; i++)
		if (memory->mappings[i]->n_extents)
			return true;
	return false;
}

static int adopt(struct restore *r, struct container *c, struct restored_process *p)
{
	struct member *member = members_find(&c->members, p->pid);
	if (!p->remote.world)
		return 0;
	if (!has_pages(p))
		return attributes_allow_huge_pages(p);
	int result = member ? container_adopt_held(c, member, p->remote.world) : -ESRCH;
	FAULT_POINT("restore.registered");
	if (result < 0)
		return fail(r, p->pid, "its pages cannot be put under a userfaultfd", result);
	result = pages_place(p, member->as, r->prefetch);
	return result < 0 ? result : attributes_allow_huge_pages(p);
}

static int start(void *context, struct container *c)
{
	struct restore *r = context;
	int result = 0;
	container_refresh_members(c);
	r->prefetch = prefetch_new(c);
	if (r->arrivals)
		result = arrivals_start(r->arrivals, c);
	for (size_t i = 0; result == 0 && i < r->nr_processes; i++)
		result = adopt(r, c, &r->processes[i]);
	FAULT_POINT("restore.adopted");
	if (result < 0) { /* the keeper waits for them as for any */
		prefetch_free(r->prefetch);
		kill_all(r);
		return result;
	}
	/* What nobody waits for yet would fill the page cache, at the cost of reading it twice as slowly. What came just now is in there. */
	if (!r->arrivals)
		swap_base_read_directly(&r->restoring.image->base);
	for (size_t i = r->nr_processes; i; i--) {
		world_resume(r->processes[i - 1].remote.world);
		FAULT_POINT("restore.resumed");
	}
	FAULT_POINT("restore.running");
	if (r->prefetch)
		prefetch_start(r->prefetch);
	log_debug("restored: running %llu us after the keeper began", (unsigned long long)(monotonic_ns() - c->begin_ns) / 1000);
	return 0;
}

static int arrived(void *context)
{
	const struct restore *r = context;
	return arrivals_state(r->arrivals);
}

int restore_new(const struct image *image, struct arrivals *arrivals, struct restore **ret, struct checkpoint_error *error)
{
	size_t nr = image->message->n_processes;
	int r = machine_check(image->message->machine, error);
	if (r == 0 && (!nr || image->message->processes[0]->is_zombie))
		r = checkpoint_fail(error, -EBADMSG, "the checkpoint holds no process");
	struct restore *restore = r == 0 ? calloc(1, sizeof(*restore)) : NULL;
	if (restore)
		restore->processes = calloc(nr, sizeof(*restore->processes));
	if (r < 0 || !restore || !restore->processes) {
		free(restore);
		return r < 0 ? r : checkpoint_fail(error, -ENOMEM, "restore: %s", strerror(ENOMEM));
	}
	restore->restoring.image = image;
	restore->arrivals = arrivals;
	restore->source = (struct restore_source){.create = create, .start = start, .arrived = arrivals ? arrived : NULL, .context = restore, .base = &image->base, .stream = arrivals ? arrivals_stream(arrivals) : -1};
	*ret = restore;
	return 0;
}

void restore_free(struct restore *restore)
{
	for (size_t i = 0; restore && i < restore->restoring.image->message->n_processes; i++)
		free(restore->processes[i].tids);
	if (restore) {
		family_free(restore->restoring.family);
		free(restore->processes);
	}
	free(restore);
}

const struct restore_source *restore_as_source(struct restore *restore)
{
	return &restore->source;
}
