#include "queues.h"

#include <stdlib.h>
#include <string.h>

struct queues *queues_new(uint32_t nr_pages, uint32_t memory)
{
	struct queues *q = calloc(1, sizeof(*q));
	if (!q)
		return NULL;
	q->memory = memory;
	q->next = calloc(nr_pages, sizeof(*q->next));
	q->previous = calloc(nr_pages, sizeof(*q->previous));
	q->where = malloc(nr_pages);
	q->mark = calloc(nr_pages, 1);
	if (!q->next || !q->previous || !q->where || !q->mark) {
		queues_free(q);
		return NULL;
	}
	memset(q->where, NO_QUEUE, nr_pages);
	for (unsigned i = 0; i < NR_QUEUES; i++)
		q->queue[i].head = q->queue[i].tail = NO_PAGE;
	return q;
}

void queues_free(void *queues)
{
	struct queues *q = queues;
	free(q->next);
	free(q->previous);
	free(q->where);
	free(q->mark);
	free(q);
}

void queues_remove(struct queues *q, uint32_t page)
{
	unsigned from = q->where[page];
	if (from == NO_QUEUE)
		return;
	uint32_t next = q->next[page], previous = q->previous[page];
	if (next == NO_PAGE)
		q->queue[from].tail = previous;
	else
		q->previous[next] = previous;
	if (previous == NO_PAGE)
		q->queue[from].head = next;
	else
		q->next[previous] = next;
	q->queue[from].length--;
	q->where[page] = NO_QUEUE;
}

void queues_push(struct queues *q, unsigned queue, uint32_t page)
{
	queues_remove(q, page);
	uint32_t head = q->queue[queue].head;
	q->next[page] = head;
	q->previous[page] = NO_PAGE;
	if (head == NO_PAGE)
		q->queue[queue].tail = page;
	else
		q->previous[head] = page;
	q->queue[queue].head = page;
	q->queue[queue].length++;
	q->where[page] = (uint8_t)queue;
}

uint32_t queues_pop(struct queues *q, unsigned queue)
{
	uint32_t page = q->queue[queue].tail;
	if (page != NO_PAGE)
		queues_remove(q, page);
	return page;
}
