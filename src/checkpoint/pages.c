#include "checkpoint/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/family.h"
#include "checkpoint/first_pages.h"
#include "container/prefetch.h"
#include "pager/snapshot.h"
#include "platform/pagemap.h"

#define BUFFER_PAGES 256
#define RUNS_AT_ONCE 512

struct pages_writer {
	struct swap *swap;
	uint8_t *buffer; /* BUFFER_PAGES, page aligned */
};

struct pages_writer *pages_writer_new(struct swap *swap)
{
	struct pages_writer *writer = calloc(1, sizeof(*writer));
	void *buffer = NULL;
	if (!writer || posix_memalign(&buffer, PAGE_BYTES, BUFFER_PAGES * PAGE_BYTES)) {
		free(writer);
		return NULL;
	}
	writer->swap = swap;
	writer->buffer = buffer;
	return writer;
}

void pages_writer_free(struct pages_writer *writer)
{
	if (writer)
		free(writer->buffer);
	free(writer);
}

/* One mapping, or one object, being saved. */
struct job {
	struct saved_process *p;
	struct pages_writer *writer;
	struct address_space *as;
	const Image__Mapping *mapping; /* NULL: an object */
	Image__Extent ***extents;      /* where they go */
	size_t *nr_extents;
	int memory; /* /proc/PID/mem, or the object's file */
	int pagemap;
	bool is_tracked; /* every change of the mapping is seen: what has been stored can be remembered */
};

/* Pages of the program's own memory, as opposed to changed ones of a file, whose zeros are not what it would be without them. */
static bool is_anonymous(const struct job *job)
{
	return job->mapping && job->mapping->kind == IMAGE__MAPPING__KIND__ANONYMOUS;
}

static int fail(struct job *job, int code, const char *what)
{
	return checkpoint_fail(&job->p->saving->error, code, "process %d: %s: %s", job->p->pid, what, strerror(-code));
}

static int fail_store(struct job *job, int code)
{
	if (code == -ENOSPC)
		return checkpoint_fail(&job->p->saving->error, code, "the swap file %.200s is full: it has no room for what is still in memory",
				       swap_path(job->writer->swap));
	return fail(job, code, "its pages cannot be written to the swap file");
}

static int add_extent(struct job *job, remote_addr_t start, uint32_t nr_pages, slot_t slot, bool resident)
{
	struct arena *arena = &job->p->saving->arena;
	Image__Extent *last = *job->nr_extents ? (*job->extents)[*job->nr_extents - 1] : NULL;
	job->p->saving->count.pages += nr_pages;
	if (last && last->start + last->nr_pages * PAGE_BYTES == start && last->slot + last->nr_pages == slot && last->resident == resident) {
		last->nr_pages += nr_pages;
		return 0;
	}
	Image__Extent **place = arena_grow(arena, job->extents, *job->nr_extents, sizeof(*place)), *extent = arena_alloc(arena, sizeof(*extent));
	if (!place || !extent)
		return saved_no_memory(job->p->saving);
	image__extent__init(extent);
	extent->start = start;
	extent->nr_pages = nr_pages;
	extent->slot = slot;
	extent->resident = resident;
	*place = extent;
	++*job->nr_extents;
	return 0;
}

const Image__Extent *pages_next_extent(const Image__Mapping *m, remote_addr_t page)
{
	size_t low = 0, high = m->n_extents;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (m->extents[middle]->start + m->extents[middle]->nr_pages * PAGE_BYTES <= page)
			low = middle + 1;
		else
			high = middle;
	}
	return low < m->n_extents ? m->extents[low] : NULL;
}

/* The extent that a page lies in; NULL: none. */
static const Image__Extent *find_extent(const Image__Mapping *m, remote_addr_t page)
{
	const Image__Extent *e = pages_next_extent(m, page);
	return e && e->start <= page ? e : NULL;
}

static const Image__Mapping *find_mapping(const Image__Memory *memory, remote_addr_t page)
{
	size_t low = 0, high = memory->n_mappings;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (memory->mappings[middle]->end <= page)
			low = middle + 1;
		else
			high = middle;
	}
	return low < memory->n_mappings && memory->mappings[low]->start <= page ? memory->mappings[low] : NULL;
}

