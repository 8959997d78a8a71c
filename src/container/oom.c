/*
 * The end of the road: usage is over the limit and reclaim has stated several times that it can free nothing. As the kernel's OOM killer
 * does in a machine of that size, the member that holds most is killed (oom_score_adj shifts the choice, -1000 is never taken).
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "container/container.h"
#include "platform/process.h"

/* Statements of reclaim in a row, each followed by a sample over the limit, before somebody is killed. */
#define CONFIRMATIONS 4
#define ADOPTION_PATIENCE_NS 5000000000ull

static const char *why_text(int exhaustion)
{
	switch ((enum exhaustion)exhaustion) {
	case EXHAUSTED_NO_SWAP:
		return "there is no swap file";
	case EXHAUSTED_SWAP_FULL:
		return "the swap file is full";
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
	if (victim->pidfd >= 0)
		pidfd_kill(victim->pidfd, SIGKILL);
	stat_add(&c->stats, oom_kills, 1);
}

void container_consider_oom(struct container *c)
{
	uint64_t limit = charge_limit(&c->charge);
	uint32_t seq = atomic_load(&c->exhausted_seq);
	/* Clean file pages can always be given back in principle: they alone are no reason to kill. */
	uint64_t hard = c->members.resident - MIN_OF(c->members.file, c->members.resident);
	if (atomic_load(&c->exhaustion) == EXHAUSTED_NOT || hard <= limit) {
		c->oom_confirmed = 0;
		c->oom_since_ns = 0;
		return;
	}
	if (!c->oom_since_ns)
		c->oom_since_ns = container_now_ns();
	/* There is memory to evict, only its owner could not be reached yet: on a busy machine that takes a while. */
	if (c->swap && container_may_adopt_more(c) && container_now_ns() - c->oom_since_ns < ADOPTION_PATIENCE_NS)
		return;
	if (seq == c->oom_seen_seq)
		return;
	c->oom_seen_seq = seq;
	bool certain = atomic_load(&c->exhaustion) == EXHAUSTED_NO_SWAP;
	if (++c->oom_confirmed < CONFIRMATIONS && !certain)
		return;
	c->oom_confirmed = 0;
	c->oom_since_ns = 0;
	struct member *victim = choose_victim(c, limit);
	if (victim)
		kill_victim(c, victim, limit);
}
