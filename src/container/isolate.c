#include "container/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/types.h"

#define INIT_NAME "mbx-init"
#define OWN_NAMESPACES (CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC)

/* What the helper, or init before it serves, has to say. One write into a pipe. */
struct outcome {
	pid_t init, program;
	struct isolate_failure failure; /* "" when there is none */
};

/* Pipes and roles of one isolate_fork. */
struct birth {
	int result[2];   /* outcome, helper to caller */
	int lifeline[2];
	int go[2];       /* the program waits until the caller has closed its end */
};

/* Returns false, so that callers can return it. */
static bool fail(struct outcome *outcome, const char *what, const char *hint)
{
	const char *why = strerror(errno);
	snprintf(outcome->failure.text, sizeof(outcome->failure.text), *hint ? "%s: %s (%s)" : "%s: %s", what, why, hint);
	return false;
}

static void tell(int fd, const struct outcome *outcome)
{
	if (write(fd, outcome, sizeof(*outcome)) != (ssize_t)sizeof(*outcome))
		_exit(1);
}

/* What was told; false when the writer ended before. */
static bool hear(int fd, struct outcome *outcome)
{
	size_t got = 0;
	while (got < sizeof(*outcome)) {
		ssize_t n = read(fd, (char *)outcome + got, sizeof(*outcome) - got);
		if (n == 0 || (n < 0 && errno != EINTR)) {
			*outcome = (struct outcome){0};
			errno = EPIPE;
			return false;
		}
		got += (size_t)MAX_OF(n, 0);
	}
	return true;
}

/* As fork, but the child's parent is the caller's parent (and is told of its end as it is of the caller's), and its number in its own namespace may be given. */
static pid_t fork_sibling(pid_t inner_pid)
{
	struct clone_args args = {.flags = CLONE_PARENT, .set_tid = inner_pid ? (uint64_t)(uintptr_t)&inner_pid : 0, .set_tid_size = inner_pid != 0};
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

/* Init --------------------------------------------------------------------------------------------------------------------------- */

/* What would still show or share the objects of the outside. */
static const struct {
	const char *place, *type, *options;
	bool needed; /* else: where the place or the type does not exist there is nothing to be shared */
} mounts[] = {
	{"/proc", "proc", NULL, true},
	{"/dev/shm", "tmpfs", "mode=1777", false},
	{"/dev/mqueue", "mqueue", NULL, false},
};

static bool mount_own(struct outcome *outcome)
{
	static const char hint[] = "the surrounding container or a security module forbids it";
	char what[64];
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return fail(outcome, "cannot detach its mounts", hint);
	for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
		unsigned long flags = MS_NOSUID | MS_NODEV | (mounts[i].options ? 0 : MS_NOEXEC); /* shared memory may hold code */
		if (mount(mounts[i].type, mounts[i].place, mounts[i].type, flags, mounts[i].options) == 0)
			continue;
		if (!mounts[i].needed && (errno == ENOENT || errno == ENODEV))
			continue;
		snprintf(what, sizeof(what), "cannot mount its own %s", mounts[i].place);
		return fail(outcome, what, hint);
	}
	return true;
}

/*
 * Keeper and guardian are gone. An agent must not die, and with it the last userfaultfd of a program be closed, while a thread of that program
 * runs on to see its evicted pages as zeros: first everybody is stopped, then killed.
 */
static _Noreturn void take_down(void)
{
	kill(-1, SIGSTOP);
	kill(-1, SIGKILL);
	_exit(1);
}

static void on_child(int signal)
{
	(void)signal; /* it only ends ppoll */
}

