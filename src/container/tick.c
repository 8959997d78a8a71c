/*
 * Watching usage. Far from the limit nothing is touched and samples are rare; the nearer, the more often: the interval is what the fastest
 * program would need to cross the remaining distance. Near the limit the container is closed: members are adopted, so that new pages
 * arrive as faults and are charged first. What still comes uncharged (fresh mappings, copies after fork, file pages) is noticed here, and
 * a program that outruns reclaim that way is held until usage is back under the limit.
 */
#include <errno.h>
#include <stdio.h>

#include "base/monotonic.h"
#include "container/container.h"
#include "container/reclaimer.h"
#include "container/traced.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "reclaim/clock.h"

#define FASTEST_PAGES_PER_US 16      /* 64 GB/s; file pages in the page cache are mapped at half of that, new memory takes longer */
#define MIN_INTERVAL_NS 200000ull
#define CROWD_INTERVAL_NS 400000ull /* for each of the tasks that share a processor: they take turns of milliseconds */
#define CALM_INTERVAL_NS 3000000ull /* for all processors together, while nothing comes unasked: a look costs the program 40 us */
#define CALM_PACE 64                /* pages */
#define FEW_MEMBERS 6
#define MAX_INTERVAL_NS 50000000ull
#define FROZEN_INTERVAL_NS 5000000ull
#define STOPPED_INTERVAL_NS 100000000ull /* whoever makes room by a verb wakes us; this is for a process that was ended and a disk that was cleared */
#define CHANGING_INTERVAL_NS 5000000ull /* the highest usage is to be seen */
#define QUIET_TICKS 50               /* ticks without change before the interval grows */
#define REFRESH_NS 20000000ull       /* the member tree is walked at least this often ... */
#define REFRESH_CALM_NS 250000000ull /* (far from the limit with a tree at rest: this often) */
#define REFRESH_LEAST_NS 500000ull   /* ... and at most this often, or this share of the time, when processes are started */
#define REFRESH_SHARE 20
#define REFRESH_SHARE_CLOSED 5
#define UPKEEP_NS 20000000ull
#define BARRIER_NS 100000000ull
#define LOOK_MAX 8                   /* mappings registered in one go: a program that grows meanwhile is noticed in time */
#define REGISTER_SHARE 8             /* looking for new mappings may take an eighth of the time */
#define LATENCY_US 5000              /* a busy machine may let the keeper wait this long */
#define PACE_WINDOW_US 1000
#define LARGE_STEP 1024              /* pages: more than can be under way ... */
#define UNDER_WAY 384                /* ... at the beginning or the end of a window: put in or taken out, and not in the books yet */
#define PACE_MEMORY 64               /* windows */
#define SLACK_FLOOR ((16ull << 20) >> PAGE_SHIFT)

/* Pages over the limit from which a program is held: more than may be under way. */
static uint64_t slack(const struct container *c)
{
	uint64_t limit = charge_limit((struct charge *)&c->charge);
	return MAX_OF(limit * 3 / 100, SLACK_FLOOR) / 8;
}

/* Distance from the limit at which members are adopted: somewhat more for a program in a hurry. */
static uint64_t closing_distance(const struct container *c, uint64_t limit)
{
	uint64_t distance = MIN_OF(limit / 8, (24ull << 20) >> PAGE_SHIFT);
	return MAX_OF(distance, MIN_OF(c->pace, limit / 6));
}

/*
 * Walks the member tree: soon when somebody has forked, now and then to see who has ended. A number is given to a task shortly before it shows among its
 * parent's children, and a child of vfork counts nothing until it is seen to have its own memory: in both cases the next walk is not left for later.
 */
