/*
 * The store thread: compresses what the reclaim thread has captured and settled, or writes it to the swap file, and writes what has to leave the pool.
 * The only one that uses the queue of writes and puts pages into the pool. On a machine with few processors it shares the work with the
 * reclaim thread while the program waits for room.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "pager/forkless.h"
#include "pager/writeback_internal.h"
#include "platform/scheduling.h"
#include "platform/userfaultfd.h"

#define MAX_WRITES_IN_FLIGHT 256u
#define KEPT_RETRY_MS 100
#define PUT_BACK_TRIES 50000u /* of one page: 5 s at least */
#define MAX_LEAVING 2u /* batches: the others are for what leaves the program */
#define TURNS_TO_POOL 8u
#define WRITES_IN_A_HURRY 4u
#define REST_MS 1000 /* without work */
#define DENSE 3u
#define DENSITY_SAMPLES 4u /* pages of a batch */
#define HOLES_SHARE 32u /* of the memory of a full pool; more than that is room */

static void reap(struct writeback *wb, bool wait);

/*
 * Pages are encrypted and decrypted where they lie, one at a time with the lock held: whoever looks one up meanwhile waits, and then is told how it is. The write
 * of an encrypted one only reads the buffer.
 */
static void change_page(struct writeback *wb, struct batch *batch, uint32_t index, bool encrypted)
{
	struct batch_page *page = &batch->pages[index];
	lock_take(&wb->lock);
	if (page->is_encrypted != encrypted)
		swap_apply_cipher(wb->pager->swap, page->slot, batch->buffer + index * PAGE_BYTES);
	page->is_encrypted = encrypted;
	lock_drop(&wb->lock);
}

/* Layout lock held. 0: the page is nobody's, or is in memory; or -errno. */
static int put_page_back(struct writeback *wb, struct batch *batch, uint32_t i)
{
	struct address_space *as = batch->as;
	struct batch_page *page = &batch->pages[i];
	shadow_entry_t entry = page->slot != NO_SLOT ? shadow_get(as->shadow, page->addr) : 0;
	uint64_t done;
	if (!entry || entry_slot(entry) != page->slot)
		return 0;
	if (entry_state(entry) == STATE_RESIDENT) { /* taken back already; the slot has no content */
		shadow_set(as->shadow, page->addr, (uint32_t)entry);
		swap_put(wb->pager->swap, page->slot);
		return 0;
	}
	change_page(wb, batch, i, false);
	int r = uffd_copy(as->uffd, page->addr, batch->buffer + i * PAGE_BYTES, PAGE_BYTES, false, &done);
	if (r < 0 && r != -EEXIST && r != -ENOENT) /* those two: it is there, or its mapping is gone, whatever the entry says */
		return r;
	charge_prepare_forced(wb->pager->charge, done / PAGE_BYTES);
	charge_commit(wb->pager->charge, done / PAGE_BYTES);
	forkless_note_unknown(as, page->addr);
	shadow_set(as->shadow, page->addr, done ? entry_make(STATE_RESIDENT, NO_SLOT, 0, 0, entry & ENTRY_PINNED) : entry & ENTRY_PINNED);
	swap_put(wb->pager->swap, page->slot);
	return 0;
}

/*
 * A write failed. The pages of the batch are still in its buffer: those that nobody has taken back yet go to the program at once, over the
 * limit if need be. A page that is gone meanwhile is nobody's loss. While an event is unread none goes (EAGAIN): the lock is let go for who reads it.
 */
