#include "container/members.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/monotonic.h"
#include "pager/address_space.h"
#include "platform/process.h"

#define MAX_CHILDREN 4096
#define MAX_THREADS 64 /* of which one is looked for that is alive, when the leader is not */
#define WORTH_MEASURING 512 /* pages that the others hold */
#define LEAST_DOUBT 32 /* pages: less is not worth a look */

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
	free(members->departed);
	lock_destroy(&members->lock);
}

struct member *members_find(struct members *members, pid_t pid)
{
	for (uint32_t i = 0; i < members->nr; i++)
		if (members->items[i].pid == pid)
			return &members->items[i];
	return NULL;
}

bool members_share_memory(const struct members *members)
{
	for (uint32_t i = 0; i < members->nr; i++)
		if (members->items[i].same_memory)
			return true;
	return false;
}

static int open_statm(pid_t task)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/statm", task);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/*
 * A fork's child has what its parent has, but for what it has copied since: one fault each. Where the parent dies before sharing is measured, the
 * child inherits its count.
 */
static void assume_shared(struct member *child, struct member *parent)
{
	struct process_memory memory, above;
	uint64_t faults = 0;
	if (process_memory_read(child->pid, &memory) < 0 || process_memory_read(parent->pid, &above) < 0)
		return;
	process_minor_faults(child->pid, &faults);
	uint64_t anon = memory.resident_pages - MIN_OF(memory.file_pages, memory.resident_pages);
	uint64_t above_anon = above.resident_pages - MIN_OF(above.file_pages, above.resident_pages);
	child->resident = memory.resident_pages;
	child->file = memory.file_pages;
	child->shared_file = MIN_OF(memory.file_pages, above.file_pages);
	child->shared_anon = MIN_OF(anon - MIN_OF(faults, anon), above_anon);
	child->seen_faults = faults;
	if (!parent->shared_anon && !parent->common) /* its faults have not been followed so far */
		process_minor_faults(parent->task, &parent->seen_faults);
	parent->common = MAX_OF(parent->common, child->shared_anon + child->shared_file);
}

static int reserve_one(struct members *members)
{
	if (members->nr < members->capacity)
		return 0;
	uint32_t capacity = members->capacity ? members->capacity * 2 : 64;
	struct member *items = reallocarray(members->items, capacity, sizeof(*items));
	if (!items)
		return -ENOMEM;
	members->items = items;
	members->capacity = capacity;
	return 0;
}

/* What they share was measured by somebody else: anew, soon. */
int members_take_over(struct members *members, const struct member *member)
{
	int r = reserve_one(members);
	if (r < 0)
		return r;
	members->items[members->nr++] = *member;
	members->doubt += member->shared_anon + member->shared_file;
	return 0;
}

