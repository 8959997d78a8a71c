#include "checkpoint/family.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/cleanup.h"
#include "checkpoint/first_pages.h"
#include "checkpoint/pages.h"

#define BUFFER_PAGES 256u
#define AHEAD_PAGES 2048u /* a multiple of it */
#define MAX_DROPS 1024 /* stretches to be dropped, a system call each: a mapping with more is made afresh, and its pages come as faults */

/* Pages whose slots follow each other. */
struct run {
	remote_addr_t start, end;
	uint64_t delta; /* number of the page less its slot: runs of the same content at the same place have the same */
};

struct area {
	remote_addr_t start, end;
	uint32_t flags;
};

struct family {
	struct arena arena;
	struct run *runs; /* in address order, as the areas; they do not overlap, and each lies in one area */
	size_t nr_runs;
	struct area *areas;
	size_t nr_areas;
	const uint64_t *checksums; /* see family_new */
	bool has_failed; /* for want of memory */
};

static uint64_t delta_of(const Image__Extent *e)
{
	return (e->start >> PAGE_SHIFT) - e->slot;
}

static remote_addr_t end_of(const Image__Extent *e)
{
	return e->start + e->nr_pages * PAGE_BYTES;
}

static void add_run(struct family *f, struct run **runs, size_t *nr, struct run run)
{
	struct run *place = arena_grow(&f->arena, runs, *nr, sizeof(*place));
	f->has_failed |= !place;
	if (!place)
		return;
	*place = run;
	++*nr;
}

/* --- what is shared --- */

static const Image__Process *parent_of(const Image__Image *image, const Image__Process *p)
{
	for (size_t i = 0; p->parent && i < image->n_processes; i++)
		if (image->processes[i]->pid == p->parent)
			return image->processes[i];
	return NULL;
}

/* Made by cloning the first process, or its clones. The depth is bounded: a description may be anything. */
static bool is_of_family(const Image__Image *image, const Image__Process *p)
{
	for (size_t depth = 0; p && p != image->processes[0] && depth < image->n_processes; depth++)
		p = parent_of(image, p);
	return p == image->processes[0];
}

static bool may_be_shared(const Image__Mapping *m)
{
	return pages_come_as_faults(m) && !(m->flags & MAP_GROWSDOWN);
}

/* Of an extent what is there. */
static void collect_extent(struct family *f, const Image__Extent *e, struct run **runs, size_t *nr)
{
	uint32_t first = 0;
	for (uint32_t i = 0; i <= e->nr_pages; i++) {
		if (i < e->nr_pages && (!f->checksums || f->checksums[e->slot + i]))
			continue;
		if (first < i)
			add_run(f, runs, nr, (struct run){e->start + (uint64_t)first * PAGE_BYTES, e->start + (uint64_t)i * PAGE_BYTES, delta_of(e)});
		first = i + 1;
	}
}

static void collect(struct family *f, const Image__Process *p, struct run **runs, size_t *nr)
{
	for (size_t i = 0; p->memory && i < p->memory->n_mappings; i++) {
		const Image__Mapping *m = p->memory->mappings[i];
		for (size_t k = 0; may_be_shared(m) && k < m->n_extents; k++)
			if (m->extents[k]->resident)
				collect_extent(f, m->extents[k], runs, nr);
	}
}

static int compare_content(const void *a, const void *b)
{
	const struct run *x = a, *y = b;
	if (x->delta != y->delta)
		return x->delta < y->delta ? -1 : 1;
	return x->start < y->start ? -1 : x->start > y->start;
}

static int compare_places(const void *a, const void *b)
{
	const struct run *x = a, *y = b;
	return x->start < y->start ? -1 : x->start > y->start;
}

/* Where runs of the same content lie over each other they are of several processes: one process has a page once. */
static void find_overlaps(struct family *f, struct run *all, size_t nr, struct run **ret, size_t *ret_nr)
{
	remote_addr_t reach = 0, done = 0;
	qsort(all, nr, sizeof(*all), compare_content);
	for (size_t i = 0; i < nr; i++) {
		if (i == 0 || all[i].delta != all[i - 1].delta)
			reach = done = 0;
		remote_addr_t start = MAX_OF(all[i].start, done), end = MIN_OF(all[i].end, reach);
		if (start < end) {
			add_run(f, ret, ret_nr, (struct run){start, end, all[i].delta});
			done = end;
		}
		reach = MAX_OF(reach, all[i].end);
	}
}

/* Two families may have different pages at the same address: the first comes. */
static void make_disjoint(struct run *runs, size_t *nr, uint64_t room)
{
	remote_addr_t reach = 0;
	size_t kept = 0;
	for (size_t i = 0; i < *nr && room; i++) {
		struct run run = runs[i];
		run.start = MAX_OF(run.start, reach);
		run.end = MIN_OF(run.end, run.start + room * PAGE_BYTES);
		if (run.start >= run.end)
			continue;
		room -= (run.end - run.start) / PAGE_BYTES;
		reach = run.end;
		runs[kept++] = run;
	}
	*nr = kept;
}