static void put_batch_back(struct writeback *wb, struct batch *batch)
{
	static const struct timespec nap = {.tv_nsec = 100000};
	struct address_space *as = batch->as;
	int r = 0;
	lock_take(&as->layout);
	for (uint32_t i = 0, tries = 0; i < batch->nr_pages && r != -ESRCH;) {
		r = put_page_back(wb, batch, i);
		if (r == 0) {
			i++;
			tries = 0;
		}
		if (r == 0 || r == -ESRCH)
			continue;
		if ((r == -EAGAIN || r == -ENOMEM) && tries++ < PUT_BACK_TRIES) {
			lock_drop(&as->layout);
			nanosleep(&nap, NULL);
			lock_take(&as->layout);
			continue;
		}
		wb->pager->callbacks.fatal(wb->pager->callbacks.context, "the swap file failed and an evicted page could not be put back");
		break;
	}
	lock_drop(&as->layout);
}

/* The pages are in the file: their entries say so, and readahead may pass over them. Copies in a fork's child find out when asked for. */
static void mark_swapped(struct batch *batch)
{
	struct address_space *as = batch->as;
	lock_take(&as->layout);
	for (uint32_t i = 0; i < batch->nr_pages; i++) {
		struct batch_page *page = &batch->pages[i];
		shadow_entry_t entry = page->slot != NO_SLOT ? shadow_get(as->shadow, page->addr) : 0;
		if (entry_state(entry) == STATE_STAGED && entry_slot(entry) == page->slot)
			shadow_set(as->shadow, page->addr, (entry & ~ENTRY_STATE_MASK) | STATE_SWAPPED);
	}
	lock_drop(&as->layout);
}

/*
 * The batch is free again. One whose write failed stays as long as other processes share content that exists nowhere else. No more pages are
 * evicted then, so nobody misses it; when only space was short it is written again later.
 */
static void release(struct writeback *wb, struct batch *batch)
{
	batch->is_kept = false;
	for (uint32_t i = 0; batch->error && i < batch->nr_pages; i++) {
		slot_t slot = batch->pages[i].slot;
		batch->is_kept |= slot != NO_SLOT && swap_references(wb->pager->swap, slot) > 1;
	}
	for (uint32_t i = 0; !batch->is_kept && i < batch->nr_pages; i++)
		if (batch->pages[i].slot != NO_SLOT)
			swap_put(wb->pager->swap, batch->pages[i].slot);
	if (!batch->is_kept)
		writeback_return(wb, batch);
}

/* Written pages leave the pool; after a failed write they stay there. */
static void finish_from_pool(struct writeback *wb, struct batch *batch)
{
	for (uint32_t i = 0; i < batch->nr_pages; i++) {
		slot_t slot = batch->pages[i].slot;
		if (slot == NO_SLOT)
			continue;
		if (!batch->error)
			pool_drop(wb->pager->pool, slot);
	}
	batch->error = 0;
	wb->nr_leaving--;
}

static void finish(struct writeback *wb, struct batch *batch)
{
	bool is_full = swap_error_is_about_space(batch->error); /* as if there were no slots left */
	wb->nr_full = is_full ? wb->nr_full + 1 : 0;
	if (wb->nr_full > 1) /* the first may be over already */
		swap_note_no_space(wb->pager->swap);
	if (batch->error && !is_full && !wb->failed)
		log_error("cannot write to swap file %s: %s: no more pages are evicted", swap_path(wb->pager->swap),
			  strerror(-batch->error));
	wb->failed |= batch->error < 0 && !is_full;
	wb->nr_unstored -= batch->nr_unstored;
	batch->nr_unstored = 0;
	FAULT_POINT("store.written");
	if (!batch->as)
		finish_from_pool(wb, batch);
	else if (batch->error)
		put_batch_back(wb, batch);
	else
		mark_swapped(batch);
	release(wb, batch);
	FAULT_POINT("store.done");
}

/* Writes [first, first + nr) of the batch, whose slots are contiguous. */
static void write_run(struct writeback *wb, struct batch *batch, uint32_t first, uint32_t nr)
{
	for (uint32_t i = first; swap_is_encrypted(wb->pager->swap) && i < first + nr; i++)
		change_page(wb, batch, i, true);
	while (swap_io_write(wb->io, batch->pages[first].slot, nr, batch->buffer + first * PAGE_BYTES, batch) == -EAGAIN)
		reap(wb, true);
	batch->writes_pending++;
	FAULT_POINT("store.writing");
	stat_add(wb->pager->stats, swap_out, nr);
}

