/* Names for units and address spaces that all layers share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* An address in the program's address space; never dereferenced by the keeper. */
typedef uint64_t remote_addr_t;

/* Index of a 4 KiB slot in a swap file. Slot 0 is the header page, so 0 also means "no slot". */
typedef uint32_t slot_t;

#define NO_SLOT ((slot_t)0)

/* membox works in base pages of 4 KiB; a kernel with another page size is refused by doctor and at start. */
#define PAGE_SHIFT 12
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)
#define PAGE_OFFSET_MASK ((uint64_t)PAGE_BYTES - 1)

#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static inline uint64_t page_floor(uint64_t addr)
{
	return addr & ~PAGE_OFFSET_MASK;
}

static inline uint64_t page_ceil(uint64_t addr)
{
	return (addr + PAGE_OFFSET_MASK) & ~PAGE_OFFSET_MASK;
}

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))
