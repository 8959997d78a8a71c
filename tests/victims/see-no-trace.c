/*
 * see-no-trace: a program under pressure looks at itself as programs do, and must see nothing but itself: its own descriptors, threads,
 * children, signals, timers, limits, mask, parent, name; no tracer, no stopped task, no zombie.
 * usage: see-no-trace
 */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "victim.h"

static volatile sig_atomic_t nr_child_signals, nr_other_signals;

static void on_child(int signal_number)
{
	nr_child_signals = nr_child_signals + 1;
}

static void on_other(int signal_number)
{
	nr_other_signals = nr_other_signals + 1;
}

static void read_text(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0, "%s", path);
	ssize_t n = read(fd, text, size - 1);
	CHECK(n >= 0, "%s", path);
	text[n] = 0;
	close(fd);
}

static long status_field(const char *name, int base)
{
	char text[8192], wanted[64];

	read_text("/proc/self/status", text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "\n%s:\t", name);
	const char *at = strstr(text, wanted);
	CHECK(at, "no %s in status", name);
	return strtol(at + strlen(wanted), NULL, base);
}

static int count_entries(const char *path)
{
	DIR *directory = opendir(path);
	int n = 0;

	CHECK(directory, "%s", path);
	for (struct dirent *entry; (entry = readdir(directory));)
		n += entry->d_name[0] != '.';
	closedir(directory);
	return n;
}

struct view {
	int nr_descriptors, nr_tasks;
	long tracer, seccomp, no_new_privileges, blocked, ignored, caught, pending, shared_pending, dumpable_uid;
	pid_t parent, group, session;
	struct rlimit files, locked, stack;
	char children[256];
	char name[64];
};

static void look(struct view *view)
{
	char path[64];

	memset(view, 0, sizeof(*view));
	view->nr_descriptors = count_entries("/proc/self/fd");
	view->nr_tasks = count_entries("/proc/self/task");
	view->tracer = status_field("TracerPid", 10);
	view->seccomp = status_field("Seccomp", 10);
	view->no_new_privileges = status_field("NoNewPrivs", 10);
	view->blocked = status_field("SigBlk", 16);
	view->ignored = status_field("SigIgn", 16);
	view->caught = status_field("SigCgt", 16);
	view->pending = status_field("SigPnd", 16);
	view->shared_pending = status_field("ShdPnd", 16);
	view->dumpable_uid = status_field("Uid", 10);
	view->parent = getppid();
	view->group = getpgrp();
	view->session = getsid(0);
	getrlimit(RLIMIT_NOFILE, &view->files);
	getrlimit(RLIMIT_MEMLOCK, &view->locked);
	getrlimit(RLIMIT_STACK, &view->stack);
	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	read_text(path, view->children, sizeof(view->children));
	read_text("/proc/self/comm", view->name, sizeof(view->name));
}

static void *idle(void *argument)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	for (;;)
		pause();
	return NULL;
}

static void compare(const struct view *before, const struct view *after)
{
#define SAME(field, format) \
	CHECK(before->field == after->field, #field " was " format ", is " format, before->field, after->field)
	SAME(nr_descriptors, "%d");
	SAME(nr_tasks, "%d");
	SAME(tracer, "%ld");
	SAME(seccomp, "%ld");
	SAME(no_new_privileges, "%ld");
	SAME(blocked, "%lx");
	SAME(ignored, "%lx");
	SAME(caught, "%lx");
	SAME(pending, "%lx");
	SAME(shared_pending, "%lx");
	SAME(dumpable_uid, "%ld");
	SAME(parent, "%d");
	SAME(group, "%d");
	SAME(session, "%d");
#undef SAME
	CHECK(!strcmp(before->name, after->name), "name is %s", after->name);
	CHECK(!memcmp(&before->files, &after->files, sizeof(before->files)), "RLIMIT_NOFILE");
	CHECK(!memcmp(&before->locked, &after->locked, sizeof(before->locked)), "RLIMIT_MEMLOCK");
	CHECK(!memcmp(&before->stack, &after->stack, sizeof(before->stack)), "RLIMIT_STACK");
	CHECK(!strcmp(before->children, after->children), "children were [%s], are [%s]", before->children, after->children);
}

int main(void)
{
	struct view before, after;
	struct sigaction action = { .sa_handler = on_child };
	pthread_t threads[3];

	sigaction(SIGCHLD, &action, NULL);
	action.sa_handler = on_other;
	for (int i = 1; i < 32; i++)
		if (i != SIGKILL && i != SIGSTOP && i != SIGCHLD && i != SIGSEGV && i != SIGBUS && i != SIGABRT && i != SIGINT && i != SIGTERM)
			sigaction(i, &action, NULL);
	for (size_t i = 0; i < 3; i++)
		CHECK(!pthread_create(&threads[i], NULL, idle, NULL), "pthread_create");
	sleep_ms(50);
	look(&before);
	char *memory = map_pages(1024);
	pages_fill(memory, 1024, 7);
	for (int round = 0; round < 3; round++) {
		evict(memory, 1024);
		pages_check(memory, 1024, 7, "memory");
		look(&after);
		compare(&before, &after);
		CHECK(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD, "there is a child to wait for");
		CHECK(!nr_child_signals, "%d SIGCHLD came", nr_child_signals);
		CHECK(!nr_other_signals, "%d signals came", nr_other_signals);
	}
	CHECK(after.tracer == 0, "TracerPid %ld", after.tracer);
	victim_report();
	puts("right");
	return 0;
}
