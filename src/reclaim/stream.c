#include "reclaim/stream.h"

static struct window window_of(const struct streams *streams, uint32_t index, bool down)
{
	return (struct window){.pages = streams->stream[index].window, .down = down, .stream = index};
}

struct window streams_fault(struct streams *streams, remote_addr_t page, uint32_t max_pages)
{
	uint32_t oldest = 0;
	streams->clock++;
	for (uint32_t i = 0; i < NR_STREAMS; i++) {
		struct stream *s = &streams->stream[i];
		bool up = page >= s->next_up && page <= s->last_up;
		bool down = page <= s->next_down && page >= s->last_down;
		if (s->window && (up || down)) {
			s->window = MIN_OF(s->window * 2, max_pages);
			s->used = streams->clock;
			return window_of(streams, i, !up);
		}
		if (s->used < streams->stream[oldest].used)
			oldest = i;
	}
	streams->stream[oldest] = (struct stream){.window = 1, .used = streams->clock};
	streams_filled(streams, oldest, page, 1);
	return window_of(streams, oldest, false);
}

void streams_filled(struct streams *streams, uint32_t stream, remote_addr_t start, uint32_t pages)
{
	struct stream *s = &streams->stream[stream];
	s->next_up = s->last_up = start + (uint64_t)pages * PAGE_BYTES;
	s->next_down = s->last_down = start - PAGE_BYTES;
}

void streams_pass_over(struct streams *streams, uint32_t stream, uint32_t above, uint32_t below)
{
	struct stream *s = &streams->stream[stream];
	s->last_up = s->next_up + (uint64_t)above * PAGE_BYTES;
	s->last_down = s->next_down - (uint64_t)below * PAGE_BYTES;
}
