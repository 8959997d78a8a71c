#include "pager/writeback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "platform/userfaultfd.h"

/* Where content was stored lately, by its checksum. A hint: the slot may hold something else by now. */
struct stored {
	remote_addr_t addr; /* a page shared by fork has the same one in all; equal pages elsewhere would tear runs of slots apart */
	uint64_t checksum, second;
	slot_t slot;
};

#define NR_STORED 4096 /* the processes that share a page lose it within a few batches */

struct writeback {
	struct pager *pager;
	struct lock lock; /* LOCK_WRITEBACK: states and page lists of the batches, for lookups by fault threads */
	struct swap_io *io;
	struct batch *batches;
	uint32_t nr_batches;
	bool failed;
	struct pool_compressor *compressor;
	uint64_t pool_leaving; /* pages of the pool in batches */
	uint64_t turn;         /* batches that came to a full pool */
	struct stored *stored; /* NR_STORED; NULL until memory shared by fork is evicted for the first time */
};

#define MAX_WRITES_IN_FLIGHT 256u
#define TURNS_TO_POOL 8u
#define HOLES_SHARE 32u /* of the memory of a full pool; more than that is room */

int writeback_new(struct pager *pager, uint32_t nr_batches, struct writeback **ret_wb)
{
	struct writeback *wb = calloc(1, sizeof(*wb));
	int r = wb && (wb->batches = calloc(nr_batches, sizeof(*wb->batches))) ? 0 : -ENOMEM;
	if (r == 0)
		r = swap_io_new(pager->swap, MAX_WRITES_IN_FLIGHT, &wb->io);
	if (r == 0 && !(wb->compressor = pool_compressor_new()))
		r = -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < nr_batches; i++) {
		void *buffer = mmap(NULL, BATCH_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (buffer == MAP_FAILED)
			r = -errno;
		else
			wb->batches[wb->nr_batches++].buffer = buffer;
	}
	if (wb) {
		wb->pager = pager;
		lock_init(&wb->lock, LOCK_WRITEBACK);
	}
	if (r < 0) {
		writeback_free(wb);
		return r;
	}
	*ret_wb = wb;
	return 0;
}

void writeback_free(struct writeback *wb)
{
	if (!wb)
		return;
	while (wb->io && swap_io_in_flight(wb->io))
		writeback_reap(wb, true);
	swap_io_free(wb->io);
	for (uint32_t i = 0; i < wb->nr_batches; i++) {
		if (wb->batches[i].as) /* kept after a failed write */
			address_space_put(wb->batches[i].as);
		munmap(wb->batches[i].buffer, BATCH_PAGES * PAGE_BYTES);
	}
	lock_destroy(&wb->lock);
	pool_compressor_free(wb->compressor);
	free(wb->stored);
	free(wb->batches);
	free(wb);
}

struct batch *writeback_take(struct writeback *wb, struct address_space *as)
{
	for (;;) {
		for (uint32_t i = 0; i < wb->nr_batches; i++) {
			struct batch *batch = &wb->batches[i];
			if (batch->state != BATCH_FREE)
				continue;
			batch->as = as ? address_space_get(as) : NULL;
			batch->nr_pages = 0;
			batch->error = 0;
			lock_take(&wb->lock);
			batch->state = BATCH_MOVING;
			lock_drop(&wb->lock);
			return batch;
		}
		if (wb->failed)
			return NULL;
		writeback_reap(wb, true);
	}
}

void writeback_return(struct writeback *wb, struct batch *batch)
{
	lock_take(&wb->lock);
	batch->state = BATCH_FREE;
	batch->nr_pages = 0;
	lock_drop(&wb->lock);
	if (batch->as)
		address_space_put(batch->as);
	batch->as = NULL;
}

void writeback_captured(struct writeback *wb, struct batch *batch)
{
	lock_take(&wb->lock);
	batch->state = BATCH_CAPTURED;
	lock_drop(&wb->lock);
}

