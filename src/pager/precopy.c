#include "pager/precopy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "pager/events.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/userfaultfd.h"

#define RUNS 256
#define PROTECT_PAGES 4096 /* in one hold of the layout lock */
#define LOOK_PAGES 4096

/* One chunk of a copy. */
struct chunk {
	struct precopy_walk *walk;
	uint8_t *buffer;
	uint32_t layout_changes;
	uint32_t nr;
	struct chunk_page {
		remote_addr_t addr;
		slot_t slot;      /* has its content; with a reference. NO_SLOT: not yet, or none is needed */
		slot_t old_slot;  /* what its entry named before, with a reference */
		uint64_t checksum;
		bool is_read, is_zero, is_shared;
		uint32_t at;      /* in the buffer */
	} pages[PRECOPY_PAGES];
};

static void forget_saved(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	if (entry & (ENTRY_SAVED | ENTRY_ZEROS))
		shadow_set(shadow, addr, entry & ~(ENTRY_SAVED | ENTRY_ZEROS));
}

void precopy_not_saved(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	if (as->has_saved)
		shadow_for_each(as->shadow, start, end, forget_saved, NULL);
}

/* --- walks --- */

/* The agent has the same memory and is ours: while it lives its number is nobody else's. */
static int open_memory(const struct agent *agent)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/%d/mem", agent->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && pidfd_has_exited(agent->pidfd)) {
		close(fd);
		return -ESRCH;
	}
	return fd < 0 ? -errno : fd;
}

static bool is_reachable(const struct address_space *as)
{
	return as->agent && as->pagemap >= 0 && !atomic_load(&as->dead) && !atomic_load(&as->leaves);
}

int precopy_walk_begin(struct precopy_walk *walk, struct address_space *as)
{
	*walk = (struct precopy_walk){.as = as, .memory = -1};
	lock_take(&as->agent_lock);
	int r = is_reachable(as) ? open_memory(as->agent) : -ESRCH;
	lock_drop(&as->agent_lock);
	walk->memory = r;
	return MIN_OF(r, 0);
}

void precopy_walk_end(struct precopy_walk *walk)
{
	if (walk->memory >= 0)
		close(walk->memory);
	walk->memory = -1;
}

/* Both locks held after 1. 0: the memory is gone; -EAGAIN: an event is unread. */
static int enter(struct address_space *as)
{
	lock_take(&as->agent_lock);
	if (!is_reachable(as)) {
		lock_drop(&as->agent_lock);
		return 0;
	}
	address_space_lock(as);
	if (events_settle(as) && !uffd_event_pending(as->uffd))
		return 1;
	lock_drop(&as->layout);
	lock_drop(&as->agent_lock);
	return -EAGAIN;
}

static void leave(struct address_space *as)
{
	lock_drop(&as->layout);
	lock_drop(&as->agent_lock);
}

/* --- protect --- */

static int protect(struct precopy_walk *walk, uint64_t *dirty)
{
	struct page_run runs[RUNS];
	struct address_space *as = walk->as;
	struct pagemap_query query = {.start = walk->at,
				      .end = ADDRESS_END,
				      .require = PAGE_PRESENT | PAGE_WP_ALLOWED | PAGE_WRITTEN,
				      .forbid = PAGE_FILE | PAGE_ZERO,
				      .report = PAGE_PRESENT,
				      .max_pages = PROTECT_PAGES,
				      .write_protect = true};
	int n = pagemap_scan(as->pagemap, &query, runs, RUNS, &walk->at);
	if (n < 0) { /* some may be protected */
		precopy_not_saved(as, query.start, ADDRESS_END);
		return 0;
	}
	for (int i = 0; i < n; i++) {
		precopy_not_saved(as, runs[i].start, runs[i].end);
		*dirty += (runs[i].end - runs[i].start) / PAGE_BYTES;
	}
	return walk->at < ADDRESS_END;
}

int precopy_protect(struct precopy_walk *walk, uint64_t *dirty)
{
	int r = enter(walk->as);
	if (r <= 0)
		return r;
	r = protect(walk, dirty);
	leave(walk->as);
	return r;
}

/* --- copy --- */

static bool is_ours(const struct address_space *as, remote_addr_t page)
{
	return page - as->agent->base < as->agent->size || page == as->sentinel;
}

