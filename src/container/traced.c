#include "container/traced.h"

#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/monotonic.h"
#include "inject/report.h"
#include "inject/ward.h"
#include "pager/forkless.h"
#include "pager/writeback.h"
#include "platform/process.h"

#define MANY_SLOTS 1024

static struct address_space *find_sharing(struct container *c, pid_t pid)
{
	for (struct address_space *as = c->spaces; as; as = as->next)
		if (as->agent && !atomic_load(&as->dead) && process_same_memory(pid, as->agent->pid) == 1)
			return as;
	return NULL;
}

static struct address_space *find_parent(struct container *c, pid_t pid, uint64_t *ret_stamp)
{
	for (struct address_space *as = c->spaces; as; as = as->next)
		if (forkless_is_child(as, pid, ret_stamp))
			return as;
	return NULL;
}

/* It must not run: what it would read is not what its parent has written. */
static void end_child(pid_t pid, const char *what, int error)
{
	if (error != -ESRCH)
		log_error("process %d, the child of a fork, is killed before it runs: %s: %s", pid, what, strerror(-error));
	kill(pid, SIGKILL);
}

static struct member *make_member(struct container *c, pid_t pid)
{
	if (!members_find(&c->members, pid))
		container_refresh_members(c);
	if (!members_find(&c->members, pid))
		members_add(&c->members, pid, false);
	return members_find(&c->members, pid);
}

static int adopt_child(struct container *c, struct address_space *parent, uint64_t stamp, struct world *world, const char **ret_what)
{
	struct address_space *as;
	uint64_t begin = monotonic_ns();
	int r = address_space_adopt_forked(parent, stamp, world, BATCH_PAGES, &as, ret_what);
	if (r < 0)
		return r;
	container_add_space(c, as);
	struct member *member = make_member(c, world_pid(world));
	if (member)
		member->as = as;
	*ret_what = "tracing it";
	r = ward_take(world);
	log_debug("adopted process %d, forked by %d, in %llu us", world_pid(world), parent->pid,
		  (unsigned long long)(monotonic_ns() - begin) / 1000);
	return r;
}

/* A child with a memory of its own. One that lacks nothing goes on alone. */
static void forked(struct container *c, pid_t pid)
{
	const char *what = "the memory that it was forked from is gone";
	struct world *world;
	uint64_t stamp;
	struct address_space *parent = find_parent(c, pid, &stamp);
	if (parent && !forkless_has_heritage(parent)) {
		ward_detach(pid);
		return;
	}
	int r = parent ? world_of_newborn(pid, &world) : -ENOENT;
	if (r == 0) {
		r = adopt_child(c, parent, stamp, world, &what);
		if (r < 0)
			end_child(pid, what, r);
		world_resume(world);
	} else {
		end_child(pid, what, r);
		ward_detach(pid);
	}
}

/* It stands at its birth. */
static void born(struct container *c, pid_t tid)
{
	long process;
	if (process_status_number(tid, "Tgid", &process) < 0)
		return;
	struct address_space *shared = process == tid ? find_sharing(c, tid) : NULL;
	if (process == tid && !shared) {
		forked(c, tid);
		return;
	}
	if (shared)
		atomic_store(&shared->sharers, true);
	if (ward_add((pid_t)process, tid) < 0)
		end_child(tid, "memory for tracing it", -ENOMEM);
	ward_continue(tid, 0);
}

/* Takes the report of a stop. */
static void take(pid_t tid)
{
	siginfo_t info;
	waitid(P_PID, (id_t)tid, &info, WSTOPPED | WNOHANG | __WALL);
}

/* The parent waits at its fork until the child is looked after: so nothing that it does later is taken for something before the fork. */
static void has_forked(struct container *c, pid_t tid)
{
	unsigned long child = 0;
	siginfo_t info = {0};
	if (ptrace(PTRACE_GETEVENTMSG, tid, NULL, &child) == 0 && !ward_has((pid_t)child) &&
	    waitid(P_PID, (id_t)child, &info, WSTOPPED | WEXITED | WNOWAIT | __WALL) == 0 && info.si_code == CLD_TRAPPED) {
		take((pid_t)child);
		born(c, (pid_t)child);
	}
	ward_continue(tid, 0);
}

/* A new memory, which nothing of ours is in: it needs no tracing. */
static void has_executed(pid_t pid)
{
	ward_forget_process(pid);
	ward_detach(pid);
}

bool traced_report(struct container *c, const siginfo_t *info, bool *ret_stopped)
{
	pid_t tid = info->si_pid;
	int report = info->si_status, event = report_event(report);
	*ret_stopped = false;
	if (info->si_code != CLD_TRAPPED) {
		if (info->si_code != CLD_STOPPED)
			ward_forget(tid);
		return false;
	}
	if (!ward_has(tid) && (world_holds(tid) || event != PTRACE_EVENT_STOP))
		return false;
	take(tid);
	if (!ward_has(tid))
		born(c, tid);
	else if (report_is_birth(report))
		has_forked(c, tid);
	else if (event == PTRACE_EVENT_EXEC)
		has_executed(tid);
	else if (world_holds(tid))
		return true; /* its world knows */
	else if (report_is_job_control(report)) {
		*ret_stopped = ward_listen(tid) && tid == c->program;
	} else
		ward_continue(tid, report_signal(report));
	return true;
}

/* Whoever shares the memory may fork as well. It is held together with the member, or can be now. */
static int take_sharer(pid_t pid)
{
	struct world *world = world_find(pid), *own = NULL;
	int r = world ? 0 : world_stop(pid, WORLD_STOP_TIMEOUT_US, &own);
	world = world ? world : own;
	if (r == 0)
		r = world_is_complete(world) ? ward_take(world) : -EBUSY;
	world_resume(own);
	return r;
}

static int clean(struct container *c, struct world *world)
{
	uint64_t stamp;
	int r = 0;
	for (struct address_space *as = c->spaces; as && r == 0; as = as->next)
		if (forkless_is_child(as, world_thread(world), &stamp))
			r = address_space_unmap_stamp(as, world);
	return r;
}

int traced_begin(struct container *c, struct member *member, struct world *world)
{
	bool are_sharers = false;
	int r = world_is_complete(world) ? clean(c, world) : -EBUSY;
	if (r == 0)
		r = ward_take(world);
	for (uint32_t i = 0; r == 0 && i < c->members.nr; i++) {
		const struct member *other = &c->members.items[i];
		if (other->pid == member->pid || ward_has_process(other->pid) || process_same_memory(other->pid, member->pid) != 1)
			continue;
		r = take_sharer(other->pid);
		are_sharers = true;
	}
	if (r < 0)
		ward_drop(world);
	return r < 0 ? r : are_sharers;
}

void traced_forget_past(struct container *c)
{
	for (struct address_space *as = c->spaces; as; as = as->next)
		forkless_forget_past(as);
}

bool traced_keeps_many(struct container *c)
{
	uint64_t slots = 0;
	for (struct address_space *as = c->spaces; as; as = as->next)
		slots += forkless_kept_slots(as);
	return slots > MANY_SLOTS;
}

bool traced_end(void)
{
	pid_t pid = ward_any_process();
	struct world *world;
	if (!pid)
		return true;
	if (world_stop(pid, WORLD_STOP_TIMEOUT_US, &world) == 0) {
		if (world_is_complete(world))
			ward_drop(world);
		world_resume(world);
	}
	return false;
}