static void refresh(struct container *c, uint64_t now)
{
	uint64_t since = now - c->last_refresh_ns;
	if (since < MAX_OF(c->refresh_took_ns * (c->closed ? REFRESH_SHARE_CLOSED : REFRESH_SHARE), REFRESH_LEAST_NS) && since < REFRESH_NS)
		return;
	bool is_calm = !c->closed && c->is_settled && !members_share_memory(&c->members);
	struct system_activity activity = {0};
	system_activity_read(&activity);
	c->crowd = MAX_OF(activity.runnable / scheduling_nr_processors(), 1);
	if (activity.newest_pid == c->newest_pid && since < (is_calm ? REFRESH_CALM_NS : REFRESH_NS))
		return;
	c->is_settled = activity.newest_pid == c->newest_pid;
	c->newest_pid = activity.newest_pid;
	c->last_refresh_ns = now;
	uint64_t begin = thread_time_ns(); /* a busy machine makes it no dearer */
	container_refresh_members(c);
	c->refresh_took_ns = thread_time_ns() - begin;
}

/*
 * What comes unasked, as a rate; a burst is remembered for a while. It is measured over a window, because a single sample may be off by the
 * pages under way; a large step needs no more evidence. What may be no more than that is no pace: a program that only faults would be held for it.
 * Growth as slow as that is noticed when it is over the limit.
 */
static void measure_pace(struct container *c, int64_t grown, uint64_t now)
{
	uint64_t us = MAX_OF((now - c->pace_since_ns) / 1000, 1);
	c->grown += grown;
	if (us < PACE_WINDOW_US && c->grown < LARGE_STEP)
		return;
	uint64_t pace = (uint64_t)MAX_OF(c->grown - UNDER_WAY, 0) * LATENCY_US / us;
	c->pace = MAX_OF(pace, c->pace - c->pace / PACE_MEMORY);
	c->at_pace = pace && pace > c->pace / 4;
	c->grown = 0;
	c->pace_since_ns = now;
}

static uint64_t sample(struct container *c)
{
	uint64_t limit = charge_limit(&c->charge);
	struct charge_sample begun = charge_sample_begin(&c->charge);
	int64_t grown = charge_sample_end(&c->charge, begun, members_sample(&c->members));
	bool is_near = c->closed || c->members.at_most + closing_distance(c, limit) > limit;
	if (members_measure_sharing(&c->members, is_near ? MEASURE_NEAR : MEASURE_FAR, monotonic_ns())) {
		begun = charge_sample_begin(&c->charge); /* a better figure, not growth */
		charge_sample_end(&c->charge, begun, members_sample(&c->members));
	}
	c->uncovered = (uint64_t)MAX_OF((int64_t)c->uncovered + grown, 0);
	measure_pace(c, grown, monotonic_ns());
	container_publish_usage(c);
	return charge_usage(&c->charge);
}

/* Whoever has the layout lock may keep it for long on a busy machine, and nobody watches usage meanwhile: it is not waited for while the program runs. */
static void look_for_new_mappings(struct container *c, uint64_t now)
{
	uint64_t limit = charge_limit(&c->charge);
	bool all = true;
	if (c->uncovered < MAX_OF(limit / 512, 32) || now < c->next_register_ns)
		return;
	for (uint32_t i = 0; i < c->members.nr; i++) {
		const struct member *member = &c->members.items[i];
		if (!member->as || !member->as->agent || member->leaves)
			continue;
		int r = address_space_register_new(member->as, LOOK_MAX, false);
		all &= r < LOOK_MAX && r != -EBUSY;
	}
	c->next_register_ns = now + (c->uncovered > SLACK_FLOOR / 8 ? 0 : (monotonic_ns() - now) * REGISTER_SHARE);
	if (all)
		c->uncovered = 0;
}

/* Usage is over the limit, or may be, by too much, before the next look if the program goes on mapping memory at its pace. */
static bool outruns(const struct container *c, uint64_t usage)
{
	uint64_t limit = charge_limit((struct charge *)&c->charge);
	return c->swap && !c->swapoff && (usage > limit + slack(c) || (c->at_pace && usage + c->pace > limit + SLACK_FLOOR / 4));
}

uint64_t container_stall_room(const struct container *c)
{
	uint64_t limit = charge_limit((struct charge *)&c->charge);
	uint64_t least = MIN_OF(limit / 16, SLACK_FLOOR / 2), most = limit / 4; /* least: or it would be held again at once */
	return MAX_OF(least, MIN_OF(c->pace, most));
}

