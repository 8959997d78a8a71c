#include "platform/process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/cleanup.h"

#define GATHER_MAX 1024 /* UIO_MAXIOV */

int pidfd_open_process(pid_t pid)
{
	long fd = syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : (int)fd;
}

int pidfd_take_fd(int pidfd, int target_fd)
{
	long fd = syscall(SYS_pidfd_getfd, pidfd, target_fd, 0);

	return fd < 0 ? -errno : (int)fd;
}

int pidfd_kill(int pidfd, int signal)
{
	return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) < 0 ? -errno : 0;
}

bool pidfd_has_exited(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};

	return poll(&p, 1, 0) == 1 && p.revents;
}

/* That it could not be asked (no descriptor, no memory to be had) says nothing. */
static bool means_gone(int error)
{
	return error < 0 && error != -EMFILE && error != -ENFILE && error != -ENOMEM;
}

bool process_has_ended(pid_t pid)
{
	struct process_info info;
	int pidfd = pidfd_open_process(pid);

	if (pidfd < 0)
		return means_gone(pidfd);
	bool ended = pidfd_has_exited(pidfd);
	close(pidfd);
	return ended || means_gone(process_info_read(pid, &info));
}

/* The context of io_setup(2) is memory that the kernel has mapped. */
static bool has_aio_context(pid_t pid)
{
	char path[48], line[4096 + 128];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, " /[aio] (deleted)"))
			return true;
	return !f;
}

static bool has_io_uring(pid_t pid)
{
	char path[48], target[64];
	struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	_cleanup_closedir_ DIR *fds = opendir(path);
	while (fds && (entry = readdir(fds))) {
		ssize_t n = readlinkat(dirfd(fds), entry->d_name, target, sizeof(target) - 1);
		target[n < 0 ? 0 : n] = '\0';
		if (!strcmp(target, "anon_inode:[io_uring]"))
			return true;
	}
	return !fds;
}

bool process_has_asynchronous_io(pid_t pid)
{
	return !process_has_ended(pid) && (has_io_uring(pid) || has_aio_context(pid));
}

pid_t pidfd_process(int pidfd)
{
	char path[48], line[128];
	long pid = -1;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Pid: %ld", &pid) == 1)
			break;
	return pid > 0 ? (pid_t)pid : -ESRCH;
}

/* The kernel stops a transfer at the first page it cannot reach; a second call from there tells the error. */
int process_read(pid_t pid, remote_addr_t src, void *dst, size_t len)
{
	size_t done = 0;

	while (done < len) {
		struct iovec local = {.iov_base = (char *)dst + done, .iov_len = len - done};
		struct iovec remote = {.iov_base = (void *)(uintptr_t)(src + done), .iov_len = len - done};
		ssize_t n = process_vm_readv(pid, &local, 1, &remote, 1, 0);

		if (n <= 0)
			return n < 0 ? -errno : -EFAULT;
		done += (size_t)n;
	}
	return 0;
}

int process_write(pid_t pid, remote_addr_t dst, const void *src, size_t len)
{
	size_t done = 0;

	while (done < len) {
		struct iovec local = {.iov_base = (void *)((uintptr_t)src + done), .iov_len = len - done};
		struct iovec remote = {.iov_base = (void *)(uintptr_t)(dst + done), .iov_len = len - done};
		ssize_t n = process_vm_writev(pid, &local, 1, &remote, 1, 0);

		if (n <= 0)
			return n < 0 ? -errno : -EFAULT;
		done += (size_t)n;
	}
	return 0;
}

int process_gather(pid_t pid, const struct remote_range *ranges, uint32_t nr_ranges, void *dst, size_t len)
{
	struct iovec local = {.iov_base = dst, .iov_len = len};
	struct iovec remote[GATHER_MAX];
	ssize_t n;

	if (nr_ranges > GATHER_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < nr_ranges; i++)
		remote[i] = (struct iovec){.iov_base = (void *)(uintptr_t)ranges[i].start, .iov_len = ranges[i].len};
	n = process_vm_readv(pid, &local, 1, remote, nr_ranges, 0);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EFAULT;
}

