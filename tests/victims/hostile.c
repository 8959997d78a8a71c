/*
 * hostile: does on purpose to membox's part of its memory, to the agent and to itself whatever a program can do. It may come to grief; nobody else may.
 * usage: hostile WAY [SECONDS=2]      hostile --list prints the ways, one a line
 * It gets under pressure, strikes, and uses its memory for a while. Ends with 0 where it survives that; it does not look at what it reads.
 */
#include <dirent.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "victim.h"

#define PRESSING (64 * MIB)

static char *memory;
static double deadline;
static uint64_t state = 1;

static struct {
	uint64_t start, end;       /* the agent's region */
	uint64_t ring, ring_end;
	uint64_t vdso, vdso_end;   /* with its data before it */
	uint64_t stack, stack_end; /* the first thread's */
} found;

/* --- finding --- */

/* The region is one reservation: mappings that follow each other without a gap, the ring among them. */
static void find_ranges(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long long start, end, run_start = 0, run_end = 0;
	char line[512], name[256];
	CHECK(maps, "maps");
	while (fgets(line, sizeof(line), maps)) {
		*name = '\0';
		sscanf(line, "%llx-%llx %*s %*s %*s %*s %255s", &start, &end, name);
		if (start != run_end)
			run_start = start;
		run_end = end;
		if (strstr(name, "membox-ring")) {
			found.ring = start;
			found.ring_end = end;
		}
		if (found.ring && run_start <= found.ring) {
			found.start = run_start;
			found.end = run_end;
		}
		if (!strncmp(name, "[vvar", 5) && !found.vdso)
			found.vdso = start;
		if (!strcmp(name, "[vdso]"))
			found.vdso_end = end;
		if (!strcmp(name, "[stack]")) {
			found.stack = start;
			found.stack_end = end;
		}
	}
	fclose(maps);
}

static pid_t parent_of(pid_t pid, char *name)
{
	char path[64], text[512] = "";
	int parent = 0;
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && strrchr(text, ')')) {
		sscanf(text, "%*d (%15[^)]", name);
		sscanf(strrchr(text, ')') + 1, " %*c %d", &parent);
	}
	close(fd);
	return parent;
}

/* Ours: a sibling, a child, or one of init's with --isolate. There may be others on the machine. */
static pid_t find_agent(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	pid_t agent = 0;
	while (proc && !agent && (entry = readdir(proc))) {
		char name[16] = "";
		pid_t pid = atoi(entry->d_name), parent = pid > 0 ? parent_of(pid, name) : 0;
		if (!strcmp(name, "membox-agent") && (parent == getpid() || parent == (getppid() ? getppid() : 1)))
			agent = pid;
	}
	closedir(proc);
	return agent;
}

static void *address(uint64_t at)
{
	return (void *)(uintptr_t)at;
}

/* --- pressure --- */

static void press(void)
{
	for (size_t at = 0; at < PRESSING; at += PAGE_BYTES)
		page_fill(memory + at, 7 + at);
}

static void use_memory(void)
{
	while (now_seconds() < deadline)
		for (size_t n = 0; n < 4096; n++)
			memory[random_next(&state) % PRESSING]++;
}

/* --- ways --- */

static void random_bytes_at(uint64_t start, uint64_t end)
{
	for (uint64_t at = start; at < end; at += 8)
		*(volatile uint64_t *)address(at) = random_next(&state) >> random_next(&state) % 64;
}

static void *write_ring(void *unused)
{
	uint64_t own = 99;
	while (now_seconds() < deadline)
		for (int i = 0; i < 1000; i++)
			*(volatile uint32_t *)address(found.ring + random_next(&own) % (found.ring_end - found.ring) / 4 * 4) = (uint32_t)random_next(&own);
	return NULL;
}

static void in_thread(void *(*function)(void *))
{
	pthread_t thread;
	CHECK(!pthread_create(&thread, NULL, function, NULL), "pthread_create");
	pthread_detach(thread);
}

static void ring_once(void)
{
	random_bytes_at(found.ring, found.ring_end);
}

static void ring_head_once(void)
{
	random_bytes_at(found.ring, found.ring + 128);
}

static void *write_ring_head(void *unused)
{
	uint64_t own = 5;
	while (now_seconds() < deadline)
		*(volatile uint32_t *)address(found.ring + random_next(&own) % 32 * 4) = (uint32_t)(random_next(&own) % 2000);
	return NULL;
}

static void ring_always(void)
{
	in_thread(write_ring);
}

static void ring_head_always(void)
{
	in_thread(write_ring_head);
}

static void ring_says_done(void)
{
	*(volatile uint32_t *)address(found.ring + 64) += 1;
}

static void *write_staging(void *unused)
{
	uint64_t own = 3;
	while (now_seconds() < deadline) {
		uint64_t at = found.ring_end + random_next(&own) % (found.end - found.ring_end);
		syscall(SYS_madvise, at / PAGE_BYTES * PAGE_BYTES, PAGE_BYTES, MADV_POPULATE_WRITE);
		int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
		if (pwrite(fd, &own, sizeof(own), (off_t)at) < 0)
			errno = 0;
		close(fd);
	}
	return NULL;
}

