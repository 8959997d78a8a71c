#include "pager/writeback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pager/writeback_internal.h"

#define NR_STORED 4096 /* the processes that share a page lose it within a few batches */

int writeback_new(struct pager *pager, uint32_t nr_batches, struct writeback **ret_wb)
{
	struct writeback *wb = calloc(1, sizeof(*wb));
	if (!wb)
		return -ENOMEM;
	wb->pager = pager;
	wb->queue_end = &wb->queue;
	lock_init(&wb->lock, LOCK_WRITEBACK);
	pthread_cond_init(&wb->changed, NULL);
	wb->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	wb->batches = calloc(nr_batches, sizeof(*wb->batches));
	int r = wb->event < 0 ? -errno : wb->batches ? 0 : -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < nr_batches; i++) {
		void *buffer = mmap(NULL, BATCH_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (buffer == MAP_FAILED)
			r = -errno;
		else
			wb->batches[wb->nr_batches++].buffer = buffer;
	}
	if (r == 0)
		r = store_thread_start(wb);
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
	store_thread_stop(wb);
	for (uint32_t i = 0; i < wb->nr_batches; i++) {
		if (wb->batches[i].as) /* kept after a failed write */
			address_space_put(wb->batches[i].as);
		munmap(wb->batches[i].buffer, BATCH_PAGES * PAGE_BYTES);
	}
	if (wb->event >= 0)
		close(wb->event);
	pthread_cond_destroy(&wb->changed);
	lock_destroy(&wb->lock);
	free(wb->stored);
	free(wb->batches);
	free(wb);
}

/* Lock held. */
static struct batch *take_locked(struct writeback *wb, struct address_space *as)
{
	for (uint32_t i = 0; i < wb->nr_batches; i++) {
		struct batch *batch = &wb->batches[i];
		if (batch->state != BATCH_FREE)
			continue;
		batch->as = as ? address_space_get(as) : NULL;
		batch->nr_pages = 0;
		batch->error = 0;
		batch->state = BATCH_MOVING;
		return batch;
	}
	return NULL;
}

struct batch *writeback_try_take(struct writeback *wb, struct address_space *as)
{
	lock_take(&wb->lock);
	struct batch *batch = take_locked(wb, as);
	lock_drop(&wb->lock);
	return batch;
}

struct batch *writeback_take(struct writeback *wb, struct address_space *as)
{
	struct batch *batch = NULL;
	lock_take(&wb->lock);
	while (!wb->failed && !(batch = take_locked(wb, as)))
		pthread_cond_wait(&wb->changed, &wb->lock.mutex);
	lock_drop(&wb->lock);
	return batch;
}

void writeback_return(struct writeback *wb, struct batch *batch)
{
	struct address_space *as = batch->as;
	lock_take(&wb->lock);
	batch->as = NULL;
	batch->state = BATCH_FREE;
	batch->nr_pages = 0;
	pthread_cond_broadcast(&wb->changed);
	lock_drop(&wb->lock);
	if (as)
		address_space_put(as);
}

void writeback_moved(struct writeback *wb, struct batch *batch, uint32_t nr_pages)
{
	lock_take(&wb->lock);
	batch->nr_pages = nr_pages;
	lock_drop(&wb->lock);
}

void writeback_captured(struct writeback *wb, struct batch *batch)
{
	lock_take(&wb->lock);
	batch->state = BATCH_CAPTURED;
	lock_drop(&wb->lock);
}

/* The batch that has the slot and its place there, or NULL. Write-back lock held. */
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
	if (found == 1 && batch->pages[index].is_encrypted)
		swap_apply_cipher(wb->pager->swap, slot, page);
	lock_drop(&wb->lock);
	return found;
}

bool writeback_has(struct writeback *wb, slot_t slot)
{
	uint32_t index;
	lock_take(&wb->lock);
	bool found = find_slot(wb, slot, &index);
	lock_drop(&wb->lock);
	return found;
}

