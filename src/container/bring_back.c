/*
 * Evicted pages are looked for in address order, a few thousand at a time, and read in the order of their slots. Who else can be there: the members
 * touch, unmap, move and discard pages and fork at any moment, and the fault threads serve them. The list is therefore only a list of places to
 * look at: what a page's entry says is looked up under the layout lock when its turn comes, and again when its content has been read. A
 * fork copies entries of its parent under the parent's layout lock and puts the child on the list of newborns in the same hold; so when all
 * tables were seen empty and then there is no newborn, nothing is evicted.
 */
#include "container/bring_back.h"

#include <errno.h>
#include <stdlib.h>

#include "base/fault.h"
#include "base/monotonic.h"
#include "container/container.h"
#include "pager/events.h"
#include "pager/fault.h"

#define MAX_PLACES 1024
#define MAX_RUN 4096         /* pages of one place: bounds how long the lock is held for a look */
#define STEP_NS 1000000ull

struct place {
	struct address_space *as; /* with a reference */
	remote_addr_t start;
	uint32_t nr_pages;
	slot_t slot;
};

struct bring_back {
	struct container *c;
	bool only_leaving;
	struct fault_context context;
	struct place places[MAX_PLACES]; /* by slot */
	uint32_t nr_places, next;
};

int bring_back_new(struct container *c, bool only_leaving, struct bring_back **ret)
{
	struct bring_back *b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->c = c;
	b->only_leaving = only_leaving;
	int r = fault_context_init(&b->context, &c->pager);
	if (r < 0) {
		free(b);
		return r;
	}
	*ret = b;
	return 0;
}

static void drop_place(struct bring_back *b)
{
	address_space_put(b->places[b->next++].as);
}

void bring_back_free(struct bring_back *b)
{
	if (!b)
		return;
	while (b->next < b->nr_places)
		drop_place(b);
	fault_context_release(&b->context);
	free(b);
}

/* Layout lock held. The evicted pages from `start` on whose addresses and slots follow each other. */
static uint32_t run_length(const struct address_space *as, remote_addr_t start, slot_t slot)
{
	uint32_t n = 1;
	while (n < MAX_RUN) {
		shadow_entry_t entry = shadow_get(as->shadow, start + (uint64_t)n * PAGE_BYTES);
		if (!entry_is_evicted(entry) || entry_slot(entry) != slot + n || entry & ENTRY_LOADING)
			break;
		n++;
	}
	return n;
}

/* The next place of this address space goes on the list. False: it has no more. */
static bool take_place(struct bring_back *b, struct address_space *as)
{
	remote_addr_t page;
	bool found;
	lock_take(&as->layout);
	while ((found = shadow_next_evicted(as->shadow, as->back_hand, &page)) && shadow_get(as->shadow, page) & ENTRY_LOADING)
		as->back_hand = page + PAGE_BYTES;
	if (found) {
		slot_t slot = entry_slot(shadow_get(as->shadow, page));
		uint32_t n = run_length(as, page, slot);
		b->places[b->nr_places++] = (struct place){address_space_get(as), page, n, slot};
		as->back_hand = page + (uint64_t)n * PAGE_BYTES;
	} else {
		as->back_hand = 0;
	}
	lock_drop(&as->layout);
	return found;
}

static int by_slot(const void *a, const void *b)
{
	slot_t x = ((const struct place *)a)->slot, y = ((const struct place *)b)->slot;
	return (x > y) - (x < y);
}

static bool is_concerned(const struct address_space *as, bool only_leaving)
{
	return !atomic_load(&as->dead) && (!only_leaving || atomic_load(&as->leaves));
}

static void make_list(struct bring_back *b)
{
	b->nr_places = b->next = 0;
	for (struct address_space *as = b->c->spaces; as; as = as->next)
		while (is_concerned(as, b->only_leaving) && b->nr_places < MAX_PLACES && take_place(b, as))
			;
	qsort(b->places, b->nr_places, sizeof(b->places[0]), by_slot);
}

/* Begins to read what the next place names. False: not now. */
static bool begin_next(struct bring_back *b)
{
	struct place *place = &b->places[b->next];
	uint32_t n = place->nr_pages;
	if (!atomic_load(&place->as->dead)) {
		lock_take(&place->as->layout);
		n = events_settle(place->as) ? fault_bring_back(&b->context, place->as, place->start, place->nr_pages) : 0;
		lock_drop(&place->as->layout);
		FAULT_POINT("back.reading");
	}
	place->start += (uint64_t)n * PAGE_BYTES;
	place->nr_pages -= n;
	if (!place->nr_pages)
		drop_place(b);
	return n;
}

uint64_t bring_back_left(struct container *c, bool only_leaving)
{
	uint64_t left = 0;
	for (struct address_space *as = c->spaces; as; as = as->next) {
		lock_take(&as->layout);
		if (is_concerned(as, only_leaving))
			left += shadow_count(as->shadow, STATE_STAGED) + shadow_count(as->shadow, STATE_SWAPPED);
		lock_drop(&as->layout);
	}
	return left;
}

int bring_back_step(struct bring_back *b, uint64_t *ret_left)
{
	struct container *c = b->c;
	uint64_t begin = monotonic_ns();
	bool progress = loads_reap(&b->context) > 0;
	do {
		if (b->next == b->nr_places)
			make_list(b);
		if (b->next == b->nr_places || !begin_next(b))
			break;
		progress = true;
	} while (monotonic_ns() - begin < STEP_NS);
	*ret_left = bring_back_left(c, b->only_leaving);
	bool under_way = loads_exist(&b->context);
	if (!*ret_left && !under_way && !atomic_load(&c->newborn))
		return 0;
	return progress || under_way || b->only_leaving || !charge_is_near_limit(&c->charge, 1) ? -EINPROGRESS : -ENOSPC;
}
