/*
 * membox as the pager drives its policy (src/pager/fault.c and evict.c), over simulated pages. The decisions are those of src/reclaim, called as
 * the pager calls them; what is modelled here is only what surrounds them: the hand that walks resident pages in address order, batches and
 * watermarks, and what can be seen. An access to a resident page is invisible, unless it is a write to a page that is write-protected.
 */
#include <stdlib.h>

#include "policy.h"
#include "reclaim/clock.h"
#include "reclaim/stream.h"

#define FILLS_PER_EPOCH 16
#define NOT_RECENT 128
#define STAGED_PAGES 256  /* the last pages evicted are still in a batch when they are asked for */
#define MAX_WINDOW 128

struct page {
	bool resident, evicted, armed, written;
	uint8_t age;
	uint8_t epoch;       /* as in a shadow entry: evictions when out, fills when in */
	uint64_t evicted_at; /* number of the eviction */
};

struct model {
	const struct workload *workload;
	struct watermarks marks;
	struct streams streams;
	struct page *page;
	uint64_t *resident; /* bitmap */
	uint32_t nr_pages, memory, nr_resident, nr_out, hand, fills;
	uint32_t out; /* pages evicted now, as noted after the last reclaim */
	struct clock_hand clock;
	bool readahead;
	struct model_costs costs;
};

void model_destroy(void *model)
{
	struct model *m = model;
	free(m->page);
	free(m->resident);
	free(m);
}

void *model_create(const struct workload *workload, uint32_t memory, bool readahead)
{
	struct model *m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	*m = (struct model){.workload = workload,
			    .marks = clock_watermarks(memory),
			    .nr_pages = workload->nr_pages,
			    .memory = memory,
			    .readahead = readahead,
			    .page = calloc(workload->nr_pages, sizeof(*m->page)),
			    .resident = calloc(workload->nr_pages / 64 + 1, sizeof(*m->resident))};
	if (m->page && m->resident)
		return m;
	model_destroy(m);
	return NULL;
}

struct model_costs model_costs(const void *model)
{
	return ((const struct model *)model)->costs;
}

static uint8_t eviction_epoch(const struct model *m)
{
	return (uint8_t)(m->costs.evicted / MAX_OF(m->memory / CLOCK_EPOCHS_PER_MEMORY, 1));
}

static uint8_t fill_epoch(const struct model *m)
{
	return (uint8_t)(m->fills / FILLS_PER_EPOCH);
}

static void set_resident(struct model *m, uint32_t page, bool resident)
{
	uint64_t bit = 1ull << page % 64;
	if (resident)
		m->resident[page / 64] |= bit;
	else
		m->resident[page / 64] &= ~bit;
	m->nr_resident = resident ? m->nr_resident + 1 : m->nr_resident - 1;
	m->page[page].resident = resident;
}

/* The first resident page from the hand on; goes round once. The caller knows that there is one. */
static uint32_t next_resident(struct model *m)
{
	uint32_t word = m->hand / 64;
	uint64_t bits = m->hand < m->nr_pages ? m->resident[word] & ~0ull << m->hand % 64 : 0;
	while (!bits) {
		if (++word > m->nr_pages / 64) {
			word = 0;
			m->clock.revolution++;
			m->clock.idle++;
		}
		bits = m->resident[word];
	}
	return word * 64 + (uint32_t)__builtin_ctzll(bits);
}

static void evict(struct model *m, uint32_t index)
{
	struct page *page = &m->page[index];
	set_resident(m, index, false);
	page->evicted = true;
	page->epoch = eviction_epoch(m);
	page->age = 0;
	page->evicted_at = m->costs.evicted++;
	m->clock.idle = 0;
	m->nr_out++;
}

/* As is_candidate in evict.c. */
static bool may_leave(struct model *m, struct page *page)
{
	unsigned age;
	if ((uint8_t)(fill_epoch(m) - page->epoch) < 2)
		return false;
	remote_addr_t address = workload_address(m->workload, (uint32_t)(page - m->page));
	if (clock_hand_passes(&m->clock, address, page->age, page->armed && page->written, &age))
		return true;
	page->age = (uint8_t)age;
	page->armed = true;
	page->written = false;
	return false;
}