/* The batch that has the slot and its place there, or NULL. Write-back lock held, or reclaim thread: only that changes batches. */
static const struct batch *find_slot(const struct writeback *wb, slot_t slot, uint32_t *ret_index)
{
	for (uint32_t i = 0; i < wb->nr_batches; i++) {
		const struct batch *batch = &wb->batches[i];
		for (uint32_t k = 0; batch->state != BATCH_FREE && k < batch->nr_pages; k++) {
			if (batch->pages[k].slot != slot)
				continue;
			*ret_index = k;
			return batch;
		}
	}
	return NULL;
}

int writeback_find(struct writeback *wb, slot_t slot, void *page)
{
	int found = 0;
	uint32_t index;
	lock_take(&wb->lock);
	const struct batch *batch = find_slot(wb, slot, &index);
	if (batch)
		found = batch->state == BATCH_CAPTURED ? 1 : -EAGAIN;
	if (found == 1)
		memcpy(page, batch->buffer + index * PAGE_BYTES, PAGE_BYTES);
	lock_drop(&wb->lock);
	return found;
}

static bool page_is_zero(const void *page)
{
	const uint64_t *word = page;
	return word[0] == 0 && memcmp(word, word + 1, PAGE_BYTES - sizeof(*word)) == 0;
}

/*
 * Layout lock held. The page needs no write: its entry goes on to `settled` (ZERO, or with its old slot) and the new slot is given
 * back. Races: between capture and now the page may have been faulted in again, unmapped, or copied to a fork's child. Only when the entry
 * still names the new slot, and nobody but it and the batch does, may the slot be dropped; otherwise the page is written like any other.
 */
static bool settle_without_write(struct writeback *wb, struct batch *batch, struct batch_page *page, shadow_entry_t settled)
{
	struct shadow *shadow = batch->as->shadow;
	shadow_entry_t entry = shadow_get(shadow, page->addr);
	if (entry_state(entry) != STATE_STAGED || entry_slot(entry) != page->slot || (entry & ENTRY_LOADING) ||
	    swap_references(wb->pager->swap, page->slot) != 2)
		return false;
	uint64_t kept = entry & (ENTRY_PINNED | ENTRY_REMOVED);
	shadow_set(shadow, page->addr,
		   entry_make(entry_state(settled), entry_slot(settled), entry_age(entry), entry_epoch(entry), kept));
	swap_put(wb->pager->swap, page->slot); /* the entry's reference */
	swap_put(wb->pager->swap, page->slot); /* the batch's */
	return true;
}

/*
 * The state of a page whose old slot is as good as its content. A page that was taken back out of a batch and left again unchanged finds the
 * write of that slot still under way: then it stays STAGED, so that a fault looks into the batches before it reads the file.
 */
static enum page_state settled_state(const struct writeback *wb, slot_t old_slot)
{
	uint32_t index;
	return find_slot(wb, old_slot, &index) ? STATE_STAGED : STATE_SWAPPED;
}

static struct stored *stored_place(const struct writeback *wb, remote_addr_t addr, uint64_t checksum)
{
	return wb->stored ? &wb->stored[(checksum ^ addr >> PAGE_SHIFT) % NR_STORED] : NULL;
}

/*
 * Processes that shared a page by fork lose it one after the other: the content is written once, and each entry has a reference. Races: the
 * slot may have been freed, and used again, by threads that fill or forget pages; then it has another checksum, 0 until this thread gives it one.
 */
static bool settle_as_twin(struct writeback *wb, struct batch *batch, struct batch_page *page, uint64_t checksum, uint64_t second)
{
	const struct stored *stored = stored_place(wb, page->addr, checksum);
	struct swap *swap = wb->pager->swap;
	if (!stored || stored->addr != page->addr || stored->checksum != checksum || stored->second != second || stored->slot == page->slot ||
	    !swap_get_if_same(swap, stored->slot, checksum))
		return false;
	if (settle_without_write(wb, batch, page, entry_make(settled_state(wb, stored->slot), stored->slot, 0, 0, 0)))
		return true;
	swap_put(swap, stored->slot);
	return false;
}

static void remember_stored(struct writeback *wb, const struct batch_page *page, uint64_t checksum, uint64_t second)
{
	if (!wb->stored)
		wb->stored = calloc(NR_STORED, sizeof(*wb->stored));
	if (wb->stored)
		*stored_place(wb, page->addr, checksum) = (struct stored){page->addr, checksum, second, page->slot};
}

