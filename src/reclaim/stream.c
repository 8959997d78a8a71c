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
		if (s->window && (page == s->next_up || page == s->next_down)) {
			s->window = MIN_OF(s->window * 2, max_pages);
			s->used = streams->clock;
			return window_of(streams, i, page == s->next_down);
		}
		if (s->used < streams->stream[oldest].used)
			oldest = i;
	}
	streams->stream[oldest] = (struct stream){
		.next_up = page + PAGE_BYTES, .next_down = page - PAGE_BYTES, .window = 1, .used = streams->clock};
	return window_of(streams, oldest, false);
}

void streams_filled(struct streams *streams, uint32_t stream, remote_addr_t start, uint32_t pages)
{
	struct stream *s = &streams->stream[stream];
	s->next_up = start + (uint64_t)pages * PAGE_BYTES;
	s->next_down = start - PAGE_BYTES;
}