/* The page goes into the chunk. Its entry is SAVED from now on, and names no slot until copy_end gives it one. */
static void take_page(struct chunk *chunk, remote_addr_t page)
{
	struct address_space *as = chunk->walk->as;
	shadow_entry_t entry = shadow_get(as->shadow, page);
	if (entry_is_saved(entry) || entry_is_evicted(entry) || entry & (ENTRY_REMOVED | ENTRY_LOADING | ENTRY_UNKNOWN) || is_ours(as, page))
		return;
	uint64_t flags = (entry & (ENTRY_PINNED | ENTRY_ALONE)) | ENTRY_ARMED | ENTRY_SAVED;
	if (!shadow_set(as->shadow, page, entry_make(STATE_RESIDENT, NO_SLOT, entry_age(entry), entry_epoch(entry), flags)))
		return;
	chunk->pages[chunk->nr++] = (struct chunk_page){.addr = page, .old_slot = entry_slot(entry)};
}

/* Layout lock held: pages that are protected and whose content is in no slot. 1: there may be more. */
static int choose(struct chunk *chunk)
{
	struct page_run runs[RUNS];
	struct precopy_walk *walk = chunk->walk;
	struct address_space *as = walk->as;
	struct pagemap_query query = {.start = walk->at,
				      .end = ADDRESS_END,
				      .require = PAGE_PRESENT | PAGE_WP_ALLOWED,
				      .forbid = PAGE_FILE | PAGE_ZERO | PAGE_WRITTEN,
				      .report = PAGE_PRESENT,
				      .max_pages = LOOK_PAGES};
	int n = pagemap_scan(as->pagemap, &query, runs, RUNS, &walk->at);
	as->has_saved = true;
	chunk->layout_changes = as->layout_changes;
	for (int i = 0; i < n; i++) {
		for (remote_addr_t page = runs[i].start; page < runs[i].end; page += PAGE_BYTES) {
			if (chunk->nr == PRECOPY_PAGES) {
				walk->at = page;
				return 1;
			}
			take_page(chunk, page);
		}
	}
	return n >= 0 && walk->at < ADDRESS_END;
}

static void mark_shared(struct chunk *chunk)
{
	struct address_space *as = chunk->walk->as;
	bool shared[PRECOPY_PAGES];
	for (uint32_t i = 0, nr; chunk->walk->nr_earlier && i < chunk->nr; i += nr) {
		for (nr = 1; i + nr < chunk->nr && chunk->pages[i + nr].addr == chunk->pages[i].addr + nr * PAGE_BYTES;)
			nr++;
		bool is_known = pagemap_find_shared(as->pagemap, chunk->pages[i].addr, nr, shared) == 0;
		for (uint32_t k = 0; k < nr; k++)
			chunk->pages[i + k].is_shared = is_known && shared[k];
	}
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && !memcmp(page, page + 1, PAGE_BYTES - 1);
}

/* A page that has gone meanwhile is missing for us (EIO), never zeros; what lies behind it is left for another round. */
static void read_pages(struct chunk *chunk)
{
	struct swap *swap = chunk->walk->as->pager->swap;
	for (uint32_t i = 0, nr; i < chunk->nr; i += nr) {
		for (nr = 1; i + nr < chunk->nr && chunk->pages[i + nr].addr == chunk->pages[i].addr + nr * PAGE_BYTES;)
			nr++;
		ssize_t bytes = pread(chunk->walk->memory, chunk->buffer + i * PAGE_BYTES, nr * PAGE_BYTES, (off_t)chunk->pages[i].addr);
		for (uint32_t k = i; k < i + nr; k++) {
			struct chunk_page *page = &chunk->pages[k];
			const uint8_t *content = chunk->buffer + k * PAGE_BYTES;
			page->at = k;
			page->is_read = (ssize_t)((k - i + 1) * PAGE_BYTES) <= bytes;
			page->is_zero = page->is_read && is_zero(content);
			page->checksum = page->is_read ? swap_page_checksum(swap, content) : 0;
		}
	}
}

/* The slot that the page was read from once may have its content still. */
static void settle_unchanged(struct chunk *chunk)
{
	struct swap *swap = chunk->walk->as->pager->swap;
	for (uint32_t i = 0; i < chunk->nr; i++) {
		struct chunk_page *page = &chunk->pages[i];
		bool is_own = page->old_slot != NO_SLOT && !(page->old_slot & SLOT_OF_BASE);
		if (is_own && page->is_read && !page->is_zero && swap_checksum(swap, page->old_slot) == page->checksum)
			page->slot = page->old_slot;
		else if (page->old_slot != NO_SLOT)
			swap_put(swap, page->old_slot);
		page->old_slot = NO_SLOT;
	}
}

