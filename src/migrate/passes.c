#include "migrate/passes.h"

#include <errno.h>
#include <stdlib.h>

#define STOP_NS 2000000ull /* the longest that a page may be kept from the program, about */
/* Until it is known how fast the machine is, and on one that stands still now and then: a group has a price of its own, so smaller ones are no faster. */
#define AT_ONCE_LEAST 128u

struct place_list {
	struct place *items;
	uint32_t nr, capacity;
};

struct passes {
	const struct migrate_kernel *kernel;
	struct node_set to, room; /* room: those of them that have some */
	struct node_set from;
	bool from_any;
	unsigned last_target;
	unsigned pass;          /* 1: pages are still being found */
	struct place_list busy; /* for the next pass */
	struct place_list now;  /* of this pass, from pass 2 on */
	struct place_list stuck;
	uint32_t next;   /* of `now` or, at the end, of `stuck` */
	uint32_t at_once;
	struct migrate_figures figures;
	struct place places[PASSES_BATCH];
	int status[PASSES_BATCH];
};

struct passes *passes_new(const struct migrate_kernel *kernel, const struct node_set *to, const struct node_set *from)
{
	struct passes *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->kernel = kernel;
	p->to = p->room = *to;
	p->from_any = !from;
	if (from)
		p->from = *from;
	p->pass = 1;
	p->at_once = AT_ONCE_LEAST;
	p->last_target = NUMA_NODES_MAX;
	return p;
}

void passes_free(struct passes *p)
{
	if (!p)
		return;
	free(p->busy.items);
	free(p->now.items);
	free(p->stuck.items);
	free(p);
}

const struct migrate_figures *passes_figures(const struct passes *p)
{
	return &p->figures;
}

uint64_t migrate_figures_failed(const struct migrate_figures *figures)
{
	uint64_t sum = 0;
	for (int i = 0; i < NR_MIGRATE_FAILURES; i++)
		sum += figures->failed[i];
	return sum;
}

uint32_t passes_pace(uint32_t nr_pages, uint64_t took_ns)
{
	uint64_t at_once = took_ns ? STOP_NS * nr_pages / took_ns : PASSES_AT_ONCE;
	return (uint32_t)MAX_OF(MIN_OF(at_once, PASSES_AT_ONCE), AT_ONCE_LEAST);
}

static bool has_room(const struct passes *p)
{
	return node_set_next(&p->room, 0) >= 0;
}

static bool append(struct place_list *list, const struct place *place)
{
	if (list->nr == list->capacity) {
		uint32_t capacity = list->capacity ? list->capacity * 2 : 1024;
		struct place *bigger = reallocarray(list->items, capacity, sizeof(*bigger));
		if (!bigger)
			return false;
		list->items = bigger;
		list->capacity = capacity;
	}
	list->items[list->nr++] = *place;
	return true;
}

static void fail(struct passes *p, const struct place *place, enum migrate_failure why)
{
	p->figures.failed[why] += place->nr_pages;
}

static void note_busy(struct passes *p, const struct place *place)
{
	if (!append(&p->busy, place))
		fail(p, place, FAILURE_BUSY);
}

static struct place part_of(const struct place *place, uint32_t i)
{
	return (struct place){.addr = place->addr + i * PAGE_BYTES, .process = place->process, .nr_pages = 1, .why = place->why};
}

/* Page by page: what becomes of the parts of a large one may differ. */
static void note_stuck(struct passes *p, const struct place *place, enum migrate_failure why)
{
	for (uint32_t i = 0; i < place->nr_pages; i++) {
		struct place part = part_of(place, i);
		part.why = (uint16_t)why;
		if (!append(&p->stuck, &part))
			fail(p, &part, why);
	}
}

/* What had been one large page is now many small ones, which are asked for one by one. */
static void note_split(struct passes *p, const struct place *place)
{
	for (uint32_t i = 0; i < place->nr_pages; i++) {
		struct place part = part_of(place, i);
		note_busy(p, &part);
	}
}

static enum migrate_failure failure_of(int error)
{
	return error == -EPERM || error == -EACCES || error == -ENODEV ? FAILURE_REFUSED : FAILURE_OTHER;
}

static bool is_gone(int status)
{
	return status == -ENOENT || status == -EFAULT || status == -ESRCH;
}