/* What fork left shared is stored once: the parent, which was saved before, may have the same at the same address. Pinned for it already. */
static slot_t find_in_parent(const struct job *job, remote_addr_t page, uint64_t checksum)
{
	const Image__Process *parent = job->p->parent;
	const Image__Mapping *m = job->mapping && parent && parent->memory ? find_mapping(parent->memory, page) : NULL;
	const Image__Extent *e = m ? find_extent(m, page) : NULL;
	slot_t slot = e ? e->slot + (uint32_t)((page - e->start) / PAGE_BYTES) : NO_SLOT;
	return slot != NO_SLOT && swap_checksum(job->writer->swap, slot) == checksum ? slot : NO_SLOT;
}

/* Writes nr pages of the buffer, from `first` on, which belong to addresses from start on. */
static int store(struct job *job, remote_addr_t start, uint32_t first, uint32_t nr, bool resident)
{
	struct swap *swap = job->writer->swap;
	while (nr) {
		uint8_t *content = job->writer->buffer + first * PAGE_BYTES;
		slot_t slot;
		uint32_t got;
		int r = swap_alloc(swap, nr, &slot, &got);
		if (r < 0)
			return fail_store(job, r);
		for (uint32_t i = 0; i < got; i++)
			swap_set_checksum(swap, slot + i, swap_page_checksum(swap, content + i * PAGE_BYTES));
		r = swap_write(swap, slot, got, content);
		for (uint32_t i = 0; i < got; i++) {
			if (r == 0 && job->is_tracked)
				snapshot_note_stored(job->as, start + (uint64_t)i * PAGE_BYTES, slot + i);
			int pinned = swap_pin_new(swap, slot + i);
			r = r < 0 ? r : pinned;
		}
		if (r < 0)
			return fail_store(job, r);
		r = add_extent(job, start, got, slot, resident);
		if (r < 0)
			return r;
		job->p->saving->count.written += got;
		start += got * PAGE_BYTES;
		first += got;
		nr -= got;
	}
	return 0;
}

/* --- what is out of memory --- */

static int collect_run(const struct stored_run *run, void *context)
{
	struct job *job = context;
	return add_extent(job, run->start, run->nr_pages, run->slot, false);
}

/* Pages that are in the base of a restored container: the checkpoint shall not depend on that. */
static int copy_from_base(struct job *job, const Image__Extent *extent)
{
	int r = 0;
	for (uint32_t done = 0; r == 0 && done < extent->nr_pages;) {
		uint32_t nr = MIN_OF(extent->nr_pages - done, BUFFER_PAGES);
		r = swap_read(job->writer->swap, extent->slot + done, nr, job->writer->buffer);
		r = r < 0 ? fail(job, r, "its pages cannot be read from the checkpoint that it was restored from")
			  : store(job, extent->start + (uint64_t)done * PAGE_BYTES, 0, nr, false);
		done += nr;
	}
	return r;
}

static int pin_extent(struct job *job, const Image__Extent *extent)
{
	if (swap_pin_run(job->writer->swap, extent->slot, extent->nr_pages) < 0)
		return saved_no_memory(job->p->saving);
	return add_extent(job, extent->start, extent->nr_pages, extent->slot, false);
}

static int save_evicted(struct job *job)
{
	int r = snapshot_for_each_out(job->as, job->mapping->start, job->mapping->end, collect_run, job);
	Image__Extent **found = *job->extents;
	size_t nr = *job->nr_extents;
	if (r < 0)
		return r == -EBUSY ? fail(job, r, "a page is on its way to the swap file") : r;
	*job->extents = NULL;
	*job->nr_extents = 0;
	for (size_t i = 0; r == 0 && i < nr; i++) {
		job->p->saving->count.pages -= found[i]->nr_pages; /* they were only collected */
		r = found[i]->slot & SLOT_OF_BASE ? copy_from_base(job, found[i]) : pin_extent(job, found[i]);
	}
	return r;
}

/* --- what is in memory --- */

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && !memcmp(page, page + 1, PAGE_BYTES - 1);
}

