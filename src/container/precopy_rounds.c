#include "container/precopy_rounds.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/event.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "container/hold.h"
#include "container/reclaimer.h"
#include "pager/precopy.h"
#include "platform/process.h"

#define MAX_SPACES 1024
#define MAX_ROUNDS 8
#define LITTLE ((4ull << 20) >> PAGE_SHIFT) /* pages written to in a round: not worth another one */
#define WORTH_TRACKING 64                   /* anonymous pages of a member */
#define PATIENCE_NS 5000000000ull           /* for a process that cannot be held */
#define ADOPTION_PATIENCE_NS 500000000ull   /* for one that cannot be adopted yet: what it has is read while it is held */
#define EVENT_PATIENCE_NS 50000000ull       /* for one whose layout changes all the time: the same */
#define POOL_LITTLE 256                     /* pages of compressed memory that may be left to be written */
#define POOL_PATIENCE_NS 2000000000ull

enum stage { ADOPT, PROTECT, BARRIER, COPY, POOL, DONE };

/* What the reclaim thread has been asked for. */
enum pass { PASS_NONE, PASS_PROTECT, PASS_COPY };

struct precopy {
	struct container *c;
	_Atomic int pass; /* enum pass: set by the container thread when NONE, and to NONE by the reclaim thread, which owns what is below while it is not NONE */
	struct address_space *spaces[MAX_SPACES];
	uint32_t nr_spaces, next;
	struct precopy_walk walk; /* of spaces[next] */
	bool walks;
	uint64_t waits_since_ns; /* for an event to be read; 0: it does not */
	uint64_t dirty, written;
	uint8_t *buffer;
	int error;

	/* Container thread. */
	enum stage stage;
	uint64_t stage_since_ns;
	uint32_t rounds;
	uint64_t dirty_before; /* in the round before */
};

int precopy_new(struct container *c, struct precopy **ret)
{
	struct precopy *p = calloc(1, sizeof(*p));
	void *buffer = NULL;
	if (!p || posix_memalign(&buffer, PAGE_BYTES, PRECOPY_PAGES * PAGE_BYTES)) {
		free(p);
		return -ENOMEM;
	}
	p->c = c;
	p->buffer = buffer;
	p->stage_since_ns = monotonic_ns();
	atomic_store(&c->precopy, p);
	reclaimer_kick(c->reclaimer); /* which lets the pool go to the file meanwhile */
	*ret = p;
	return 0;
}

static void drop_spaces(struct precopy *p)
{
	if (p->walks)
		precopy_walk_end(&p->walk);
	p->walks = false;
	while (p->nr_spaces)
		address_space_put(p->spaces[--p->nr_spaces]);
}

/* The reclaim thread looks at it as long as it runs, and may be in the midst of a pass. */
void precopy_free(struct precopy *p)
{
	if (!p)
		return;
	struct container *c = p->c;
	bool was_running = reclaimer_pause(c->reclaimer);
	atomic_store(&c->precopy, NULL);
	if (was_running)
		reclaimer_resume(c->reclaimer);
	reclaimer_kick(c->reclaimer);
	drop_spaces(p);
	free(p->buffer);
	free(p);
}

uint64_t precopy_written(const struct precopy *p)
{
	return p->written;
}

/* --- reclaim thread --- */

static bool next_space(struct precopy *p)
{
	precopy_walk_end(&p->walk);
	p->walks = false;
	p->next++;
	p->waits_since_ns = 0;
	return true;
}

static bool end_pass(struct precopy *p, int error)
{
	p->error = error;
	drop_spaces(p);
	atomic_store(&p->pass, PASS_NONE);
	event_raise(p->c->event);
	return false;
}

/* An event is unread: the fault threads need a moment for it. One that never comes to rest is left out. */
static bool wait_for_event(struct precopy *p)
{
	static const struct timespec nap = {.tv_nsec = 100000};
	uint64_t now = monotonic_ns();
	if (!p->waits_since_ns)
		p->waits_since_ns = now;
	nanosleep(&nap, NULL);
	return now - p->waits_since_ns < EVENT_PATIENCE_NS || next_space(p);
}

bool precopy_work(struct precopy *p)
{
	int pass = p ? atomic_load(&p->pass) : PASS_NONE;
	if (pass == PASS_NONE)
		return false;
	if (p->next == p->nr_spaces)
		return end_pass(p, 0);
	if (!p->walks) {
		p->walks = true;
		if (precopy_walk_begin(&p->walk, p->spaces[p->next]) < 0)
			return next_space(p);
		p->walk.earlier = p->spaces;
		p->walk.nr_earlier = p->next;
	}
	int r = pass == PASS_PROTECT ? precopy_protect(&p->walk, &p->dirty) : precopy_copy(&p->walk, p->buffer, &p->written);
	if (r == -EAGAIN)
		return wait_for_event(p);
	p->waits_since_ns = 0;
	if (r < 0)
		return end_pass(p, r);
	return r > 0 || next_space(p);
}