/* A byte on the lifeline: the program, which is not our child, has ended; all that is left of its descendants are our children. */
static _Noreturn void init_serve(int lifeline)
{
	const struct sigaction action = {.sa_handler = on_child};
	struct pollfd alive = {.fd = lifeline, .events = POLLIN};
	bool draining = false;
	sigset_t mask;
	sigfillset(&mask);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	sigdelset(&mask, SIGCHLD);
	sigaction(SIGCHLD, &action, NULL);
	for (;;) {
		char byte;
		pid_t reaped;
		do {
			reaped = waitpid(-1, NULL, WNOHANG | __WALL);
		} while (reaped > 0);
		if (draining && reaped < 0 && errno == ECHILD)
			_exit(0);
		if (ppoll(&alive, 1, NULL, &mask) <= 0)
			continue;
		if (read(lifeline, &byte, 1) != 1)
			take_down();
		draining = true;
	}
}

/* Nothing of the caller's is kept: no session or terminal, no descriptor but the lifeline. */
static _Noreturn void init_main(int lifeline, int ready)
{
	struct outcome outcome = {0};
	prctl(PR_SET_NAME, INIT_NAME);
	setsid();
	bool mounted = mount_own(&outcome);
	tell(ready, &outcome);
	if (!mounted)
		_exit(1);
	if (lifeline > 0)
		close_range(0, (unsigned int)lifeline - 1, 0);
	close_range((unsigned int)lifeline + 1, ~0U, 0);
	init_serve(lifeline);
}

/* The helper: a short-lived process that goes into the new namespaces and makes init and program there, as the caller's children. -------- */

static bool write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

/*
 * The user and its group are themselves inside too; all others are nobody. A membox with capabilities from its file is not "dumpable", which
 * makes its /proc files root's.
 */
static bool map_user(uid_t uid, gid_t gid, struct outcome *outcome)
{
	char uid_map[32], gid_map[32];
	snprintf(uid_map, sizeof(uid_map), "%u %u 1", uid, uid);
	snprintf(gid_map, sizeof(gid_map), "%u %u 1", gid, gid);
	prctl(PR_SET_DUMPABLE, 1);
	if (write_file("/proc/self/setgroups", "deny") && write_file("/proc/self/gid_map", gid_map) && write_file("/proc/self/uid_map", uid_map))
		return true;
	return fail(outcome, "cannot map the user into its user namespace", "");
}

/* Capabilities inside a user namespace do not count for userfaultfd(2): what the agents will need is tried. */
static bool may_page(struct outcome *outcome)
{
	_cleanup_close_ int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (fd < 0 && errno == EPERM)
		fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return true;
	errno = EPERM;
	return fail(outcome, "userfaultfd in a user namespace",
		    "as root: sysctl vm.unprivileged_userfaultfd=1, or give yourself read and write access to /dev/userfaultfd");
}

static bool enter_namespaces(struct outcome *outcome)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	if (unshare(OWN_NAMESPACES) == 0)
		return true;
	if (errno == EPERM && unshare(OWN_NAMESPACES | CLONE_NEWUSER) == 0)
		return map_user(uid, gid, outcome) && may_page(outcome);
	return fail(outcome, "cannot make namespaces of its own",
		    errno == ENOSPC ? "user.max_user_namespaces or one of its kin is used up"
				    : "user namespaces are switched off by a sysctl, a security module or the surrounding container");
}

/* Makes init and waits until all is mounted. */
static bool start_init(const struct birth *birth, struct outcome *outcome)
{
	int ready[2];
	struct outcome of_init;
	if (pipe2(ready, O_CLOEXEC) < 0)
		return fail(outcome, "pipe to its init", "");
	outcome->init = fork_sibling(0);
	if (outcome->init == 0)
		init_main(birth->lifeline[0], ready[1]);
	if (outcome->init < 0)
		return fail(outcome, "cannot start its init", "");
	close(ready[1]);
	bool is_told = hear(ready[0], &of_init);
	close(ready[0]);
	if (!is_told)
		return fail(outcome, "its init was killed", "");
	outcome->failure = of_init.failure;
	return !*of_init.failure.text;
}

/* True in the program. */
static bool helper_main(const struct birth *birth, pid_t inner_pid)
{
	struct outcome outcome = {0};
	if (enter_namespaces(&outcome) && start_init(birth, &outcome)) {
		outcome.program = fork_sibling(inner_pid);
		if (outcome.program == 0)
			return true;
		if (outcome.program < 0)
			fail(&outcome, "cannot start its first process", "");
	}
	tell(birth->result[1], &outcome);
	_exit(0);
}

