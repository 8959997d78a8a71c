#include "container/processes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "container/backstop.h"
#include "platform/process.h"
#include "platform/userfaultfd.h"

#define GUARDIAN_NAME "mbx-guardian"
#define DESCRIPTORS 1024 /* the usual limit */
#define MAX_CHILDREN 4096
#define MAX_KNOWN 65536
#define NAP_US 1000
#define MAX_NAP_US 100000
#define FDS "/proc/self/fd"
#define ANSWER_S 5 /* of the first guardian, which only has to close descriptors */

/*
 * The keeper is dead: its members must not live on. They are known by the pidfds in the shared descriptor table, which the keeper opens when it sees a
 * process for the first time, and by their descendants; what was below the keeper is a child of this process now (subreaper).
 *
 * Never a zero where an evicted page was, in three steps:
 *   - No userfaultfd is closed while this process lives. Whoever misses a page waits.
 *   - An adopted process cannot fork any more: nobody reads the event of its fork, and the signal that kills it undoes the fork. So nothing new
 *     comes to have evicted pages. What is not adopted has none; its children are found here, as far as they are seen before it dies.
 *   - A child that was forked by an adopted process just before, whose event the keeper has read and whose process it has not seen, is found as a child
 *     of its parent here. If its parent died in that very moment it stays unknown: then its userfaultfd is alive when all others are dead, and this
 *     process stays for as long as that is so, without a word. It waits for its first missing page until somebody kills it.
 */
struct known {
	pid_t root;   /* below which the orphans are: the first guardian */
	pid_t spared; /* the guardian that this one takes the place of, see guardian_succeed; 0: none */
	struct {
		pid_t pid;
		int pidfd;
	} items[MAX_KNOWN];
	uint32_t nr;
};

static bool link_says(const char *name, const char *what)
{
	char path[sizeof(FDS) + 256], target[128];
	snprintf(path, sizeof(path), FDS "/%s", name);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	target[MAX_OF(n, 0)] = '\0';
	return strstr(target, what);
}

/* Calls visit with each descriptor of the table whose link contains `what`, until it returns true; returns that. */
static bool descriptors_any(const char *what, bool (*visit)(int fd, void *context), void *context)
{
	_cleanup_closedir_ DIR *dir = opendir(FDS);
	struct dirent *entry;
	bool found = false;
	while (!found && dir && (entry = readdir(dir)))
		found = link_says(entry->d_name, what) && visit(atoi(entry->d_name), context);
	return found;
}

static bool is_known(const struct known *known, pid_t pid)
{
	for (uint32_t i = 0; i < known->nr; i++)
		if (known->items[i].pid == pid)
			return true;
	return false;
}

static bool add_living(int pidfd, void *context)
{
	struct known *known = context;
	pid_t pid = pidfd_process(pidfd);
	if (pid > 0 && known->nr < MAX_KNOWN && !is_known(known, pid) && !pidfd_has_exited(pidfd)) {
		known->items[known->nr].pid = pid;
		known->items[known->nr++].pidfd = pidfd;
	}
	return false;
}

/* A descendant gets a pidfd in the table, as if the keeper had seen it. */
static void add_children(struct known *known, pid_t parent)
{
	static pid_t children[MAX_CHILDREN];
	int n = process_children(parent, children, MAX_CHILDREN);
	for (int i = 0; i < n && i < MAX_CHILDREN; i++) {
		if (is_known(known, children[i]) || children[i] == getpid() || children[i] == known->spared)
			continue;
		int pidfd = pidfd_open_process(children[i]);
		uint32_t before = known->nr;
		if (pidfd >= 0)
			add_living(pidfd, known);
		if (pidfd >= 0 && known->nr == before)
			close(pidfd);
	}
}