/* --- container thread --- */

static void enter_stage(struct precopy *p, enum stage stage)
{
	p->stage = stage;
	p->stage_since_ns = monotonic_ns();
}

static bool is_late(const struct precopy *p, uint64_t patience_ns)
{
	return monotonic_ns() - p->stage_since_ns > patience_ns;
}

/* Parents were put on the list before their children, which go to its front: the other way round a child finds what it shares in its parent's slots. */
static void begin_pass(struct precopy *p, enum pass pass, enum stage stage)
{
	struct container *c = p->c;
	uint32_t nr = 0, first = 0;
	for (const struct address_space *as = c->spaces; as; as = as->next)
		nr++;
	first = nr - MIN_OF(nr, MAX_SPACES); /* of more than that the youngest are left out */
	for (struct address_space *as = c->spaces; as; as = as->next)
		if (first)
			first--;
		else
			p->spaces[MIN_OF(nr, MAX_SPACES) - 1 - p->nr_spaces++] = address_space_get(as);
	p->next = 0;
	if (pass == PASS_PROTECT)
		p->dirty = 0;
	enter_stage(p, stage);
	atomic_store(&p->pass, pass);
	reclaimer_kick(c->reclaimer);
}

/* A few are adopted at a time, so that nobody stands still for long. */
static void adopt(struct precopy *p)
{
	struct container *c = p->c;
	c->adopt_threshold = WORTH_TRACKING;
	if (container_may_adopt_more(c) && !is_late(p, ADOPTION_PATIENCE_NS))
		container_adopt_members(c);
	else
		begin_pass(p, PASS_PROTECT, PROTECT);
}

/* What a device is to write to later by itself would not be seen. */
static bool has_asynchronous_io(const struct container *c)
{
	for (uint32_t i = 0; i < c->members.nr; i++)
		if (c->members.items[i].same_memory || process_has_asynchronous_io(c->members.items[i].pid))
			return true;
	return false;
}

/* Whoever was inside a system call when the pages were protected has left it; new mappings are registered for the next round. */
static int barrier(struct precopy *p)
{
	struct container *c = p->c;
	struct hold hold;
	hold_members(c, &hold);
	bool is_complete = hold.complete;
	if (is_complete)
		hold_cover(c, &hold);
	hold_release(&hold);
	if (!is_complete)
		return is_late(p, PATIENCE_NS) ? -ETIMEDOUT : -EINPROGRESS;
	if (has_asynchronous_io(c)) /* it will be refused by name, or what it has is read while it is held */
		enter_stage(p, DONE);
	else
		begin_pass(p, PASS_COPY, COPY);
	return -EINPROGRESS;
}

/* Until little is written to in a round, or no less than in the one before. */
static void judge(struct precopy *p)
{
	p->rounds++;
	log_debug("precopy: round %u: %llu pages to look at, %llu written so far, %llu us", p->rounds, (unsigned long long)p->dirty,
		  (unsigned long long)p->written, (unsigned long long)(monotonic_ns() - p->stage_since_ns) / 1000);
	bool is_enough = p->dirty <= LITTLE || (p->rounds > 1 && p->dirty > p->dirty_before / 4 * 3) || p->rounds == MAX_ROUNDS;
	p->dirty_before = p->dirty;
	if (is_enough)
		enter_stage(p, POOL);
	else
		begin_pass(p, PASS_PROTECT, PROTECT);
}

static bool pool_is_written(const struct precopy *p)
{
	const struct pool *pool = p->c->pager.pool;
	return !pool || atomic_load(pool_memory(pool)) <= POOL_LITTLE || is_late(p, POOL_PATIENCE_NS);
}

static void go_on(struct precopy *p)
{
	if (p->stage == ADOPT)
		adopt(p);
	else if (p->stage == PROTECT)
		enter_stage(p, BARRIER);
	else if (p->stage == COPY)
		judge(p);
	else if (p->stage == POOL && pool_is_written(p))
		enter_stage(p, DONE);
	else if (p->stage == POOL)
		reclaimer_kick(p->c->reclaimer);
}

int precopy_step(struct precopy *p)
{
	if (p->c->frozen)
		return -EBUSY;
	if (atomic_load(&p->pass) != PASS_NONE)
		return -EINPROGRESS;
	if (p->error)
		return p->error;
	if (p->stage == BARRIER)
		return barrier(p);
	go_on(p);
	return p->stage == DONE ? 0 : -EINPROGRESS;
}
