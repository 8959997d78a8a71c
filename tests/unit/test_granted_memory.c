/* The memory that a made-up machine grants. */
#include "unit.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/types.h"
#include "platform/granted_memory.h"

#define MACHINE_BYTES ((uint64_t)8 << 30)

static char root[64];

/* Creates root/path with the folders above it. */
static void put(const char *path, const char *text)
{
	char full[512];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", root, path);
	for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		mkdir(full, 0700);
		*p = '/';
	}
	f = fopen(full, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int remove_machine(void **state)
{
	return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int make_machine(void **state)
{
	snprintf(root, sizeof(root), "/tmp/membox-granted-XXXXXX");
	if (!mkdtemp(root))
		return -1;
	put("/proc/meminfo", "MemTotal:        8388608 kB\nMemFree: 1 kB\n");
	return 0;
}

static void grants(uint64_t expected, const char *source)
{
	struct granted_memory granted;

	assert_int_equal(granted_memory_below(root, &granted), 0);
	assert_true(granted.bytes == expected);
	assert_string_equal(granted.source, source);
}

static void without_cgroups_it_is_the_machine(void **state)
{
	grants(MACHINE_BYTES, "machine");
}

static void use_v2(const char *own, const char *mount_root)
{
	char text[256];

	snprintf(text, sizeof(text), "0::%s\n", own);
	put("/proc/self/cgroup", text);
	snprintf(text, sizeof(text),
		 "31 23 0:28 %s /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", mount_root);
	put("/proc/self/mountinfo", text);
}

static void v2_own_limit_counts(void **state)
{
	use_v2("/user/job", "/");
	put("/sys/fs/cgroup/user/memory.max", "max\n");
	put("/sys/fs/cgroup/user/job/memory.max", "1073741824\n");
	grants((uint64_t)1 << 30, "cgroup /sys/fs/cgroup/user/job");
}

static void v2_limit_further_up_counts(void **state)
{
	use_v2("/user/job/step", "/");
	put("/sys/fs/cgroup/user/memory.max", "536870912\n");
	put("/sys/fs/cgroup/user/job/memory.max", "1073741824\n");
	put("/sys/fs/cgroup/user/job/step/memory.max", "max\n");
	grants((uint64_t)1 << 29, "cgroup /sys/fs/cgroup/user");
}

static void v2_in_a_namespace(void **state)
{
	/* As in a pod: the own cgroup is the root of what is mounted. */
	use_v2("/", "/");
	put("/sys/fs/cgroup/memory.max", "268435456\n");
	grants((uint64_t)1 << 28, "cgroup /sys/fs/cgroup");
}

static void v2_mounted_without_namespace(void **state)
{
	use_v2("/docker/abc/inner", "/docker/abc");
	put("/sys/fs/cgroup/memory.max", "max\n");
	put("/sys/fs/cgroup/inner/memory.max", "268435456\n");
	grants((uint64_t)1 << 28, "cgroup /sys/fs/cgroup/inner");
}

static void v2_own_cgroup_outside_what_is_mounted(void **state)
{
	use_v2("/../other", "/");
	put("/sys/fs/cgroup/memory.max", "268435456\n");
	grants((uint64_t)1 << 28, "cgroup /sys/fs/cgroup");
	/* A name that only begins alike is another cgroup. */
	use_v2("/docker/abcdef", "/docker/abc");
	put("/sys/fs/cgroup/def/memory.max", "4096\n");
	grants((uint64_t)1 << 28, "cgroup /sys/fs/cgroup");
}

static void larger_than_the_machine_is_no_limit(void **state)
{
	use_v2("/job", "/");
	put("/sys/fs/cgroup/job/memory.max", "109951162777600\n");
	grants(MACHINE_BYTES, "machine");
}

static void v1_hierarchy_is_found(void **state)
{
	put("/proc/self/cgroup", "9:name=systemd:/\n5:cpu,memory:/pod/c\n4:cpuset:/x\n0::/\n");
	put("/proc/self/mountinfo",
	    "32 31 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
	    "35 31 0:32 / /sys/fs/cg\\040roup/memory rw,relatime - cgroup cgroup rw,cpu,memory\n"
	    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
	put("/sys/fs/cg roup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	put("/sys/fs/cg roup/memory/pod/memory.limit_in_bytes", "1073741824\n");
	put("/sys/fs/cg roup/memory/pod/c/memory.limit_in_bytes", "9223372036854771712\n");
	grants((uint64_t)1 << 30, "cgroup /sys/fs/cg roup/memory/pod");
}

static void garbage_is_no_limit(void **state)
{
	put("/proc/self/cgroup", "\n:\n::\nnonsense\n0::\n");
	put("/proc/self/mountinfo",
	    "\nshort\n - \n1 2 - cgroup2 x y\n31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
	put("/sys/fs/cgroup/memory.max", "many\n");
	grants(MACHINE_BYTES, "machine");
}

#define ON_MACHINE(test) cmocka_unit_test_setup_teardown(test, make_machine, remove_machine)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_MACHINE(without_cgroups_it_is_the_machine),
		ON_MACHINE(v2_own_limit_counts),
		ON_MACHINE(v2_limit_further_up_counts),
		ON_MACHINE(v2_in_a_namespace),
		ON_MACHINE(v2_mounted_without_namespace),
		ON_MACHINE(v2_own_cgroup_outside_what_is_mounted),
		ON_MACHINE(larger_than_the_machine_is_no_limit),
		ON_MACHINE(v1_hierarchy_is_found),
		ON_MACHINE(garbage_is_no_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
