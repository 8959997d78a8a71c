/* Files of /proc and of cgroups. The first byte of the input chooses who reads it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/process/process.h"
#include "fuzz.h"
#include "platform/granted_memory.h"
#include "platform/memory_cgroup.h"
#include "platform/pagemap.h"
#include "platform/process.h"

/* Whatever a process is asked by a system call of its own: it says nothing. */
long __wrap_remote_call(const struct remote *remote, long number, const uint64_t args[6]);

long __wrap_remote_call(const struct remote *remote, long number, const uint64_t args[6])
{
	return 0;
}

remote_addr_t __wrap_remote_put(const struct remote *remote, size_t offset, const void *data, size_t len);

remote_addr_t __wrap_remote_put(const struct remote *remote, size_t offset, const void *data, size_t len)
{
	return PAGE_BYTES;
}

int __wrap_remote_get(const struct remote *remote, size_t offset, void *data, size_t len);

int __wrap_remote_get(const struct remote *remote, size_t offset, void *data, size_t len)
{
	memset(data, 0, len);
	return 0;
}

ssize_t __wrap_readlink(const char *path, char *target, size_t room);

ssize_t __wrap_readlink(const char *path, char *target, size_t room)
{
	return snprintf(target, room, "/somewhere");
}

int __wrap_pages_save_file(struct saved_process *p, Image__Object *object, int fd, uint64_t start, uint64_t end);

int __wrap_pages_save_file(struct saved_process *p, Image__Object *object, int fd, uint64_t start, uint64_t end)
{
	return 0;
}

/* Not a pid: no process is looked at by accident. */
#define NOBODY ((pid_t)0)

static void read_figures(void)
{
	struct process_memory memory;
	struct process_residence residence;
	struct process_sharing sharing;
	struct process_info info;
	struct system_activity activity;
	uint64_t faults;
	int adjust;
	long number;
	process_memory_read(NOBODY, &memory);
	process_residence_read(NOBODY, &residence);
	process_sharing_read(NOBODY, &sharing);
	process_info_read(NOBODY, &info);
	process_minor_faults(NOBODY, &faults);
	process_oom_score_adj(NOBODY, &adjust);
	process_status_number(NOBODY, "TracerPid", &number);
	process_innermost_pid(NOBODY);
	process_has_memory(NOBODY);
	process_check_owner(NOBODY);
	system_activity_read(&activity);
}

static void read_children(void)
{
	pid_t children[16];
	int nr = process_children(getpid(), children, ARRAY_LEN(children));
	if (nr > (int)ARRAY_LEN(children))
		abort();
}

static int see(const struct mapping *m, void *context)
{
	if (strlen(m->name) >= sizeof(m->name))
		abort();
	return 0;
}

static void read_maps(void)
{
	struct mapping mapping;
	int fd = maps_open(NOBODY);
	maps_for_each(NOBODY, see, NULL);
	mapping_find(NOBODY, fd, 0x7000, &mapping);
	close(fd);
}

static void read_cgroups(void)
{
	struct granted_memory granted;
	uint64_t bytes;
	granted_memory(&granted);
	available_memory(&bytes);
	memory_cgroup_unevictable("/folder", true);
	memory_cgroup_oom_kills("/folder", false);
}

static void save_process(int (*save)(struct saved_process *p))
{
	Image__Image image = IMAGE__IMAGE__INIT;
	Image__Process message = IMAGE__PROCESS__INIT;
	struct saving saving = {.image = &image};
	struct saved_process p = {.saving = &saving, .pid = NOBODY, .message = &message};
	save(&p);
	arena_release(&saving.arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	const struct fuzz_file file = {.name = "", .data = data + 1, .len = size - 1};
	fuzz_files_set(&file, 1);
	switch (data[0] % 7) {
	case 0:
		read_figures();
		break;
	case 1:
		read_children();
		break;
	case 2:
		read_maps();
		break;
	case 3:
		read_cgroups();
		break;
	case 4:
		save_process(layout_save);
		break;
	case 5:
		save_process(timers_save);
		break;
	case 6:
		save_process(signals_save);
		break;
	}
	fuzz_files_set(NULL, 0);
	return 0;
}
