/*
 * The end of the road: usage is over the limit and reclaim can free nothing. That is certain only with every member held and all their
 * memory under a userfaultfd: a running program always has pages that were just touched, mapped or discarded. Then, as the kernel's OOM killer
 * does in a machine of that size, the member that holds most is killed (oom_task.h), and whoever shares its memory with it.
 *
 * With the policy `stop`, and also when only members are left that must not be killed, the container is frozen instead: its limit holds, nothing outside
 * notices, nothing is lost, and its owner can make room. It goes on by itself when it fits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/units.h"
#include "container/container.h"
#include "container/freeze.h"
#include "container/hold.h"
#include "container/oom_report.h"
#include "container/oom_task.h"
#include "container/reclaimer.h"
#include "pager/writeback.h"
#include "platform/process.h"

/* Fruitless stalls in a row that do without certainty, because a thread is in a state in which it cannot be held. */
#define UNSURE_STALLS 8
#define ADOPTION_PATIENCE_NS 5000000000ull
#define DEATH_PATIENCE_NS 5000000000ull /* for a victim in an uninterruptible state */
#define FREEZE_PATIENCE_NS 5000000000ull
#define MEASURING_SHARE 50

struct tasks {
	struct oom_task *items;
	uint32_t nr;
	uint64_t total; /* pages that the container may hold, with what it has in swap */
};

static void describe_reason(const struct container *c, char *text, size_t size)
{
	static const char *const causes[] = {[EXHAUSTED_NO_SWAP] = "there is no swap file",
					     [EXHAUSTED_SWAP_FULL] = "the swap file is full",
					     [EXHAUSTED_SWAP_FAILED] = "the swap file has failed",
					     [EXHAUSTED_NOTHING_LEFT] = "nothing more can be evicted"};
	char limit[SIZE_TEXT_MAX];
	format_size(charge_limit((struct charge *)&c->charge) << PAGE_SHIFT, limit);
	snprintf(text, size, "limit %s is reached and %s", limit, causes[c->oom_cause]);
}

/* The name is the program's choice: nothing of it may speak to a terminal. */
static void take_name(char to[16], const char *name)
{
	snprintf(to, 16, "%s", name);
	for (char *p = to; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
}

/* The figures are read by pid; that the pidfd can still be signalled afterwards says that they were this process's. */
static struct oom_task look_at(struct container *c, const struct member *member)
{
	struct oom_task task = {.pid = member->pid};
	struct process_info info = {.name = "?"};
	struct process_residence residence = {0};
	struct address_space *as = container_space_of(c, member);
	process_info_read(member->pid, &info);
	process_residence_read(member->pid, &residence);
	process_oom_score_adj(member->pid, &task.oom_score_adj);
	take_name(task.name, info.name);
	task.anon = residence.anon;
	task.file = residence.file;
	task.shmem = residence.shmem;
	task.tables = residence.tables;
	task.swapped = as ? address_space_count(as).swapped : 0;
	task.is_spared = member->oom_killed || member->leaves || member->pidfd < 0 || pidfd_kill(member->pidfd, 0) < 0;
	return task;
}

static int look_at_all(struct container *c, struct tasks *ret)
{
	*ret = (struct tasks){.total = charge_limit(&c->charge) + (c->swap ? swap_used_slots(c->swap) : 0)};
	ret->items = calloc(MAX_OF(c->members.nr, 1), sizeof(*ret->items));
	if (!ret->items)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->members.nr; i++)
		ret->items[ret->nr++] = look_at(c, &c->members.items[i]);
	return 0;
}

static bool share_memory(const struct oom_task *a, const struct oom_task *b)
{
	return a->pid == b->pid || process_same_memory(a->pid, b->pid) == 1;
}

/* Memory is protected when one of those who share it is: all of them are spared then. */
static bool spare_if_protected(struct tasks *tasks, const struct oom_task *victim)
{
	bool is_protected = false;
	for (uint32_t i = 0; i < tasks->nr; i++)
		is_protected |= !oom_is_eligible(&tasks->items[i]) && share_memory(&tasks->items[i], victim);
	for (uint32_t i = 0; is_protected && i < tasks->nr; i++)
		tasks->items[i].is_spared |= share_memory(&tasks->items[i], victim);
	return is_protected;
}