/* Everything there is, descendants included, stopped first so that it forks no more while it is looked at. */
static void find_all(struct known *known)
{
	known->nr = 0;
	descriptors_any("pidfd", add_living, known);
	if (known->root == getpid() || known->root == getppid()) /* else it is dead, and somebody else may have its number */
		add_children(known, known->root);
	for (uint32_t i = 0, stopped = 0; i < known->nr; i++) {
		for (; stopped < known->nr; stopped++)
			pidfd_kill(known->items[stopped].pidfd, SIGSTOP);
		add_children(known, known->items[i].pid);
	}
}

static bool is_needed(int uffd, void *context)
{
	return !uffd_is_needless(uffd);
}

static void kill_all_and_wait(pid_t root, pid_t spared)
{
	static struct known known;
	known.root = root;
	known.spared = spared;
	for (unsigned int nap_us = NAP_US;; nap_us += nap_us < MAX_NAP_US ? nap_us / 16 : 0) {
		find_all(&known);
		for (uint32_t i = 0; i < known.nr; i++)
			pidfd_kill(known.items[i].pidfd, SIGKILL);
		while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
			;
		if (!known.nr && !descriptors_any("[userfaultfd]", is_needed, NULL))
			return;
		usleep(nap_us); /* for children of children that come over when their parent dies */
	}
}

/*
 * A table that grows while it is shared makes whoever opens something wait for an RCU grace period, ten milliseconds and more: in an adoption a whole
 * program would stand still for it. So it grows now, when nobody shares it.
 */
static void widen_descriptor_table(int any)
{
	int fd = fcntl(any, F_DUPFD_CLOEXEC, DESCRIPTORS - 1);
	if (fd >= 0)
		close(fd);
}

/*
 * Like fork, but the child shares this process's descriptor table. The table lives until both are gone, so whatever the keeper opens,
 * also what a read of a FORK event installs, survives its death. glibc's cached thread id of the child is the parent's: nothing here
 * uses it (no recursive or error-checking mutexes).
 */
static pid_t fork_sharing_files(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
}

/* This table is shared with nobody: the keeper has called exec since. */
static void close_all_but(int link, int pidfd)
{
	int first = MIN_OF(link, pidfd), last = MAX_OF(link, pidfd);
	for (int fd = STDIN_FILENO; fd < STDERR_FILENO; fd++)
		close(fd);
	if (first > STDERR_FILENO + 1)
		close_range(STDERR_FILENO + 1, (unsigned)first - 1, 0);
	if (last > first + 1)
		close_range((unsigned)first + 1, (unsigned)last - 1, 0);
	close_range((unsigned)last + 1, ~0u, 0);
}

/* The keeper has been upgraded and shares its table with another guardian: this one's is of no use any more, and must not keep anything open. */
static pid_t take_successor(int link, int pidfd, pid_t before)
{
	pid_t successor;
	if (recv(link, &successor, sizeof(successor), MSG_DONTWAIT) != (ssize_t)sizeof(successor))
		return before;
	close_all_but(link, pidfd);
	if (before) {
		kill(before, SIGKILL);
		waitpid(before, NULL, __WALL);
	}
	send(link, &successor, sizeof(successor), MSG_NOSIGNAL | MSG_DONTWAIT);
	return successor;
}

