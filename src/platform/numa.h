/*
 * NUMA nodes: which there are, where pages lie, move_pages(2) and memory policies. Node lists look as everywhere on Linux: "0", "0,2-3".
 */
#pragma once

#include "base/types.h"

#define NUMA_NODES_MAX 1024 /* the kernel's own most on x86_64 */

struct node_set {
	uint64_t words[NUMA_NODES_MAX / 64];
};

static inline bool node_set_has(const struct node_set *set, unsigned node)
{
	return node < NUMA_NODES_MAX && set->words[node / 64] >> node % 64 & 1;
}

static inline void node_set_add(struct node_set *set, unsigned node)
{
	set->words[node / 64] |= 1ull << node % 64;
}

/* The first node of the set that is not below `from`; -1: there is none. */
int node_set_next(const struct node_set *set, unsigned from);

/* Reads a list. 0; -EINVAL: it is none, or empty; -ERANGE: a number is larger than any node's. *ret is set on success only. */
int node_set_parse(const char *text, struct node_set *ret);

/* Nodes that are online, and those of them that have memory. 0, or -ENOSYS: the kernel knows no nodes; or -errno. */
int numa_read_nodes(struct node_set *ret_online, struct node_set *ret_with_memory);

#define NUMA_NOT_SAID INT32_MIN /* a status that the kernel has not stored */

/* On which node each page lies, or the kernel's negative status (move_pages(2)). 0 or -errno (-ESRCH, -EPERM). */
int numa_ask_pages(pid_t pid, uint32_t nr, void *const *pages, int *ret_status);

/*
 * Moves pages of a process to one node. With shared_too also those that several processes map (CAP_SYS_NICE). 0: each status is stored, the node where
 * the page is now or a negative errno. Positive: so many were not moved, and statuses from some point on are NUMA_NOT_SAID. -errno: -ENOMEM (the
 * node is full; pages may have moved, none has a status), -ESRCH, -EPERM, -EACCES (the process may not use the node).
 */
int numa_move_pages(pid_t pid, uint32_t nr, void *const *pages, int node, bool shared_too, int *ret_status);

/* True when this process may move pages that several processes map. */
bool numa_may_move_shared(void);

/* How set_mempolicy(2) is called so that new pages come from these nodes while there is room, and from others when there is none. */
struct numa_policy {
	int mode;
	uint64_t mask[NUMA_NODES_MAX / 64];
	unsigned long max_node;
};

struct numa_policy numa_policy_of(const struct node_set *nodes);

/* For the calling thread, and those that it starts from now on. 0 or -errno. */
int numa_prefer(const struct node_set *nodes);

/* Resident pages of a process on each of the nodes 0 to NUMA_NODES_MAX - 1 are added to counts. Walks all pages. 0 or -errno. */
int numa_count_pages(pid_t pid, uint64_t counts[NUMA_NODES_MAX]);