/* The first run that ends behind the address; nr_runs: none. */
static size_t find_run(const struct family *f, remote_addr_t from)
{
	size_t low = 0, high = f->nr_runs;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (f->runs[middle].end <= from)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool has_runs(const struct family *f, remote_addr_t start, remote_addr_t end)
{
	size_t i = find_run(f, start);
	return i < f->nr_runs && f->runs[i].start < end;
}

/* --- where it lies --- */

static void collect_areas(struct family *f, const Image__Process *p)
{
	for (size_t i = 0; p->memory && i < p->memory->n_mappings; i++) {
		const Image__Mapping *m = p->memory->mappings[i];
		if (!may_be_shared(m) || !has_runs(f, m->start, m->end))
			continue;
		struct area *place = arena_grow(&f->arena, &f->areas, f->nr_areas, sizeof(*place));
		f->has_failed |= !place;
		if (place) {
			*place = (struct area){m->start, m->end, m->flags};
			f->nr_areas++;
		}
	}
}

static int compare_areas(const void *a, const void *b)
{
	const struct area *x = a, *y = b;
	return x->start < y->start ? -1 : x->start > y->start;
}

/* Those that only touch stay apart, as in the processes: they may be different mappings. */
static void merge_areas(struct family *f)
{
	size_t kept = 0;
	if (f->nr_areas)
		qsort(f->areas, f->nr_areas, sizeof(*f->areas), compare_areas);
	for (size_t i = 0; i < f->nr_areas; i++) {
		struct area *last = kept ? &f->areas[kept - 1] : NULL;
		if (last && f->areas[i].start < last->end)
			last->end = MAX_OF(last->end, f->areas[i].end);
		else
			f->areas[kept++] = f->areas[i];
	}
	f->nr_areas = kept;
}

/* What the kernel maps is moved to its place without looking at what is there. */
static bool is_in_the_way(const Image__Image *image, const struct area *area)
{
	for (size_t i = 0; i < image->n_processes; i++) {
		const Image__Memory *memory = image->processes[i]->memory;
		for (size_t k = 0; memory && k < memory->n_mappings; k++)
			if (memory->mappings[k]->kind == IMAGE__MAPPING__KIND__KERNEL && memory->mappings[k]->start < area->end && memory->mappings[k]->end > area->start)
				return true;
	}
	return false;
}

static const struct area *find_area(const struct family *f, remote_addr_t start, remote_addr_t end)
{
	size_t low = 0, high = f->nr_areas;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (f->areas[middle].end <= start)
			low = middle + 1;
		else
			high = middle;
	}
	return low < f->nr_areas && f->areas[low].start < end ? &f->areas[low] : NULL;
}

static void keep_possible(struct family *f, const Image__Image *image)
{
	size_t kept = 0;
	for (size_t i = 0; i < f->nr_areas; i++)
		if (!is_in_the_way(image, &f->areas[i]))
			f->areas[kept++] = f->areas[i];
	f->nr_areas = kept;
	kept = 0;
	for (size_t i = 0; i < f->nr_runs; i++)
		if (find_area(f, f->runs[i].start, f->runs[i].end))
			f->runs[kept++] = f->runs[i];
	f->nr_runs = kept;
}

struct family *family_new(const Image__Image *image, const uint64_t *checksums, uint64_t room)
{
	struct family *f = image->n_processes > 1 ? calloc(1, sizeof(*f)) : NULL; /* one alone shares nothing, and may have very many pages to look at */
	struct run *all = NULL;
	size_t nr_all = 0;
	if (f)
		f->checksums = checksums;
	for (size_t i = 0; f && i < image->n_processes; i++)
		if (is_of_family(image, image->processes[i]))
			collect(f, image->processes[i], &all, &nr_all);
	if (f && nr_all)
		find_overlaps(f, all, nr_all, &f->runs, &f->nr_runs);
	if (f && f->nr_runs) {
		qsort(f->runs, f->nr_runs, sizeof(*f->runs), compare_places);
		make_disjoint(f->runs, &f->nr_runs, room);
		for (size_t i = 0; i < image->n_processes; i++)
			if (is_of_family(image, image->processes[i]))
				collect_areas(f, image->processes[i]);
		merge_areas(f);
		keep_possible(f, image);
	}
	if (f && f->nr_runs && !f->has_failed)
		return f;
	family_free(f);
	return NULL;
}

void family_free(struct family *family)
{
	if (family)
		arena_release(&family->arena);
	free(family);
}

bool family_is_at(const struct family *family, remote_addr_t start, remote_addr_t end)
{
	return family && find_area(family, start, end);
}

uint64_t family_nr_pages(const struct family *family)
{
	uint64_t nr = 0;
	for (size_t i = 0; family && i < family->nr_runs; i++)
		nr += (family->runs[i].end - family->runs[i].start) / PAGE_BYTES;
	return nr;
}

/* --- whose it is --- */

