/*
 * `membox migrate`: the pages of a running container to other NUMA nodes. Container thread, which begins it and asks once a tick how far it has come; the
 * pages are moved by a thread of their own.
 *
 *   direct   what is new, and what comes back from the swap file, comes from the target nodes from now on (placement.h, pager/preference.h)
 *   move     the passes (passes.h) over all that is resident; then again over processes that have come meanwhile
 *   swap     what could not be moved is evicted, and comes back on the target nodes
 */
#pragma once

#include "migrate/passes.h"

struct container;
struct migration;

struct migrate_result {
	struct migrate_figures figures;
	uint64_t took_ns;
	uint32_t undirected; /* processes whose new memory still comes from where it came before */
};

/* Why a list of nodes cannot be used, for people. */
struct migrate_error {
	char text[160];
};

/* Reads a list of nodes that have memory. 0 or -errno with the reason; `what` names it. */
int migration_read_nodes(const char *what, const char *text, struct node_set *ret, struct migrate_error *error);

/* from: NULL: all but the targets. 0 and *ret; -EBUSY: a migration is under way; or -errno. The container has to be running. */
int migration_begin(struct container *c, const struct node_set *to, const struct node_set *from, struct migration **ret);

/* -EINPROGRESS; or 0, the end, when *migration is freed. */
int migration_step(struct migration **migration, struct migrate_result *ret);

/* How far it has come. NULL: none is under way. Any time. */
struct migrate_progress {
	uint64_t resident; /* pages of the members at the beginning */
	uint64_t looked_at, moved;
};
bool migration_progress(const struct container *c, struct migrate_progress *ret);

/* Gives up: what has moved stays where it is. NULL is allowed. */
void migration_free(struct migration *migration);
