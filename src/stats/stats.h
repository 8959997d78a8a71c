/*
 * The one list of figures: struct, text and JSON output come from it (after mimalloc-stats.h).
 * Counters are written with relaxed atomics by the thread that sees the event.
 */
#pragma once

#include <stdatomic.h>
#include <stdio.h>

#include "base/types.h"

enum stat_unit {
	STAT_BYTES,
	STAT_PAGES,
	STAT_COUNT,
	STAT_MICROSECONDS,
};

/* X(name, unit, meaning) */
#define STATS_LIST(X)                                                                                         \
	X(rss_usage, BYTES,                                                                                   \
	  "resident anonymous and mapped file memory of all members, a page that several map once, with the pool")      \
	X(rss_limit, BYTES, "the limit")                                                                      \
	X(rss_max_usage, BYTES, "highest usage that is certain: what may be shared and has not been measured yet is left out")                                                      \
	X(rss_failcnt, COUNT, "charges that hit the limit and had to wait")                                   \
	X(rss_reclaimed, PAGES, "freed by the container's own reclaim")                                       \
	X(active, BYTES, "resident memory that came back soon after an eviction, or was passed by: the hand passes it again")                 \
	X(inactive, BYTES, "all other memory, the pool with it: usage less active and unevictable")                                \
	X(unevictable, BYTES, "resident memory that cannot leave: thread records, arguments, pinned, locked") \
	X(anon, BYTES, "resident anonymous memory")                                                           \
	X(file, BYTES, "resident mapped file memory, shared memory (shmem, memfd) included")                                                         \
	X(pool, BYTES, "memory of the compressed pool, and of pages on their way to it or to the file")                                                       \
	X(pool_stored, BYTES, "pages' uncompressed size in the pool")                                         \
	X(swap_used, BYTES, "what is in the swap file")                                                       \
	X(swap_total, BYTES, "size of the swap file when full")                                               \
	X(awaited, PAGES, "still to come from where the container was sent from")                            \
	X(faults, COUNT, "userfaultfd faults served")                                                         \
	X(refaults, COUNT, "faults on pages that had been evicted")                                           \
	X(swap_in, PAGES, "read from the swap file")                                                          \
	X(swap_out, PAGES, "written to the swap file")                                                        \
	X(pool_in, PAGES, "brought back from the pool")                                                          \
	X(pool_out, PAGES, "compressed into the pool")                                                        \
	X(clean_drops, PAGES, "evicted without a write, their slot was still right")                          \
	X(zero_drops, PAGES, "evicted without a slot, they held only zeros")                                  \
	X(shared_drops, PAGES, "evicted without a write, a process that shared them had just had them written")     \
	X(readahead, PAGES, "brought in with a neighbour")                                                    \
	X(oom_kills, COUNT, "processes killed by the container's OOM killer")                                 \
	X(adoptions, COUNT, "address spaces adopted")                                                         \
	X(stalls, COUNT, "times the program was held because it outran the limit")                            \
	X(nr_processes, COUNT, "member processes")                                                            \
	X(exit_status, COUNT, "the program's exit code as the shell sees it")                                 \
	X(wall_us, MICROSECONDS, "from start to end")

#define STATS_FIELD(name, unit, meaning) _Atomic uint64_t name;
struct stats {
	STATS_LIST(STATS_FIELD)
};
#undef STATS_FIELD

#define stat_add(stats, name, n) atomic_fetch_add_explicit(&(stats)->name, (uint64_t)(n), memory_order_relaxed)
#define stat_set(stats, name, n) atomic_store_explicit(&(stats)->name, (uint64_t)(n), memory_order_relaxed)
#define stat_get(stats, name) atomic_load_explicit(&(stats)->name, memory_order_relaxed)

/* The list itself, for those who print figures that they got by name. */
struct stat_figure {
	const char *name;
	enum stat_unit unit;
	const char *meaning;
};

extern const struct stat_figure stats_figures[];
extern const size_t stats_nr_figures;

/* One JSON object with every figure, in list order, with a final newline. 0 or -errno. */
int stats_write_json(const struct stats *stats, FILE *out);

/* Writes the object to a file, atomically (temporary file in the same folder, then rename). 0 or -errno. */
int stats_save_json(const struct stats *stats, const char *path);
