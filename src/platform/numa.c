#include "platform/numa.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/first_line.h"

#define NODES_FOLDER "/sys/devices/system/node"

#ifndef MPOL_MF_MOVE
#define MPOL_MF_MOVE (1 << 1)
#define MPOL_MF_MOVE_ALL (1 << 2)
#define MPOL_PREFERRED 1
#endif
#define MPOL_PREFERRED_MANY_NODES 5 /* MPOL_PREFERRED_MANY, Linux 5.15 */

int node_set_next(const struct node_set *set, unsigned from)
{
	for (unsigned node = from; node < NUMA_NODES_MAX; node++)
		if (node_set_has(set, node))
			return (int)node;
	return -1;
}

/* One number. 0, -EINVAL or -ERANGE. */
static int parse_node(const char **text, unsigned *ret)
{
	char *end;
	if (**text < '0' || **text > '9')
		return -EINVAL;
	unsigned long number = strtoul(*text, &end, 10);
	*text = end;
	*ret = (unsigned)number;
	return number >= NUMA_NODES_MAX ? -ERANGE : 0;
}

int node_set_parse(const char *text, struct node_set *ret)
{
	struct node_set set = {0};
	for (;;) {
		unsigned first, last;
		int r = parse_node(&text, &first);
		last = first;
		if (r == 0 && *text == '-') {
			text++;
			r = parse_node(&text, &last);
		}
		if (r < 0)
			return r;
		if (last < first)
			return -EINVAL;
		for (unsigned node = first; node <= last; node++)
			node_set_add(&set, node);
		if (*text != ',')
			break;
		text++;
	}
	if (*text)
		return -EINVAL;
	*ret = set;
	return 0;
}

static int read_list(const char *path, struct node_set *ret)
{
	char line[4096];
	int r = first_line_read(path, line, sizeof(line));
	if (r < 0)
		return r == -ENOENT ? -ENOSYS : r == -ENODATA ? -EIO : r;
	return node_set_parse(line, ret);
}

int numa_read_nodes(struct node_set *ret_online, struct node_set *ret_with_memory)
{
	int r = read_list(NODES_FOLDER "/online", ret_online);
	return r < 0 ? r : read_list(NODES_FOLDER "/has_memory", ret_with_memory);
}

static int move_pages(pid_t pid, uint32_t nr, void *const *pages, const int *nodes, int *status, int flags)
{
	long r = syscall(SYS_move_pages, pid, (unsigned long)nr, pages, nodes, status, flags);
	return r < 0 ? -errno : (int)r;
}

int numa_ask_pages(pid_t pid, uint32_t nr, void *const *pages, int *ret_status)
{
	return move_pages(pid, nr, pages, NULL, ret_status, 0);
}

int numa_move_pages(pid_t pid, uint32_t nr, void *const *pages, int node, bool shared_too, int *ret_status)
{
	_cleanup_free_ int *nodes = malloc(nr * sizeof(*nodes));
	if (!nodes)
		return -ENOBUFS;
	for (uint32_t i = 0; i < nr; i++) {
		nodes[i] = node;
		ret_status[i] = NUMA_NOT_SAID;
	}
	return move_pages(pid, nr, pages, nodes, ret_status, shared_too ? MPOL_MF_MOVE_ALL : MPOL_MF_MOVE);
}

bool numa_may_move_shared(void)
{
	return move_pages(0, 0, NULL, NULL, NULL, MPOL_MF_MOVE_ALL) == 0;
}

/* One node is told by the older mode, which every kernel knows. maxnode counts one more than there are bits. */
struct numa_policy numa_policy_of(const struct node_set *nodes)
{
	int first = node_set_next(nodes, 0);
	bool is_one = node_set_next(nodes, (unsigned)first + 1) < 0;
	struct numa_policy policy = {.mode = is_one ? MPOL_PREFERRED : MPOL_PREFERRED_MANY_NODES, .max_node = NUMA_NODES_MAX + 1};
	memcpy(policy.mask, nodes->words, sizeof(policy.mask));
	return policy;
}

int numa_prefer(const struct node_set *nodes)
{
	struct numa_policy policy = numa_policy_of(nodes);
	return syscall(SYS_set_mempolicy, policy.mode, policy.mask, policy.max_node) < 0 ? -errno : 0;
}

/* Adds what one line of numa_maps says: words as "N0=12", and the size of the mapping's pages. */
static void count_line(char *line, uint64_t counts[NUMA_NODES_MAX])
{
	struct {
		unsigned node;
		unsigned long pages;
	} found[64];
	uint32_t nr = 0;
	unsigned long kib = PAGE_BYTES / 1024;
	char *rest;
	for (char *word = strtok_r(line, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest)) {
		if (nr < ARRAY_LEN(found) && sscanf(word, "N%u=%lu", &found[nr].node, &found[nr].pages) == 2)
			nr++;
		sscanf(word, "kernelpagesize_kB=%lu", &kib);
	}
	for (uint32_t i = 0; i < nr; i++)
		if (found[i].node < NUMA_NODES_MAX)
			counts[found[i].node] += found[i].pages * kib * 1024 / PAGE_BYTES;
}

int numa_count_pages(pid_t pid, uint64_t counts[NUMA_NODES_MAX])
{
	char path[64];
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	snprintf(path, sizeof(path), "/proc/%d/numa_maps", pid);
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	if (!f)
		return errno == ENOENT ? -ESRCH : -errno;
	while (getline(&line, &size, f) > 0)
		count_line(line, counts);
	return 0;
}