/* Returns the keeper's status, and which guardian shares its descriptor table: 0 for this one. */
static int watch_keeper(pid_t keeper, int link, pid_t *ret_successor)
{
	int pidfd = link < 0 ? -1 : pidfd_open_process(keeper), status = 0;
	struct pollfd fds[] = {{.fd = pidfd, .events = POLLIN}, {.fd = link, .events = POLLIN}};
	*ret_successor = 0;
	while (pidfd >= 0 && !fds[0].revents) {
		if (poll(fds, ARRAY_LEN(fds), -1) > 0 && fds[1].revents & POLLIN)
			*ret_successor = take_successor(link, pidfd, *ret_successor);
	}
	while (waitpid(keeper, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* It kills everybody, or has nothing to do; orphans are this process's children meanwhile. True when it has ended as it should. */
static bool wait_for_successor(pid_t successor)
{
	int status = 0;
	pid_t pid;
	do {
		pid = waitpid(-1, &status, __WALL);
	} while (pid != successor && (pid > 0 || errno == EINTR));
	return pid == successor && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static _Noreturn void successor_main(int keeper, pid_t first, pid_t predecessor, const _Atomic bool *in_order)
{
	struct pollfd wait = {.fd = keeper, .events = POLLIN};
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	prctl(PR_SET_NAME, GUARDIAN_NAME);
	while (poll(&wait, 1, -1) <= 0)
		;
	if (!atomic_load(in_order))
		kill_all_and_wait(first, predecessor);
	_exit(0);
}

static bool tell_first(int link, pid_t successor)
{
	struct pollfd wait = {.fd = link, .events = POLLIN};
	pid_t answer;
	return send(link, &successor, sizeof(successor), MSG_NOSIGNAL) == (ssize_t)sizeof(successor) && poll(&wait, 1, ANSWER_S * 1000) > 0 &&
	       recv(link, &answer, sizeof(answer), MSG_DONTWAIT) == (ssize_t)sizeof(answer);
}

/*
 * Races: if the keeper is killed before the first guardian has been told, that one (or the predecessor, which it waits for) has everything that the keeper had when it called exec, and
 * nothing has come since. The new one may kill everybody at the same time; but not the predecessor, which may be the only one that knows of a child.
 */
int guardian_succeed(int link, pid_t predecessor, struct successor *ret)
{
	_Atomic bool *in_order = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (in_order == MAP_FAILED)
		return -errno;
	int keeper = pidfd_open_process(getpid());
	if (keeper < 0)
		return keeper;
	widen_descriptor_table(keeper);
	pid_t first = getppid();
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0)
		successor_main(keeper, first, predecessor, in_order);
	if (pid < 0)
		return -errno;
	*ret = (struct successor){.pid = pid, .in_order = in_order};
	if (!tell_first(link, pid))
		log_debug("the first guardian does not answer");
	return 0;
}

static _Noreturn void guardian_main(const struct run_config *config, struct swap *swap, const struct start_state *start, int channel)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	struct backstop backstop = {0};
	if (!config->attach)
		backstop_create(&backstop, config->name, config->limit_bytes);
	widen_descriptor_table(channel);
	int link[2] = {-1, -1};
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) < 0)
		log_debug("no link between guardian and keeper: errno %d", errno);
	pid_t keeper = fork_sharing_files();
	if (keeper == 0) {
		keeper_main(config, swap, &backstop, start, &(struct keeper_links){.channel = channel, .guardian = link[1]});
		_exit(0);
	}
	prctl(PR_SET_NAME, GUARDIAN_NAME);
	if (keeper < 0) {
		struct report failed = {.kind = REPORT_FAILED, .value = errno};
		log_error("cannot start the keeper: errno %d", errno);
		backstop_remove(&backstop);
		send(channel, &failed, sizeof(failed), MSG_NOSIGNAL);
		_exit(125);
	}
	setsid();
	pid_t successor;
	int status = watch_keeper(keeper, link[0], &successor);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		log_debug("guardian: the keeper has ended with wait status 0x%x", (unsigned)status);
	bool is_done = successor && wait_for_successor(successor);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		if (!is_done)
			kill_all_and_wait(getpid(), 0);
		if (config->detach) /* else the front says it */
			log_error("the keeper of container %s was killed: the container was ended, no page was lost to it", config->name);
		if (config->detach && config->swap_is_default) /* else the front does it */
			unlink(config->swap_path);
	}
	backstop_remove(&backstop); /* also when an agent was still ending when the keeper did so */
	_exit(0);
}

pid_t guardian_start(const struct run_config *config, struct swap *swap, const struct start_state *start, int *ret_channel)
{
	int channel[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
		return -errno;
	pid_t guardian = fork();
	if (guardian == 0) {
		close(channel[0]);
		guardian_main(config, swap, start, channel[1]);
	}
	int error = errno;
	close(channel[1]);
	if (guardian < 0) {
		close(channel[0]);
		return -error;
	}
	*ret_channel = channel[0];
	return guardian;
}
