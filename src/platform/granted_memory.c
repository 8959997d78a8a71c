#include "platform/granted_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

/* One mounted hierarchy that limits memory, and where in it this process is. */
struct memory_cgroup {
	bool v2;
	char mount_point[PATH_MAX]; /* where it is mounted */
	char mount_root[PATH_MAX];  /* which cgroup of the hierarchy is seen there */
	char path[PATH_MAX];        /* this process's cgroup, from the hierarchy's root; "" when unknown */
};

static FILE *open_below(const char *root_dir, const char *path)
{
	_cleanup_free_ char *full = NULL;

	if (asprintf(&full, "%s%s", root_dir, path) < 0) {
		full = NULL;
		return NULL;
	}
	return fopen(full, "re");
}

/* A line "key: N kB" of /proc/meminfo. */
static int meminfo(const char *root_dir, const char *key, uint64_t *ret_bytes)
{
	_cleanup_fclose_ FILE *f = open_below(root_dir, "/proc/meminfo");
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

/* mountinfo writes space, tab, newline and backslash as three octal digits. */
static void unescape(char *text)
{
	char *out = text;

	for (const char *p = text; *p; out++) {
		if (p[0] == '\\' && p[1] >= '0' && p[1] <= '3' && p[2] >= '0' && p[2] <= '7' && p[3] >= '0' &&
		    p[3] <= '7') {
			*out = (char)((p[1] - '0') * 64 + (p[2] - '0') * 8 + (p[3] - '0'));
			p += 4;
		} else {
			*out = *p++;
		}
	}
	*out = '\0';
}

/* True when name is one of the comma-separated words. */
static bool word_in_list(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *p = list; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (!strncmp(p, name, len) && (p[len] == ',' || p[len] == '\0'))
			return true;
	}
	return false;
}

/* One line of mountinfo (proc(5)): ID PARENT MAJ:MIN ROOT MOUNT-POINT OPTIONS TAGS... - TYPE SOURCE SUPER-OPTIONS */
static bool parse_mount(char *line, struct memory_cgroup *ret)
{
	char *tail = strstr(line, " - ");
	char type[32], super_options[1024], root[PATH_MAX], mount_point[PATH_MAX];

	if (!tail)
		return false;
	if (sscanf(tail, " - %31s %*s %1023s", type, super_options) != 2)
		return false;
	ret->v2 = !strcmp(type, "cgroup2");
	if (!ret->v2 && !(!strcmp(type, "cgroup") && word_in_list(super_options, "memory")))
		return false;
	if (sscanf(line, "%*s %*s %*s %4095s %4095s", root, mount_point) != 2)
		return false;
	unescape(root);
	unescape(mount_point);
	strcpy(ret->mount_root, root);
	strcpy(ret->mount_point, mount_point);
	return true;
}

/* Finds this process's cgroup in the hierarchy: lines "NUMBER:CONTROLLERS:PATH", for v2 "0::PATH". */
static void find_own_path(const char *root_dir, struct memory_cgroup *cgroup)
{
	_cleanup_fclose_ FILE *f = open_below(root_dir, "/proc/self/cgroup");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	cgroup->path[0] = '\0';
	while (f && getline(&line, &size, f) > 0) {
		char *controllers = strchr(line, ':');
		char *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		*controllers++ = '\0';
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (cgroup->v2 ? *controllers == '\0' : word_in_list(controllers, "memory")) {
			snprintf(cgroup->path, sizeof(cgroup->path), "%s", path);
			return;
		}
	}
}

/* The part of the own path below what is mounted; "" when the mount shows another part of the hierarchy. */
static const char *path_below_mount(const struct memory_cgroup *cgroup)
{
	size_t len = strlen(cgroup->mount_root);

	if (len == 1) /* "/" */
		len = 0;
	if (strncmp(cgroup->path, cgroup->mount_root, len) || (cgroup->path[len] != '/' && cgroup->path[len] != '\0'))
		return "";
	if (!strncmp(cgroup->path, "/..", 3)) /* outside the cgroup namespace */
		return "";
	return strcmp(cgroup->path + len, "/") ? cgroup->path + len : "";
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
	f = open_below(root_dir, path);
	if (!f || fscanf(f, "%" SCNu64, &limit) != 1 || limit >= granted->bytes)
		return;
	granted->bytes = limit;
	snprintf(granted->source, sizeof(granted->source), "cgroup %s", folder);
}

static void apply_hierarchy(const char *root_dir, struct memory_cgroup *cgroup, struct granted_memory *granted)
{
	_cleanup_free_ char *folder = NULL;
	size_t top = strlen(cgroup->mount_point);

	find_own_path(root_dir, cgroup);
	if (asprintf(&folder, "%s%s", cgroup->mount_point, path_below_mount(cgroup)) < 0) {
		folder = NULL;
		return;
	}
	for (;;) {
		apply_limit(root_dir, folder, cgroup->v2, granted);
		if (strlen(folder) <= top)
			return;
		*strrchr(folder, '/') = '\0';
	}
}

int granted_memory_below(const char *root_dir, struct granted_memory *ret)
{
	_cleanup_fclose_ FILE *mounts = open_below(root_dir, "/proc/self/mountinfo");
	_cleanup_free_ char *line = NULL;
	_cleanup_free_ struct memory_cgroup *cgroup = malloc(sizeof(*cgroup));
	struct granted_memory granted = {.source = "machine"};
	size_t size = 0;
	int r;

	if (!cgroup)
		return -ENOMEM;
	r = meminfo(root_dir, "MemTotal", &granted.bytes);
	if (r)
		return r;
	while (mounts && getline(&line, &size, mounts) > 0)
		if (parse_mount(line, cgroup))
			apply_hierarchy(root_dir, cgroup, &granted);
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
