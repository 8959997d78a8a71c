/* Belady's optimum: what is needed last leaves. A heap of resident pages, the one with the latest next access on top. */
#include <stdlib.h>

#include "policy.h"

#define NEVER UINT64_MAX

struct optimum {
	uint64_t *next_access; /* of access i: when its page is accessed again */
	uint64_t *key;         /* of a page: when it is accessed next */
	uint32_t *place;       /* of a page in the heap, plus 1; 0: not resident */
	uint32_t *heap;
	uint32_t nr, memory;
	uint64_t now;
};

static void optimum_destroy(void *state)
{
	struct optimum *o = state;
	free(o->next_access);
	free(o->key);
	free(o->place);
	free(o->heap);
	free(o);
}

static void look_ahead(struct optimum *o, const struct workload *workload)
{
	for (uint32_t page = 0; page < workload->nr_pages; page++)
		o->key[page] = NEVER;
	for (uint64_t i = workload->nr_accesses; i-- > 0;) {
		uint32_t page = workload->access[i].page;
		o->next_access[i] = o->key[page];
		o->key[page] = i;
	}
}

static void *optimum_create(const struct workload *workload, uint32_t memory)
{
	struct optimum *o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	o->memory = memory;
	o->next_access = calloc(workload->nr_accesses, sizeof(*o->next_access));
	o->key = calloc(workload->nr_pages, sizeof(*o->key));
	o->place = calloc(workload->nr_pages, sizeof(*o->place));
	o->heap = calloc(memory, sizeof(*o->heap));
	if (!o->next_access || !o->key || !o->place || !o->heap) {
		optimum_destroy(o);
		return NULL;
	}
	look_ahead(o, workload);
	return o;
}

static void put(struct optimum *o, uint32_t at, uint32_t page)
{
	o->heap[at] = page;
	o->place[page] = at + 1;
}

static void sift_up(struct optimum *o, uint32_t at)
{
	uint32_t page = o->heap[at];
	for (uint32_t parent; at; at = parent) {
		parent = (at - 1) / 2;
		if (o->key[o->heap[parent]] >= o->key[page])
			break;
		put(o, at, o->heap[parent]);
	}
	put(o, at, page);
}

static void sift_down(struct optimum *o, uint32_t at)
{
	uint32_t page = o->heap[at];
	for (uint32_t child; (child = 2 * at + 1) < o->nr; at = child) {
		if (child + 1 < o->nr && o->key[o->heap[child + 1]] > o->key[o->heap[child]])
			child++;
		if (o->key[o->heap[child]] <= o->key[page])
			break;
		put(o, at, o->heap[child]);
	}
	put(o, at, page);
}

static bool optimum_access(void *state, struct access access)
{
	struct optimum *o = state;
	bool hit = o->place[access.page];
	o->key[access.page] = o->next_access[o->now++];
	if (hit) {
		sift_up(o, o->place[access.page] - 1);
	} else if (o->nr < o->memory) {
		put(o, o->nr++, access.page);
		sift_up(o, o->nr - 1);
	} else {
		o->place[o->heap[0]] = 0;
		put(o, 0, access.page);
		sift_down(o, 0);
	}
	return hit;
}

const struct policy policy_optimum = {"optimum", optimum_create, optimum_access, optimum_destroy};
