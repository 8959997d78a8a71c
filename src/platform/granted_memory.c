#include "platform/granted_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "platform/folders.h"
#include "platform/memory_cgroup.h"

/* A line "key: N kB" of /proc/meminfo. */
static int meminfo(const char *root_dir, const char *key, uint64_t *ret_bytes)
{
	_cleanup_fclose_ FILE *f = file_open_below(root_dir, "/proc/meminfo");
	uint64_t kib;
	char line[256];

	if (!f)
		return errno ? -errno : -ENOMEM;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), ": %" SCNu64 " kB", &kib) == 1) {
			*ret_bytes = kib * 1024;
			return 0;
		}
	return -ENODATA;
}

/* Lowers *granted to the limit in folder, if there is one ("max", or v1's huge number, change nothing). */
static void apply_limit(const char *root_dir, const char *folder, bool v2, struct granted_memory *granted)
{
	_cleanup_fclose_ FILE *f = NULL;
	_cleanup_free_ char *path = NULL;
	uint64_t limit;

	if (asprintf(&path, "%s/%s", folder, v2 ? "memory.max" : "memory.limit_in_bytes") < 0) {
		path = NULL;
		return;
	}
	f = file_open_below(root_dir, path);
	if (!f || fscanf(f, "%" SCNu64, &limit) != 1 || limit >= granted->bytes)
		return;
	granted->bytes = limit;
	snprintf(granted->source, sizeof(granted->source), "cgroup %s", folder);
}

struct search {
	const char *root_dir;
	struct granted_memory *granted;
};

static void apply_hierarchy(const struct memory_cgroup *cgroup, void *context)
{
	const struct search *search = context;
	const char *below = memory_cgroup_below_mount(cgroup);
	_cleanup_free_ char *folder = NULL;
	size_t top = strlen(cgroup->mount_point);

	if (asprintf(&folder, "%s%s", cgroup->mount_point, below ? below : "") < 0) {
		folder = NULL;
		return;
	}
	for (;;) {
		apply_limit(search->root_dir, folder, cgroup->v2, search->granted);
		if (strlen(folder) <= top)
			return;
		*strrchr(folder, '/') = '\0';
	}
}

int granted_memory_below(const char *root_dir, struct granted_memory *ret)
{
	struct granted_memory granted = {.source = "machine"};
	struct search search = {root_dir, &granted};
	int r = meminfo(root_dir, "MemTotal", &granted.bytes);

	if (r)
		return r;
	if (memory_cgroup_each(root_dir, apply_hierarchy, &search) == -ENOMEM)
		return -ENOMEM;
	*ret = granted;
	return 0;
}

int granted_memory(struct granted_memory *ret)
{
	return granted_memory_below("", ret);
}

int available_memory(uint64_t *ret_bytes)
{
	return meminfo("", "MemAvailable", ret_bytes);
}