bool writeback_pool_has_room(const struct writeback *wb)
{
	const struct pager *pager = wb->pager;
	return pager->pool && atomic_load_explicit(pool_memory(pager->pool), memory_order_relaxed) <
				      atomic_load_explicit(&pager->pool_target, memory_order_relaxed);
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
static enum page_state settled_state(struct writeback *wb, slot_t old_slot)
{
	return writeback_has(wb, old_slot) ? STATE_STAGED : STATE_SWAPPED;
}

void writeback_look_at(struct writeback *wb, struct batch *batch, uint32_t first, uint32_t nr)
{
	for (uint32_t i = first; i < first + nr; i++) {
		const uint8_t *content = batch->buffer + i * PAGE_BYTES;
		batch->pages[i].is_zero = page_is_zero(content);
		swap_set_checksum(wb->pager->swap, batch->pages[i].slot, swap_page_checksum(wb->pager->swap, content));
	}
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

/*
 * A page that random access has read from the file gets a place in the pool while that has room: the next time it costs no read. Until the copy is there
 * a fault reads the file. Not one of a base: what leaves the pool is written, and a base is read only. The batch takes a reference of its own on the slot, which becomes its page's under the write-back lock.
 */
static bool settle_for_cache(struct writeback *wb, struct batch_page *page, enum page_state state)
{
	page->to_cache &= state == STATE_SWAPPED && !(page->old_slot & SLOT_OF_BASE) && writeback_pool_has_room(wb);
	if (page->to_cache)
		swap_get(wb->pager->swap, page->old_slot);
	return page->to_cache;
}

/* Returns true when the page has to be written. */
static bool settle_page(struct writeback *wb, struct batch *batch, uint32_t index)
{
	struct batch_page *page = &batch->pages[index];
	struct swap *swap = wb->pager->swap;
	const uint8_t *content = batch->buffer + index * PAGE_BYTES;
	uint64_t checksum = swap_checksum(swap, page->slot);
	bool settled = false;
	if (page->is_zero) {
		settled = settle_without_write(wb, batch, page, entry_make(STATE_ZERO, NO_SLOT, 0, 0, 0));
		if (settled)
			stat_add(wb->pager->stats, zero_drops, 1);
	} else if (page->old_slot != NO_SLOT && swap_checksum(swap, page->old_slot) == checksum) {
		enum page_state state = settled_state(wb, page->old_slot);
		settled = settle_without_write(wb, batch, page, entry_make(state, page->old_slot, 0, 0, 0));
		if (settled) {
			stat_add(wb->pager->stats, clean_drops, 1);
			if (settle_for_cache(wb, page, state))
				return false;
			page->old_slot = NO_SLOT; /* the reference is the entry's now */
		}
	}
	page->to_cache = false;
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

void writeback_settle(struct writeback *wb, struct batch *batch)
{
	lock_take(&batch->as->layout);
	for (uint32_t i = 0; i < batch->nr_pages; i++)
		batch->to_store[i] = batch->pages[i].slot != NO_SLOT && settle_page(wb, batch, i);
	lock_drop(&batch->as->layout);

	lock_take(&wb->lock);
	for (uint32_t i = 0; i < batch->nr_pages; i++)
		if (!batch->to_store[i])
			batch->pages[i].slot = batch->pages[i].to_cache ? batch->pages[i].old_slot : NO_SLOT;
	lock_drop(&wb->lock);
}

void writeback_store(struct writeback *wb, struct batch *batch)
{
	lock_take(&wb->lock);
	batch->next_queued = NULL;
	batch->nr_unstored = 0;
	for (uint32_t i = 0; i < batch->nr_pages; i++)
		batch->nr_unstored += batch->to_store[i];
	wb->nr_unstored += batch->nr_unstored;
	*wb->queue_end = batch;
	wb->queue_end = &batch->next_queued;
	store_thread_ask(wb);
	lock_drop(&wb->lock);
}

const _Atomic uint64_t *writeback_pages(const struct writeback *wb)
{
	return &wb->nr_unstored;
}

void writeback_wake(struct writeback *wb)
{
	lock_take(&wb->lock);
	store_thread_ask(wb);
	lock_drop(&wb->lock);
}

void writeback_drain(struct writeback *wb)
{
	lock_take(&wb->lock);
	store_thread_ask(wb);
	for (uint64_t request = wb->requests; wb->answered < request;)
		pthread_cond_wait(&wb->changed, &wb->lock.mutex);
	lock_drop(&wb->lock);
}

bool writeback_has_failed(struct writeback *wb)
{
	return wb->failed;
}