/* The slot of an equal copy, pinned: left when the page was last brought in, or the parent's. */
static bool find_equal_copy(struct job *job, remote_addr_t page, uint64_t checksum, slot_t *ret_slot)
{
	struct swap *swap = job->writer->swap;
	slot_t slot = job->as ? snapshot_clean_slot(job->as, page) : NO_SLOT;
	bool is_equal = slot != NO_SLOT && !(slot & SLOT_OF_BASE) && swap_checksum(swap, slot) == checksum && swap_pin(swap, slot) == 0;
	if (slot != NO_SLOT)
		swap_put(swap, slot);
	*ret_slot = is_equal ? slot : find_in_parent(job, page, checksum);
	return *ret_slot != NO_SLOT;
}

/* Pages that are in memory: those that need it are stored, in runs that are as long as possible. */
static int save_pages(struct job *job, remote_addr_t start, uint32_t nr)
{
	bool zeros_are_fresh = !job->mapping || is_anonymous(job);
	uint32_t pending = 0; /* pages before i that are to be stored */
	size_t bytes = nr * PAGE_BYTES;
	ssize_t n = pread(job->memory, job->writer->buffer, bytes, (off_t)start);
	if (n < 0 || (job->mapping && n != (ssize_t)bytes))
		return fail(job, n < 0 ? -errno : -EIO, "its memory cannot be read");
	memset(job->writer->buffer + n, 0, bytes - (size_t)n); /* the file ends inside its last page */
	for (uint32_t i = 0; i <= nr; i++) {
		const uint8_t *content = job->writer->buffer + i * PAGE_BYTES;
		remote_addr_t page = start + (uint64_t)i * PAGE_BYTES;
		slot_t slot = NO_SLOT;
		bool is_fresh = i < nr && zeros_are_fresh && is_zero(content);
		bool is_stored = i < nr && !is_fresh && find_equal_copy(job, page, swap_page_checksum(job->writer->swap, content), &slot);
		if (i < nr && !is_fresh && !is_stored) {
			pending++;
			continue;
		}
		int r = pending ? store(job, page - (uint64_t)pending * PAGE_BYTES, i - pending, pending, true) : 0;
		if (r == 0 && is_stored)
			r = add_extent(job, page, 1, slot, true);
		if (r < 0)
			return r;
		pending = 0;
	}
	return 0;
}

/* What the kernel takes for swapped out is so by the system's own swap, or has left a mark only: where the page table says that the page is out, it knows. */
static int save_swapped(struct job *job, const struct page_run *run)
{
	int r = 0;
	for (remote_addr_t at = run->start; r == 0 && at < run->end; at += PAGE_BYTES)
		if (!job->as || !snapshot_is_out(job->as, at))
			r = save_pages(job, at, 1);
	return r;
}

/* Pages that are read, as many at a time as the buffer holds. */
static int save_range(struct job *job, remote_addr_t start, remote_addr_t end)
{
	int r = 0;
	while (r == 0 && start < end) {
		uint32_t nr = (uint32_t)MIN_OF((end - start) / PAGE_BYTES, BUFFER_PAGES);
		r = save_pages(job, start, nr);
		start += nr * PAGE_BYTES;
	}
	return r;
}

static int save_run(struct job *job, const struct page_run *run)
{
	return run->categories & PAGE_SWAPPED ? save_swapped(job, run) : save_range(job, run->start, run->end);
}

/* Nobody has written here since the pages were protected: what was stored while the process ran is right, where that was done. */
static int save_unwritten(struct job *job, const struct page_run *run)
{
	struct page_run rest = *run;
	int r = 0;
	while (r == 0 && rest.start < run->end) {
		struct stored_run saved = snapshot_next_saved(job->as, rest.start, run->end);
		rest.end = saved.nr_pages ? saved.start : run->end;
		r = rest.start < rest.end ? save_run(job, &rest) : 0;
		rest.start = rest.end + saved.nr_pages * PAGE_BYTES;
		if (r < 0 || saved.slot == NO_SLOT)
			continue;
		if (swap_pin_run(job->writer->swap, saved.slot, saved.nr_pages) < 0)
			return saved_no_memory(job->p->saving);
		r = add_extent(job, saved.start, saved.nr_pages, saved.slot, true);
	}
	return r;
}

/*
 * Pages of the process's own, also those that the system has swapped out. Pages of files, and the kernel's page of zeros, are not. Holes are not visited, however many
 * there are. is_watched: what is not WRITTEN may be known already (elsewhere the kernel calls everything WRITTEN, or nothing).
 */