/* Its pages, to judge by a few, take a third of their size or less there: compressing frees nearly as much as writing, and reading back costs no disk. */
static bool is_dense(struct writeback *wb, const struct batch *batch)
{
	uint32_t looked_at = 0, bytes = 0;
	for (uint32_t i = 0; i < batch->nr_pages; i++) {
		if (!batch->to_store[i])
			continue;
		bytes += pool_compressed_bytes(wb->compressor, batch->buffer + i * PAGE_BYTES);
		looked_at++;
		i += batch->nr_pages / DENSITY_SAMPLES;
	}
	return (uint64_t)bytes * DENSE <= (uint64_t)looked_at * PAGE_BYTES;
}

static bool hurries(struct writeback *wb, const struct batch *batch)
{
	const struct pager *pager = wb->pager;
	return (atomic_load_explicit(&pager->over_limit, memory_order_relaxed) ||
		monotonic_ns() < atomic_load_explicit(&pager->hurry_until_ns, memory_order_relaxed)) &&
	       !is_dense(wb, batch);
}

/*
 * A page that is written frees twice the memory of one that is compressed, for less of the processors' time. So while faults wait for room, and over the
 * limit, what leaves goes to the file as fast as that takes it, but for what shrinks well. Into a full pool some batches still go (and the oldest pages leave
 * for them), so that it does not hold for ever what nobody asks for; most go to the file at once: what comes round again in a loop would only push out what
 * comes round sooner.
 */
static bool goes_to_pool(struct writeback *wb, const struct batch *batch)
{
	struct pager *pager = wb->pager;
	uint64_t target = atomic_load_explicit(&pager->pool_target, memory_order_relaxed);
	if (!target || (swap_io_in_flight(wb->io) < WRITES_IN_A_HURRY && hurries(wb, batch)))
		return false;
	uint64_t memory = atomic_load_explicit(pool_memory(pager->pool), memory_order_relaxed);
	return memory < target || pool_free_memory(pager->pool) > memory / HOLES_SHARE || wb->turn++ % TURNS_TO_POOL == 0;
}

/* What fits into the pool needs no write. Its entry and the batch hold the slot as if it were in the file. */
static void store_in_pool(struct writeback *wb, struct batch *batch)
{
	uint64_t stored = 0;
	for (uint32_t i = 0; i < batch->nr_pages; i++) {
		if (!batch->to_store[i])
			continue;
		batch->to_store[i] = !pool_store(wb->pager->pool, wb->compressor, batch->pages[i].slot, batch->buffer + i * PAGE_BYTES);
		stored += !batch->to_store[i];
	}
	FAULT_POINT("store.compressed");
	stat_add(wb->pager->stats, pool_out, stored);
	batch->nr_unstored -= (uint32_t)stored;
	wb->nr_unstored -= stored;
}

/* Writes what is to be stored of a captured batch, in runs of slots that follow each other. */
static void write_batch(struct writeback *wb, struct batch *batch)
{
	const bool *to_store = batch->to_store;
	batch->writes_pending = 1; /* ours, so that a reap inside the loop does not finish the batch early */
	for (uint32_t i = 0, nr; i < batch->nr_pages; i += nr) {
		nr = 1;
		if (!to_store[i])
			continue;
		while (i + nr < batch->nr_pages && to_store[i + nr] && batch->pages[i + nr].slot == batch->pages[i].slot + nr)
			nr++;
		write_run(wb, batch, i, nr);
	}
	if (--batch->writes_pending == 0)
		finish(wb, batch);
}