/* The caller ------------------------------------------------------------------------------------------------------------------------ */

static void close_pair(int pair[2])
{
	for (int i = 0; i < 2; i++)
		if (pair[i] >= 0)
			close(steal_fd(&pair[i]));
}

/*
 * Reads what the helper says. The program waits until we have a hold on its /proc, which it could mount something over, and is told to go on by a byte: when the
 * pipe is closed without one it ends, whether we know of it or not, and with it the last writer of init's lifeline.
 */
static void take_result(struct birth *birth, struct isolation *iso, struct outcome *outcome)
{
	char path[48];
	close(steal_fd(&birth->result[1]));
	if (!hear(birth->result[0], outcome))
		fail(outcome, "its helper was killed", "");
	iso->init = MAX_OF(outcome->init, 0);
	if (*outcome->failure.text)
		return;
	snprintf(path, sizeof(path), "/proc/%d/root/proc", iso->init);
	iso->proc = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (iso->proc < 0)
		fail(outcome, "cannot open its own /proc", "");
}

static bool open_pipes(struct birth *birth, struct outcome *outcome)
{
	*birth = (struct birth){.result = {-1, -1}, .lifeline = {-1, -1}, .go = {-1, -1}};
	if (pipe2(birth->result, O_CLOEXEC) == 0 && pipe2(birth->lifeline, O_CLOEXEC) == 0 && pipe2(birth->go, O_CLOEXEC) == 0)
		return true;
	return fail(outcome, "pipe", "");
}

/* True in the program, when the caller has let it go. */
static bool make_all(struct birth *birth, struct isolation *iso, pid_t inner_pid, struct outcome *outcome)
{
	char byte;
	pid_t helper = fork();
	if (helper == 0 && helper_main(birth, inner_pid)) {
		close(birth->go[1]);
		if (read(birth->go[0], &byte, 1) == 1)
			return true;
		_exit(1);
	}
	if (helper < 0)
		return fail(outcome, "fork", "");
	take_result(birth, iso, outcome);
	waitpid(helper, NULL, 0);
	return false;
}

pid_t isolate_fork(struct isolation *iso, pid_t inner_pid, struct isolate_failure *ret)
{
	struct outcome outcome = {0};
	struct birth birth;
	*iso = (struct isolation){.lifeline = -1, .proc = -1};
	if (open_pipes(&birth, &outcome) && make_all(&birth, iso, inner_pid, &outcome))
		return 0;
	iso->lifeline = steal_fd(&birth.lifeline[1]);
	if (!*outcome.failure.text && write(birth.go[1], "", 1) < 0)
		fail(&outcome, "cannot let its program go", "");
	close_pair(birth.result);
	close_pair(birth.lifeline);
	close_pair(birth.go);
	if (!*outcome.failure.text)
		return outcome.program;
	*ret = outcome.failure;
	if (outcome.program > 0) { /* init cannot end before it has been reaped */
		kill(outcome.program, SIGKILL);
		waitpid(outcome.program, NULL, 0);
	}
	isolate_release(iso);
	return -EPERM;
}

void isolate_drain(const struct isolation *iso)
{
	if (iso->init && write(iso->lifeline, "", 1) < 0)
		kill(iso->init, SIGKILL);
}

/* Init ends when nobody is left in its namespace, and whoever is traced by us is left there until we have taken its death. */
static void reap_init(pid_t init)
{
	pid_t gone;
	do
		gone = waitpid(-1, NULL, __WALL);
	while (gone > 0 ? gone != init : errno == EINTR);
}

void isolate_release(struct isolation *iso)
{
	if (iso->init) {
		kill(iso->init, SIGKILL);
		reap_init(iso->init);
		iso->init = 0;
	}
	if (iso->lifeline >= 0)
		close(steal_fd(&iso->lifeline));
	if (iso->proc >= 0)
		close(steal_fd(&iso->proc));
}
