/*
 * Readahead by access pattern, pure: a few streams remember where the last faults of sequential readers ended. A fault that
 * continues a stream doubles its window, any other starts a new one with a window of one page, so random access brings nothing extra. A reader
 * passes over pages that are in memory without a fault: it may show up anywhere in what was resident behind the window, or next to it.
 */
#pragma once

#include "base/types.h"

#define NR_STREAMS 8

struct stream {
	remote_addr_t next_up, last_up;     /* a fault from here to there continues upwards */
	remote_addr_t next_down, last_down; /* a fault from here down to there continues downwards (address of the page below) */
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

/* After streams_filled: that many pages above and below what was brought in are in memory already. */
void streams_pass_over(struct streams *streams, uint32_t stream, uint32_t above, uint32_t below);

/* From a window of this size on a stream is worth the look at what is in memory behind it, for so many pages. */
#define STREAM_ESTABLISHED 8u
#define STREAM_MAX_PASSED 2048u
