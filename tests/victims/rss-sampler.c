/*
 * rss-sampler: watches from outside the memory of all descendants of a process, and prints the maximum and the quantiles as JSON.
 * stolen_us: how long at most a processor was kept from everybody, as the host of a virtual machine does (needs the right to SCHED_FIFO).
 * usage: rss-sampler [--interval-us N=1000] [--pss] [--out FILE] --pid PID          until PID is gone or SIGTERM comes
 *        rss-sampler [--interval-us N=1000] [--pss] [--out FILE] -- COMMAND [ARG...] runs it (exit status as the shell gives it)
 *
 * What is summed: /proc/PID/statm resident memory of each task group below the root (and of COMMAND itself). Left out: processes
 * named "membox-agent", which share the memory of the program, and a process whose memory is that of another one (vfork; seen with
 * kcmp). The memory of the keeper and its helpers is shown apart (told by their names). Shared file pages count once for each process, so the sum is
 * never too small. --pss takes Pss from smaps_rollup instead: shared pages once, but slow and it holds the program up.
 */
#include <dirent.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "victim.h"

enum { MAX_MEMBERS = 16384 };

struct member {
	pid_t pid;
	long resident; /* KiB */
	long anonymous;
	long size;
	bool is_keeper;
};

struct sample {
	long members; /* KiB, all below */
	long anonymous;
	long keeper;
	int nr_processes;
};

static struct member members[MAX_MEMBERS];
static size_t nr_members;
static bool use_pss;
static volatile sig_atomic_t is_over;

static void on_signal(int signal_number)
{
	is_over = 1;
}

static long read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, text, size - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	return n;
}

static bool read_memory(struct member *member)
{
	char path[64], text[2048];
	long size, resident, shared;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)member->pid);
	if (read_file(path, text, sizeof(text)) <= 0 || sscanf(text, "%ld %ld %ld", &size, &resident, &shared) != 3)
		return false;
	member->size = size * 4;
	member->resident = resident * 4;
	member->anonymous = (resident - shared) * 4;
	if (!use_pss)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)member->pid);
	if (read_file(path, text, sizeof(text)) <= 0)
		return false;
	const char *pss = strstr(text, "\nPss:"), *anonymous = strstr(text, "\nPss_Anon:");
	member->resident = pss ? atol(pss + 5) : 0;
	member->anonymous = anonymous ? atol(anonymous + 10) : 0;
	return true;
}

/* membox's own processes, by name; the agents have been left out before. */
static bool is_own_name(const char *name)
{
	return !strcmp(name, "membox\n") || !strncmp(name, "membox-", 7) || !strncmp(name, "mbx-", 4);
}

/* Adds a process and then, through the lists of children that every thread has, all below it. */
static void collect(pid_t pid, bool with_itself)
{
	char path[300], name[32];
	static char children[1 << 16];

	if (nr_members == MAX_MEMBERS)
		return;
	if (with_itself) {
		struct member member = { .pid = pid };
		snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
		bool is_known = read_file(path, name, sizeof(name)) > 0;
		member.is_keeper = is_known && is_own_name(name);
		if (is_known && strcmp(name, "membox-agent\n") && read_memory(&member))
			members[nr_members++] = member;
	}
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *tasks = opendir(path);
	if (!tasks)
		return;
	for (struct dirent *task; (task = readdir(tasks));) {
		if (task->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/children", (int)pid, task->d_name);
		if (read_file(path, children, sizeof(children)) <= 0)
			continue;
		/* The buffer is used by the calls below: copy the numbers first. */
		pid_t list[1024];
		size_t n = 0;
		for (char *at = children, *end; n < 1024; at = end) {
			long child = strtol(at, &end, 10);
			if (end == at)
				break;
			list[n++] = (pid_t)child;
		}
		for (size_t i = 0; i < n; i++)
			collect(list[i], true);
	}
	closedir(tasks);
}

/* One that has ended meanwhile, or is a zombie, cannot be compared: it may have been a short-lived sharer. What it held alone is on its way out. */
static bool shares_memory(const struct member *a, const struct member *b)
{
	if (nr_members >= 64 && a->size != b->size)
		return false;
	struct member now = *a;
	return syscall(SYS_kcmp, a->pid, b->pid, KCMP_VM, 0, 0) <= 0 || !read_memory(&now) || !now.resident;
}

static struct sample take_sample(pid_t root)
{
	struct sample sample = { 0 };

	nr_members = 0;
	collect(root, false);
	for (size_t i = 0; i < nr_members; i++) {
		bool is_double = false;
		for (size_t k = 0; k < i && !is_double; k++)
			is_double |= shares_memory(&members[i], &members[k]);
		if (is_double)
			continue;
		if (members[i].is_keeper) {
			sample.keeper += members[i].resident;
			continue;
		}
		sample.members += members[i].resident;
		sample.anonymous += members[i].anonymous;
		sample.nr_processes++;
	}
	return sample;
}

/* On each processor: for how long it was kept from a thread that goes before all others, by the host of a virtual machine for example. */
static double stolen[CPU_SETSIZE];

static void *watch_processor(void *argument)
{
	double *longest = argument;
	struct timespec nap = { 0, 1000000 };
	struct sched_param priority = { 2 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)(longest - stolen), &set);
	sched_setaffinity(0, sizeof(set), &set);
	if (sched_setscheduler(0, SCHED_FIFO, &priority) < 0)
		return NULL;
	for (double before = now_seconds();; before = now_seconds()) {
		nanosleep(&nap, NULL);
		double late = now_seconds() - before - 1e-3;
		*longest = late > *longest ? late : *longest;
	}
}