bool family_next_piece(const struct family *family, const Image__Mapping *m, remote_addr_t from, struct family_piece *ret)
{
	from = MAX_OF(from, m->start);
	size_t i = family ? find_run(family, from) : 0;
	if (!family || i == family->nr_runs || family->runs[i].start >= m->end)
		return false;
	const struct run *run = &family->runs[i];
	*ret = (struct family_piece){MAX_OF(run->start, from), MIN_OF(run->end, m->end), false};
	const Image__Extent *e = pages_next_extent(m, ret->start);
	if (!e)
		return true;
	ret->is_own = e->start <= ret->start && delta_of(e) == run->delta;
	ret->end = MIN_OF(ret->end, e->start <= ret->start ? end_of(e) : e->start);
	return true;
}

bool family_has_mapping(const struct family *family, const Image__Mapping *m)
{
	const struct area *area = family && may_be_shared(m) ? find_area(family, m->start, m->end) : NULL;
	struct family_piece piece = {.end = m->start};
	bool has_any = false;
	unsigned int drops = 0;
	while (area && area->flags == m->flags && drops <= MAX_DROPS && family_next_piece(family, m, piece.end, &piece)) {
		has_any |= piece.is_own;
		drops += !piece.is_own;
	}
	return has_any && drops <= MAX_DROPS;
}

/* --- in the processes --- */

static int fail(struct restored_process *p, const char *what, long code)
{
	return checkpoint_fail(&p->restoring->error, (int)code, "process %d: shared pages: %s: %s", p->pid, what, strerror((int)-code));
}

/* 1: somewhere there is something already, or no room. */
static int map_areas(const struct family *f, struct restored_process *first)
{
	long r = 0;
	size_t nr = 0;
	for (; r >= 0 && nr < f->nr_areas; nr++)
		r = REMOTE_CALL(&first->remote, SYS_mmap, f->areas[nr].start, f->areas[nr].end - f->areas[nr].start, PROT_READ | PROT_WRITE,
				f->areas[nr].flags | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0);
	for (size_t i = 0; r < 0 && i + 1 < nr; i++)
		REMOTE_CALL(&first->remote, SYS_munmap, f->areas[i].start, f->areas[i].end - f->areas[i].start, 0, 0, 0, 0);
	return r < 0;
}

static int fill_run(const struct run *run, struct restored_process *first, int memory, uint8_t *buffer)
{
	const struct image *image = first->restoring->image;
	int r = 0;
	for (remote_addr_t at = run->start; r == 0 && at < run->end;) {
		uint32_t nr = (uint32_t)MIN_OF((run->end - at) / PAGE_BYTES, BUFFER_PAGES);
		uint32_t slot = (uint32_t)((at >> PAGE_SHIFT) - run->delta);
		if ((at - run->start) / PAGE_BYTES % AHEAD_PAGES == 0)
			image_expect_pages(image, slot, (uint32_t)MIN_OF((run->end - at) / PAGE_BYTES, 2ul * AHEAD_PAGES));
		r = image_read_pages(image, slot, nr, buffer);
		if (r == 0 && pwrite(memory, buffer, nr * PAGE_BYTES, (off_t)at) != (ssize_t)(nr * PAGE_BYTES))
			r = -EIO;
		r = r < 0 ? pages_fail_restore(first, at, r) : 0;
		at += nr * PAGE_BYTES;
	}
	return r;
}

int family_fill(const struct family *family, struct restored_process *first)
{
	if (!family || map_areas(family, first) > 0)
		return 1;
	void *buffer = NULL;
	_cleanup_close_ int memory = pages_open_memory(first->pid);
	int r = memory < 0 ? fail(first, "its memory", memory) : -posix_memalign(&buffer, PAGE_BYTES, BUFFER_PAGES * PAGE_BYTES);
	for (size_t i = 0; r == 0 && i < family->nr_runs; i++)
		r = fill_run(&family->runs[i], first, memory, buffer);
	free(buffer);
	return r;
}

static long unmap(struct restored_process *p, remote_addr_t start, remote_addr_t end)
{
	return start < end ? REMOTE_CALL(&p->remote, SYS_munmap, start, end - start, 0, 0, 0, 0) : 0;
}

static long drop_others(const struct family *f, struct restored_process *p, const Image__Mapping *m)
{
	struct family_piece piece = {.end = m->start};
	long r = 0;
	while (r == 0 && family_next_piece(f, m, piece.end, &piece))
		if (!piece.is_own)
			r = REMOTE_CALL(&p->remote, SYS_madvise, piece.start, piece.end - piece.start, MADV_DONTNEED, 0, 0, 0);
	return r;
}

int family_keep_own(const struct family *family, struct restored_process *p)
{
	const Image__Memory *memory = p->message->memory;
	long r = 0;
	size_t k = 0;
	for (size_t i = 0; family && r == 0 && i < family->nr_areas; i++) {
		const struct area *area = &family->areas[i];
		remote_addr_t at = area->start;
		for (; r == 0 && k < memory->n_mappings && memory->mappings[k]->start < area->end; k++) {
			const Image__Mapping *m = memory->mappings[k];
			if (m->start < area->start || !family_has_mapping(family, m))
				continue;
			r = unmap(p, at, m->start);
			at = m->end;
			if (r == 0)
				r = drop_others(family, p, m);
		}
		if (r == 0)
			r = unmap(p, at, area->end);
	}
	return r < 0 ? fail(p, "cannot be told apart", r) : 0;
}
