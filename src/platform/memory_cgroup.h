/* Memory cgroups, v1 and v2: where this process is, and one made below that place. */
#pragma once

#include <limits.h>

#include "base/types.h"

/* One mounted hierarchy that limits memory, and where in it this process is. */
struct memory_cgroup {
	bool v2;
	char mount_point[PATH_MAX]; /* where it is mounted */
	char mount_root[PATH_MAX];  /* which cgroup of the hierarchy is seen there */
	char path[PATH_MAX];        /* this process's cgroup, from the hierarchy's root; "" when unknown */
};

typedef void memory_cgroup_visit(const struct memory_cgroup *cgroup, void *context);

/* Calls visit for each hierarchy that is mounted; all paths are looked for below root_dir ("" for the real ones). 0 or -errno. */
int memory_cgroup_each(const char *root_dir, memory_cgroup_visit *visit, void *context);

/* The part of the own path below what is mounted ("": the top of it); NULL when the mount shows another part of the hierarchy. */
const char *memory_cgroup_below_mount(const struct memory_cgroup *cgroup);

/*
 * A cgroup below this process's own, so that whatever limits that one goes on to count. Its processes are never written to the system's swap.
 * *ret_folder is the caller's. -errno where none may be created: no rights, no controller, or (v2) processes in the own cgroup itself.
 */
int memory_cgroup_create(const char *name, char **ret_folder, bool *ret_v2);

/* The most that it may take, with page cache and kernel memory; from 1 EiB on: no limit. v1 refuses (-EBUSY) what is taken already, v2 kills. */
int memory_cgroup_set_limit(const char *folder, bool v2, uint64_t bytes);

/* What is taken and cannot be let go of without writing it somewhere: all but the page cache of files. */
uint64_t memory_cgroup_unevictable(const char *folder, bool v2);

/* How many processes the kernel has killed for its limit. */
uint64_t memory_cgroup_oom_kills(const char *folder, bool v2);

/* The calling process, which has one thread, comes into the folder's cgroup. 0 or -errno. */
int memory_cgroup_enter(const char *folder, bool v2);

/* A process goes up into the cgroup above. 0 or -errno. */
int memory_cgroup_leave(const char *folder, pid_t pid);

/* Whoever is left goes into the cgroup above, then the folder is removed. -ENOENT when it is gone already. */
int memory_cgroup_remove(const char *folder);

/* Calls each with the name of every cgroup below this process's own in the hierarchy that memory_cgroup_create would use. */
void memory_cgroup_children(void (*each)(const char *folder, const char *name, void *context), void *context);