static void watch_processors(void)
{
	cpu_set_t set;
	pthread_t thread;

	CHECK(sched_getaffinity(0, sizeof(set), &set) == 0, "affinity");
	for (size_t i = 0; i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &set))
			CHECK(pthread_create(&thread, NULL, watch_processor, &stolen[i]) == 0, "no thread");
}

static double longest_stolen(void)
{
	double longest = 0;

	for (int i = 0; i < CPU_SETSIZE; i++)
		longest = stolen[i] > longest ? stolen[i] : longest;
	return longest;
}

struct series {
	long *values;
	size_t count, room;
	struct sample max;
	double max_gap;
};

static void series_add(struct series *series, struct sample sample)
{
	if (series->count == series->room) {
		series->room = series->room ? series->room * 2 : 4096;
		series->values = realloc(series->values, series->room * sizeof(long));
		CHECK(series->values, "no memory");
	}
	series->values[series->count++] = sample.members;
#define TAKE_MAX(field) \
	if (sample.field > series->max.field) \
	series->max.field = sample.field
	TAKE_MAX(members);
	TAKE_MAX(anonymous);
	TAKE_MAX(keeper);
	TAKE_MAX(nr_processes);
#undef TAKE_MAX
}

static int compare_long(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

#define HELD_SAMPLES 20

/* The highest that was not left for so many samples: two who look at different moments both see it. */
static long series_held(const struct series *series)
{
	long held = 0;

	for (size_t i = 0; i + HELD_SAMPLES <= series->count; i++) {
		long least = series->values[i];

		for (size_t k = 1; k < HELD_SAMPLES; k++)
			least = series->values[i + k] < least ? series->values[i + k] : least;
		held = least > held ? least : held;
	}
	return held;
}

static void series_print(struct series *series, const char *path)
{
	FILE *out = path ? fopen(path, "w") : stderr;
	struct rusage usage;

	CHECK(out, "%s", path);
	getrusage(RUSAGE_CHILDREN, &usage);
	fprintf(out, "{\"samples\": %zu, \"max_kib\": %ld, \"max_anon_kib\": %ld, \"max_keeper_kib\": %ld, \"max_processes\": %d", series->count,
		series->max.members, series->max.anonymous, series->max.keeper, series->max.nr_processes);
	fprintf(out, ", \"max_gap_us\": %.0f, \"largest_process_kib\": %ld", series->max_gap * 1e6, usage.ru_maxrss);
	fprintf(out, ", \"stolen_us\": %.0f", longest_stolen() * 1e6);
	fprintf(out, ", \"held_kib\": %ld", series_held(series));
	qsort(series->values, series->count, sizeof(long), compare_long);
	static const int quantiles[] = { 10, 50, 90, 99 };
	for (size_t i = 0; i < 4 && series->count; i++)
		fprintf(out, ", \"q%d_kib\": %ld", quantiles[i], series->values[(series->count - 1) * (size_t)quantiles[i] / 100]);
	fprintf(out, "}\n");
	if (path)
		fclose(out);
}

static bool is_gone(pid_t pid, bool is_child, int *status)
{
	if (!is_child)
		return kill(pid, 0) && errno == ESRCH;
	for (;;) {
		pid_t ended = waitpid(-1, status, WNOHANG | __WALL);
		if (ended == pid)
			return true;
		if (ended <= 0)
			return false;
	}
}

static pid_t start_command(char **command)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid_t pid = fork();
	CHECK(pid >= 0, "fork");
	if (pid)
		return pid;
	execvp(command[0], command);
	fprintf(stderr, "rss-sampler: %s: %s\n", command[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

int main(int argc, char **argv)
{
	const char *out = NULL;
	long interval_us = 1000;
	pid_t root = 0, child = 0;
	int at = 1, status = 0;
	struct series series = { 0 };

	for (; at < argc && strcmp(argv[at], "--"); at++) {
		if (!strcmp(argv[at], "--pss"))
			use_pss = true;
		else if (!strcmp(argv[at], "--interval-us") && argv[at + 1])
			interval_us = atol(argv[++at]);
		else if (!strcmp(argv[at], "--out") && argv[at + 1])
			out = argv[++at];
		else if (!strcmp(argv[at], "--pid") && argv[at + 1])
			root = (pid_t)atol(argv[++at]);
	}
	if (!root && at + 1 >= argc) {
		fprintf(stderr, "usage: rss-sampler [--interval-us N] [--pss] [--out FILE] --pid PID | -- COMMAND [ARG...]\n");
		return 2;
	}
	signal(SIGTERM, on_signal);
	if (!root) {
		child = start_command(argv + at + 1);
		root = getpid();
	}
	watch_processors();
	struct timespec interval = { interval_us / 1000000, interval_us % 1000000 * 1000 };
	double before = now_seconds();
	while (!is_over && !is_gone(child ? child : root, child != 0, &status)) {
		struct sample sample = take_sample(root);
		if (sample.nr_processes || series.count)
			series_add(&series, sample);
		nanosleep(&interval, NULL);
		double now = now_seconds();
		series.max_gap = now - before > series.max_gap ? now - before : series.max_gap;
		before = now;
	}
	if (is_over && child) {
		kill(child, SIGTERM);
		waitpid(child, &status, 0);
	}
	series_print(&series, out);
	return !child ? 0 : WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
