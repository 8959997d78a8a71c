/* The policies that others use, as their authors describe them. All see every access. */
#include <stdlib.h>

#include "policy.h"
#include "queues.h"

static void *peer_create(const struct workload *workload, uint32_t memory)
{
	return queues_new(workload->nr_pages, memory);
}

/* Random replacement: queue 0 is used for membership only; victims are drawn from an array. */
struct random_state {
	uint32_t *place, *resident, memory, nr;
	uint64_t seed;
};

static void random_destroy(void *state)
{
	struct random_state *r = state;
	free(r->place);
	free(r->resident);
	free(r);
}

static void *random_create(const struct workload *workload, uint32_t memory)
{
	struct random_state *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->memory = memory;
	r->seed = 88172645463325252ull;
	r->place = calloc(workload->nr_pages, sizeof(*r->place)); /* index + 1, 0: not resident */
	r->resident = calloc(memory, sizeof(*r->resident));
	if (r->place && r->resident)
		return r;
	random_destroy(r);
	return NULL;
}

static bool random_access_page(void *state, struct access access)
{
	struct random_state *r = state;
	if (r->place[access.page])
		return true;
	uint32_t at = r->nr;
	if (r->nr < r->memory) {
		r->nr++;
	} else {
		r->seed ^= r->seed << 13;
		r->seed ^= r->seed >> 7;
		r->seed ^= r->seed << 17;
		at = (uint32_t)(r->seed % r->memory);
		r->place[r->resident[at]] = 0;
	}
	r->resident[at] = access.page;
	r->place[access.page] = at + 1;
	return false;
}

static bool fifo_access(void *state, struct access access)
{
	struct queues *q = state;
	if (q->where[access.page] != NO_QUEUE)
		return true;
	if (queues_length(q, 0) == q->memory)
		queues_pop(q, 0);
	queues_push(q, 0, access.page);
	return false;
}

static bool clock_access(void *state, struct access access)
{
	struct queues *q = state;
	if (q->where[access.page] != NO_QUEUE) {
		q->mark[access.page] = 1;
		return true;
	}
	if (queues_length(q, 0) == q->memory) {
		uint32_t victim = queues_pop(q, 0);
		while (q->mark[victim]) {
			q->mark[victim] = 0;
			queues_push(q, 0, victim);
			victim = queues_pop(q, 0);
		}
	}
	queues_push(q, 0, access.page);
	return false;
}

static bool lru_access(void *state, struct access access)
{
	struct queues *q = state;
	bool hit = q->where[access.page] != NO_QUEUE;
	if (!hit && queues_length(q, 0) == q->memory)
		queues_pop(q, 0);
	queues_push(q, 0, access.page);
	return hit;
}

/* 2Q, full version (Johnson and Shasha, 1994): a quarter for A1in, ghosts for half of memory in A1out. */
enum { A1IN, A1OUT, AM };

static void two_q_make_room(struct queues *q)
{
	if (queues_length(q, A1IN) + queues_length(q, AM) < q->memory)
		return;
	if (queues_length(q, A1IN) > q->memory / 4 || !queues_length(q, AM)) {
		queues_push(q, A1OUT, queues_pop(q, A1IN));
		if (queues_length(q, A1OUT) > q->memory / 2)
			queues_pop(q, A1OUT);
	} else {
		queues_pop(q, AM);
	}
}

static bool two_q_access(void *state, struct access access)
{
	struct queues *q = state;
	switch (q->where[access.page]) {
	case AM:
		queues_push(q, AM, access.page);
		return true;
	case A1IN:
		return true;
	case A1OUT:
		queues_remove(q, access.page);
		two_q_make_room(q);
		queues_push(q, AM, access.page);
		return false;
	default:
		two_q_make_room(q);
		queues_push(q, A1IN, access.page);
		return false;
	}
}

/* S3-FIFO (Yang et al., 2023): a tenth small, the rest main, as many ghosts as main has pages; marks count accesses up to 3. */
enum { SMALL, MAIN, GHOST };

static void s3_evict_main(struct queues *q)
{
	for (;;) {
		uint32_t page = queues_pop(q, MAIN);
		if (!q->mark[page])
			return;
		q->mark[page]--;
		queues_push(q, MAIN, page);
	}
}

