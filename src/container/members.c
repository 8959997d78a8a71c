#include "container/members.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "platform/process.h"

#define MAX_CHILDREN 4096
#define MEASURE_INTERVAL_NS 20000000ull
#define WORTH_MEASURING 256 /* pages: smaller members are not looked at for sharing */

void members_init(struct members *members)
{
	*members = (struct members){0};
	lock_init(&members->lock, LOCK_CONTAINER);
}

static void close_member(struct member *member)
{
	if (member->statm >= 0)
		close(member->statm);
	if (member->pidfd >= 0)
		close(member->pidfd);
}

void members_release(struct members *members)
{
	for (uint32_t i = 0; i < members->nr; i++)
		close_member(&members->items[i]);
	free(members->items);
	lock_destroy(&members->lock);
}

struct member *members_find(struct members *members, pid_t pid)
{
	for (uint32_t i = 0; i < members->nr; i++)
		if (members->items[i].pid == pid)
			return &members->items[i];
	return NULL;
}

static uint64_t resident_now(pid_t pid)
{
	struct process_memory memory;
	return process_memory_read(pid, &memory) < 0 ? 0 : memory.resident_pages;
}

/* A new member. One that shares its parent's memory (vfork) counts nothing; a fork's child may share what its parent has, until measured. */
static int add_member(struct members *members, pid_t pid, pid_t parent)
{
	char path[64];
	struct member member = {.pid = pid, .statm = -1, .pidfd = -1, .present = true};
	if (members->nr == members->capacity) {
		uint32_t capacity = members->capacity ? members->capacity * 2 : 64;
		struct member *items = reallocarray(members->items, capacity, sizeof(*items));
		if (!items)
			return -ENOMEM;
		members->items = items;
		members->capacity = capacity;
	}
	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	member.statm = open(path, O_RDONLY | O_CLOEXEC);
	if (member.statm < 0)
		return 0; /* gone already */
	member.pidfd = pidfd_open_process(pid);
	if (members_find(members, parent)) {
		member.same_memory = process_same_memory(pid, parent) == 1;
		member.shared = MIN_OF(resident_now(pid), resident_now(parent));
	}
	members->items[members->nr++] = member;
	return 0;
}

/* Its number belongs to another process now. The member itself leaves at the end of the refresh. */
static struct member *forget_pid(struct member *member)
{
	member->pid = 0;
	return NULL;
}

struct refresh {
	struct members *members;
	bool (*is_agent)(pid_t pid, void *context);
	void *context;
};

static int visit_tree(const struct refresh *r, pid_t parent, int depth)
{
	pid_t *children = malloc(MAX_CHILDREN * sizeof(*children));
	int n = children ? process_children(parent, children, MAX_CHILDREN) : -ENOMEM;
	int result = n == -ESRCH || n == -ENOENT ? 0 : MIN_OF(n, 0);
	for (int i = 0; i < n && i < MAX_CHILDREN && result == 0; i++) {
		if (r->is_agent(children[i], r->context))
			continue;
		struct member *known = members_find(r->members, children[i]);
		if (known && known->reaped)
			known = forget_pid(known);
		if (known)
			known->present = true;
		else
			result = add_member(r->members, children[i], parent);
		if (result == 0 && depth < 200)
			result = visit_tree(r, children[i], depth + 1);
	}
	free(children);
	return result;
}

/*
 * One that the walk did not meet may only have changed its place: its parent ended while the walk was below it, and it became the child of
 * a reaper that had been asked before.
 */
static bool has_ended(const struct member *member)
{
	char byte;
	return member->pidfd >= 0 ? pidfd_has_exited(member->pidfd) : pread(member->statm, &byte, 1, 0) < 0 && errno == ESRCH;
}

int members_add(struct members *members, pid_t pid)
{
	lock_take(&members->lock);
	int r = members_find(members, pid) ? 0 : add_member(members, pid, 0);
	lock_drop(&members->lock);
	return r;
}

/*
 * Once a member, always a member. The pidfd says that the pid still means the same process: one that has ended is not asked for its children, which
 * are somebody else's by now. A child that was never seen below its parent is lost sight of then, see attach.c.
 */