static void staging(void)
{
	in_thread(write_staging);
}

/* Also what may not be written to. */
static void write_through_proc(uint64_t start, uint64_t end)
{
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	for (uint64_t at = start; at < end; at += PAGE_BYTES) {
		uint64_t words[PAGE_WORDS];
		for (size_t i = 0; i < PAGE_WORDS; i++)
			words[i] = random_next(&state);
		if (pwrite(fd, words, sizeof(words), (off_t)at) < 0)
			errno = 0;
	}
	close(fd);
}

static void proc_mem(void)
{
	write_through_proc(found.start, found.end);
}

static void proc_mem_code(void)
{
	write_through_proc(found.start, found.ring);
}

static void unmap_all(void)
{
	munmap(address(found.start), found.end - found.start);
}

static void unmap_ring(void)
{
	munmap(address(found.ring), found.ring_end - found.ring);
}

static void unmap_code(void)
{
	munmap(address(found.start), found.ring - found.start);
}

static void unmap_staging(void)
{
	munmap(address(found.ring_end), found.end - found.ring_end);
}

static void map_over(void)
{
	mmap(address(found.start), found.end - found.start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void map_over_staging(void)
{
	mmap(address(found.ring_end), found.end - found.ring_end, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void remap_over(void)
{
	for (uint64_t at = found.start; at < found.end; at += 16 * PAGE_BYTES)
		mremap(map_pages(16), 16 * PAGE_BYTES, 16 * PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, address(at));
}

static void remap_away(void)
{
	for (uint64_t at = found.start; at < found.end; at += PAGE_BYTES)
		mremap(address(at), PAGE_BYTES, PAGE_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, map_pages(1));
}

static void protect(void)
{
	mprotect(address(found.start), found.end - found.start, PROT_NONE);
}

static void protect_staging(void)
{
	mprotect(address(found.ring_end), found.end - found.ring_end, PROT_READ);
}

static void discard(void)
{
	madvise(address(found.start), found.end - found.start, MADV_DONTNEED);
}

static void inherit_by_fork(void)
{
	madvise(address(found.start), found.end - found.start, MADV_DOFORK);
	for (int i = 0; i < 20; i++) {
		pid_t child = fork();
		if (!child) {
			random_bytes_at(found.ring, found.ring_end);
			_exit(0);
		}
		waitpid(child, NULL, 0);
	}
}

static void kill_agent(void)
{
	kill(find_agent(), SIGKILL);
}

static void *stop_again(void *unused)
{
	pid_t agent = find_agent();
	while (agent && now_seconds() < deadline)
		kill(agent, SIGSTOP);
	return NULL;
}

static void stop_agent(void)
{
	in_thread(stop_again);
}

static void signal_agent(void)
{
	pid_t agent = find_agent();
	for (int signal = 1; agent && signal <= 64; signal++)
		if (signal != SIGKILL)
			kill(agent, signal);
}

static void trace_agent(void)
{
	pid_t agent = find_agent();
	if (agent && !ptrace(PTRACE_SEIZE, agent, 0, 0))
		ptrace(PTRACE_INTERRUPT, agent, 0, 0);
}

/* A child traces us before membox wants to, and after. */
static void trace_self(void)
{
	pid_t parent = getpid(), child = fork();
	int status;
	if (child)
		return sleep_ms(20);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!ptrace(PTRACE_SEIZE, parent, 0, 0))
		while (waitpid(parent, &status, __WALL) == parent && WIFSTOPPED(status))
			ptrace(PTRACE_CONT, parent, 0, WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status));
	while (getppid() == parent)
		sleep_ms(10);
	_exit(0);
}

static void close_everything(void)
{
	close_range(0, ~0u, 0);
}

static void userfaultfds(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	for (int i = 0; i < 8; i++) {
		int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
		if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
			continue;
		const struct uffdio_range ranges[] = {{(uintptr_t)memory, PRESSING}, {found.ring_end, found.end - found.ring_end}, {(uintptr_t)map_pages(64), 64 * PAGE_BYTES}};
		for (size_t k = 0; k < sizeof(ranges) / sizeof(ranges[0]); k++) {
			struct uffdio_register registration = {.range = ranges[k], .mode = UFFDIO_REGISTER_MODE_WP};
			struct uffdio_range range = ranges[k];
			ioctl(fd, UFFDIO_REGISTER, &registration);
			ioctl(fd, UFFDIO_UNREGISTER, &range);
		}
	}
}

static void limit_to(__rlimit_resource_t resource, rlim_t most)
{
	struct rlimit limit = {most, most};
	setrlimit(resource, &limit);
}

static void no_descriptors(void)
{
	limit_to(RLIMIT_NOFILE, 0);
}

static void no_processes(void)
{
	limit_to(RLIMIT_NPROC, 0);
}

static void no_addresses(void)
{
	limit_to(RLIMIT_AS, 0);
}

static void use_up_mappings(void)
{
	char *at = map_pages(140000);
	for (size_t i = 0; i < 70000 && !mprotect(at + 2 * i * PAGE_BYTES, PAGE_BYTES, PROT_NONE); i++)
		;
}

static void use_up_descriptors(void)
{
	while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
		;
}

static void many_children(void)
{
	for (int i = 0; i < 200; i++)
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (size_t n = 0; n < 100 && getppid() != 1; n++)
				memory[random_next(&state) % PRESSING]++;
			_exit(0);
		}
}

static void children_and_ring(void)
{
	in_thread(write_ring_head);
	many_children();
}

static void unmap_vdso(void)
{
	munmap(address(found.vdso), found.vdso_end - found.vdso);
}

static void replace_vdso(void)
{
	mmap(address(found.vdso), found.vdso_end - found.vdso, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

/* The first thread sleeps on it meanwhile. */
static void *move_stack(void *unused)
{
	uint64_t bytes = found.stack_end - found.stack;
	mremap(address(found.stack), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, map_pages(bytes / PAGE_BYTES));
	use_memory();
	syscall(SYS_exit_group, 0);
	return NULL;
}

static void without_stack(void)
{
	in_thread(move_stack);
	pause();
}

/* In a pid namespace of its own, or it would reach others. */
static void signal_all(void)
{
	CHECK(getpid() == 2, "only with --isolate");
	signal(SIGTERM, SIG_IGN);
	for (int signal = 1; signal <= 64; signal++)
		if (signal != SIGKILL)
			kill(-1, signal);
	kill(-1, SIGKILL);
}

static void not_dumpable(void)
{
	prctl(PR_SET_DUMPABLE, 0);
}

static int sleep_on(void *unused)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pause();
}

static void share_memory(void)
{
	static char stack[64 * 1024];
	CHECK(clone(sleep_on, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL) > 0, "clone");
}

static const struct way {
	const char *name;
	void (*strike)(void);
	bool is_before; /* it is adopted */
} ways[] = {
	{"ring-once", ring_once, false},
	{"ring-head-once", ring_head_once, false},
	{"ring-always", ring_always, false},
	{"ring-head-always", ring_head_always, false},
	{"ring-says-done", ring_says_done, false},
	{"staging", staging, false},
	{"proc-mem", proc_mem, false},
	{"proc-mem-code", proc_mem_code, false},
	{"unmap-all", unmap_all, false},
	{"unmap-ring", unmap_ring, false},
	{"unmap-code", unmap_code, false},
	{"unmap-staging", unmap_staging, false},
	{"map-over", map_over, false},
	{"map-over-staging", map_over_staging, false},
	{"remap-over", remap_over, false},
	{"remap-away", remap_away, false},
	{"protect", protect, false},
	{"protect-staging", protect_staging, false},
	{"discard", discard, false},
	{"inherit-by-fork", inherit_by_fork, false},
	{"kill-agent", kill_agent, false},
	{"stop-agent", stop_agent, false},
	{"signal-agent", signal_agent, false},
	{"trace-agent", trace_agent, false},
	{"trace-self", trace_self, true},
	{"trace-self-later", trace_self, false},
	{"close-everything", close_everything, true},
	{"userfaultfds", userfaultfds, false},
	{"no-descriptors", no_descriptors, true},
	{"no-processes", no_processes, true},
	{"no-addresses", no_addresses, true},
	{"use-up-mappings", use_up_mappings, true},
	{"use-up-mappings-later", use_up_mappings, false},
	{"use-up-descriptors", use_up_descriptors, true},
	{"many-children", many_children, false},
	{"children-and-ring", children_and_ring, false},
	{"unmap-vdso", unmap_vdso, true},
	{"replace-vdso", replace_vdso, true},
	{"unmap-vdso-later", unmap_vdso, false},
	{"without-stack", without_stack, false},
	{"signal-all", signal_all, false},
	{"not-dumpable", not_dumpable, true},
	{"share-memory", share_memory, true},
};

int main(int argc, char **argv)
{
	const struct way *way = NULL;
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (argc > 1 && !strcmp(argv[1], "--list"))
			puts(ways[i].name);
		else if (argc > 1 && !strcmp(argv[1], ways[i].name))
			way = &ways[i];
	}
	if (!way)
		return argc > 1 && !strcmp(argv[1], "--list") ? 0 : 2;
	double seconds = argc > 2 ? atof(argv[2]) : 2;
	memory = map_pages(PRESSING / PAGE_BYTES);
	find_ranges();
	if (way->is_before)
		way->strike();
	press();
	deadline = now_seconds() + seconds;
	if (!way->is_before) {
		find_ranges();
		CHECK(found.ring, "it was not adopted");
		way->strike();
	}
	use_memory();
	return 0;
}