/* Copies of what the file has: see settle_for_cache. */
static void cache_in_pool(struct writeback *wb, struct batch *batch)
{
	uint64_t stored = 0;
	for (uint32_t i = 0; i < batch->nr_pages; i++)
		if (batch->pages[i].to_cache && writeback_pool_has_room(wb))
			stored += pool_store(wb->pager->pool, wb->compressor, batch->pages[i].slot, batch->buffer + i * PAGE_BYTES);
	stat_add(wb->pager->stats, pool_out, stored);
}

static void store_batch(struct writeback *wb, struct batch *batch)
{
	cache_in_pool(wb, batch);
	if (goes_to_pool(wb, batch))
		store_in_pool(wb, batch);
	write_batch(wb, batch);
}

/*
 * A batch of what has been in the pool longest. Who else can be there: a fault loads the page from the pool, or from the file when the write is done and
 * the pool has dropped it; a slot that is given up meanwhile is kept from being used anew by the batch's reference, and what is in the
 * pool has the content of its slot as it is in use now, because only this thread puts pages into the pool.
 */
static void take_from_pool(struct writeback *wb, struct batch *batch)
{
	struct pager *pager = wb->pager;
	slot_t first;
	uint32_t nr = pool_choose_leaving(pager->pool, BATCH_PAGES, &first);
	for (uint32_t i = 0; i < nr; i++) {
		batch->pages[i] = (struct batch_page){0};
		batch->to_store[i] = swap_get_if_used(pager->swap, first + i);
		if (!batch->to_store[i])
			continue;
		if (pool_load(pager->pool, first + i, batch->buffer + i * PAGE_BYTES)) {
			batch->pages[i].slot = first + i;
		} else {
			swap_put(pager->swap, first + i);
			batch->to_store[i] = false;
		}
	}
	lock_take(&wb->lock);
	batch->nr_pages = nr;
	batch->state = BATCH_CAPTURED;
	lock_drop(&wb->lock);
}

/* A pool that has grown over its share by more than a little writes its oldest pages. False: there is nothing to do, or not now. */
static bool shrink_pool(struct writeback *wb)
{
	struct pager *pager = wb->pager;
	uint64_t target = atomic_load_explicit(&pager->pool_target, memory_order_relaxed);
	uint64_t memory = atomic_load_explicit(pool_memory(pager->pool), memory_order_relaxed);
	uint64_t leaving = (uint64_t)wb->nr_leaving * BATCH_PAGES;
	if (wb->failed || wb->nr_leaving == MAX_LEAVING || memory <= target + (target ? BATCH_PAGES : 0) + leaving / 2 ||
	    pool_nr_pages(pager->pool) <= leaving || swap_has_no_space(pager->swap))
		return false;
	struct batch *batch = writeback_try_take(wb, NULL);
	if (!batch)
		return false;
	wb->nr_leaving++;
	take_from_pool(wb, batch);
	FAULT_POINT("store.leaving");
	bool some = batch->nr_pages;
	write_batch(wb, batch);
	return some;
}

static void reap(struct writeback *wb, bool wait)
{
	struct swap_completion done[16];
	int n;
	do {
		n = swap_io_reap(wb->io, done, ARRAY_LEN(done), wait);
		for (int i = 0; i < n; i++) {
			struct batch *batch = done[i].token;
			if (done[i].result < 0)
				batch->error = done[i].result;
			if (--batch->writes_pending == 0)
				finish(wb, batch);
		}
	} while (n == (int)ARRAY_LEN(done));
}


void store_thread_ask(struct writeback *wb)
{
	wb->requests++;
	event_raise(wb->event);
}

/* Those that others still need are written again, if the disk was only full. True: some were. */
static bool retry_kept(struct writeback *wb)
{
	bool some = false;
	for (uint32_t i = 0; i < wb->nr_batches; i++) {
		struct batch *batch = &wb->batches[i];
		if (batch->is_kept)
			release(wb, batch);
		if (!batch->is_kept || wb->failed || swap_has_no_space(wb->pager->swap))
			continue;
		batch->is_kept = false;
		batch->error = 0;
		for (uint32_t k = 0; k < batch->nr_pages; k++)
			batch->to_store[k] = batch->pages[k].slot != NO_SLOT;
		write_batch(wb, batch);
		some = true;
	}
	return some;
}

