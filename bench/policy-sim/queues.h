/* Queues of page numbers: every page is in at most one of them. What the peers are made of. */
#pragma once

#include "base/types.h"

#define NR_QUEUES 8
#define NO_QUEUE UINT8_MAX
#define NO_PAGE UINT32_MAX

struct queues {
	struct {
		uint32_t head, tail, length;
	} queue[NR_QUEUES];
	uint32_t *next, *previous; /* towards the tail, towards the head */
	uint8_t *where;            /* which queue a page is in; NO_QUEUE */
	uint8_t *mark;             /* for the owner */
	uint32_t memory;           /* for the owner */
};

struct queues *queues_new(uint32_t nr_pages, uint32_t memory); /* NULL: no memory */
void queues_free(void *queues);

/* To the head (the newest end) of a queue, from wherever it is. */
void queues_push(struct queues *queues, unsigned queue, uint32_t page);
void queues_remove(struct queues *queues, uint32_t page);

/* Takes the oldest of a queue; NO_PAGE when it is empty. */
uint32_t queues_pop(struct queues *queues, unsigned queue);

static inline uint32_t queues_length(const struct queues *queues, unsigned queue)
{
	return queues->queue[queue].length;
}
