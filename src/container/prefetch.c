/*
 * Who else can be there: the members touch, unmap, move and discard pages and fork at any moment, the fault threads serve them, the reclaim thread evicts. The list holds places
 * to look at, no content (as that of bring_back.c): what an entry says is looked up under the layout lock when its turn comes, and again when its content has been read.
 */
#include "container/prefetch.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "container/container.h"
#include "pager/events.h"
#include "pager/fault.h"
#include "platform/scheduling.h"
#include "reclaim/clock.h"

#define READ_PAGES 64u /* in one read: bounds how long a fault may wait for the layout lock */
#define MAX_PLACES 65536u
#define NAP_NS 200000
#define BUSY_NAP_NS 1000000 /* while there are faults */
#define AWAIT_NAP_NS 10000000
#define MAX_TRIES 1000      /* in a row, for a page that cannot be asked for just now */

struct place {
	struct address_space *as; /* with a reference */
	remote_addr_t start;
	uint64_t nr_pages;
};

struct prefetch {
	struct container *c;
	pthread_t thread;
	_Atomic bool stop;
	struct fault_context context;
	struct place *places;
	uint32_t nr_places, capacity, next;
	uint64_t faults; /* of the container, when they were looked at last */
};

struct prefetch *prefetch_new(struct container *c)
{
	struct prefetch *p = calloc(1, sizeof(*p));
	if (p)
		p->c = c;
	return p;
}

void prefetch_add(struct prefetch *p, struct address_space *as, remote_addr_t start, uint64_t nr_pages)
{
	if (p->nr_places == p->capacity) {
		uint32_t capacity = p->capacity ? p->capacity * 2 : 256;
		struct place *larger = capacity <= MAX_PLACES ? reallocarray(p->places, capacity, sizeof(*larger)) : NULL;
		if (!larger)
			return;
		p->places = larger;
		p->capacity = capacity;
	}
	p->places[p->nr_places++] = (struct place){address_space_get(as), start, nr_pages};
}

void prefetch_free(struct prefetch *p)
{
	if (!p)
		return;
	for (uint32_t i = 0; i < p->nr_places; i++)
		address_space_put(p->places[i].as);
	free(p->places);
	free(p);
}

/* Nothing is pushed out for what may never be needed. */
static bool has_room(struct container *c)
{
	return !charge_is_near_limit(&c->charge, clock_watermarks(charge_limit(&c->charge)).stop + (uint64_t)NR_LOADS * READ_PAGES);
}

static bool has_faults(struct prefetch *p)
{
	uint64_t faults = stat_get(&p->c->stats, faults), before = p->faults;
	p->faults = faults;
	return faults != before;
}

/* What has not come cannot be fetched, and what comes in large pieces is there soon. */
static void await_pages(struct prefetch *p)
{
	static const struct timespec nap = {.tv_nsec = AWAIT_NAP_NS};
	while (!atomic_load(&p->stop) && stat_get(&p->c->stats, awaited))
		nanosleep(&nap, NULL);
}

/* Begins to read what comes next. False: not now. */
static bool begin_next(struct prefetch *p)
{
	struct place *place = &p->places[p->next];
	struct address_space *as = place->as;
	uint64_t n = place->nr_pages;
	if (!atomic_load(&as->dead)) {
		address_space_lock(as);
		n = events_settle(as) ? fault_bring_back(&p->context, as, place->start, (uint32_t)MIN_OF(place->nr_pages, READ_PAGES)) : 0;
		lock_drop(&as->layout);
	}
	place->start += n * PAGE_BYTES;
	place->nr_pages -= n;
	p->next += !place->nr_pages;
	return n;
}

static void *prefetch_main(void *argument)
{
	struct prefetch *p = argument;
	uint32_t tries = 0;
	pthread_setname_np(pthread_self(), "mbx-prefetch");
	scheduling_give_way();
	await_pages(p);
	while (!atomic_load(&p->stop) && p->next < p->nr_places && tries < MAX_TRIES && has_room(p->c)) {
		bool is_busy = has_faults(p);
		int progress = loads_reap(&p->context);
		bool may_begin = !is_busy || !loads_exist(&p->context);
		bool begun = may_begin && begin_next(p);
		tries = begun || progress ? 0 : tries + 1;
		struct timespec nap = {.tv_nsec = is_busy ? BUSY_NAP_NS : NAP_NS};
		if (is_busy || !begun)
			nanosleep(&nap, NULL);
	}
	while (!atomic_load(&p->stop) && loads_exist(&p->context)) {
		static const struct timespec nap = {.tv_nsec = NAP_NS};
		if (!loads_reap(&p->context))
			nanosleep(&nap, NULL);
	}
	log_debug("prefetch: %u of %u places", p->next, p->nr_places);
	fault_context_release(&p->context);
	return NULL;
}

void prefetch_start(struct prefetch *p)
{
	struct container *c = p->c;
	int r = p->nr_places ? fault_context_init(&p->context, &c->pager) : -ENOENT;
	if (r == 0) {
		r = -pthread_create(&p->thread, NULL, prefetch_main, p);
		if (r == 0) {
			c->prefetch = p;
			return;
		}
		fault_context_release(&p->context);
	}
	if (r != -ENOENT)
		log_debug("prefetch: %s", strerror(-r));
	prefetch_free(p);
}

void container_end_prefetch(struct container *c)
{
	struct prefetch *p = c->prefetch;
	if (!p)
		return;
	c->prefetch = NULL;
	atomic_store(&p->stop, true);
	pthread_join(p->thread, NULL);
	prefetch_free(p);
}