/* When there is no room for `need` pages above the start mark. */
static void reclaim(struct model *m, uint32_t need)
{
	uint32_t last = UINT32_MAX - 1;
	uint64_t start = MIN_OF(m->marks.start + need, m->memory / 2), stop = MIN_OF(MAX_OF(m->marks.stop, start), m->memory / 2);
	if (m->nr_resident + start <= m->memory)
		return;
	while (m->nr_resident + stop > m->memory) {
		uint32_t index = next_resident(m);
		m->hand = index + 1;
		m->costs.looked_at++;
		if (!may_leave(m, &m->page[index]))
			continue;
		m->costs.runs += index != last + 1;
		last = index;
		evict(m, index);
	}
	m->out = m->nr_out;
}

/* As record_loaded and record_filled in fault.c. */
static void fill(struct model *m, uint32_t index, bool asked, bool sequential, bool write)
{
	remote_addr_t address = workload_address(m->workload, index);
	struct page *page = &m->page[index];
	page->age = 0;
	page->armed = page->evicted && !(asked && write);
	page->written = false;
	if (page->evicted && (asked || sequential))
		page->age = (uint8_t)clock_age_at_refault(address, page->epoch, eviction_epoch(m), clock_typical_distance(m->out, m->memory));
	m->nr_out -= page->evicted;
	page->evicted = false;
	page->epoch = (uint8_t)(fill_epoch(m) + (asked ? 0 : NOT_RECENT));
	set_resident(m, index, true);
}

/* The page at a distance from another, if there is one; -1. */
static int64_t page_at(const struct model *m, uint32_t index, int64_t distance)
{
	int64_t at = index + distance;
	if (at < 0 || at >= m->nr_pages)
		return -1;
	int64_t bytes = (int64_t)(workload_address(m->workload, (uint32_t)at) - workload_address(m->workload, index));
	return bytes == distance * (int64_t)PAGE_BYTES ? at : -1;
}

/* As note_filled in fault.c. */
static void note_filled(struct model *m, uint32_t index, uint32_t nr, struct window window)
{
	remote_addr_t address = workload_address(m->workload, index);
	int64_t step = window.down ? -1 : 1, at;
	uint32_t passed = 0;
	streams_filled(&m->streams, window.stream, window.down ? address - (nr - 1ull) * PAGE_BYTES : address, nr);
	if (window.pages < STREAM_ESTABLISHED)
		return;
	while (passed < STREAM_MAX_PASSED && (at = page_at(m, index, step * (int64_t)(nr + passed))) >= 0 && m->page[at].resident)
		passed++;
	streams_pass_over(&m->streams, window.stream, window.down ? 0 : passed, window.down ? passed : 0);
}

/* Brings in the window of a fault; returns its size. */
static uint32_t fill_window(struct model *m, uint32_t index, bool write)
{
	struct window window = streams_fault(&m->streams, workload_address(m->workload, index), MAX_WINDOW);
	uint32_t n = 0;
	for (; n < window.pages; n++) {
		int64_t at = page_at(m, index, window.down ? -(int64_t)n : n);
		if (at < 0 || m->page[at].resident || (n && !m->page[at].evicted))
			break;
		fill(m, (uint32_t)at, n == 0, window.pages >= STREAM_ESTABLISHED, write);
	}
	note_filled(m, index, n, window);
	return n;
}

bool model_access(void *model, struct access access)
{
	struct model *m = model;
	struct page *page = &m->page[access.page];
	if (page->resident) {
		page->written |= access.write;
		return true;
	}
	reclaim(m, m->readahead ? MAX_WINDOW : 1);
	bool staged = page->evicted && m->costs.evicted - page->evicted_at <= STAGED_PAGES;
	bool refault = page->evicted;
	m->fills++;
	m->costs.faults += refault;
	m->costs.soft += staged;
	uint32_t filled = 1;
	if (m->readahead && refault && !staged)
		filled = fill_window(m, access.page, access.write);
	else
		fill(m, access.page, true, false, access.write);
	if (refault && !staged) {
		m->costs.reads++;
		m->costs.pages_read += filled;
	}
	return false;
}

static void *membox_create(const struct workload *workload, uint32_t memory)
{
	return model_create(workload, memory, false);
}

const struct policy policy_membox = {"membox", membox_create, model_access, model_destroy};
