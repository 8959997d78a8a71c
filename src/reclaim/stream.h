/*
 * Readahead by access pattern, pure: a few streams remember where the last faults of sequential readers ended. A fault that
 * continues a stream doubles its window, any other starts a new one with a window of one page, so random access brings nothing extra.
 */
#pragma once

#include "base/types.h"

#define NR_STREAMS 8

struct stream {
	remote_addr_t next_up;   /* a fault here continues upwards */
	remote_addr_t next_down; /* a fault here continues downwards (address of the page below) */
	uint32_t window;         /* pages */
	uint64_t used;           /* for replacing the least recently used */
};

struct streams {
	struct stream stream[NR_STREAMS];
	uint64_t clock;
};

struct window {
	uint32_t pages; /* including the faulting one */
	bool down;      /* extends below the faulting page instead of above */
	uint32_t stream;
};

/* What to bring in for a fault on this page; max_pages bounds it. */
struct window streams_fault(struct streams *streams, remote_addr_t page, uint32_t max_pages);

/* What was really brought in: [start, start + pages). */
void streams_filled(struct streams *streams, uint32_t stream, remote_addr_t start, uint32_t pages);