int process_same_memory(pid_t a, pid_t b)
{
	long r = syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0);

	return r < 0 ? -errno : r == 0;
}

ssize_t process_pageout(int pidfd, remote_addr_t start, size_t len)
{
	struct iovec range = {.iov_base = (void *)(uintptr_t)start, .iov_len = len};
	long n = syscall(SYS_process_madvise, pidfd, &range, 1, MADV_PAGEOUT, 0);

	return n < 0 ? -errno : n;
}

/* Opens /proc/PID/NAME. A process that is gone is -ESRCH, whether its directory or only its task has vanished. */
static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	return fd;
}

/* Reads a small file of /proc/PID as a string; returns its length (>= 1) or -errno. */
static ssize_t read_proc(pid_t pid, const char *name, char *buf, size_t size)
{
	_cleanup_close_ int fd = open_proc(pid, name, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = read(fd, buf, size - 1);
	if (n <= 0)
		return n < 0 ? -errno : -ESRCH;
	buf[n] = '\0';
	return n;
}

bool process_has_memory(pid_t pid)
{
	char buf[128];
	unsigned long size;

	return read_proc(pid, "statm", buf, sizeof(buf)) >= 0 && sscanf(buf, "%lu", &size) == 1 && size > 0;
}

int process_memory_read(pid_t pid, struct process_memory *ret)
{
	struct process_memory memory;
	char buf[128];
	ssize_t n = read_proc(pid, "statm", buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	if (sscanf(buf, "%*u %lu %lu", &memory.resident_pages, &memory.file_pages) != 2)
		return -EBADMSG;
	*ret = memory;
	return 0;
}

/* The value of a line "KEY: N kB" in pages, rounded up; 0 when there is no such line. */
static uint64_t status_pages(const char *text, const char *key)
{
	const char *line = strstr(text, key);

	return line ? ((strtoull(line + strlen(key), NULL, 10) << 10) + PAGE_BYTES - 1) >> PAGE_SHIFT : 0;
}

int process_residence_read(pid_t pid, struct process_residence *ret)
{
	char buf[4096];
	ssize_t n = read_proc(pid, "status", buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	*ret = (struct process_residence){.anon = status_pages(buf, "\nRssAnon:"),
					  .file = status_pages(buf, "\nRssFile:"),
					  .shmem = status_pages(buf, "\nRssShmem:"),
					  .tables = status_pages(buf, "\nVmPTE:")};
	return 0;
}

/* The figure of a line "NAME:   N kB" of smaps_rollup, in pages; 0 where the kernel has no such line. */
static uint64_t rollup_figure(const char *text, const char *name)
{
	char key[32];
	const char *line;

	snprintf(key, sizeof(key), "\n%s:", name);
	line = strstr(text, key);
	return line ? strtoull(line + strlen(key), NULL, 10) >> (PAGE_SHIFT - 10) : 0;
}

int process_sharing_read(pid_t pid, struct process_sharing *ret)
{
	char buf[2048];
	ssize_t n = read_proc(pid, "smaps_rollup", buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	uint64_t anon = rollup_figure(buf, "Anonymous"), resident = rollup_figure(buf, "Rss");
	*ret = (struct process_sharing){
		.anon = anon,
		.file = resident > anon ? resident - anon : 0,
		.proportional_anon = rollup_figure(buf, "Pss_Anon"),
		.proportional_file = rollup_figure(buf, "Pss_File") + rollup_figure(buf, "Pss_Shmem"),
		.proportional_shmem = rollup_figure(buf, "Pss_Shmem"),
		.own = rollup_figure(buf, "Private_Clean") + rollup_figure(buf, "Private_Dirty"),
		.locked = rollup_figure(buf, "Locked"),
	};
	return 0;
}

/*
 * /proc/PID/stat: "pid (name) state ppid ...". The name may hold blanks and parentheses, so fields are counted from the last ')'.
 * Field numbers are those of proc(5); state is 3.
 */
#define PF_IN_KERNEL_ONLY 0x204010ull /* PF_KTHREAD, PF_USER_WORKER, PF_IO_WORKER of include/linux/sched.h */
enum stat_field { STAT_PARENT = 4, STAT_FLAGS = 9, STAT_MINOR_FAULTS = 10, STAT_START_TIME = 22, STAT_ARG_START = 48, STAT_ENV_END = 51 };

static uint64_t stat_field(const char *after_name, int field)
{
	const char *at = after_name;

	for (int i = 2; i < field; i++) {
		at = strchr(at, ' ');
		if (!at)
			return 0;
		at++;
	}
	return strtoull(at, NULL, 10);
}

int process_info_read(pid_t pid, struct process_info *ret)
{
	struct process_info info = {.state = '?'};
	char buf[1024];
	ssize_t n = read_proc(pid, "stat", buf, sizeof(buf));
	char *open_paren, *close_paren;

	if (n < 0)
		return (int)n;
	open_paren = strchr(buf, '(');
	close_paren = strrchr(buf, ')');
	if (!open_paren || !close_paren || close_paren < open_paren || close_paren[1] != ' ')
		return -EBADMSG;
	*close_paren = '\0';
	snprintf(info.name, sizeof(info.name), "%s", open_paren + 1);
	info.state = close_paren[2];
	info.parent = (pid_t)stat_field(close_paren + 1, STAT_PARENT);
	info.is_kernel_thread = stat_field(close_paren + 1, STAT_FLAGS) & PF_IN_KERNEL_ONLY;
	info.start_time = stat_field(close_paren + 1, STAT_START_TIME);
	info.arg_start = stat_field(close_paren + 1, STAT_ARG_START);
	info.env_end = stat_field(close_paren + 1, STAT_ENV_END);
	*ret = info;
	return 0;
}

/* What follows "key:" in /proc/PID/status, up to the end of the file; NULL with *ret_error. */
static char *status_line(pid_t pid, const char *key, char *buf, size_t size, int *ret_error)
{
	char start[32];
	ssize_t n = read_proc(pid, "status", buf, size);

	snprintf(start, sizeof(start), "\n%s:", key);
	char *line = n < 0 ? NULL : strstr(buf, start);
	*ret_error = n < 0 ? (int)n : -ENODATA;
	return line ? line + strlen(start) : NULL;
}

int process_status_number(pid_t pid, const char *key, long *ret)
{
	char buf[4096];
	int error;
	const char *value = status_line(pid, key, buf, sizeof(buf), &error);

	if (!value)
		return error;
	*ret = strtol(value, NULL, 10);
	return 0;
}

bool process_is_filtered(pid_t pid)
{
	long mode, filters = 0, own = 0;

	process_status_number(pid, "Seccomp_filters", &filters);
	process_status_number(getpid(), "Seccomp_filters", &own);
	return (process_status_number(pid, "Seccomp", &mode) == 0 && mode == 1) || filters > own;
}

int process_check_owner(pid_t pid)
{
	char buf[4096], path[32];
	uid_t user = geteuid(), uids[4];
	struct stat st;
	int error;

	if (!user)
		return 0;
	const char *value = status_line(pid, "Uid", buf, sizeof(buf), &error);
	if (!value)
		return error;
	if (sscanf(value, "%u %u %u %u", &uids[0], &uids[1], &uids[2], &uids[3]) != 4)
		return -EPROTO;
	for (size_t i = 0; i < ARRAY_LEN(uids); i++)
		if (uids[i] != user)
			return -EPERM;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid); /* the folder itself is the user's in any case */
	if (stat(path, &st))
		return errno == ENOENT ? -ESRCH : -errno;
	return st.st_uid == user ? 0 : -EPERM;
}

pid_t process_innermost_pid(pid_t pid)
{
	char buf[4096];
	int error;
	char *value = status_line(pid, "NSpid", buf, sizeof(buf), &error);

	if (!value)
		return error == -ENODATA ? pid : 0;
	value[strcspn(value, "\n")] = '\0';
	const char *last = strrchr(value, '\t');
	return (pid_t)strtol(last ? last : value, NULL, 10);
}

int process_minor_faults(pid_t pid, uint64_t *ret)
{
	char buf[1024];
	ssize_t n = read_proc(pid, "stat", buf, sizeof(buf));
	const char *close_paren = n < 0 ? NULL : strrchr(buf, ')');

	if (!close_paren || close_paren[1] != ' ')
		return n < 0 ? (int)n : -EBADMSG;
	*ret = stat_field(close_paren + 1, STAT_MINOR_FAULTS);
	return 0;
}

int process_oom_score_adj(pid_t pid, int *ret)
{
	char buf[32];
	ssize_t n = read_proc(pid, "oom_score_adj", buf, sizeof(buf));

	if (n < 0)
		return (int)n;
	*ret = (int)strtol(buf, NULL, 10);
	return 0;
}

/* Calls visit with every thread id of pid; the first error ends it. */
static int threads_for_each(pid_t pid, int (*visit)(pid_t tid, void *context), void *context)
{
	_cleanup_closedir_ DIR *dir = NULL;
	_cleanup_close_ int fd = open_proc(pid, "task", O_RDONLY | O_DIRECTORY);
	struct dirent *entry;

	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
	if (!dir)
		return -errno;
	steal_fd(&fd);
	while ((entry = readdir(dir))) {
		int r;

		if (entry->d_name[0] == '.')
			continue;
		r = visit((pid_t)strtol(entry->d_name, NULL, 10), context);
		if (r < 0)
			return r;
	}
	return 0;
}

struct pid_list {
	pid_t *pids;
	int nr, max;
	pid_t process;
};

static int add_thread(pid_t tid, void *context)
{
	struct pid_list *list = context;

	if (list->nr < list->max)
		list->pids[list->nr] = tid;
	list->nr++;
	return 0;
}

int process_threads(pid_t pid, pid_t *ret_tids, int max)
{
	struct pid_list list = {.pids = ret_tids, .max = max};
	int r = threads_for_each(pid, add_thread, &list);

	return r < 0 ? r : list.nr;
}

/* A thread that ends while we look has no children left that are its own: the kernel hands them to another thread. */
static int add_children(pid_t tid, void *context)
{
	struct pid_list *list = context;
	_cleanup_fclose_ FILE *f = NULL;
	char name[48];
	int fd, child;

	snprintf(name, sizeof(name), "task/%d/children", tid);
	fd = open_proc(list->process, name, O_RDONLY);
	if (fd < 0)
		return fd == -ESRCH ? 0 : fd;
	f = fdopen(fd, "re");
	if (!f) {
		int error = -errno;

		close(fd);
		return error;
	}
	while (list->nr < list->max && fscanf(f, "%d", &child) == 1)
		list->pids[list->nr++] = child;
	return 0;
}

int process_children(pid_t pid, pid_t *ret_children, int max)
{
	struct pid_list list = {.pids = ret_children, .max = max, .process = pid};
	int r = threads_for_each(pid, add_children, &list);

	return r < 0 ? r : list.nr;
}

int thread_robust_list(pid_t tid, remote_addr_t *ret_head)
{
	void *head = NULL;
	size_t len;

	if (syscall(SYS_get_robust_list, tid, &head, &len) < 0)
		return -errno;
	*ret_head = (remote_addr_t)(uintptr_t)head;
	return 0;
}

int system_activity_read(struct system_activity *ret)
{
	char text[96];
	_cleanup_close_ int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return -ENOENT;
	text[n] = '\0';
	return sscanf(text, "%*s %*s %*s %u/%*u %d", &ret->runnable, &ret->newest_pid) == 2 ? 0 : -EINVAL;
}
