#include "platform/requirements.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/first_line.h"
#include "base/units.h"
#include "platform/granted_memory.h"
#include "platform/idle_latency.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/userfaultfd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define KERNEL_NEEDED_MAJOR 6
#define KERNEL_NEEDED_MINOR 8

static void set(struct requirement *req, enum requirement_state state, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* State and what was found. */
static void set(struct requirement *req, enum requirement_state state, const char *format, ...)
{
	va_list args;

	req->state = state;
	va_start(args, format);
	vsnprintf(req->found, sizeof(req->found), format, args);
	va_end(args);
}

static void advise(struct requirement *req, const char *text)
{
	snprintf(req->advice, sizeof(req->advice), "%s", text);
}

static int read_number(const char *path, int if_absent)
{
	char line[32];

	return first_line_read(path, line, sizeof(line)) ? if_absent : atoi(line);
}

static int capability_sets(struct __user_cap_data_struct sets[2], bool write)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

	return syscall(write ? SYS_capset : SYS_capget, &header, sets) ? -errno : 0;
}

static bool have_capability(int capability)
{
	struct __user_cap_data_struct sets[2] = {0};

	return !capability_sets(sets, false) && (sets[capability / 32].effective & 1u << capability % 32);
}

bool requirements_may_choose_ids(void)
{
	return have_capability(CAP_CHECKPOINT_RESTORE) || have_capability(CAP_SYS_ADMIN);
}

/* A child that only waits to be killed, as something to try rights on; gone with its parent. */
static pid_t start_sleeper(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	return pid;
}

static void end_sleeper(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

static void check_kernel(struct requirement *req, const char *swap_dir)
{
	struct utsname name;
	int major = 0, minor = 0;

	if (uname(&name) || sscanf(name.release, "%d.%d", &major, &minor) != 2) {
		set(req, REQUIREMENT_WARNING, "version unknown");
		advise(req, "membox needs Linux 6.8 or newer");
	} else if (major > KERNEL_NEEDED_MAJOR || (major == KERNEL_NEEDED_MAJOR && minor >= KERNEL_NEEDED_MINOR)) {
		set(req, REQUIREMENT_OK, "Linux %.64s", name.release);
	} else {
		set(req, REQUIREMENT_MISSING, "Linux %.64s is too old", name.release);
		advise(req, "boot Linux 6.8 or newer (Debian 12: the linux-image package of bookworm-backports)");
	}
}

static void check_page_size(struct requirement *req, const char *swap_dir)
{
	long size = sysconf(_SC_PAGESIZE);

	if (size == (long)PAGE_BYTES) {
		set(req, REQUIREMENT_OK, "%ld bytes", size);
		return;
	}
	set(req, REQUIREMENT_MISSING, "%ld bytes", size);
	advise(req, "membox works in pages of 4096 bytes: boot a kernel built with that page size");
}

/* A userfaultfd that may serve faults raised inside the kernel: by system call, else by the device. -errno of the system call. */
static int open_userfaultfd(const char **ret_how)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	int error = errno;
	int device;

	if (fd >= 0) {
		*ret_how = "the system call is allowed";
		return fd;
	}
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0)
		return -error;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	*ret_how = "/dev/userfaultfd may be opened";
	return fd < 0 ? -error : fd;
}

/* Whether CAP_SYS_PTRACE passes on to what this process executes. */
static bool program_inherits_ptrace(void)
{
	if (geteuid() == 0)
		return have_capability(CAP_SYS_PTRACE);
	return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_SYS_PTRACE, 0, 0) == 1;
}

/*
 * The program in the container takes the userfaultfd, not membox: a capability that membox has from its own file does not help it,
 * so it is put aside while the right is tried.
 */
static int open_userfaultfd_as_program(const char **ret_how)
{
	struct __user_cap_data_struct full[2] = {0}, reduced[2];
	int fd;

	if (program_inherits_ptrace() || !have_capability(CAP_SYS_PTRACE) || capability_sets(full, false))
		return open_userfaultfd(ret_how);
	memcpy(reduced, full, sizeof(full));
	reduced[CAP_SYS_PTRACE / 32].effective &= ~(1u << CAP_SYS_PTRACE % 32);
	if (capability_sets(reduced, true))
		return open_userfaultfd(ret_how);
	fd = open_userfaultfd(ret_how);
	capability_sets(full, true);
	return fd;
}

