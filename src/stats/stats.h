/*
 * The one list of figures: struct, text and JSON output come from it (after mimalloc-stats.h). Bytes unless the comment says a count.
 * Counters are written with relaxed atomics by the thread that sees the event.
 */
#pragma once

#include <stdatomic.h>
#include <stdio.h>

#include "base/types.h"

/* X(name, meaning) */
#define STATS_LIST(X)                                                                                              \
	X(rss_usage, "resident anonymous and mapped file memory of all members, a page that several map once, with the pool") \
	X(rss_limit, "the limit")                                                                                  \
	X(rss_max_usage, "highest usage that is certain: what may be shared and has not been measured yet is left out") \
	X(rss_failcnt, "count: charges that hit the limit and had to wait")                                        \
	X(rss_reclaimed, "pages freed by the container's own reclaim")                                             \
	X(active, "resident pages that came back soon after an eviction, or were passed by: the hand passes them again") \
	X(inactive, "all other resident pages: usage less active and unevictable")                                 \
	X(unevictable, "resident pages that cannot leave: thread records, arguments, pinned, locked")              \
	X(anon, "resident anonymous memory")                                                                       \
	X(file, "resident mapped file memory, shared memory (shmem, memfd) included")                              \
	X(pool, "memory of the compressed pool")                                                                   \
	X(pool_stored, "pages' uncompressed size in the pool")                                                     \
	X(swap_used, "slots in use")                                                                               \
	X(swap_total, "size of the swap file when full")                                                           \
	X(faults, "count: userfaultfd faults served")                                                              \
	X(refaults, "count: faults on pages that had been evicted")                                                \
	X(swap_in, "pages read from the swap file")                                                                \
	X(swap_out, "pages written to the swap file")                                                              \
	X(clean_drops, "pages evicted without a write, their slot was still right")                                \
	X(zero_drops, "pages evicted without a slot, they held only zeros")                                        \
	X(shared_drops, "pages evicted without a write, a process that shared them had just had them written")     \
	X(readahead, "pages brought in with a neighbour")                                                          \
	X(oom_kills, "count: processes killed by the container's OOM killer")                                      \
	X(adoptions, "count: address spaces adopted")                                                              \
	X(stalls, "count: times the program was held because it outran the limit")                                 \
	X(nr_processes, "count: member processes")                                                                 \
	X(exit_status, "the program's exit code as the shell sees it")                                             \
	X(wall_us, "microseconds from start to end")

#define STATS_FIELD(name, meaning) _Atomic uint64_t name;
struct stats {
	STATS_LIST(STATS_FIELD)
};
#undef STATS_FIELD

#define stat_add(stats, name, n) atomic_fetch_add_explicit(&(stats)->name, (uint64_t)(n), memory_order_relaxed)
#define stat_set(stats, name, n) atomic_store_explicit(&(stats)->name, (uint64_t)(n), memory_order_relaxed)
#define stat_get(stats, name) atomic_load_explicit(&(stats)->name, memory_order_relaxed)

/* One JSON object with every figure, in list order, with a final newline. 0 or -errno. */
int stats_write_json(const struct stats *stats, FILE *out);

/* Writes the object to a file, atomically (temporary file in the same folder, then rename). 0 or -errno. */
int stats_save_json(const struct stats *stats, const char *path);