static void s3_make_room(struct queues *q)
{
	while (queues_length(q, SMALL) + queues_length(q, MAIN) >= q->memory) {
		if (queues_length(q, SMALL) < q->memory / 10 && queues_length(q, MAIN)) {
			s3_evict_main(q);
			continue;
		}
		uint32_t page = queues_pop(q, SMALL);
		bool stays = q->mark[page] > 1;
		q->mark[page] = 0;
		queues_push(q, stays ? MAIN : GHOST, page);
		if (queues_length(q, GHOST) > q->memory / 10 * 9)
			queues_pop(q, GHOST);
	}
}

static bool s3_access(void *state, struct access access)
{
	struct queues *q = state;
	uint8_t where = q->where[access.page];
	if (where == SMALL || where == MAIN) {
		q->mark[access.page] = (uint8_t)MIN_OF(q->mark[access.page] + 1, 3);
		return true;
	}
	queues_remove(q, access.page);
	s3_make_room(q);
	q->mark[access.page] = 0;
	queues_push(q, where == GHOST ? MAIN : SMALL, access.page);
	return false;
}

/*
 * Like the kernel's MGLRU with four generations: a fault puts a page into the youngest; ageing, when fewer than two generations are left,
 * makes a new one of all pages with the accessed bit; eviction takes from the oldest, where the accessed bit saves a page once more.
 * Queue 4 is the shadow entries' stand-in: it bounds nothing and is not used.
 */
#define GENERATIONS 4u

struct mglru {
	struct queues *q;
	uint64_t min_seq, max_seq;
	uint32_t nr_pages;
};

static void mglru_destroy(void *state)
{
	struct mglru *m = state;
	if (m->q)
		queues_free(m->q);
	free(m);
}

static void *mglru_create(const struct workload *workload, uint32_t memory)
{
	struct mglru *m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	*m = (struct mglru){.q = queues_new(workload->nr_pages, memory), .max_seq = GENERATIONS - 1, .nr_pages = workload->nr_pages};
	if (m->q)
		return m;
	mglru_destroy(m);
	return NULL;
}

static void mglru_age(struct mglru *m)
{
	m->max_seq++;
	for (uint32_t page = 0; page < m->nr_pages; page++) {
		if (m->q->where[page] == NO_QUEUE || !m->q->mark[page])
			continue;
		m->q->mark[page] = 0;
		queues_push(m->q, m->max_seq % GENERATIONS, page);
	}
}

static void mglru_evict(struct mglru *m)
{
	for (;;) {
		while (m->min_seq < m->max_seq && !queues_length(m->q, m->min_seq % GENERATIONS))
			m->min_seq++;
		if (m->max_seq - m->min_seq < 2) {
			mglru_age(m);
			continue;
		}
		uint32_t page = queues_pop(m->q, m->min_seq % GENERATIONS);
		if (!m->q->mark[page])
			return;
		m->q->mark[page] = 0;
		queues_push(m->q, m->max_seq % GENERATIONS, page);
	}
}

static bool mglru_access(void *state, struct access access)
{
	struct mglru *m = state;
	uint32_t resident = 0;
	if (m->q->where[access.page] != NO_QUEUE) {
		m->q->mark[access.page] = 1;
		return true;
	}
	for (unsigned i = 0; i < GENERATIONS; i++)
		resident += queues_length(m->q, i);
	if (resident == m->q->memory)
		mglru_evict(m);
	queues_push(m->q, m->max_seq % GENERATIONS, access.page);
	return false;
}

const struct policy policy_random = {"random", random_create, random_access_page, random_destroy};
const struct policy policy_fifo = {"FIFO", peer_create, fifo_access, queues_free};
const struct policy policy_clock = {"CLOCK", peer_create, clock_access, queues_free};
const struct policy policy_lru = {"LRU", peer_create, lru_access, queues_free};
const struct policy policy_2q = {"2Q", peer_create, two_q_access, queues_free};
const struct policy policy_s3fifo = {"S3-FIFO", peer_create, s3_access, queues_free};
const struct policy policy_mglru = {"MGLRU", mglru_create, mglru_access, mglru_destroy};
