/*
 * The end of the road: usage is over the limit and reclaim can free nothing. That is certain only with every member held and all their
 * memory under a userfaultfd: a running program always has pages that were just touched, mapped or discarded. Then, as the kernel's OOM killer
 * does in a machine of that size, the member that holds most is killed (oom_score_adj shifts the choice, -1000 is never taken).
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "container/container.h"
#include "platform/process.h"

/* Fruitless stalls in a row that do without certainty, because a thread is in a state in which it cannot be held. */
#define UNSURE_STALLS 8
#define ADOPTION_PATIENCE_NS 5000000000ull

static const char *why_text(int exhaustion)
{
	switch ((enum exhaustion)exhaustion) {
	case EXHAUSTED_NO_SWAP:
		return "there is no swap file";
	case EXHAUSTED_SWAP_FULL:
		return "the swap file is full";
	case EXHAUSTED_SWAP_FAILED:
		return "the swap file has failed";
	default:
		return "nothing more can be evicted";
	}
}

/* Thousandths of the limit are added for oom_score_adj, as in mm/oom_kill.c. Returns false for a member that must live. */
static bool badness(const struct member *member, uint64_t limit, int64_t *ret_points)
{
	int adjust = 0;
	process_oom_score_adj(member->pid, &adjust);
	if (adjust == -1000 || member->same_memory)
		return false;
	*ret_points = (int64_t)(member->resident - member->file) + (int64_t)(limit / 1000) * adjust;
	return true;
}

static struct member *choose_victim(struct container *c, uint64_t limit)
{
	struct member *victim = NULL;
	int64_t most = INT64_MIN;
	for (uint32_t i = 0; i < c->members.nr; i++) {
		int64_t points;
		if (!c->members.items[i].resident || !badness(&c->members.items[i], limit, &points) || points <= most)
			continue;
		most = points;
		victim = &c->members.items[i];
	}
	return victim;
}

static void kill_victim(struct container *c, struct member *victim, uint64_t limit)
{
	struct process_info info = {.name = "?"};
	char resident[SIZE_TEXT_MAX], limit_text[SIZE_TEXT_MAX];
	process_info_read(victim->pid, &info);
	format_size(victim->resident << PAGE_SHIFT, resident);
	format_size(limit << PAGE_SHIFT, limit_text);
	log_error("out of memory in container %s: killed process %d (%s) holding %s: limit %s is reached and %s", c->config->name,
		  victim->pid, info.name, resident, limit_text, why_text(atomic_load(&c->exhaustion)));
	c->oom_victim = victim->pid;
	member_kill(victim, SIGKILL);
	stat_add(&c->stats, oom_kills, 1);
}

/* The last victim still holds memory: its end is awaited before the next one is chosen. */
static bool victim_is_dying(struct container *c)
{
	struct member *victim = c->oom_victim ? members_find(&c->members, c->oom_victim) : NULL;
	if (victim && victim->resident)
		return true;
	c->oom_victim = 0;
	return false;
}

/* Clean file pages can always be given back in principle: they alone are no reason to kill. */
static bool is_over(const struct container *c, uint64_t limit)
{
	return c->members.resident - MIN_OF(c->members.file, c->members.resident) > limit;
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

void container_consider_oom(struct container *c)
{
	uint64_t limit = charge_limit(&c->charge);
	if (atomic_load(&c->exhaustion) == EXHAUSTED_NOT || !is_over(c, limit) || victim_is_dying(c)) {
		c->oom_since_ns = 0;
		return;
	}
	if (!c->oom_since_ns)
		c->oom_since_ns = container_now_ns();
	if (!is_certain(c) || atomic_load(&c->exhaustion) == EXHAUSTED_NOT || !is_over(c, limit))
		return;
	/* There is memory to evict, only its owner could not be reached yet: on a busy machine that takes a while. */
	if (c->swap && container_may_adopt_more(c) && container_now_ns() - c->oom_since_ns < ADOPTION_PATIENCE_NS)
		return;
	c->oom_unsure = 0;
	c->oom_since_ns = 0;
	struct member *victim = choose_victim(c, limit);
	if (victim)
		kill_victim(c, victim, limit);
}