static struct oom_task *choose_victim(struct tasks *tasks)
{
	struct oom_task *victim;
	do {
		victim = oom_choose(tasks->items, tasks->nr, tasks->total);
	} while (victim && spare_if_protected(tasks, victim));
	return victim;
}

/* The victim and all that share its memory: it is freed when the last of them is gone. False: they have ended meanwhile. */
static bool kill_sharers(struct container *c, const struct tasks *tasks, const struct oom_task *victim)
{
	uint32_t nr = 0;
	for (uint32_t i = 0; i < tasks->nr; i++) {
		struct member *member = members_find(&c->members, tasks->items[i].pid);
		if (!member || member->oom_killed || !share_memory(&tasks->items[i], victim) ||
		    pidfd_kill(member->pidfd, SIGKILL) < 0)
			continue;
		member->oom_killed = true;
		nr++;
	}
	stat_add(&c->stats, oom_kills, nr);
	c->oom_killed_ns = nr ? monotonic_ns() : 0;
	return nr;
}

static void kill_victim(struct container *c, struct tasks *tasks, const struct oom_task *chosen)
{
	const struct oom_task victim = *chosen; /* the report sorts them */
	char why[128], resident[SIZE_TEXT_MAX], swapped[SIZE_TEXT_MAX];
	describe_reason(c, why, sizeof(why));
	if (!kill_sharers(c, tasks, &victim))
		return;
	oom_report_make(c, why, tasks->items, tasks->nr, tasks->total);
	oom_report_log(c);
	log_error("killed process %d (%s) of container %s, which held most: %s resident, %s swapped, oom_score_adj %d",
		  victim.pid, victim.name, c->config->name, format_size(oom_resident(&victim) << PAGE_SHIFT, resident),
		  format_size(victim.swapped << PAGE_SHIFT, swapped), victim.oom_score_adj);
}

/* A victim still holds memory, or its swap slots are not given back yet: its end is awaited before anything else is decided. */
static bool victim_is_dying(struct container *c)
{
	if (!c->oom_killed_ns)
		return false;
	container_upkeep(c);
	bool dying = false;
	for (uint32_t i = 0; i < c->members.nr; i++)
		dying |= c->members.items[i].oom_killed && (c->members.items[i].resident || c->members.items[i].as);
	for (const struct address_space *as = c->spaces; as; as = as->next)
		dying |= as->oom_killed;
	if (dying && monotonic_ns() - c->oom_killed_ns < DEATH_PATIENCE_NS)
		return true;
	/* What reclaim has stated is about the time before. */
	c->oom_killed_ns = 0;
	atomic_store(&c->exhaustion, EXHAUSTED_NOT);
	reclaimer_kick(c->reclaimer);
	return false;
}

/* Clean file pages can always be given back in principle: they alone are no reason to kill. Shared memory cannot: it has no place to go to. */
static bool is_over(const struct container *c)
{
	const struct members *m = &c->members;
	uint64_t leaves = m->file - MIN_OF(m->shmem, m->file);
	return m->resident - MIN_OF(leaves, m->resident) > charge_limit((struct charge *)&c->charge);
}

/* Pages on their way to the swap file come back when that is full: below the limit only those of a container at rest tell. All are held. */
static bool is_over_at_rest(struct container *c)
{
	if (is_over(c) || !c->swap)
		return is_over(c);
	bool was_running = reclaimer_pause(c->reclaimer);
	writeback_drain(c->pager.writeback);
	members_sample(&c->members);
	if (was_running)
		reclaimer_resume(c->reclaimer);
	return is_over(c);
}

/*
 * A fork's pages count as shared, or not, until they are measured: nobody is killed for an estimate. All are held where that is possible: it takes
 * tens of milliseconds where mappings are many, in which a program that goes on would grow by a lot, and what forks or ends would be counted
 * twice or not at all.
 */
static bool is_over_when_measured(struct container *c)
{
	struct hold hold;
	hold_members(c, &hold);
	container_publish_figures(c);
	bool over = is_over(c);
	hold_release(&hold);
	return over;
}

/* Which of the file pages are shared memory shows only when it is measured: for that, a small part of the time. */
static bool may_be_over(struct container *c)
{
	uint64_t now = monotonic_ns();
	if (is_over(c))
		return true;
	if (c->members.resident <= charge_limit(&c->charge) || now - c->members.measured_ns < c->members.measuring_took_ns * MEASURING_SHARE)
		return false;
	return is_over_when_measured(c);
}

