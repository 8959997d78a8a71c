#include "platform/memory_cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "platform/folders.h"

#define MOST_BYTES ((uint64_t)1 << 60) /* more than that is no limit */
#define REMOVE_ROUNDS 16 /* a process may fork while those that are left are moved */

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
	_cleanup_fclose_ FILE *f = file_open_below(root_dir, "/proc/self/cgroup");
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

const char *memory_cgroup_below_mount(const struct memory_cgroup *cgroup)
{
	size_t len = strlen(cgroup->mount_root);

	if (len == 1) /* "/" */
		len = 0;
	if (strncmp(cgroup->path, cgroup->mount_root, len) || (cgroup->path[len] != '/' && cgroup->path[len] != '\0'))
		return NULL;
	if (!strncmp(cgroup->path, "/..", 3)) /* outside the cgroup namespace */
		return NULL;
	return strcmp(cgroup->path + len, "/") ? cgroup->path + len : "";
}

int memory_cgroup_each(const char *root_dir, memory_cgroup_visit *visit, void *context)
{
	_cleanup_fclose_ FILE *mounts = file_open_below(root_dir, "/proc/self/mountinfo");
	_cleanup_free_ struct memory_cgroup *cgroup = malloc(sizeof(*cgroup));
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	if (!cgroup)
		return -ENOMEM;
	if (!mounts)
		return -ENOENT;
	while (getline(&line, &size, mounts) > 0)
		if (parse_mount(line, cgroup)) {
			find_own_path(root_dir, cgroup);
			visit(cgroup, context);
		}
	return 0;
}

static int write_file(const char *folder, const char *file, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int write_file(const char *folder, const char *file, const char *format, ...)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = -1;
	va_list args;
	int n;

	if (asprintf(&path, "%s/%s", folder, file) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	va_start(args, format);
	n = vdprintf(fd, format, args);
	va_end(args);
	return n < 0 ? -errno : 0;
}

/* The number after `key` in a file of lines "KEY NUMBER"; 0 when it is not there. */
static uint64_t read_number(const char *folder, const char *file, const char *key)
{
	_cleanup_fclose_ FILE *f = NULL;
	_cleanup_free_ char *path = NULL;
	char line[128], name[64];
	uint64_t number;

	if (asprintf(&path, "%s/%s", folder, file) < 0) {
		path = NULL;
		return 0;
	}
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %" SCNu64, name, &number) == 2 && !strcmp(name, key))
			return number;
	return 0;
}

struct own_folder {
	char *path; /* NULL: none */
	bool v2;
};

/* Where v1 and v2 are both mounted, one of them has the controller. */
static void note_own_folder(const struct memory_cgroup *cgroup, void *context)
{
	struct own_folder *own = context;
	const char *below = memory_cgroup_below_mount(cgroup);
	_cleanup_free_ char *controllers = NULL;

	if (!below || own->path || asprintf(&controllers, "%s%s/%s", cgroup->mount_point, below,
					    cgroup->v2 ? "cgroup.controllers" : "memory.limit_in_bytes") < 0)
		return;
	_cleanup_fclose_ FILE *f = fopen(controllers, "re");
	char word[32];
	bool limits = f && !cgroup->v2;
	while (f && !limits && fscanf(f, "%31s", word) == 1)
		limits = !strcmp(word, "memory");
	if (!limits || asprintf(&own->path, "%s%s", cgroup->mount_point, below) < 0)
		own->path = NULL;
	own->v2 = cgroup->v2;
}

/* The controller of the new one, and what keeps its processes out of the system's swap. */
static int set_up(const char *folder, bool v2)
{
	if (!v2)
		return write_file(folder, "memory.swappiness", "0");
	int r = write_file(folder, "../cgroup.subtree_control", "+memory");
	if (r < 0)
		return r;
	r = write_file(folder, "memory.swap.max", "0");
	return r == -ENOENT ? 0 : r; /* a kernel without swap */
}

int memory_cgroup_create(const char *name, char **ret_folder, bool *ret_v2)
{
	struct own_folder own = {0};
	_cleanup_free_ char *folder = NULL;
	int r = memory_cgroup_each("", note_own_folder, &own);

	if (r < 0 || !own.path)
		return r < 0 ? r : -ENOENT;
	r = asprintf(&folder, "%s/%s", own.path, name);
	free(own.path);
	if (r < 0) {
		folder = NULL;
		return -ENOMEM;
	}
	if (mkdir(folder, 0755))
		return -errno;
	r = set_up(folder, own.v2);
	if (r < 0) {
		rmdir(folder);
		return r;
	}
	*ret_folder = steal_pointer(folder);
	*ret_v2 = own.v2;
	return 0;
}

int memory_cgroup_set_limit(const char *folder, bool v2, uint64_t bytes)
{
	const char *file = v2 ? "memory.max" : "memory.limit_in_bytes";

	return bytes > MOST_BYTES ? write_file(folder, file, "%s", v2 ? "max" : "-1") : write_file(folder, file, "%" PRIu64, bytes);
}

uint64_t memory_cgroup_unevictable(const char *folder, bool v2)
{
	const char *prefix = v2 ? "" : "total_";
	uint64_t sum = v2 ? read_number(folder, "memory.stat", "anon") + read_number(folder, "memory.stat", "kernel")
			  : read_number(folder, "memory.stat", "total_rss");
	char shmem[16];

	snprintf(shmem, sizeof(shmem), "%sshmem", prefix);
	return sum + read_number(folder, "memory.stat", shmem);
}

uint64_t memory_cgroup_oom_kills(const char *folder, bool v2)
{
	return read_number(folder, v2 ? "memory.events" : "memory.oom_control", "oom_kill");
}

int memory_cgroup_enter(const char *folder, bool v2)
{
	/* "tasks" moves one thread, the writer: the kernel then needs no lock on all forks and exits of the machine, which takes 5 to 20 ms. */
	return write_file(folder, v2 ? "cgroup.procs" : "tasks", "%d", 0);
}

int memory_cgroup_leave(const char *folder, pid_t pid)
{
	return write_file(folder, "../cgroup.procs", "%d", (int)pid);
}

static void move_all_up(const char *folder)
{
	_cleanup_fclose_ FILE *f = NULL;
	_cleanup_free_ char *path = NULL;
	int pid;

	if (asprintf(&path, "%s/cgroup.procs", folder) < 0) {
		path = NULL;
		return;
	}
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &pid) == 1)
		memory_cgroup_leave(folder, pid);
}

int memory_cgroup_remove(const char *folder)
{
	for (int round = 0; rmdir(folder); round++) {
		if (errno != EBUSY || round == REMOVE_ROUNDS)
			return -errno;
		move_all_up(folder);
	}
	return 0;
}

void memory_cgroup_children(void (*each)(const char *folder, const char *name, void *context), void *context)
{
	struct own_folder own = {0};
	_cleanup_closedir_ DIR *dir = NULL;
	_cleanup_free_ char *path = NULL;

	memory_cgroup_each("", note_own_folder, &own);
	path = own.path;
	dir = path ? opendir(path) : NULL;
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		_cleanup_free_ char *folder = NULL;

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		if (asprintf(&folder, "%s/%s", path, entry->d_name) < 0)
			folder = NULL;
		if (folder)
			each(folder, entry->d_name, context);
	}
}