static int save_resident(struct job *job, bool is_watched)
{
	struct pagemap_query query = {.start = job->mapping->start,
				      .end = job->mapping->end,
				      .forbid = is_anonymous(job) ? PAGE_ZERO : PAGE_FILE | PAGE_ZERO, /* what is a file's is seen in the page itself, which takes long */
				      .any = PAGE_PRESENT | PAGE_SWAPPED,
				      .report = PAGE_PRESENT | PAGE_SWAPPED | (is_watched ? PAGE_WRITTEN : 0)};
	struct page_run runs[RUNS_AT_ONCE];
	int r = 0;
	for (uint64_t walked; r == 0 && query.start < query.end; query.start = walked) {
		int nr = pagemap_scan(job->pagemap, &query, runs, RUNS_AT_ONCE, &walked);
		if (nr < 0)
			return fail(job, nr, "its page tables cannot be read");
		for (int i = 0; r == 0 && i < nr; i++)
			r = is_watched && !(runs[i].categories & PAGE_WRITTEN) ? save_unwritten(job, &runs[i]) : save_run(job, &runs[i]);
	}
	return r;
}

static int compare_extents(const void *a, const void *b)
{
	const Image__Extent *const *x = a, *const *y = b;
	return (*x)->start < (*y)->start ? -1 : (*x)->start > (*y)->start;
}

static int save_mapping(struct job *job)
{
	job->is_tracked = job->as && is_anonymous(job) && snapshot_is_registered(job->as, job->mapping->start, job->mapping->end);
	int r = job->as && is_anonymous(job) ? save_evicted(job) : 0;
	if (r == 0)
		r = save_resident(job, job->is_tracked);
	if (r == 0 && *job->nr_extents)
		qsort(*job->extents, *job->nr_extents, sizeof(**job->extents), compare_extents);
	return r;
}

static int open_memory(pid_t pid, int flags)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int pages_save(struct saved_process *p, struct address_space *as)
{
	struct job job = {.p = p, .writer = p->saving->writer, .as = as, .memory = open_memory(p->pid, O_RDONLY)};
	_cleanup_close_ int memory = job.memory;
	_cleanup_close_ int pagemap = job.pagemap = pagemap_open(p->pid);
	int r = memory < 0 ? memory : MIN_OF(pagemap, 0);
	if (r < 0)
		return fail(&job, r, "its memory cannot be looked at");
	if (as && !snapshot_is_settled(as))
		return fail(&job, -EBUSY, "its layout was just changing");
	for (size_t i = 0; r == 0 && i < p->message->memory->n_mappings; i++) {
		Image__Mapping *m = p->message->memory->mappings[i];
		job.mapping = m;
		job.extents = &m->extents;
		job.nr_extents = &m->n_extents;
		if (job.mapping->flags & MAP_PRIVATE && job.mapping->kind != IMAGE__MAPPING__KIND__KERNEL)
			r = save_mapping(&job);
	}
	return r;
}

int pages_save_file(struct saved_process *p, Image__Object *object, int fd, uint64_t from, uint64_t to)
{
	struct job job = {.p = p, .writer = p->saving->writer, .memory = fd, .extents = &object->extents, .nr_extents = &object->n_extents};
	return save_range(&job, page_floor(from), page_ceil(to));
}

/* --- restore --- */

int pages_open_memory(pid_t pid)
{
	return open_memory(pid, O_RDWR);
}

int pages_fail_restore(struct restored_process *p, remote_addr_t page, int code)
{
	if (code == -EBADMSG)
		return checkpoint_fail(&p->restoring->error, code, "the checkpoint's file %.200s is damaged: page %llx of process %d", p->restoring->image->pages_path,
				       (unsigned long long)page, p->pid);
	return checkpoint_fail(&p->restoring->error, code, "process %d: page %llx: %s", p->pid, (unsigned long long)page, strerror(-code));
}

static int put_page(struct restored_process *p, int memory, remote_addr_t page, uint32_t slot)
{
	uint8_t content[PAGE_BYTES];
	int r = image_read_page(p->restoring->image, slot, content);
	if (r == 0 && pwrite(memory, content, sizeof(content), (off_t)page) != (ssize_t)sizeof(content))
		r = -errno;
	return r < 0 ? pages_fail_restore(p, page, r) : 0;
}