/* A stall finds out whether nothing can be freed. */
static bool is_certain(struct container *c)
{
	if (!c->swap)
		return true;
	uint32_t unsure = c->oom_unsure;
	c->oom_unsure = 0;
	if (container_stall(c))
		return true;
	if (atomic_load(&c->exhaustion) == EXHAUSTED_NOT)
		return false;
	c->oom_unsure = unsure + 1;
	return c->oom_unsure >= UNSURE_STALLS;
}

/* One line, once; the report is kept for those who ask. */
static void say_stopped(struct container *c, struct tasks *tasks)
{
	char why[128];
	bool by_policy = c->config->oom == OOM_STOP;
	const char *name = c->config->name;
	describe_reason(c, why, sizeof(why));
	oom_report_make(c, why, tasks->items, tasks->nr, tasks->total);
	log_error(
		"container %s is stopped: out of memory: %s%s (make room with `membox set %s --limit SIZE` or `membox swapon %s FILE`, or end it with "
		"`membox kill %s`)",
		name, why, by_policy ? "" : ", and no process is left that may be killed", name, name, name);
}

static void stop(struct container *c, struct tasks *tasks)
{
	int r = container_freeze(c, FREEZER_OOM);
	if (r == 0) {
		c->oom_freeze_since_ns = 0;
		say_stopped(c, tasks);
		return;
	}
	uint64_t now = monotonic_ns();
	if (!c->oom_freeze_since_ns)
		c->oom_freeze_since_ns = now;
	if (now - c->oom_freeze_since_ns < FREEZE_PATIENCE_NS || c->oom_freeze_said)
		return;
	c->oom_freeze_said = true;
	log_error("container %s is out of memory and cannot be stopped: it goes over its limit: %s", c->config->name,
		  strerror(-r));
}

static void decide(struct container *c)
{
	struct tasks tasks;
	if (look_at_all(c, &tasks) < 0)
		return;
	struct oom_task *victim = c->config->oom == OOM_KILL ? choose_victim(&tasks) : NULL;
	if (victim)
		kill_victim(c, &tasks, victim);
	else
		stop(c, &tasks);
	free(tasks.items);
}

void container_consider_oom(struct container *c)
{
	if (victim_is_dying(c) || atomic_load(&c->exhaustion) == EXHAUSTED_NOT || !may_be_over(c)) {
		c->oom_since_ns = 0;
		return;
	}
	if (!c->oom_since_ns)
		c->oom_since_ns = monotonic_ns();
	if (!is_certain(c) || (c->oom_cause = atomic_load(&c->exhaustion)) == EXHAUSTED_NOT || !is_over(c))
		return;
	/* There is memory to evict, only its owner could not be reached yet: on a busy machine that takes a while. */
	if (c->swap && container_may_adopt_more(c) && monotonic_ns() - c->oom_since_ns < ADOPTION_PATIENCE_NS)
		return;
	c->oom_unsure = 0;
	c->oom_since_ns = 0;
	if (is_over_when_measured(c))
		decide(c);
}

bool container_is_stopped(const struct container *c)
{
	return container_is_frozen_by(c, FREEZER_OOM);
}

static void go_on(struct container *c, const char *why)
{
	container_thaw(c, FREEZER_OOM);
	if (c->members.resident) /* else all were killed */
		log_error("container %s goes on: %s", c->config->name, why);
}

static bool somebody_may_be_killed(struct container *c)
{
	struct tasks tasks;
	if (c->config->oom != OOM_KILL || look_at_all(c, &tasks) < 0)
		return false;
	bool found = choose_victim(&tasks);
	free(tasks.items);
	return found;
}

/*
 * The owner may have raised the limit, added swap (then everything has to be reached for the first time), ended a process, or, where only the protected were
 * left, made one eligible: whether that one is killed is decided as always, with certainty.
 */
void container_reconsider_oom(struct container *c)
{
	if (!container_is_stopped(c))
		return;
	if (is_over(c) && c->swap && c->parking == PARKING_NOT)
		hold_reach_everything(c, c->frozen);
	if (!is_over_at_rest(c))
		go_on(c, "it has room again");
	else if (somebody_may_be_killed(c))
		go_on(c, "there is a process again that may be killed");
}