/* Returns true when the page has to be written. */
static bool settle_page(struct writeback *wb, struct batch *batch, uint32_t index)
{
	struct batch_page *page = &batch->pages[index];
	struct swap *swap = wb->pager->swap;
	const uint8_t *content = batch->buffer + index * PAGE_BYTES;
	uint64_t checksum = swap_page_checksum(swap, content);
	bool settled = false;
	swap_set_checksum(swap, page->slot, checksum);
	if (page_is_zero(content)) {
		settled = settle_without_write(wb, batch, page, entry_make(STATE_ZERO, NO_SLOT, 0, 0, 0));
		if (settled)
			stat_add(wb->pager->stats, zero_drops, 1);
	} else if (page->old_slot != NO_SLOT && swap_checksum(swap, page->old_slot) == checksum) {
		settled = settle_without_write(wb, batch, page, entry_make(settled_state(wb, page->old_slot), page->old_slot, 0, 0, 0));
		if (settled) {
			page->old_slot = NO_SLOT; /* the reference is the entry's now */
			stat_add(wb->pager->stats, clean_drops, 1);
		}
	}
	if (!settled && batch->as->shares) {
		uint64_t second = swap_page_second_checksum(swap, content);
		settled = settle_as_twin(wb, batch, page, checksum, second);
		if (settled)
			stat_add(wb->pager->stats, shared_drops, 1);
		else
			remember_stored(wb, page, checksum, second);
	}
	if (page->old_slot != NO_SLOT)
		swap_put(swap, page->old_slot);
	page->old_slot = NO_SLOT;
	return !settled;
}

/*
 * A write failed. The pages of the batch are still in its buffer: those that nobody has taken back yet go to the program at once, over the
 * limit if need be. A page that is gone meanwhile is nobody's loss.
 */
static void put_batch_back(struct writeback *wb, struct batch *batch)
{
	struct address_space *as = batch->as;
	lock_take(&as->layout);
	for (uint32_t i = 0; i < batch->nr_pages; i++) {
		struct batch_page *page = &batch->pages[i];
		shadow_entry_t entry = page->slot != NO_SLOT ? shadow_get(as->shadow, page->addr) : 0;
		if (!entry || entry_slot(entry) != page->slot)
			continue;
		if (entry_state(entry) == STATE_RESIDENT) { /* taken back already; the slot has no content */
			shadow_set(as->shadow, page->addr, (uint32_t)entry);
			swap_put(wb->pager->swap, page->slot);
			continue;
		}
		uint64_t done;
		int r = uffd_copy(as->uffd, page->addr, batch->buffer + i * PAGE_BYTES, PAGE_BYTES, false, &done);
		if (r == -ESRCH)
			break;
		if (r < 0) {
			wb->pager->callbacks.fatal(wb->pager->callbacks.context,
						   "the swap file failed and an evicted page could not be put back");
			break;
		}
		charge_prepare_forced(wb->pager->charge, 1);
		charge_commit(wb->pager->charge, 1);
		shadow_set(as->shadow, page->addr, entry_make(STATE_RESIDENT, NO_SLOT, 0, 0, entry & ENTRY_PINNED));
		swap_put(wb->pager->swap, page->slot);
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
 * The batch is free again. One whose write failed stays as long as other processes share content that exists nowhere else; no more pages are
 * evicted then, so nobody misses it.
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
		wb->pool_leaving--;
		if (!batch->error)
			pool_drop(wb->pager->pool, slot);
	}
	batch->error = 0;
}

static void finish(struct writeback *wb, struct batch *batch)
{
	if (batch->error && !wb->failed)
		log_error("cannot write to swap file %s: %s: no more pages are evicted", swap_path(wb->pager->swap),
			  strerror(-batch->error));
	wb->failed |= batch->error < 0;
	if (!batch->as)
		finish_from_pool(wb, batch);
	else if (batch->error)
		put_batch_back(wb, batch);
	else
		mark_swapped(batch);
	release(wb, batch);
}

