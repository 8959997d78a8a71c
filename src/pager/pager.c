#include "pager/pager.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "pager/address_space.h"
#include "pager/fault.h"
#include "pager/fault_thread.h"
#include "pager/writeback.h"
#include "reclaim/clock.h"

/* Batches in flight: enough to keep a disk and the store thread busy while the next ones are captured. */
#define NR_BATCHES 6

static void drop_from_pool(void *pool, slot_t slot)
{
	pool_drop(pool, slot);
}

/* Nothing refers to a slot of this file any more; swap may be NULL. */
static void end_swap(struct pager *pager, struct swap *swap)
{
	charge_watch(pager->charge, CHARGE_POOL, NULL);
	charge_watch(pager->charge, CHARGE_BATCHES, NULL);
	writeback_free(pager->writeback);
	if (swap)
		swap_on_free(swap, NULL, NULL);
	pool_free(pager->pool);
	pager->writeback = NULL;
	pager->pool = NULL;
}

static int begin_swap(struct pager *pager)
{
	int r = pool_new((uint32_t)swap_total_slots(pager->swap) + 1, &pager->pool);
	if (r == 0)
		r = writeback_new(pager, NR_BATCHES, &pager->writeback);
	if (r < 0) {
		end_swap(pager, pager->swap);
		return r;
	}
	swap_on_free(pager->swap, drop_from_pool, pager->pool);
	charge_watch(pager->charge, CHARGE_POOL, pool_memory(pager->pool));
	charge_watch(pager->charge, CHARGE_BATCHES, writeback_pages(pager->writeback));
	return 0;
}

/*
 * MEMBOX_TRACE=FILE records what the policy sees. With MEMBOX_TRACE_ACCESSES=1 nothing is brought in ahead, so that in a very small limit nearly every
 * access to another page is a fault and thus recorded.
 */
static void begin_trace(struct pager *pager)
{
	const char *path = getenv("MEMBOX_TRACE"), *accesses = getenv("MEMBOX_TRACE_ACCESSES");
	pager->max_window = LOAD_MAX_PAGES;
	if (!path || !*path)
		return;
	if (accesses && *accesses == '1')
		pager->max_window = 1;
	int r = trace_open(path, charge_limit(pager->charge), CLOCK_EPOCHS_PER_MEMORY, &pager->trace);
	if (r < 0)
		log_error("cannot record a trace in %s: %s", path, strerror(-r));
}

int pager_init(struct pager *pager, struct swap *swap, struct stats *stats, struct charge *charge, const struct pager_home *home,
	       const struct pager_callbacks *callbacks)
{
	*pager = (struct pager){.swap = swap, .stats = stats, .charge = charge, .home = *home, .callbacks = *callbacks};
	pool_fit_init(&pager->pool_fit);
	int r = swap ? begin_swap(pager) : 0;
	if (r == 0)
		begin_trace(pager);
	return r;
}

void pager_release(struct pager *pager)
{
	if (!pager->charge)
		return;
	for (uint32_t i = 0; i < pager->nr_threads; i++)
		fault_thread_free(pager->threads[i]);
	end_swap(pager, pager->swap);
	trace_close(pager->trace);
}

static int reopen_all(struct pager *pager)
{
	int result = 0;
	for (uint32_t i = 0; i < pager->nr_threads; i++) {
		int r = fault_thread_reopen(pager->threads[i]);
		result = result ? result : r;
	}
	return result;
}

int pager_set_swap(struct pager *pager, struct swap *swap)
{
	struct swap *old = pager->swap;
	pager->swap = swap;
	int r = swap ? begin_swap(pager) : 0;
	if (r == 0)
		r = reopen_all(pager);
	if (r < 0)
		pager->swap = NULL;
	if (r < 0 && swap)
		reopen_all(pager);
	if (!pager->swap)
		end_swap(pager, swap ? swap : old);
	return r;
}

static uint64_t epoch_pages(const struct pager *pager)
{
	return MAX_OF(charge_limit(pager->charge) / CLOCK_EPOCHS_PER_MEMORY, 1);
}

uint8_t pager_epoch(const struct pager *pager)
{
	return (uint8_t)(atomic_load_explicit(&pager->evicted, memory_order_relaxed) / epoch_pages(pager));
}

void pager_note_refault(struct pager *pager, bool from_pool, uint8_t evicted)
{
	uint8_t epochs = (uint8_t)(pager_epoch(pager) - evicted);
	if (pager->pool)
		pool_fit_note(&pager->pool_fit, from_pool, epochs * epoch_pages(pager),
			      atomic_load_explicit(pool_memory(pager->pool), memory_order_relaxed));
}

unsigned pager_age_at_refault(const struct pager *pager, remote_addr_t page, uint8_t evicted)
{
	uint64_t out = atomic_load_explicit(&pager->out, memory_order_relaxed);
	return clock_age_at_refault(page, evicted, pager_epoch(pager), clock_typical_distance(out, charge_limit(pager->charge)));
}

int pager_attach(struct pager *pager, struct address_space *as)
{
	if (pager->nr_threads < PAGER_MAX_FAULT_THREADS) {
		int r = fault_thread_new(pager, &pager->threads[pager->nr_threads]);
		if (r < 0 && !pager->nr_threads)
			return r;
		pager->nr_threads += r == 0;
	}
	return fault_thread_attach(pager->threads[pager->next_thread++ % pager->nr_threads], as);
}

void pager_wake(struct pager *pager)
{
	for (uint32_t i = 0; i < pager->nr_threads; i++)
		fault_thread_wake(pager->threads[i]);
}

void pager_prefer(struct pager *pager, const struct node_set *nodes)
{
	preference_set(&pager->preference, nodes);
	preference_follow(&pager->preference);
	pager_wake(pager);
}

bool pager_follows_preference(const struct pager *pager)
{
	for (uint32_t i = 0; i < pager->nr_threads; i++)
		if (fault_thread_preference(pager->threads[i]) != atomic_load(&pager->preference.seq))
			return false;
	return true;
}