static void check_userfaultfd(struct requirement *req, const char *swap_dir)
{
	const char *how = "";
	int fd = open_userfaultfd_as_program(&how);

	if (fd >= 0) {
		close(fd);
		set(req, REQUIREMENT_OK, "%s", how);
		return;
	}
	set(req, REQUIREMENT_MISSING, "refused: %s", strerror(-fd));
	if (fd == -ENOSYS)
		advise(req, "the kernel has no userfaultfd (CONFIG_USERFAULTFD), or a seccomp filter hides it");
	else if (program_inherits_ptrace() || read_number("/proc/sys/vm/unprivileged_userfaultfd", 0) == 1)
		advise(req, "a seccomp filter or security module forbids it (docker, podman: allow userfaultfd, ptrace "
			    "and process_madvise in the seccomp profile)");
	else
		advise(req,
		       "as root: sysctl vm.unprivileged_userfaultfd=1 (for good: packaging/60-membox-userfaultfd.conf), "
		       "or read and write access to /dev/userfaultfd (packaging/60-membox-userfaultfd.rules), or run membox as root");
}

static const struct {
	uint64_t bit;
	const char *name;
} feature_names[] = {
	{UFFD_FEATURE_MOVE, "MOVE"},
	{UFFD_FEATURE_WP_ASYNC, "WP_ASYNC"},
	{UFFD_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED"},
	{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "PAGEFAULT_FLAG_WP"},
	{UFFD_FEATURE_EVENT_FORK, "EVENT_FORK"},
	{UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP"},
	{UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE"},
	{UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP"},
	{UFFD_FEATURE_THREAD_ID, "THREAD_ID"},
};

static void name_missing_features(uint64_t offered, char *text, size_t size)
{
	size_t len = 0;

	text[0] = '\0';
	for (size_t i = 0; i < ARRAY_LEN(feature_names) && len < size; i++)
		if ((UFFD_PROGRAM_FEATURES & feature_names[i].bit) && !(offered & feature_names[i].bit))
			len += (size_t)snprintf(text + len, size - len, " %s", feature_names[i].name);
}

static void check_features(struct requirement *req, const char *swap_dir)
{
	struct uffdio_api api = {.api = UFFD_API};
	const char *how;
	_cleanup_close_ int fd = open_userfaultfd(&how);
	char missing[160];

	if (fd < 0) {
		set(req, REQUIREMENT_WARNING, "cannot be asked without a userfaultfd");
		advise(req, "first see the line userfaultfd");
		return;
	}
	/* Asked with no feature, the kernel answers with all it has. */
	if (ioctl(fd, UFFDIO_API, &api))
		api.features = 0;
	name_missing_features(api.features, missing, sizeof(missing));
	if (missing[0]) {
		set(req, REQUIREMENT_MISSING, "not offered:%s", missing);
		advise(req,
		       "boot a kernel of 6.8 or newer that has them (x86_64: CONFIG_USERFAULTFD, CONFIG_PTE_MARKER_UFFD_WP)");
		return;
	}
	set(req, REQUIREMENT_OK, "MOVE, WP_ASYNC, EVENT_FORK, REMAP, REMOVE, UNMAP and the rest are offered");
}

bool requirements_have_fork_events(void)
{
	const char *how;
	_cleanup_close_ int fd = open_userfaultfd(&how);

	return fd < 0 || uffd_api(fd, UFFD_PROGRAM_FEATURES) == 0;
}

/* UFFDIO_API refuses EVENT_FORK to a caller without CAP_SYS_PTRACE, whatever vm.unprivileged_userfaultfd says. */
static void check_fork_events(struct requirement *req, const char *swap_dir)
{
	const char *how;
	_cleanup_close_ int fd = open_userfaultfd(&how);
	int r;

	if (fd < 0) {
		set(req, REQUIREMENT_WARNING, "cannot be asked without a userfaultfd");
		advise(req, "first see the line userfaultfd");
		return;
	}
	r = uffd_api(fd, UFFD_PROGRAM_FEATURES);
	if (r == -EPERM) {
		set(req, REQUIREMENT_WARNING, "not reported to this user: programs near their limit stay traced");
		advise(req,
		       "it works, but signals and forks take longer, no debugger can attach and set-user-id programs get no rights; to change that, "
		       "CAP_SYS_PTRACE: run membox as root, or as root: setcap cap_sys_ptrace+ep FILE on the membox program file");
	} else if (r) {
		set(req, REQUIREMENT_MISSING, "handshake with all features: %s", strerror(-r));
		advise(req, "boot a kernel of 6.8 or newer");
	} else {
		set(req, REQUIREMENT_OK, "the handshake with all features succeeds");
	}
}

/*
 * With capabilities from its file a process is not "dumpable", and its /proc files belong to root. The program is an ordinary process
 * whose files may be read; so that this one stands for it, it is made dumpable for the moment. Tracing it needs its capabilities even then.
 */
static int open_own_pagemap(void)
{
	bool dumpable = prctl(PR_GET_DUMPABLE) == 1;
	int fd;

	if (!dumpable)
		prctl(PR_SET_DUMPABLE, 1);
	fd = pagemap_open(getpid());
	if (!dumpable)
		prctl(PR_SET_DUMPABLE, 0);
	return fd;
}

static void check_pagemap(struct requirement *req, const char *swap_dir)
{
	volatile char *page = (volatile char *)page_floor((uintptr_t)&req);
	struct pagemap_query query = {
		.start = (uintptr_t)page,
		.end = (uintptr_t)page + PAGE_BYTES,
		.require = PAGE_PRESENT,
		.report = PAGE_PRESENT,
	};
	struct page_run run;
	uint64_t walked_to;
	_cleanup_close_ int fd = open_own_pagemap();
	int r = fd < 0 ? fd : pagemap_scan(fd, &query, &run, 1, &walked_to);

	if (r == 1) {
		set(req, REQUIREMENT_OK, "PAGEMAP_SCAN works");
		return;
	}
	set(req, REQUIREMENT_MISSING, "PAGEMAP_SCAN: %s", r < 0 ? strerror(-r) : "wrong answer");
	advise(req, r == -ENOTTY || r == -ENOENT
			    ? "boot Linux 6.8 or newer with CONFIG_PROC_PAGE_MONITOR"
			    : "something forbids reading /proc/PID/pagemap: look at how /proc is mounted");
}

static void check_children(struct requirement *req, const char *swap_dir)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", gettid());
	if (!access(path, R_OK)) {
		set(req, REQUIREMENT_OK, "/proc/PID/task/TID/children is there");
		return;
	}
	set(req, REQUIREMENT_MISSING, "%s: %s", path, strerror(errno));
	advise(req, "needed to find the program's children: boot a kernel with CONFIG_PROC_CHILDREN, and mount /proc");
}

static void advise_ptrace(struct requirement *req)
{
	int scope = read_number("/proc/sys/kernel/yama/ptrace_scope", 0);

	if (scope == 3)
		advise(req,
		       "kernel.yama.ptrace_scope is 3, which forbids it until the next boot: set it to 0 or 1 at boot");
	else if (scope == 2)
		advise(req, "as root: sysctl kernel.yama.ptrace_scope=1, or run membox as root");
	else
		advise(req, "a seccomp filter or security module forbids it (docker, podman: --cap-add SYS_PTRACE)");
}

static void check_ptrace(struct requirement *req, const char *swap_dir)
{
	pid_t child = start_sleeper();
	int error;

	if (child < 0) {
		set(req, REQUIREMENT_WARNING, "cannot be tried: fork: %s", strerror(errno));
		advise(req, "look at the limit of processes (ulimit -u)");
		return;
	}
	error = ptrace(PTRACE_SEIZE, child, 0, 0) ? errno : 0;
	end_sleeper(child);
	if (!error) {
		set(req, REQUIREMENT_OK, "children may be traced");
		return;
	}
	set(req, REQUIREMENT_MISSING, "tracing a child: %s", strerror(error));
	advise_ptrace(req);
}

#define CAP_SYS_PTRACE_BIT 19 /* linux/capability.h */

static bool may_trace_strangers(void)
{
	unsigned long long effective = 0;
	_cleanup_fclose_ FILE *f = fopen("/proc/self/status", "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %llx", &effective) == 1)
			break;
	return effective >> CAP_SYS_PTRACE_BIT & 1;
}

/* `run` traces only descendants; attach processes that are none. */
static void check_attach(struct requirement *req, const char *swap_dir)
{
	int scope = read_number("/proc/sys/kernel/yama/ptrace_scope", 0);

	if (scope == 0 || (scope < 3 && may_trace_strangers())) {
		set(req, REQUIREMENT_OK, "%s processes may be attached", geteuid() ? "the user's" : "all users'");
		return;
	}
	set(req, REQUIREMENT_WARNING, "kernel.yama.ptrace_scope is %d: membox attach is not allowed", scope);
	advise(req, scope == 3 ? "set it to 0 at boot" : "as root: sysctl kernel.yama.ptrace_scope=0, or run membox attach as root");
}

static void check_file_pages(struct requirement *req, const char *swap_dir)
{
	pid_t child = start_sleeper();
	_cleanup_close_ int pidfd = child < 0 ? -errno : pidfd_open_process(child);
	ssize_t r = pidfd;

	/* Any mapped page of the child will do; it has the same ones as we. */
	if (pidfd >= 0)
		r = process_pageout(pidfd, page_floor((uintptr_t)&requirements_examine), PAGE_BYTES);
	if (child > 0)
		end_sleeper(child);
	if (r >= 0) {
		set(req, REQUIREMENT_OK, "process_madvise(PAGEOUT) works on children");
		return;
	}
	set(req, REQUIREMENT_WARNING, "process_madvise(PAGEOUT): %s", strerror((int)-r));
	advise(req,
	       "mapped file pages of the program cannot be given back and use up the limit; it needs CAP_SYS_NICE: run membox as "
	       "root, or as root: setcap cap_sys_nice,cap_sys_ptrace+ep FILE on the membox program file");
}

static void check_io_uring(struct requirement *req, const char *swap_dir)
{
	struct io_uring ring;
	int r = io_uring_queue_init(4, &ring, 0);

	if (!r) {
		io_uring_queue_exit(&ring);
		set(req, REQUIREMENT_OK, "available");
		return;
	}
	set(req, REQUIREMENT_WARNING, "io_uring_setup: %s", strerror(-r));
	if (r == -EPERM && read_number("/proc/sys/kernel/io_uring_disabled", 0) > 0)
		advise(req,
		       "plain reads and writes are used, which is slower; as root: sysctl kernel.io_uring_disabled=0");
	else
		advise(req, "plain reads and writes are used, which is slower; a seccomp filter may forbid io_uring");
}

static void check_idle_latency(struct requirement *req, const char *swap_dir)
{
	struct idle_latency latency;

	idle_latency_open(&latency);
	if (latency.fd >= 0) {
		set(req, REQUIREMENT_OK, "idle processors wait awake while a program pages");
	} else {
		set(req, REQUIREMENT_WARNING, "/dev/cpu_dma_latency: %s", strerror(errno));
		advise(req, "each page fault waits for sleeping processors to wake up: in a virtual machine it takes half as long again; "
			    "run membox as root, or give yourself write access to that device (packaging/60-membox-userfaultfd.rules)");
	}
	idle_latency_close(&latency);
}

/* Cuts path back to the first part that exists. */
static void nearest_existing(char *path)
{
	while (access(path, F_OK)) {
		char *slash = strrchr(path, '/');

		if (!slash) {
			strcpy(path, ".");
			return;
		}
		slash[slash == path] = '\0';
		if (slash == path)
			return;
	}
}

/* 0, or -errno of creating a file in dir and opening it with extra_flags. */
static int try_file(const char *dir, int extra_flags)
{
	_cleanup_free_ char *path = NULL;
	int fd, r;

	if (asprintf(&path, "%s/.membox-doctor.%d", dir, getpid()) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | extra_flags, 0600);
	r = fd < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (r != -EEXIST)
		unlink(path);
	return r;
}

static void check_swap_dir(struct requirement *req, const char *swap_dir)
{
	_cleanup_free_ char *dir = swap_dir ? strdup(swap_dir) : NULL;
	struct statfs fs = {0};
	char space[SIZE_TEXT_MAX];
	int r, direct;

	if (!dir) {
		set(req, REQUIREMENT_WARNING, "no default folder: HOME and XDG_CACHE_HOME are not set");
		advise(req, "give membox run --swap FILE");
		return;
	}
	nearest_existing(dir);
	r = try_file(dir, 0);
	if (r) {
		set(req, REQUIREMENT_WARNING, "%.120s: %s", dir, strerror(-r));
		advise(req, "give membox run --swap FILE in a folder where you may write, or set XDG_CACHE_HOME");
		return;
	}
	direct = try_file(dir, O_DIRECT);
	statfs(dir, &fs);
	format_size((uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize, space);
	if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC) {
		set(req, REQUIREMENT_WARNING, "%.100s is in memory, %s free", dir, space);
		advise(req, "a swap file there frees no memory: give membox run --swap FILE on a disk");
	} else if (direct) {
		set(req, REQUIREMENT_WARNING, "%.100s: no O_DIRECT, %s free", dir, space);
		advise(req,
		       "swapping goes through the page cache, which works but costs memory; ext4, xfs and btrfs have O_DIRECT");
	} else {
		set(req, REQUIREMENT_OK, "%.100s: O_DIRECT, %s free", dir, space);
	}
}

/* The key of an encrypted swap file is kept in a page that is locked. */
static void check_encryption(struct requirement *req, const char *swap_dir)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r = page == MAP_FAILED || mlock(page, PAGE_BYTES) < 0 ? -errno : 0;

	if (page != MAP_FAILED)
		munmap(page, PAGE_BYTES);
	if (!r) {
		set(req, REQUIREMENT_OK, "with membox run --encrypt; the key can be locked in memory");
		return;
	}
	set(req, REQUIREMENT_WARNING, "with membox run --encrypt; the key cannot be locked in memory: %s", strerror(-r));
	advise(req, "the system's own swap, if it has one, may come to hold the key; raise the limit of locked memory (ulimit -l) to 4 or more");
}

static void check_granted_memory(struct requirement *req, const char *swap_dir)
{
	struct granted_memory granted;
	char text[SIZE_TEXT_MAX];
	int r = granted_memory(&granted);

	if (!r) {
		set(req, REQUIREMENT_OK, "%s (%.140s)", format_size(granted.bytes, text), granted.source);
		return;
	}
	set(req, REQUIREMENT_WARNING, "unknown: %s", strerror(-r));
	advise(req, "without /proc/meminfo there is no default limit: give membox run --limit SIZE in bytes");
}

static void check_huge_pages(struct requirement *req, const char *swap_dir)
{
	char line[128];

	if (first_line_read("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line))) {
		set(req, REQUIREMENT_OK, "no transparent huge pages");
		return;
	}
	set(req, REQUIREMENT_OK, "%s", line);
	if (!strstr(line, "[always]"))
		return;
	req->state = REQUIREMENT_WARNING;
	advise(req, "memory comes in pieces of 2 MiB, which small limits feel; as root: "
		    "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
}

static const struct {
	const char *name;
	void (*check)(struct requirement *req, const char *swap_dir);
	bool can_be_missing;
} checks[] = {
	{"kernel", check_kernel, true},
	{"page size", check_page_size, true},
	{"userfaultfd", check_userfaultfd, true},
	{"userfaultfd features", check_features, true},
	{"fork events", check_fork_events, true},
	{"pagemap", check_pagemap, true},
	{"children list", check_children, true},
	{"ptrace", check_ptrace, true},
	{"attach", check_attach, false},
	{"mapped file pages", check_file_pages, false},
	{"io_uring", check_io_uring, false},
	{"idle latency", check_idle_latency, false},
	{"swap folder", check_swap_dir, false},
	{"swap encryption", check_encryption, false},
	{"granted memory", check_granted_memory, false},
	{"huge pages", check_huge_pages, false},
};

_Static_assert(ARRAY_LEN(checks) <= REQUIREMENTS_MAX, "one place for each check");

uint32_t requirements_examine(const char *swap_dir, struct requirement ret[REQUIREMENTS_MAX])
{
	for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
		ret[i] = (struct requirement){.name = checks[i].name};
		checks[i].check(&ret[i], swap_dir);
	}
	return ARRAY_LEN(checks);
}

int requirements_check(struct requirement_failure *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
		struct requirement req = {.name = checks[i].name};

		if (!checks[i].can_be_missing)
			continue;
		checks[i].check(&req, NULL);
		if (req.state == REQUIREMENT_MISSING) {
			snprintf(ret->text, sizeof(ret->text), "%s: %s", req.name, req.found);
			return -EOPNOTSUPP;
		}
	}
	return 0;
}