/* No page can be said to be anywhere. Of a process that has ended none is left. */
static void note_all(struct passes *p, uint32_t nr, int error)
{
	for (uint32_t i = 0; i < nr; i++) {
		if (error == -ESRCH)
			p->figures.freed += p->places[i].nr_pages;
		else
			note_stuck(p, &p->places[i], failure_of(error));
	}
}

/*
 * Pages that have been found just now, of which only those count that lie where they have to leave. What vanished between the two looks was never
 * counted. The number that is left of p->places.
 */
static uint32_t keep_found(struct passes *p, uint32_t nr)
{
	uint32_t kept = 0;
	int r = p->kernel->ask(p->kernel->context, p->places, nr, p->status);
	if (r == -ESRCH)
		return 0;
	for (uint32_t i = 0; i < nr; i++) {
		int node = r < 0 ? -EBUSY : p->status[i];
		bool is_wanted = node >= 0 && !node_set_has(&p->to, (unsigned)node) && (p->from_any || node_set_has(&p->from, (unsigned)node));
		if (r == 0 && node != PLACE_SPLIT && !is_wanted)
			continue;
		p->figures.found += p->places[i].nr_pages;
		if (node == PLACE_SPLIT)
			note_split(p, &p->places[i]);
		else
			p->places[kept++] = p->places[i];
	}
	if (r == 0)
		return kept;
	note_all(p, kept, r);
	return 0;
}

/* Pages of an earlier pass: some may have moved without the kernel's saying so, or be gone. */
static uint32_t keep_busy(struct passes *p, uint32_t nr)
{
	uint32_t kept = 0;
	int r = p->kernel->ask(p->kernel->context, p->places, nr, p->status);
	if (r < 0) {
		note_all(p, nr, r);
		return 0;
	}
	for (uint32_t i = 0; i < nr; i++) {
		if (p->status[i] >= 0 && node_set_has(&p->to, (unsigned)p->status[i]))
			p->figures.moved += p->places[i].nr_pages;
		else if (is_gone(p->status[i]))
			p->figures.freed += p->places[i].nr_pages;
		else if (p->status[i] == PLACE_SPLIT)
			note_split(p, &p->places[i]);
		else
			p->places[kept++] = p->places[i];
	}
	return kept;
}

static void leave(struct passes *p, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		p->figures.left += p->places[i].nr_pages;
}

/* Targets take turns. There is room on one at least. */
static int next_target(struct passes *p)
{
	int node = node_set_next(&p->room, p->last_target + 1);
	if (node < 0)
		node = node_set_next(&p->room, 0);
	p->last_target = (unsigned)node;
	return node;
}

/* A node is full. What has not moved goes to another one in the next pass, or, when this was the last one, stays. */
static void drop_target(struct passes *p, int node, uint32_t nr)
{
	p->room.words[node / 64] &= ~(1ull << node % 64);
	uint32_t kept = keep_busy(p, nr);
	if (!has_room(p)) {
		leave(p, kept);
		return;
	}
	for (uint32_t i = 0; i < kept; i++)
		note_busy(p, &p->places[i]);
}

static void settle(struct passes *p, const struct place *place, int status, int node)
{
	if (status == node)
		p->figures.moved += place->nr_pages;
	else if (status == PLACE_SPLIT)
		note_split(p, place);
	else if (status >= 0 || status == NUMA_NOT_SAID || status == -EBUSY || status == -EAGAIN || status == -ENOMEM)
		note_busy(p, place);
	else if (is_gone(status))
		p->figures.freed += place->nr_pages;
	else
		note_stuck(p, place, status == -EACCES ? FAILURE_SHARED : FAILURE_OTHER);
}

static void move(struct passes *p, uint32_t nr)
{
	const struct migrate_kernel *kernel = p->kernel;
	uint32_t nr_pages = 0, at_once = p->pass > PASSES_WITHOUT_WAITING ? MIN_OF(p->at_once, PASSES_AT_ONCE_LATER) : p->at_once;
	int node = next_target(p);
	uint64_t begin = kernel->now(kernel->context);
	int r = kernel->move(kernel->context, p->places, nr, node, at_once, p->status);
	for (uint32_t i = 0; i < nr; i++)
		nr_pages += p->places[i].nr_pages;
	if (p->pass == 1)
		p->at_once = passes_pace(nr_pages, kernel->now(kernel->context) - begin);
	if (r == -ENOMEM) {
		drop_target(p, node, nr);
		return;
	}
	if (r < 0) { /* some may have moved before it */
		uint32_t kept = r == -ESRCH ? nr : keep_busy(p, nr);
		note_all(p, kept, r);
		return;
	}
	for (uint32_t i = 0; i < nr; i++)
		settle(p, &p->places[i], p->status[i], node);
}