/* What fork left shared has the same content at the same address, in a slot of the process that was copied first. */
static void settle_shared(struct chunk *chunk, struct address_space *earlier)
{
	struct swap *swap = earlier->pager->swap;
	lock_take(&earlier->layout);
	for (uint32_t i = 0; i < chunk->nr; i++) {
		struct chunk_page *page = &chunk->pages[i];
		if (!page->is_shared || !page->is_read || page->is_zero || page->slot != NO_SLOT)
			continue;
		slot_t slot = entry_slot(shadow_get(earlier->shadow, page->addr));
		if (slot != NO_SLOT && !(slot & SLOT_OF_BASE) && swap_get_if_same(swap, slot, page->checksum))
			page->slot = slot;
	}
	lock_drop(&earlier->layout);
}

/* Pages of the chunk that no slot has, brought together at the beginning of the buffer. */
static uint32_t gather(struct chunk *chunk, struct chunk_page *ret_pages[PRECOPY_PAGES])
{
	uint32_t nr = 0;
	for (uint32_t i = 0; i < chunk->nr; i++) {
		struct chunk_page *page = &chunk->pages[i];
		if (!page->is_read || page->is_zero || page->slot != NO_SLOT)
			continue;
		if (page->at != nr)
			memcpy(chunk->buffer + nr * PAGE_BYTES, chunk->buffer + page->at * PAGE_BYTES, PAGE_BYTES);
		ret_pages[nr++] = page;
	}
	return nr;
}

static int write_pages(struct chunk *chunk, uint64_t *written)
{
	struct swap *swap = chunk->walk->as->pager->swap;
	struct chunk_page *pages[PRECOPY_PAGES];
	uint32_t nr = gather(chunk, pages), got;
	int r = 0;
	for (uint32_t done = 0; r == 0 && done < nr; done += got) {
		slot_t first;
		r = swap_alloc(swap, nr - done, &first, &got);
		if (r < 0)
			break;
		for (uint32_t i = 0; i < got; i++) {
			pages[done + i]->slot = first + i;
			swap_set_checksum(swap, first + i, pages[done + i]->checksum);
		}
		r = swap_write(swap, first, got, chunk->buffer + done * PAGE_BYTES);
		*written += got;
		for (uint32_t i = 0; r < 0 && i < got; i++) { /* nobody is to take it for the content */
			swap_put(swap, first + i);
			pages[done + i]->slot = NO_SLOT;
		}
	}
	return r;
}

/*
 * Each page gets its slot if its entry is the one that was chosen. Who else can have been there since: fault threads, which fill missing pages and make their entries anew;
 * events, which may have moved another page, chosen like this one, to this address. An event that has not been read may even have changed what was read here while the
 * table does not show it yet. The kernel raises the mark of a pending event before it changes the layout, so with no mark now and no event applied since
 * the choice the layout has been the same all the time.
 */
static void copy_end(struct chunk *chunk)
{
	struct address_space *as = chunk->walk->as;
	struct swap *swap = as->pager->swap;
	address_space_lock(as);
	bool is_same = events_settle(as) && !uffd_event_pending(as->uffd) && as->layout_changes == chunk->layout_changes;
	for (uint32_t i = 0; i < chunk->nr; i++) {
		const struct chunk_page *page = &chunk->pages[i];
		shadow_entry_t entry = shadow_get(as->shadow, page->addr);
		bool is_there = is_same && entry_state(entry) == STATE_RESIDENT && entry & ENTRY_SAVED && !entry_is_saved(entry);
		if (is_there && page->is_zero)
			shadow_set(as->shadow, page->addr, entry | ENTRY_ZEROS);
		else if (is_there && page->slot != NO_SLOT)
			shadow_set(as->shadow, page->addr, entry | (uint64_t)page->slot << ENTRY_SLOT_SHIFT);
		else if (page->slot != NO_SLOT)
			swap_put(swap, page->slot);
	}
	lock_drop(&as->layout);
}

int precopy_copy(struct precopy_walk *walk, uint8_t *buffer, uint64_t *written)
{
	static _Thread_local struct chunk chunk;
	chunk = (struct chunk){.walk = walk, .buffer = buffer};
	int more = enter(walk->as);
	if (more <= 0)
		return more;
	more = choose(&chunk);
	mark_shared(&chunk);
	leave(walk->as);
	if (!chunk.nr)
		return more;
	read_pages(&chunk);
	settle_unchanged(&chunk);
	for (uint32_t i = 0; i < walk->nr_earlier; i++)
		settle_shared(&chunk, walk->earlier[i]);
	int r = write_pages(&chunk, written);
	copy_end(&chunk);
	return r < 0 ? r : more;
}