static int visit_living_members(const struct refresh *r)
{
	int result = 0;
	for (uint32_t i = 0; result == 0 && i < r->members->nr; i++) {
		struct member *member = &r->members->items[i];
		if (member->present || member->pidfd < 0 || pidfd_has_exited(member->pidfd))
			continue;
		member->present = true;
		result = visit_tree(r, member->pid, 0);
	}
	return result;
}

int members_refresh(struct members *members, const pid_t *roots, uint32_t nr_roots, bool (*is_agent)(pid_t pid, void *context),
		    void (*gone)(struct member *member, void *context), void *context)
{
	struct refresh r = {members, is_agent, context};
	lock_take(&members->lock);
	for (uint32_t i = 0; i < members->nr; i++)
		members->items[i].present = false;
	int result = 0;
	for (uint32_t i = 0; i < nr_roots && result == 0; i++)
		result = visit_tree(&r, roots[i], 0);
	if (result == 0)
		result = visit_living_members(&r);
	for (uint32_t i = 0; result == 0 && i < members->nr;) {
		struct member *member = &members->items[i];
		if (member->present || !has_ended(member)) {
			i++;
			continue;
		}
		gone(member, context);
		close_member(member);
		*member = members->items[--members->nr];
	}
	lock_drop(&members->lock);
	return result < 0 ? result : (int)members->nr;
}

static void sample_one(struct member *member)
{
	char text[128];
	unsigned long size, resident = 0, file = 0;
	ssize_t n = pread(member->statm, text, sizeof(text) - 1, 0);
	member->reaped |= n < 0 && errno == ESRCH;
	if (n > 0) {
		text[n] = '\0';
		if (sscanf(text, "%lu %lu %lu", &size, &resident, &file) != 3)
			resident = file = 0;
	}
	member->resident = resident;
	member->file = MIN_OF(file, resident);
	member->shared = MIN_OF(member->shared, member->resident); /* after exec what was shared is gone */
}

uint64_t members_sample(struct members *members)
{
	uint64_t resident = 0, file = 0;
	members->at_most = 0;
	for (uint32_t i = 0; i < members->nr; i++) {
		struct member *member = &members->items[i];
		sample_one(member);
		members->at_most += member->resident;
		if (member->same_memory)
			continue;
		resident += member->resident - member->shared;
		file += member->file - MIN_OF(member->file, member->shared);
	}
	members->resident = resident;
	members->file = file;
	return resident;
}

/* vfork's child gets its own memory when it calls exec. */
static void recheck_same_memory(struct members *members, struct member *member)
{
	struct process_info info;
	if (process_info_read(member->pid, &info) < 0 || process_same_memory(member->pid, info.parent) != 1)
		member->same_memory = false;
}

void members_measure_sharing(struct members *members, uint64_t now_ns)
{
	uint32_t large = 0;
	for (uint32_t i = 0; i < members->nr; i++) {
		if (members->items[i].same_memory)
			recheck_same_memory(members, &members->items[i]);
		large += members->items[i].resident >= WORTH_MEASURING;
	}
	if (now_ns - members->measured_ns < MEASURE_INTERVAL_NS)
		return;
	members->measured_ns = now_ns;
	for (uint32_t i = 0; i < members->nr; i++) {
		struct member *member = &members->items[i];
		uint64_t pss_bytes;
		if (large < 2) {
			member->shared = 0;
		} else if (member->resident >= WORTH_MEASURING && process_pss_read(member->pid, &pss_bytes) == 0) {
			sample_one(member);
			uint64_t pss = pss_bytes >> PAGE_SHIFT;
			member->shared = member->resident > pss ? member->resident - pss : 0;
		}
	}
}

void member_kill(struct member *member, int signal)
{
	if (member->pidfd < 0 && !member->reaped) /* there was no descriptor to be had */
		kill(member->pid, signal);
	else if (member->pidfd >= 0 && pidfd_kill(member->pidfd, signal) == -ESRCH)
		member->reaped = true;
}

uint32_t members_copy_pids(struct members *members, pid_t *pids, uint32_t max)
{
	lock_take(&members->lock);
	uint32_t n = MIN_OF(members->nr, max);
	for (uint32_t i = 0; i < n; i++)
		pids[i] = members->items[i].pid;
	lock_drop(&members->lock);
	return n;
}
