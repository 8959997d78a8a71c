/* What changes the layout: mmap, mremap, mprotect, madvise, brk. */
#include "torture.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define MADV_GUARD_INSTALL_NR 102 /* Linux 6.13 */
#define MADV_GUARD_REMOVE_NR 103

static void advise(const struct area *a, struct range range, int advice)
{
	int r = madvise(page_of(a, range.first), range.count * PAGE_BYTES, advice);
	CHECK(r == 0 || errno == ENOMEM || errno == EINVAL || errno == EAGAIN || errno == EBUSY, "madvise %d", advice);
}

/* Half of the time a hole is left: nothing else comes to lie there, see AREAS_START. */
static void unmap(struct area *a, struct range range)
{
	void *at = page_of(a, range.first);
	if (random_next(&a->state) % 2)
		CHECK(mmap(at, range.count * PAGE_BYTES, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == at,
		      "mmap");
	else
		CHECK(!munmap(at, range.count * PAGE_BYTES), "munmap");
	for (size_t i = range.first; i < range.first + range.count; i++)
		a->model[i] = UNMAPPED;
}

static void discard(struct area *a, struct range range)
{
	advise(a, range, MADV_DONTNEED);
	set_zero(a, range);
}

static void let_go(struct area *a, struct range range)
{
	advise(a, range, MADV_FREE);
	for (size_t i = range.first; i < range.first + range.count; i++)
		if (a->model[i] != UNMAPPED && a->model[i])
			a->model[i] |= MAY_BE_ZERO;
}

static void advise_harmless(struct area *a, struct range range)
{
	static const int advices[] = {MADV_PAGEOUT,        MADV_COLD,     MADV_WILLNEED,   MADV_POPULATE_READ,
				      MADV_POPULATE_WRITE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE,
				      MADV_SEQUENTIAL,     MADV_RANDOM,   MADV_NORMAL,     MADV_MERGEABLE,
				      MADV_DONTDUMP,       MADV_DODUMP};
	advise(a, range, advices[random_next(&a->state) % (sizeof(advices) / sizeof(advices[0]))]);
	read_range(a, range);
}

/*
 * Over memory that nobody has used yet, as C libraries do with thread stacks. Guards discard used pages without an event, which membox does not see (limits in
 * the README). A kernel that does not know guards refuses, and nothing has happened.
 */
static void guard(struct area *a, struct range range)
{
	char *start = page_of(a, range.first);
	map_again(a, range);
	if (madvise(start, range.count * PAGE_BYTES, MADV_GUARD_INSTALL_NR) != 0) {
		CHECK(errno == EINVAL, "guard");
		return;
	}
	CHECK(!madvise(start, range.count * PAGE_BYTES, MADV_GUARD_REMOVE_NR), "unguard");
	read_range(a, range);
}

static void protect_and_back(struct area *a, struct range range)
{
	char *start = page_of(a, range.first);
	if (!is_mapped(a, range))
		return;
	CHECK(!mprotect(start, range.count * PAGE_BYTES, PROT_READ), "mprotect");
	read_range(a, range);
	CHECK(!mprotect(start, range.count * PAGE_BYTES, PROT_NONE), "mprotect");
	CHECK(!mprotect(start, range.count * PAGE_BYTES, PROT_READ | PROT_WRITE), "mprotect");
}

static void lock_and_unlock(struct area *a, struct range range)
{
	if (!is_mapped(a, range) || mlock(page_of(a, range.first), range.count * PAGE_BYTES))
		return;
	read_range(a, range);
	CHECK(!munlock(page_of(a, range.first), range.count * PAGE_BYTES), "munlock");
}

static void check_moved(const struct area *a, const char *moved, struct range range, const char *what)
{
	for (size_t i = 0; i < range.count; i += 1 + range.count / 8) {
		uint64_t tag = a->model[range.first + i];
		if (tag && !(tag & MAY_BE_ZERO))
			page_check(moved + i * PAGE_BYTES, tag, what);
	}
}

static char *reserve(size_t count)
{
	char *place = mmap(NULL, count * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(place != MAP_FAILED, "mmap");
	return place;
}

/*
 * A range may consist of several mappings by now. Older kernels refuse to move it; newer ones move those before the one that they refuse, so that
 * nothing is known of the range.
 */
static void give_up(struct area *a, struct range range, char *moved)
{
	CHECK(errno == EFAULT || errno == EINVAL, "mremap");
	munmap(moved, range.count * PAGE_BYTES);
	map_again(a, range);
}

static void move_back(struct area *a, struct range range, char *moved)
{
	size_t bytes = range.count * PAGE_BYTES;
	if (mremap(moved, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, page_of(a, range.first)) == MAP_FAILED)
		give_up(a, range, moved);
}

static void move_away_and_back(struct area *a, struct range range)
{
	size_t bytes = range.count * PAGE_BYTES;
	map_holes(a, range);
	char *place = reserve(range.count);
	if (mremap(page_of(a, range.first), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) {
		give_up(a, range, place);
		return;
	}
	check_moved(a, place, range, "moved away");
	move_back(a, range, place);
}

/* The pages go and the mapping stays: it reads as zeros, until they come back over it. */
static void move_pages_only(struct area *a, struct range range)
{
	size_t bytes = range.count * PAGE_BYTES;
	char *start = page_of(a, range.first);
	map_holes(a, range);
	char *place = reserve(range.count);
	if (mremap(start, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, place) == MAP_FAILED) {
		give_up(a, range, place);
		return;
	}
	check_moved(a, place, range, "moved without its mapping");
	pages_check_zero(start, range.count, "left behind");
	if (random_next(&a->state) % 2) {
		move_back(a, range, place);
		return;
	}
	munmap(place, bytes);
	set_zero(a, range);
}

static void shrink_and_grow(struct area *a, struct range range)
{
	size_t pages = range.count, less = pages / 2 + 1;
	uint64_t tag = a->next_tag;
	char *memory = map_pages(pages);
	a->next_tag += pages;
	pages_fill(memory, pages, tag);
	read_range(a, range);
	CHECK(mremap(memory, pages * PAGE_BYTES, less * PAGE_BYTES, 0) == memory, "shrink");
	char *grown = mremap(memory, less * PAGE_BYTES, 2 * pages * PAGE_BYTES, MREMAP_MAYMOVE);
	CHECK(grown != MAP_FAILED, "grow");
	pages_check(grown, less, tag, "shrunk and grown");
	pages_check_zero(grown + less * PAGE_BYTES, 2 * pages - less, "grown");
	munmap(grown, 2 * pages * PAGE_BYTES);
}

/* A mapping of other kinds that lives for a while: with rights to execute, and with huge pages. */
static void map_for_a_while(struct area *a, struct range range)
{
	size_t bytes = range.count * PAGE_BYTES;
	int rights = PROT_READ | PROT_WRITE | (random_next(&a->state) % 3 ? 0 : PROT_EXEC);
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (random_next(&a->state) % 3 ? 0 : MAP_POPULATE);
	char *memory = mmap(NULL, bytes, rights, flags, -1, 0);
	uint64_t tag = a->next_tag;
	CHECK(memory != MAP_FAILED, "mmap");
	a->next_tag += range.count;
	madvise(memory, bytes, MADV_HUGEPAGE);
	pages_fill(memory, range.count, tag);
	write_range(a, range);
	pages_check(memory, range.count, tag, "mapped for a while");
	CHECK(!munmap(memory, bytes), "munmap");
}

/* Only one thread: the break belongs to all. */
static void move_break(struct area *a, struct range range)
{
	if (a->thread)
		return;
	char *at = sbrk((intptr_t)(range.count * PAGE_BYTES));
	CHECK(at != (char *)-1, "sbrk");
	char *start = (char *)(((uintptr_t)at + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1));
	uint64_t tag = a->next_tag;
	a->next_tag += range.count;
	pages_fill(start, range.count - 1, tag);
	write_range(a, range);
	pages_check(start, range.count - 1, tag, "above the break");
	CHECK(sbrk(-(intptr_t)(range.count * PAGE_BYTES)) != (char *)-1, "sbrk");
}

const struct operation layout_operations[] = {
	{"write", 260, 64, write_range},
	{"write much", 12, 0, write_range},
	{"read", 200, 64, read_range},
	{"read much", 12, 0, read_range},
	{"discard", 40, 64, discard},
	{"discard much", 4, 0, discard},
	{"free", 20, 64, let_go},
	{"harmless advice", 60, 64, advise_harmless},
	{"guard", 12, 32, guard},
	{"unmap", 30, 64, unmap},
	{"map again", 50, 64, map_again},
	{"map again much", 3, 0, map_again},
	{"move", 40, 64, move_away_and_back},
	{"move much", 3, 0, move_away_and_back},
	{"move pages only", 20, 64, move_pages_only},
	{"shrink and grow", 20, 64, shrink_and_grow},
	{"protect", 30, 64, protect_and_back},
	{"lock", 15, 16, lock_and_unlock},
	{"map for a while", 15, 1024, map_for_a_while},
	{"break", 20, 64, move_break},
	{0},
};
