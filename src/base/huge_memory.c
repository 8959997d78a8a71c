#include "base/huge_memory.h"

#include <stdint.h>
#include <sys/mman.h>

static size_t whole(size_t bytes)
{
	return (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
}

void *huge_memory_map(size_t bytes)
{
	size_t length = whole(bytes);
	uint8_t *area = mmap(NULL, length + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return NULL;
	size_t before = -(uintptr_t)area % HUGE_PAGE_BYTES;
	if (before)
		munmap(area, before);
	munmap(area + before + length, HUGE_PAGE_BYTES - before);
	return area + before;
}

void *huge_memory_zeroed(size_t bytes)
{
	void *memory = huge_memory_map(bytes);
	if (memory)
		madvise(memory, whole(bytes), MADV_HUGEPAGE);
	return memory;
}

void huge_memory_free(void *memory, size_t bytes)
{
	if (memory)
		munmap(memory, whole(bytes));
}