/* Writes [first, first + nr) of the batch, whose slots are contiguous. */
static void write_run(struct writeback *wb, struct batch *batch, uint32_t first, uint32_t nr)
{
	while (swap_io_write(wb->io, batch->pages[first].slot, nr, batch->buffer + first * PAGE_BYTES, batch) == -EAGAIN)
		writeback_reap(wb, true);
	batch->writes_pending++;
	stat_add(wb->pager->stats, swap_out, nr);
}

/*
 * Into a full pool some batches still go (and the oldest pages leave for them), so that it does not hold for ever what nobody asks for; most go to the
 * file at once: what comes round again in a loop would only push out what comes round sooner.
 */
static bool goes_to_pool(struct writeback *wb)
{
	struct pager *pager = wb->pager;
	uint64_t target = atomic_load_explicit(&pager->pool_target, memory_order_relaxed);
	if (!target)
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
	stat_add(wb->pager->stats, pool_out, stored);
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

void writeback_settle(struct writeback *wb, struct batch *batch)
{
	lock_take(&batch->as->layout);
	for (uint32_t i = 0; i < batch->nr_pages; i++)
		batch->to_store[i] = batch->pages[i].slot != NO_SLOT && settle_page(wb, batch, i);
	lock_drop(&batch->as->layout);

	lock_take(&wb->lock);
	for (uint32_t i = 0; i < batch->nr_pages; i++)
		if (!batch->to_store[i])
			batch->pages[i].slot = NO_SLOT;
	lock_drop(&wb->lock);
}

void writeback_store(struct writeback *wb, struct batch *batch)
{
	if (goes_to_pool(wb))
		store_in_pool(wb, batch);
	write_batch(wb, batch);
}

/*
 * A batch of what has been in the pool longest. Who else can be there: a fault loads the page from the pool, or from the file when the write is done and
 * the pool has dropped it; a slot that is given up meanwhile is kept from being used anew by the batch's reference, and only this thread
 * takes slots, so what is in use here has the content that the pool says. Returns how many pages.
 */
static uint32_t take_from_pool(struct writeback *wb, struct batch *batch)
{
	struct pager *pager = wb->pager;
	uint32_t found = 0;
	slot_t first;
	uint32_t nr = pool_choose_leaving(pager->pool, BATCH_PAGES, &first);
	for (uint32_t i = 0; i < nr; i++) {
		batch->pages[i] = (struct batch_page){0};
		batch->to_store[i] = swap_get_if_used(pager->swap, first + i);
		if (!batch->to_store[i])
			continue;
		if (pool_load(pager->pool, first + i, batch->buffer + i * PAGE_BYTES)) {
			batch->pages[i].slot = first + i;
			found++;
		} else {
			swap_put(pager->swap, first + i);
			batch->to_store[i] = false;
		}
	}
	lock_take(&wb->lock);
	batch->nr_pages = nr;
	batch->state = BATCH_CAPTURED;
	lock_drop(&wb->lock);
	return found;
}

bool writeback_shrink_pool(struct writeback *wb, uint64_t pages)
{
	struct pool *pool = wb->pager->pool;
	bool begun = false;
	for (;;) {
		uint64_t memory = atomic_load_explicit(pool_memory(pool), memory_order_relaxed), nr = pool_nr_pages(pool);
		if (memory <= pages || nr <= wb->pool_leaving || wb->failed)
			return begun;
		if (memory - memory * wb->pool_leaving / nr <= pages) /* under way */
			return begun;
		struct batch *batch = writeback_take(wb, NULL);
		if (!batch)
			return begun;
		wb->pool_leaving += take_from_pool(wb, batch);
		write_batch(wb, batch);
		begun = true;
	}
}

void writeback_reap(struct writeback *wb, bool wait)
{
	struct swap_completion done[16];
	int n;
	for (uint32_t i = 0; wb->failed && i < wb->nr_batches; i++)
		if (wb->batches[i].is_kept)
			release(wb, &wb->batches[i]);
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

bool writeback_has(struct writeback *wb, slot_t slot)
{
	uint32_t index;
	lock_take(&wb->lock);
	bool found = find_slot(wb, slot, &index);
	lock_drop(&wb->lock);
	return found;
}

bool writeback_has_failed(struct writeback *wb)
{
	return wb->failed;
}
