#include "reclaim/pool_fit.h"

#define ROUND 512u
#define COST_OF_READ 3u /* in faults of pages in the pool */

void pool_fit_init(struct pool_fit *fit)
{
	atomic_store(&fit->share, POOL_FIT_WHOLE);
}

static uint32_t next_share(uint32_t share, uint32_t spared, uint32_t pushed)
{
	if (pushed > spared)
		return MAX_OF(share - share / 8, POOL_FIT_LEAST);
	return MIN_OF(share + POOL_FIT_WHOLE / 32, POOL_FIT_WHOLE);
}

void pool_fit_note(struct pool_fit *fit, bool from_pool, uint64_t distance_pages, uint64_t pool_pages)
{
	if (distance_pages < pool_pages)
		atomic_fetch_add_explicit(&fit->pushed, from_pool ? 1 : COST_OF_READ, memory_order_relaxed);
	else if (from_pool)
		atomic_fetch_add_explicit(&fit->spared, COST_OF_READ - 1, memory_order_relaxed);
	uint32_t spared = atomic_load_explicit(&fit->spared, memory_order_relaxed), pushed = atomic_load_explicit(&fit->pushed, memory_order_relaxed);
	if (spared + pushed < ROUND)
		return;
	uint32_t share = atomic_load_explicit(&fit->share, memory_order_relaxed);
	atomic_store_explicit(&fit->share, next_share(share, spared, pushed), memory_order_relaxed);
	atomic_store_explicit(&fit->spared, 0, memory_order_relaxed);
	atomic_store_explicit(&fit->pushed, 0, memory_order_relaxed);
}

uint64_t pool_fit_pages(const struct pool_fit *fit, uint64_t most_pages)
{
	return most_pages * atomic_load_explicit(&fit->share, memory_order_relaxed) / POOL_FIT_WHOLE;
}
