/*
 * What the victims share: page contents that prove themselves, pressure that pushes older memory out, and the three endings:
 * exit 0 (all was right), exit 1 with a line on stderr (a wrong byte or a wrong result), exit 77 (this machine cannot run it).
 *
 * Every word of a page is a function of a tag and never 0, so that a page of zeros, an old version of the page and another page's
 * content are all seen.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES ((size_t)4096)
#define PAGE_WORDS ((size_t)512)
#define MIB ((size_t)1 << 20)

#define CHECK(condition, ...)                                 \
	do {                                                  \
		if (!(condition))                             \
			victim_fail(__FILE__, __LINE__, __VA_ARGS__); \
	} while (0)

__attribute__((format(printf, 3, 4), noreturn)) static inline void victim_fail(const char *file, int line, const char *format, ...)
{
	char text[512];
	int saved_errno = errno;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	fprintf(stderr, "WRONG %s:%d: %s (errno %d, pid %d)\n", file, line, text, saved_errno, (int)getpid());
	fflush(stderr);
	_exit(1);
}

__attribute__((noreturn)) static inline void victim_skip(const char *why)
{
	fprintf(stderr, "skipped: %s\n", why);
	exit(77);
}

static inline double now_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void sleep_ms(long ms)
{
	struct timespec left = { ms / 1000, ms % 1000 * 1000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

/* splitmix64 */
static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static inline uint64_t random_next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15u;
	return mix(*state);
}

static inline uint64_t page_word(uint64_t tag, size_t i)
{
	return mix(tag * 1000003 + i) | 1;
}

static inline void page_fill(void *page, uint64_t tag)
{
	uint64_t *words = page;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		words[i] = page_word(tag, i);
}

/* The index of the first wrong word, or -1. */
static inline long page_wrong_word(const void *page, uint64_t tag)
{
	const volatile uint64_t *words = page;

	for (size_t i = 0; i < PAGE_WORDS; i++)
		if (words[i] != page_word(tag, i))
			return (long)i;
	return -1;
}

static inline void page_check(const void *page, uint64_t tag, const char *what)
{
	long i = page_wrong_word(page, tag);

	if (i >= 0)
		victim_fail("page", (int)i, "%s: %p word %ld is %#llx, not %#llx", what, page, i,
			    (unsigned long long)((const volatile uint64_t *)page)[i], (unsigned long long)page_word(tag, (size_t)i));
}

static inline void pages_fill(void *memory, size_t nr_pages, uint64_t tag)
{
	for (size_t i = 0; i < nr_pages; i++)
		page_fill((char *)memory + i * PAGE_BYTES, tag + i);
}

static inline void pages_check(const void *memory, size_t nr_pages, uint64_t tag, const char *what)
{
	for (size_t i = 0; i < nr_pages; i++)
		page_check((const char *)memory + i * PAGE_BYTES, tag + i, what);
}

static inline void pages_check_zero(const void *memory, size_t nr_pages, const char *what)
{
	const volatile uint64_t *words = memory;

	for (size_t i = 0; i < nr_pages * PAGE_WORDS; i++)
		CHECK(words[i] == 0, "%s: word %zu of %p is %#llx, not 0", what, i, memory, (unsigned long long)words[i]);
}

static inline void *map_bytes(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(memory != MAP_FAILED, "mmap of %zu bytes", bytes);
	return memory;
}

static inline void *map_pages(size_t nr_pages)
{
	return map_bytes(nr_pages * PAGE_BYTES);
}

/* How many pages of a range are not present now (evicted, or never touched). */
static inline size_t pages_absent(const void *memory, size_t nr_pages)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t absent = 0;

	if (fd < 0)
		return 0;
	for (size_t i = 0; i < nr_pages; i++) {
		uint64_t entry;
		off_t at = (off_t)(((uintptr_t)memory / PAGE_BYTES + i) * sizeof(entry));
		if (pread(fd, &entry, sizeof(entry), at) == (ssize_t)sizeof(entry) && !(entry >> 63))
			absent++;
	}
	close(fd);
	return absent;
}

/*
 * Pressure: a ballast of its own of which every page is verified and written in turn, so that everything older loses its place.
 * Size in MiB from VICTIM_PRESS_MB (default 96); a test sets the limit below it. Not thread-safe.
 */
static inline size_t press_bytes(void)
{
	const char *text = getenv("VICTIM_PRESS_MB");

	return (text ? (size_t)atol(text) : 96) * MIB;
}

static inline void memory_press(void)
{
	static char *ballast;
	static uint64_t round;
	size_t nr_pages = press_bytes() / PAGE_BYTES;
	bool is_new = !ballast;

	if (is_new)
		ballast = map_pages(nr_pages);
	for (size_t i = 0; i < nr_pages; i++) {
		volatile uint64_t *page = (volatile uint64_t *)(void *)(ballast + i * PAGE_BYTES);
		size_t where = (size_t)(mix(i) % (PAGE_WORDS - 1));
		if (is_new) {
			page_fill(ballast + i * PAGE_BYTES, i);
		} else {
			CHECK(page[PAGE_WORDS - 1] == page_word(i, PAGE_WORDS - 1) && page[where] == page_word(i + round, where),
			      "ballast page %zu holds %#llx and %#llx", i, (unsigned long long)page[PAGE_WORDS - 1], (unsigned long long)page[where]);
		}
		page[where] = page_word(i + round + 1, where);
	}
	round++;
}

/*
 * Presses until the range is no longer wholly present (at most a few times) and counts how much of it was away. victim_report
 * tells the test how many pages were met evicted: a test of evicted memory that met none has tested nothing.
 */
static size_t victim_evicted_pages;

static inline void evict(const void *memory, size_t nr_pages)
{
	for (int i = 0; i < 3; i++) {
		memory_press();
		size_t absent = pages_absent(memory, nr_pages);
		victim_evicted_pages += absent;
		if (absent)
			return;
	}
}

static inline void victim_report(void)
{
	fprintf(stderr, "evicted_pages=%zu\n", victim_evicted_pages);
}