/* A new member. One that shares its parent's memory (vfork) counts nothing until it has its own. */
static int add_member(struct members *members, pid_t pid, pid_t parent_pid)
{
	struct member member = {.pid = pid, .task = pid, .statm = -1, .pidfd = -1, .present = true};
	int r = reserve_one(members);
	if (r < 0)
		return r;
	member.statm = open_statm(pid);
	if (member.statm < 0)
		return 0; /* gone already */
	member.pidfd = pidfd_open_process(pid);
	struct member *parent = members_find(members, parent_pid);
	if (parent) {
		member.same_memory = process_same_memory(pid, parent_pid) == 1;
		member.leaves = parent->leaves;
		assume_shared(&member, parent);
		members->doubt += member.shared_anon + member.shared_file;
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

/* What has become of the count of a member whose memory is gone: the others have its part of what it shared with them. */
static void bequeath(struct members *members, struct member *member)
{
	if (member->same_memory || !member->resident)
		return;
	uint64_t shared = member->shared_anon + member->shared_file;
	members->unowned += MIN_OF(member->common, member->resident - MIN_OF(shared, member->resident));
	members->doubt += member->common;
	member->common = member->shared_anon = member->shared_file = 0;
}

/* A member that is no child of ours: its own parent has taken its status, and its number is free. */
static bool is_reaped_elsewhere(const struct member *member)
{
	return member->pidfd >= 0 && pidfd_has_exited(member->pidfd) && pidfd_process(member->pidfd) < 0;
}

static bool is_same_process(const struct departed *departed)
{
	struct process_info info;
	return process_info_read(departed->pid, &info) == 0 && info.start_time == departed->start_time;
}

bool members_has_departed(const struct members *members, pid_t pid)
{
	for (uint32_t i = 0; i < members->nr_departed; i++)
		if (members->departed[i].pid == pid)
			return is_same_process(&members->departed[i]);
	return false;
}

int members_take_over_departed(struct members *members, pid_t pid, uint64_t start_time)
{
	if (members->nr_departed == members->departed_capacity) {
		uint32_t capacity = members->departed_capacity ? members->departed_capacity * 2 : 16;
		struct departed *departed = reallocarray(members->departed, capacity, sizeof(*departed));
		if (!departed)
			return -ENOMEM;
		members->departed = departed;
		members->departed_capacity = capacity;
	}
	members->departed[members->nr_departed++] = (struct departed){pid, start_time};
	return 0;
}

static int add_departed(struct members *members, pid_t pid)
{
	struct process_info info;
	if (process_info_read(pid, &info) < 0 || members_has_departed(members, pid))
		return 0;
	return members_take_over_departed(members, pid, info.start_time);
}

static void forget_departed(struct members *members)
{
	for (uint32_t i = 0; i < members->nr_departed;) {
		if (is_same_process(&members->departed[i]))
			i++;
		else
			members->departed[i] = members->departed[--members->nr_departed];
	}
}

struct refresh {
	struct members *members;
	bool (*is_agent)(pid_t pid, void *context);
	void *context;
};

/* Below one that has departed, whoever is no member has departed too: when its parent ends it may become a child of the keeper. */
static int visit_tree(const struct refresh *r, pid_t parent, int depth, bool departed)
{
	pid_t *children = malloc(MAX_CHILDREN * sizeof(*children));
	int n = children ? process_children(parent, children, MAX_CHILDREN) : -ENOMEM;
	int result = n == -ESRCH || n == -ENOENT ? 0 : MIN_OF(n, 0);
	for (int i = 0; i < n && i < MAX_CHILDREN && result == 0; i++) {
		if (r->is_agent(children[i], r->context))
			continue;
		struct member *known = members_find(r->members, children[i]);
		if (known && (known->reaped || is_reaped_elsewhere(known)))
			known = forget_pid(known);
		bool is_departed = !known && (departed || members_has_departed(r->members, children[i]));
		if (is_departed) {
			result = add_departed(r->members, children[i]);
		} else if (known) {
			known->present = true;
			known->same_memory = known->same_memory && process_same_memory(known->pid, parent) == 1; /* until exec */
		} else {
			result = add_member(r->members, children[i], parent);
		}
		if (result == 0 && depth < 200)
			result = visit_tree(r, children[i], depth + 1, is_departed);
	}
	free(children);
	return result;
}

/*
 * One that the walk did not meet may only have changed its place: its parent ended while the walk was below it, and it became the child of
 * a reaper that had been asked before. Or it was attached.
 */
static bool has_ended(const struct member *member)
{
	char byte;
	return member->pidfd >= 0 ? pidfd_has_exited(member->pidfd) : pread(member->statm, &byte, 1, 0) < 0 && errno == ESRCH;
}

int members_add(struct members *members, pid_t pid, bool leaves)
{
	struct process_info info = {0};
	process_info_read(pid, &info);
	lock_take(&members->lock);
	int r = members_find(members, pid) ? 0 : add_member(members, pid, info.parent);
	struct member *added = members_find(members, pid);
	if (added)
		added->leaves |= leaves;
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
		if (member->present || has_ended(member))
			continue;
		member->present = true;
		result = visit_tree(r, member->pid, 0, false);
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
		result = visit_tree(&r, roots[i], 0, false);
	if (result == 0)
		result = visit_living_members(&r);
	for (uint32_t i = 0; result == 0 && i < members->nr;) {
		struct member *member = &members->items[i];
		if (member->present) {
			i++;
			continue;
		}
		gone(member, context);
		bequeath(members, member);
		close_member(member);
		*member = members->items[--members->nr];
	}
	forget_departed(members);
	lock_drop(&members->lock);
	return result < 0 ? result : (int)members->nr;
}

static bool is_below(pid_t pid, pid_t ancestor)
{
	struct process_info info = {.parent = pid};
	while (info.parent > 0 && info.parent != ancestor)
		if (process_info_read(info.parent, &info) < 0)
			return false;
	return info.parent == ancestor;
}

int members_leave(struct members *members, pid_t pid)
{
	if (!members_find(members, pid))
		return -ESRCH;
	lock_take(&members->lock);
	for (uint32_t i = 0; i < members->nr; i++) {
		struct member *member = &members->items[i];
		member->leaves = is_below(member->pid, pid);
		if (member->leaves)
			bequeath(members, member);
	}
	lock_drop(&members->lock);
	return 0;
}

void members_stay(struct members *members)
{
	lock_take(&members->lock);
	for (uint32_t i = 0; i < members->nr; i++)
		members->items[i].leaves = false;
	lock_drop(&members->lock);
}

int members_depart(struct members *members)
{
	int n = 0, r = 0;
	lock_take(&members->lock);
	for (uint32_t i = 0; i < members->nr && r == 0; i++)
		if (members->items[i].leaves)
			r = add_departed(members, members->items[i].pid);
	for (uint32_t i = 0; r == 0 && i < members->nr;) {
		struct member *member = &members->items[i];
		if (!member->leaves) {
			i++;
			continue;
		}
		close_member(member);
		*member = members->items[--members->nr];
		n++;
	}
	lock_drop(&members->lock);
	return r < 0 ? r : n;
}

static uint64_t read_statm(struct member *member, uint64_t *ret_resident, uint64_t *ret_file)
{
	char text[128];
	unsigned long resident = 0, file = 0;
	ssize_t n = pread(member->statm, text, sizeof(text) - 1, 0);
	member->reaped |= n < 0 && errno == ESRCH && member->task == member->pid;
	text[MAX_OF(n, 0)] = '\0';
	if (n <= 0 || sscanf(text, "%*u %lu %lu", &resident, &file) != 2)
		resident = file = 0;
	*ret_resident = resident;
	*ret_file = MIN_OF(file, resident);
	return resident;
}

/* The leader may have ended while other threads go on: its files show no memory any more, theirs do. */
static void read_other_task(struct member *member, uint64_t *ret_resident, uint64_t *ret_file)
{
	pid_t tids[MAX_THREADS];
	int nr = member->pidfd < 0 || pidfd_has_exited(member->pidfd) ? 0 : process_threads(member->pid, tids, MAX_THREADS);
	for (int i = 0; i < MIN_OF(nr, MAX_THREADS); i++) {
		int statm = tids[i] == member->task ? -1 : open_statm(tids[i]);
		if (statm < 0)
			continue;
		close(member->statm);
		member->statm = statm;
		member->task = tids[i];
		if (read_statm(member, ret_resident, ret_file))
			return;
	}
}

/* Since the last sample: how many pages were copied (by a write of the program, or to evict them), and how many were evicted. */
struct change {
	uint64_t copied, evicted;
};

static uint64_t growth_of(uint64_t *seen, _Atomic uint64_t *counter)
{
	uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
	uint64_t growth = now - MIN_OF(*seen, now);
	*seen = now;
	return growth;
}

static struct change look_for_change(struct member *member, uint64_t grown)
{
	struct change change = {0};
	uint64_t faults = member->seen_faults;
	if ((member->shared_anon || member->common) && process_minor_faults(member->task, &faults) == 0)
		change.copied = faults - member->seen_faults - MIN_OF(grown, faults - member->seen_faults);
	member->seen_faults = faults;
	if (member->as) {
		change.copied += growth_of(&member->seen_broken, &member->as->broken);
		change.evicted = growth_of(&member->seen_evicted, &member->as->evicted);
	}
	return change;
}

/* Each copy is one page more: first of those that were counted for others, then of those that others counted for this one. */
static void count_copies(struct members *members, struct member *member, uint64_t copied)
{
	uint64_t taken = MIN_OF(member->shared_anon, copied);
	uint64_t rest = MIN_OF(copied - taken, member->common);
	if (taken)
		member->common = member->common * (member->shared_anon - taken) / member->shared_anon;
	member->shared_anon -= taken;
	rest = MIN_OF(rest, member->common);
	member->common -= rest;
	members->unowned += rest;
	members->doubt += taken + rest;
}

static void sample_one(struct members *members, struct member *member)
{
	uint64_t resident, file;
	if (!read_statm(member, &resident, &file) && member->resident)
		read_other_task(member, &resident, &file);
	uint64_t grown = resident > member->resident ? resident - member->resident : 0;
	uint64_t lost = resident < member->resident ? member->resident - resident : 0;
	struct change change = look_for_change(member, grown);
	if (lost > member->resident / 2 && lost > change.evicted) /* exit, or exec */
		bequeath(members, member);
	count_copies(members, member, change.copied);
	members->doubt += MIN_OF(lost - MIN_OF(change.evicted, lost), member->shared_anon + member->shared_file);
	members->doubt += file > member->file ? file - member->file : 0;
	member->resident = resident;
	member->file = file;
	member->shared_anon = MIN_OF(member->shared_anon, resident - file);
	member->shared_file = MIN_OF(member->shared_file, file);
}

uint64_t members_sample(struct members *members)
{
	uint64_t resident = 0, file = 0, shmem = 0;
	members->at_most = 0;
	for (uint32_t i = 0; i < members->nr; i++) {
		struct member *member = &members->items[i];
		sample_one(members, member);
		if (member->leaves)
			continue;
		members->at_most += member->resident;
		if (member->same_memory)
			continue;
		resident += member->resident - member->shared_anon - member->shared_file;
		file += member->file - member->shared_file;
		shmem += MIN_OF(member->shmem, member->file - member->shared_file);
	}
	members->resident = resident + members->unowned;
	members->file = file;
	members->shmem = shmem;
	return members->resident;
}

/*
 * Races: the member goes on meanwhile. What it does shows in the next samples, which begin where this look began; what two members do between
 * the looks at one and the other is the error that remains until the next measuring.
 */
static void measure_one(struct members *members, struct member *member)
{
	struct process_sharing now;
	if (member->same_memory)
		return;
	sample_one(members, member);
	member->shared_anon = member->shared_file = member->common = 0;
	if (!member->resident || process_sharing_read(member->task, &now) < 0)
		return;
	uint64_t proportional = now.proportional_anon + now.proportional_file;
	member->shmem = now.proportional_shmem;
	member->shared_anon = MIN_OF(now.anon - MIN_OF(now.proportional_anon, now.anon), member->resident - member->file);
	member->shared_file = MIN_OF(now.file - MIN_OF(now.proportional_file, now.file), member->file);
	member->common = proportional - MIN_OF(now.own, proportional);
	member->locked = now.locked;
	process_minor_faults(member->task, &member->seen_faults);
}

static bool is_time(const struct members *members, enum measuring measuring, uint64_t now_ns)
{
	bool is_large = members->doubt >= members->resident / 16;
	uint64_t share = measuring == MEASURE_FAR ? 50 : is_large ? 2 : 5;
	uint64_t doubt = MAX_OF(members->resident / (measuring == MEASURE_NEAR ? 256 : 64), LEAST_DOUBT);
	return measuring == MEASURE_NOW ||
	       (members->doubt >= doubt && now_ns - members->measured_ns >= members->measuring_took_ns * share);
}

/*
 * A member cannot share more than the others have. Its look would be as long as it is large, and longer where its threads map memory all the time: they
 * keep the lock of its mappings, for 100 ms and more.
 */
static bool is_worth_measuring(const struct member *member, uint64_t total)
{
	uint64_t others = total - MIN_OF(member->resident, total);
	return others >= MAX_OF(member->resident / 32, WORTH_MEASURING);
}

bool members_measure_sharing(struct members *members, enum measuring measuring, uint64_t now_ns)
{
	uint32_t own_memory = 0;
	if (!is_time(members, measuring, now_ns))
		return false;
	uint64_t total = 0;
	members->doubt = members->unowned = 0;
	for (uint32_t i = 0; i < members->nr; i++) {
		const struct member *member = &members->items[i];
		if (member->same_memory || member->leaves)
			continue;
		own_memory += member->resident > 0;
		total += member->resident;
	}
	for (uint32_t i = 0; i < members->nr; i++) {
		struct member *member = &members->items[i];
		bool is_worth = own_memory > 1 && is_worth_measuring(member, total);
		if (measuring == MEASURE_NOW || is_worth)
			measure_one(members, member);
		if (own_memory <= 1 || (!is_worth && measuring != MEASURE_NOW))
			member->shared_anon = member->shared_file = member->common = 0;
	}
	members->measured_ns = monotonic_ns();
	members->measuring_took_ns = members->measured_ns - MIN_OF(now_ns, members->measured_ns);
	return true;
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
	uint32_t n = 0;
	for (uint32_t i = 0; i < members->nr && n < max; i++)
		if (!members->items[i].leaves)
			pids[n++] = members->items[i].pid;
	lock_drop(&members->lock);
	return n;
}