static bool has_kept(const struct writeback *wb)
{
	for (uint32_t i = 0; i < wb->nr_batches; i++)
		if (wb->batches[i].is_kept)
			return true;
	return false;
}

/* After a while without work: a container at rest keeps no megabytes for it. A free batch is nobody's, and nobody takes one while the lock is held. */
static void give_buffers_back(struct writeback *wb)
{
	for (uint32_t i = 0; i < wb->nr_batches; i++) {
		lock_take(&wb->lock);
		if (wb->batches[i].state == BATCH_FREE)
			madvise(wb->batches[i].buffer, BATCH_PAGES * PAGE_BYTES, MADV_DONTNEED);
		lock_drop(&wb->lock);
	}
}

static void wait_for_work(struct writeback *wb)
{
	uint64_t count;
	struct pollfd fds[] = {{.fd = wb->event, .events = POLLIN}, {.fd = swap_io_fd(wb->io), .events = POLLIN}};
	if (has_kept(wb)) {
		poll(fds, ARRAY_LEN(fds), KEPT_RETRY_MS);
	} else if (poll(fds, ARRAY_LEN(fds), REST_MS) == 0) {
		give_buffers_back(wb);
		poll(fds, ARRAY_LEN(fds), -1);
	}
	if (read(wb->event, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_debug("store: event: errno %d", errno);
}

/* Everything asked for is done. */
static void answer(struct writeback *wb, uint64_t request)
{
	lock_take(&wb->lock);
	wb->answered = request;
	pthread_cond_broadcast(&wb->changed);
	lock_drop(&wb->lock);
}

static struct batch *next_queued(struct writeback *wb, uint64_t *ret_request, bool *ret_stop)
{
	lock_take(&wb->lock);
	struct batch *batch = wb->queue;
	if (batch) {
		wb->queue = batch->next_queued;
		if (!wb->queue)
			wb->queue_end = &wb->queue;
	}
	*ret_request = wb->requests;
	*ret_stop = wb->stop;
	lock_drop(&wb->lock);
	return batch;
}

static void *store_thread_main(void *argument)
{
	struct writeback *wb = argument;
	pthread_setname_np(pthread_self(), "mbx-store");
	scheduling_give_way();
	atomic_fetch_add(&wb->pager->busy, 1);
	for (;;) {
		uint64_t request;
		bool stop;
		preference_follow(&wb->pager->preference);
		capture_help(wb);
		struct batch *batch = next_queued(wb, &request, &stop);
		reap(wb, false);
		if (batch)
			store_batch(wb, batch);
		if (batch || shrink_pool(wb) || retry_kept(wb))
			continue;
		if (!swap_io_in_flight(wb->io)) {
			answer(wb, request);
			if (stop)
				break;
		}
		atomic_fetch_sub(&wb->pager->busy, 1);
		wait_for_work(wb);
		atomic_fetch_add(&wb->pager->busy, 1);
	}
	atomic_fetch_sub(&wb->pager->busy, 1);
	return NULL;
}

int store_thread_start(struct writeback *wb)
{
	int r = swap_io_new(wb->pager->swap, MAX_WRITES_IN_FLIGHT, &wb->io);
	if (r == 0 && !(wb->compressor = pool_compressor_new()))
		r = -ENOMEM;
	if (r == 0)
		r = -pthread_create(&wb->thread, NULL, store_thread_main, wb);
	wb->has_thread = r == 0;
	return r;
}

void store_thread_stop(struct writeback *wb)
{
	if (wb->has_thread) {
		lock_take(&wb->lock);
		wb->stop = true;
		store_thread_ask(wb);
		lock_drop(&wb->lock);
		pthread_join(wb->thread, NULL);
	}
	swap_io_free(wb->io);
	pool_compressor_free(wb->compressor);
}