static int restore_extent_now(struct restored_process *p, int memory, const Image__Extent *extent, bool all)
{
	struct first_pages first;
	int r = 0;
	first_pages_find(p->message, extent, &first);
	for (uint32_t i = 0; r == 0 && (all || first.nr) && i < extent->nr_pages; i++) {
		remote_addr_t page = extent->start + (uint64_t)i * PAGE_BYTES;
		if (all || first_pages_have(&first, page))
			r = put_page(p, memory, page, extent->slot + i);
	}
	return r;
}

int pages_restore_now(struct restored_process *p)
{
	_cleanup_close_ int memory = pages_open_memory(p->pid);
	int r = memory < 0 ? pages_fail_restore(p, 0, memory) : 0;
	for (size_t i = 0; r == 0 && i < p->message->memory->n_mappings; i++) {
		const Image__Mapping *m = p->message->memory->mappings[i];
		for (size_t k = 0; r == 0 && k < m->n_extents; k++)
			r = restore_extent_now(p, memory, m->extents[k], !pages_come_as_faults(m));
	}
	return r;
}

/* Pages of an extent that are to come as faults, but for those that are there. */
static int place_range(struct address_space *as, const struct first_pages *first_pages, const Image__Extent *extent, remote_addr_t from, remote_addr_t to)
{
	uint32_t first = (uint32_t)((from - extent->start) / PAGE_BYTES), nr = (uint32_t)((to - extent->start) / PAGE_BYTES);
	struct stored_run run = {.start = from, .slot = (extent->slot + first) | SLOT_OF_BASE};
	int r = 0;
	for (uint32_t i = first; r == 0 && i <= nr; i++) {
		remote_addr_t page = extent->start + (uint64_t)i * PAGE_BYTES;
		if (i < nr && !first_pages_have(first_pages, page)) {
			run.nr_pages++;
			continue;
		}
		if (run.nr_pages)
			r = snapshot_place(as, &run);
		run = (struct stored_run){.start = page + PAGE_BYTES, .slot = (extent->slot + i + 1) | SLOT_OF_BASE};
	}
	return r;
}

/* family: NULL when nothing of the mapping was inherited. */
static int place_extent(struct restored_process *p, struct address_space *as, const struct family *family, const Image__Mapping *m, const Image__Extent *extent)
{
	remote_addr_t at = extent->start, end = extent->start + extent->nr_pages * PAGE_BYTES;
	struct first_pages first;
	struct family_piece piece = {.end = at};
	int r = 0;
	first_pages_find(p->message, extent, &first);
	while (r == 0 && family_next_piece(family, m, piece.end, &piece) && piece.start < end) {
		piece.end = MIN_OF(piece.end, end);
		if (!piece.is_own)
			continue;
		r = place_range(as, &first, extent, at, piece.start);
		if (r == 0)
			r = snapshot_place_present(as, &(struct stored_run){.start = piece.start,
									    .nr_pages = (uint32_t)((piece.end - piece.start) / PAGE_BYTES),
									    .slot = (extent->slot + (uint32_t)((piece.start - extent->start) / PAGE_BYTES)) | SLOT_OF_BASE});
		at = piece.end;
	}
	return r == 0 ? place_range(as, &first, extent, at, end) : r;
}

int pages_place(struct restored_process *p, struct address_space *as, struct prefetch *prefetch)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < p->message->memory->n_mappings; i++) {
		const Image__Mapping *m = p->message->memory->mappings[i];
		if (!pages_come_as_faults(m) || !m->n_extents)
			continue;
		const struct family *family = p->has_inherited && family_has_mapping(p->restoring->family, m) ? p->restoring->family : NULL;
		r = snapshot_register(as, m->start, m->end);
		for (size_t k = 0; r == 0 && k < m->n_extents; k++) {
			r = place_extent(p, as, family, m, m->extents[k]);
			if (r == 0 && prefetch && m->extents[k]->resident)
				prefetch_add(prefetch, as, m->extents[k]->start, m->extents[k]->nr_pages);
		}
	}
	return r < 0 ? pages_fail_restore(p, 0, r) : 0;
}