/* The container is near its limit, or was and is still full of evicted pages. */
static void tick_closed(struct container *c, uint64_t usage, uint64_t now)
{
	uint64_t limit = charge_limit(&c->charge);
	bool exhausted = atomic_load(&c->exhaustion) != EXHAUSTED_NOT;
	c->adopt_threshold = exhausted ? 64 : MIN_OF(MAX_OF(limit / 32, 256), 4096);
	if (c->swap && !outruns(c, usage) && container_may_adopt_more(c)) {
		container_adopt_members(c);
		usage = sample(c);
	}
	if (outruns(c, usage))
		container_stall(c);
	else
		look_for_new_mappings(c, now);
	usage = sample(c);
	if (usage + clock_watermarks(limit).start > limit)
		reclaimer_kick(c->reclaimer);
	if (c->pager.forkless && traced_keeps_many(c))
		atomic_store(&c->barrier_wanted, true);
	if (atomic_exchange(&c->barrier_wanted, false) && now - c->last_barrier_ns > BARRIER_NS) {
		c->last_barrier_ns = now;
		container_barrier(c);
	}
	if (!c->swapoff) /* that gives up first */
		container_consider_oom(c);
}

uint64_t container_room(const struct container *c, uint64_t limit, uint64_t usual)
{
	uint64_t to = atomic_load(&c->squeeze_to);
	return MAX_OF(MAX_OF(usual, atomic_load(&c->room_wanted)), limit - MIN_OF(to, limit));
}

/* Nothing grows: reclaim goes on until it has what is wanted. */
static uint64_t tick_frozen(struct container *c, uint64_t usage)
{
	uint64_t limit = charge_limit(&c->charge);
	container_reconsider_oom(c);
	if (usage + container_room(c, limit, clock_watermarks(limit).start) > limit)
		reclaimer_kick(c->reclaimer);
	return container_is_stopped(c) && atomic_load(&c->exhaustion) != EXHAUSTED_NOT ? STOPPED_INTERVAL_NS : FROZEN_INTERVAL_NS;
}

/* What the fastest program maps between two looks has to fit into what usage may be over the limit. */
static uint64_t least_interval(const struct container *c)
{
	bool is_calm = c->closed && c->pace < CALM_PACE && c->members.nr < FEW_MEMBERS;
	uint64_t least = c->crowd > 1 ? CROWD_INTERVAL_NS * c->crowd : MIN_INTERVAL_NS;
	return MAX_OF(least, is_calm ? CALM_INTERVAL_NS / scheduling_nr_processors() : 0);
}

static uint64_t next_interval(struct container *c, uint64_t usage)
{
	uint64_t limit = charge_limit(&c->charge);
	uint64_t distance = usage < limit ? limit - usage : 0;
	uint64_t interval = distance * 1000 / FASTEST_PAGES_PER_US;
	uint64_t change = usage > c->last_usage ? usage - c->last_usage : c->last_usage - usage;
	c->last_usage = usage;
	c->quiet_ticks = change > 16 ? 0 : c->quiet_ticks + 1;
	interval = MIN_OF(MAX_OF(interval, least_interval(c)), MAX_INTERVAL_NS);
	if (!c->quiet_ticks)
		interval = MIN_OF(interval, MAX_OF(CHANGING_INTERVAL_NS, least_interval(c)));
	if (c->quiet_ticks > QUIET_TICKS)
		interval = MAX_OF(interval, MIN_OF(MIN_INTERVAL_NS * (c->quiet_ticks / QUIET_TICKS), 4000000ull));
	return interval;
}

uint64_t container_tick(struct container *c)
{
	uint64_t now = monotonic_ns();
	refresh(c, now);
	uint64_t limit = charge_limit(&c->charge);
	uint64_t usage = sample(c);
	if (c->frozen)
		return tick_frozen(c, usage);
	c->closed |= usage + closing_distance(c, limit) > limit;
	if (c->closed)
		tick_closed(c, usage, now);
	if (now - c->last_upkeep_ns > UPKEEP_NS) {
		c->last_upkeep_ns = now;
		container_upkeep(c);
		backstop_follow(&c->backstop, stat_get(&c->stats, rss_limit));
	}
	return next_interval(c, charge_usage(&c->charge));
}
