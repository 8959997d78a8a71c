/*
 * remap-evicted: changes the layout and the rights of mappings whose pages have been evicted, and checks every page afterwards.
 * usage: remap-evicted
 */
#include <setjmp.h>
#include <signal.h>

#include "victim.h"

enum { NR = 256 };

static void *filled(size_t nr_pages, uint64_t tag)
{
	void *memory = map_pages(nr_pages);

	pages_fill(memory, nr_pages, tag);
	evict(memory, nr_pages);
	return memory;
}

static void move(void)
{
	char *memory = filled(NR, 1000), *place = map_pages(2 * NR);

	char *moved = mremap(memory, NR * PAGE_BYTES, NR * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, place + NR / 2 * PAGE_BYTES);
	CHECK(moved == place + NR / 2 * PAGE_BYTES, "mremap");
	pages_check(moved, NR, 1000, "moved");
	/* The old place, mapped again, is new memory. */
	char *again = mmap(memory, NR * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (again == memory)
		pages_check_zero(again, NR, "old place of a moved mapping");
	pages_fill(moved, NR, 2000);
	evict(moved, NR);
	pages_check(moved, NR, 2000, "moved and written");
	munmap(memory, NR * PAGE_BYTES);
	munmap(place, 2 * NR * PAGE_BYTES);
}

static void dontunmap(void)
{
	char *memory = filled(NR, 3000);
	char *moved = mremap(memory, NR * PAGE_BYTES, NR * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	CHECK(moved != MAP_FAILED, "mremap DONTUNMAP");
	pages_check(moved, NR, 3000, "moved with DONTUNMAP");
	pages_check_zero(memory, NR, "left behind by DONTUNMAP");
	munmap(memory, NR * PAGE_BYTES);
	munmap(moved, NR * PAGE_BYTES);
}

static void grow_and_shrink(void)
{
	char *memory = filled(NR, 4000);

	char *grown = mremap(memory, NR * PAGE_BYTES, 4 * NR * PAGE_BYTES, MREMAP_MAYMOVE);
	CHECK(grown != MAP_FAILED, "mremap");
	pages_check(grown, NR, 4000, "grown");
	pages_check_zero(grown + NR * PAGE_BYTES, 3 * NR, "the part that grew");
	pages_fill(grown + NR * PAGE_BYTES, 3 * NR, 4000 + NR);
	evict(grown, 4 * NR);
	CHECK(mremap(grown, 4 * NR * PAGE_BYTES, 2 * NR * PAGE_BYTES, 0) == grown, "mremap");
	pages_check(grown, 2 * NR, 4000, "shrunk");
	evict(grown, 2 * NR);
	/* In place again: what had been cut off must not come back. */
	if (mremap(grown, 2 * NR * PAGE_BYTES, 4 * NR * PAGE_BYTES, 0) == grown)
		pages_check_zero(grown + 2 * NR * PAGE_BYTES, 2 * NR, "grown again in place");
	pages_check(grown, 2 * NR, 4000, "kept");
	munmap(grown, 4 * NR * PAGE_BYTES);
}

static void unmap_and_fixed(void)
{
	char *memory = filled(NR, 5000);

	CHECK(!munmap(memory + NR / 4 * PAGE_BYTES, NR / 2 * PAGE_BYTES), "munmap");
	char *again = mmap(memory + NR / 4 * PAGE_BYTES, NR / 2 * PAGE_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(again == memory + NR / 4 * PAGE_BYTES, "mmap");
	pages_check_zero(again, NR / 2, "mapped again");
	pages_check(memory, NR / 4, 5000, "before the hole");
	pages_check(memory + NR * 3 / 4 * PAGE_BYTES, NR / 4, 5000 + NR * 3 / 4, "behind the hole");
	pages_fill(memory, NR, 6000);
	evict(memory, NR);
	CHECK(mmap(memory, NR / 2 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory, "mmap");
	pages_check_zero(memory, NR / 2, "under MAP_FIXED");
	pages_check(memory + NR / 2 * PAGE_BYTES, NR / 2, 6000 + NR / 2, "beside MAP_FIXED");
	munmap(memory, NR * PAGE_BYTES);
}

static void dontneed(void)
{
	char *memory = filled(NR, 7000);

	CHECK(!madvise(memory, NR / 2 * PAGE_BYTES, MADV_DONTNEED), "madvise");
	pages_check_zero(memory, NR / 2, "after DONTNEED");
	pages_check(memory + NR / 2 * PAGE_BYTES, NR / 2, 7000 + NR / 2, "beside DONTNEED");
	pages_fill(memory, NR, 8000);
	evict(memory, NR);
	CHECK(!madvise(memory, NR * PAGE_BYTES, MADV_DONTNEED), "madvise");
	evict(memory + NR * PAGE_BYTES - PAGE_BYTES, 1);
	pages_check_zero(memory, NR, "long after DONTNEED");
	munmap(memory, NR * PAGE_BYTES);
}

/* After MADV_FREE a page holds its old content or zeros; a page written afterwards holds what was written. */
static void advise_free(void)
{
	char *memory = filled(NR, 9000);

	pages_check(memory, NR, 9000, "before FREE");
	CHECK(!madvise(memory, NR * PAGE_BYTES, MADV_FREE), "madvise");
	for (size_t i = 0; i < NR; i += 2)
		page_fill(memory + i * PAGE_BYTES, 9500 + i);
	evict(memory, NR);
	for (size_t i = 0; i < NR; i++) {
		char *page = memory + i * PAGE_BYTES;
		if (i % 2 == 0)
			page_check(page, 9500 + i, "written after FREE");
		else if (*(volatile uint64_t *)(void *)page)
			page_check(page, 9000 + i, "freed, not yet taken");
		else
			pages_check_zero(page, 1, "freed and taken");
	}
	munmap(memory, NR * PAGE_BYTES);
}

static sigjmp_buf jump;

static void on_fault(int signal_number)
{
	siglongjmp(jump, 1);
}

static bool write_faults(char *address)
{
	if (sigsetjmp(jump, 1))
		return true;
	*(volatile char *)address = 1;
	return false;
}

static bool read_faults(char *address)
{
	if (sigsetjmp(jump, 1))
		return true;
	(void)*(volatile char *)address;
	return false;
}

static void protect(void)
{
	char *memory = filled(NR, 10000);

	CHECK(!mprotect(memory, NR / 2 * PAGE_BYTES, PROT_READ), "mprotect");
	pages_check(memory, NR, 10000, "read only");
	CHECK(write_faults(memory) && !write_faults(memory + NR / 2 * PAGE_BYTES), "rights");
	page_fill(memory + NR / 2 * PAGE_BYTES, 10000 + NR / 2);
	evict(memory, NR);
	CHECK(!mprotect(memory, NR * PAGE_BYTES, PROT_NONE), "mprotect");
	CHECK(read_faults(memory) && read_faults(memory + PAGE_BYTES * (NR - 1)), "rights");
	memory_press();
	CHECK(!mprotect(memory, NR * PAGE_BYTES, PROT_READ | PROT_WRITE), "mprotect");
	pages_check(memory, NR, 10000, "given back");
	CHECK(!mprotect(memory, NR * PAGE_BYTES, PROT_READ | PROT_WRITE | PROT_EXEC), "mprotect");
	evict(memory, NR);
	pages_check(memory, NR, 10000, "executable");
	pages_fill(memory, NR, 11000);
	evict(memory, NR);
	pages_check(memory, NR, 11000, "written while executable");
	munmap(memory, NR * PAGE_BYTES);
}

/* Never touched pages inside an evicted mapping, and pages that are all zeros. */
static void sparse(void)
{
	char *memory = map_pages(4 * NR);

	for (size_t i = 0; i < 4 * NR; i += 4) {
		page_fill(memory + i * PAGE_BYTES, 12000 + i);
		memset(memory + (i + 1) * PAGE_BYTES, 0, PAGE_BYTES);
		CHECK(memory[(i + 2) * PAGE_BYTES] == 0, "new memory");
	}
	evict(memory, 4 * NR);
	for (size_t i = 0; i < 4 * NR; i += 4) {
		page_check(memory + i * PAGE_BYTES, 12000 + i, "sparse");
		pages_check_zero(memory + (i + 1) * PAGE_BYTES, 3, "sparse");
	}
	munmap(memory, 4 * NR * PAGE_BYTES);
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_fault };

	sigaction(SIGSEGV, &action, NULL);
	memory_press();
	move();
	dontunmap();
	grow_and_shrink();
	unmap_and_fixed();
	dontneed();
	advise_free();
	protect();
	sparse();
	victim_report();
	puts("right");
	return 0;
}
