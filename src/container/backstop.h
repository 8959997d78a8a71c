/*
 * A memory cgroup below the one that membox runs in, where one may be created: the container's own limit is held by the pager, and the kernel stops
 * what gets past it. It counts more (page cache, kernel memory, pages on their way out), so its limit is higher by a margin. Nothing depends on it:
 * whatever fails here leaves a container without a backstop. Processes that are attached stay in the cgroup that they are in.
 *
 * Guardian and keeper each have a copy. The keeper removes it at its end, the guardian when the keeper was killed; when both were, the next that
 * is made beside it does.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

struct backstop {
	char *folder; /* NULL: there is none */
	bool v2;
	uint64_t limit_bytes; /* as set */
};

/* For a container of this name and limit, by the process that lives longest. */
void backstop_create(struct backstop *b, const char *name, uint64_t limit_bytes);

/* The calling process, which is to be the program, comes in. */
void backstop_enter(const struct backstop *b);

/* Called now and then, and when the limit has changed: it rises at once, and is lowered when what is taken allows it. */
void backstop_follow(struct backstop *b, uint64_t limit_bytes);

/* A process and its descendants leave. */
void backstop_leave(const struct backstop *b, pid_t pid);

/* Whoever is still in it goes back to where the container was started. Returns how many processes the kernel has killed at its limit. */
uint64_t backstop_remove(struct backstop *b);