/* The next of a list that belong to one process, into p->places. */
static uint32_t take(struct passes *p, const struct place_list *list)
{
	uint32_t nr = 0, nr_pages = 0;
	while (p->next < list->nr) {
		const struct place *place = &list->items[p->next];
		if (nr && (place->process != p->places[0].process || nr_pages + place->nr_pages > PASSES_BATCH))
			break;
		nr_pages += place->nr_pages;
		p->places[nr++] = *place;
		p->next++;
	}
	return nr;
}

/* Nothing is found any more, or a pass is over. False: that was the last one. */
static bool begin_pass(struct passes *p)
{
	if (p->pass == PASSES_MAX || !p->busy.nr)
		return false;
	struct place_list emptied = p->now;
	p->now = p->busy;
	p->busy = emptied;
	p->busy.nr = p->next = 0;
	p->pass++;
	if (p->pass > PASSES_WITHOUT_WAITING && has_room(p))
		p->kernel->wait(p->kernel->context, p->pass);
	return true;
}

/* What was busy to the end. */
static void end_passes(struct passes *p)
{
	for (uint32_t i = 0; i < p->busy.nr; i++)
		note_stuck(p, &p->busy.items[i], FAILURE_BUSY);
	p->busy.nr = p->now.nr = p->next = 0;
}

int passes_step(struct passes *p)
{
	bool is_first = p->pass == 1;
	uint32_t nr = is_first ? p->kernel->find(p->kernel->context, p->places) : take(p, &p->now);
	if (!nr && !begin_pass(p)) {
		end_passes(p);
		return 0;
	}
	if (nr)
		nr = is_first ? keep_found(p, nr) : keep_busy(p, nr);
	if (nr && has_room(p))
		move(p, nr);
	else
		leave(p, nr);
	return -EINPROGRESS;
}

void passes_begin_again(struct passes *p)
{
	p->pass = 1;
}

void passes_visit_stuck(const struct passes *p, void (*visit)(uint32_t process, void *context), void *context)
{
	for (uint32_t i = 0; has_room(p) && i < p->stuck.nr; i++)
		if (i == 0 || p->stuck.items[i].process != p->stuck.items[i - 1].process)
			visit(p->stuck.items[i].process, context);
}

/* What has become of the places; `evicted`: what is not there any more has been evicted. The number of those that are still where they were; they come first. */
static uint32_t look_at_stuck(struct passes *p, uint32_t nr, bool evicted)
{
	uint32_t kept = 0;
	int r = p->kernel->ask(p->kernel->context, p->places, nr, p->status);
	for (uint32_t i = 0; i < nr; i++) {
		int status = r < 0 ? r : p->status[i];
		if (evicted && status == -ENOENT)
			p->figures.swapped++;
		else if (is_gone(status))
			p->figures.freed++;
		else if (status >= 0 && node_set_has(&p->to, (unsigned)status))
			p->figures.moved++;
		else
			p->places[kept++] = p->places[i];
	}
	return kept;
}

/* A full node would not take them when they come back either. */
static bool may_evict(const struct passes *p)
{
	return p->kernel->evict && has_room(p);
}

static void fail_all(struct passes *p, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		fail(p, &p->places[i], (enum migrate_failure)p->places[i].why);
}

/* A last look at all of them, because what several processes share leaves all of them at once: it was there before the first eviction, or it was freed. */
static void sift(struct passes *p)
{
	uint32_t nr = look_at_stuck(p, take(p, &p->stuck), false);
	for (uint32_t i = 0; i < nr; i++)
		if (!may_evict(p) || !append(&p->now, &p->places[i]))
			fail(p, &p->places[i], (enum migrate_failure)p->places[i].why);
	if (p->next < p->stuck.nr)
		return;
	p->stuck.nr = p->next = 0;
}

int passes_swap_step(struct passes *p)
{
	if (p->stuck.nr) {
		sift(p);
		return -EINPROGRESS;
	}
	uint32_t nr = take(p, &p->now);
	if (!nr) {
		p->now.nr = p->next = 0;
		return 0;
	}
	p->kernel->evict(p->kernel->context, p->places, nr);
	fail_all(p, look_at_stuck(p, nr, true));
	return -EINPROGRESS;
}
