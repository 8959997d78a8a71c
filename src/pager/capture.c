#include "pager/capture.h"

#include <errno.h>

#include "base/event.h"
#include "pager/writeback_internal.h"
#include "platform/process.h"

#define PIECE_PAGES 16u  /* read and looked at together, while they are in the processor's cache */
#define LEAST_TO_SHARE 64u /* pages: for fewer the other thread would come too late */
#define READ_TRIES 100

/* The only copy of the pages: a system that is short of memory for a moment is asked again. */
static int read_stage(const struct agent *agent, uint32_t first, uint32_t nr, void *content)
{
	int r = -ENOMEM;
	for (int i = 0; i < READ_TRIES && r == -ENOMEM; i++)
		r = process_read(agent->pid, agent->stage2 + (uint64_t)first * PAGE_BYTES, content, (size_t)nr * PAGE_BYTES);
	return r;
}

static int read_piece(struct writeback *wb, uint32_t first, uint32_t end)
{
	struct batch *batch = wb->capture.batch;
	for (uint32_t i = first, nr; i < end; i += nr) {
		nr = 1;
		if (batch->pages[i].slot == NO_SLOT)
			continue;
		while (i + nr < end && batch->pages[i + nr].slot != NO_SLOT)
			nr++;
		int r = read_stage(wb->capture.agent, i, nr, batch->buffer + i * PAGE_BYTES);
		if (r < 0)
			return r;
		writeback_look_at(wb, batch, i, nr);
	}
	return 0;
}

static void read_pieces(struct writeback *wb)
{
	struct capture *capture = &wb->capture;
	uint32_t nr_pages = capture->batch->nr_pages, first;
	while (!atomic_load(&capture->error) && (first = atomic_fetch_add(&capture->next, PIECE_PAGES)) < nr_pages) {
		int r = read_piece(wb, first, MIN_OF(first + PIECE_PAGES, nr_pages));
		if (r < 0)
			atomic_store(&capture->error, r);
	}
}

int capture_batch(struct writeback *wb, const struct agent *agent, struct batch *batch)
{
	struct capture *capture = &wb->capture;
	lock_take(&wb->lock);
	capture->batch = batch;
	capture->agent = agent;
	atomic_store(&capture->next, 0);
	atomic_store(&capture->error, 0);
	lock_drop(&wb->lock);
	if (batch->nr_pages >= LEAST_TO_SHARE)
		event_raise(wb->event);
	read_pieces(wb);
	lock_take(&wb->lock);
	while (capture->is_shared)
		pthread_cond_wait(&wb->changed, &wb->lock.mutex);
	capture->batch = NULL;
	lock_drop(&wb->lock);
	return atomic_load(&capture->error);
}

void capture_help(struct writeback *wb)
{
	struct capture *capture = &wb->capture;
	lock_take(&wb->lock);
	bool helps = capture->batch && atomic_load(&capture->next) < capture->batch->nr_pages;
	capture->is_shared = helps;
	lock_drop(&wb->lock);
	if (!helps)
		return;
	read_pieces(wb);
	lock_take(&wb->lock);
	capture->is_shared = false;
	pthread_cond_broadcast(&wb->changed);
	lock_drop(&wb->lock);
}
