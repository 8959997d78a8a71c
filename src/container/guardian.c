#include "container/processes.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "platform/process.h"

#define GUARDIAN_NAME "mbx-guardian"
#define MAX_CHILDREN 4096
#define REAP_NAP_US 1000

/* Everything that was a descendant of the keeper is a child of the guardian now (subreaper), or a child of such a one. */
static void kill_all_and_wait(void)
{
	static pid_t children[MAX_CHILDREN];
	for (;;) {
		int n = process_children(getpid(), children, MAX_CHILDREN);
		for (int i = 0; i < n && i < MAX_CHILDREN; i++)
			kill(children[i], SIGKILL);
		if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD)
			return;
		usleep(REAP_NAP_US); /* for children of children that come over when their parent dies */
	}
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

static _Noreturn void guardian_main(const struct run_config *config, struct swap *swap, const struct start_state *start, int channel)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid_t keeper = fork_sharing_files();
	if (keeper == 0) {
		keeper_main(config, swap, start, channel);
		_exit(0);
	}
	prctl(PR_SET_NAME, GUARDIAN_NAME);
	if (keeper < 0) {
		struct report failed = {REPORT_FAILED, errno};
		log_error("cannot start the keeper: errno %d", errno);
		send(channel, &failed, sizeof(failed), MSG_NOSIGNAL);
		_exit(125);
	}
	setsid();
	int status;
	while (waitpid(keeper, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		kill_all_and_wait();
		if (config->detach && config->swap_is_default) /* else the front does it */
			unlink(config->swap_path);
	}
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
