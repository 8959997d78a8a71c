/*
 * How much memory this process may use: the machine's MemTotal, or less where a memory cgroup around it says so (v2 memory.max, v1
 * memory.limit_in_bytes; the smallest from its own cgroup up to the one that is mounted counts).
 */
#pragma once

#include "base/types.h"

struct granted_memory {
	uint64_t bytes;
	char source[256]; /* "machine", or the cgroup's folder, for people */
};

/* 0 or -errno (when /proc/meminfo cannot be read). Whatever concerns cgroups and cannot be read counts as no limit. */
int granted_memory(struct granted_memory *ret);

/* Memory that can be taken without swapping others out (MemAvailable of /proc/meminfo). 0 or -errno. */
int available_memory(uint64_t *ret_bytes);

/* As granted_memory, with all paths below root_dir ("" for the real ones): for tests. */
int granted_memory_below(const char *root_dir, struct granted_memory *ret);
