#include "container/run.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "container/processes.h"
#include "platform/process.h"
#include "platform/requirements.h"
#include "swap/swap.h"

#define EXIT_FAILED 125
#define EXIT_CANNOT_EXECUTE 126
#define EXIT_NOT_FOUND 127
#define BUSY_PATIENCE_NS 1000000000ull
#define BUSY_NAP_US 5000

static const int forwarded[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH, SIGCONT, SIGPIPE, SIGIO};

struct front {
	const struct run_config *config;
	pid_t guardian, program;
	int channel, signals;
	int exit_code; /* -1: not known yet */
	uint64_t continued_ns; /* when SIGCONT came last */
	bool detached; /* the program has been started and goes on without this process */
};

/* Requests to io_uring outlive a keeper that was killed, and hold the file, with its lock, until the disk has answered: writes that still come must not meet a new container's. */
static int open_when_free(const struct swap_options *options, struct swap **ret_swap, struct swap_error *error)
{
	int r = -EBUSY;
	for (uint64_t begin = monotonic_ns(); r == -EBUSY && monotonic_ns() - begin < BUSY_PATIENCE_NS;) {
		r = swap_open(options, ret_swap, error);
		if (r == -EBUSY)
			usleep(BUSY_NAP_US);
	}
	return r;
}

static int open_swap(const struct run_config *config, struct swap **ret_swap)
{
	struct swap_error error;
	struct swap_options options = {
		.path = config->swap_path,
		.container = config->name,
		.size_bytes = config->swap_size_bytes,
		.base = config->restore ? config->restore->base : NULL};
	*ret_swap = NULL;
	if (!config->swap_path)
		return 0;
	int r = open_when_free(&options, ret_swap, &error);
	if (r < 0)
		log_error("%s", error.text);
	return r;
}

/* A signal from the terminal has reached the program too (same process group); one sent to this process alone is passed on. */
static void forward_signal(struct front *front)
{
	struct signalfd_siginfo info;
	if (read(front->signals, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCONT)
		front->continued_ns = monotonic_ns();
	if (info.ssi_code == SI_KERNEL)
		return;
	kill(front->program, (int)info.ssi_signo);
}

static void explain_exec_failure(struct front *front, int error)
{
	const char *program = front->config->argv[0];
	log_error("cannot run %s: %s", program, error == ENOENT ? "not found" : strerror(error));
	front->exit_code = error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
}

/*
 * The program was stopped. After Ctrl-Z this process was stopped with it, and reads the report only when everything has been continued:
 * then the program is no longer stopped and there is nothing to mirror.
 */
static void mirror_stop(const struct front *front)
{
	struct process_info info;
	if (front->program > 0 && process_info_read(front->program, &info) == 0 && info.state == 'T')
		raise(SIGSTOP);
}

/* A traced program is in the same state while it is held for a moment. Whoever continues it after Ctrl-Z continues this process as well, by SIGCONT. */
static void mirror_traced_stop(const struct front *front, uint64_t at_ns)
{
	struct process_info info;
	if (front->continued_ns < at_ns && front->program > 0 && process_info_read(front->program, &info) == 0 && (info.state == 't' || info.state == 'T'))
		raise(SIGSTOP);
}

static bool is_awaiting(const struct run_config *config)
{
	return config->restore && config->restore->arrived;
}

static void say_missing(const struct run_config *config, int error)
{
	const char *how = error == ENODATA ? "the stream was cut off" : error == EBADMSG ? "the stream is damaged" : strerror(error);
	log_error("container %s runs, but not all of its pages have come: %s. Who touches one that is missing waits for it (give `membox resume %s` the stream of `membox pack` of the checkpoint "
		  "that the sender has left)", config->name, how, config->name);
}

/* Returns false when the keeper has nothing more to say. */
static bool handle_report(struct front *front)
{
	struct report report;
	ssize_t n = recv(front->channel, &report, sizeof(report), 0);
	if (n != (ssize_t)sizeof(report))
		return n < 0 && errno == EINTR;
	switch ((enum report_kind)report.kind) {
	case REPORT_STARTED:
		front->program = report.value;
		front->detached = front->config->detach && !is_awaiting(front->config); /* who brings the pages would see it end */
		break;
	case REPORT_ARRIVED:
		front->detached = front->config->detach;
		if (report.value)
			say_missing(front->config, report.value);
		break;
	case REPORT_EXEC_FAILED:
		explain_exec_failure(front, report.value);
		break;
	case REPORT_FAILED:
		front->exit_code = EXIT_FAILED;
		break;
	case REPORT_STOPPED:
		mirror_stop(front);
		break;
	case REPORT_TRACED_STOPPED:
		mirror_traced_stop(front, report.at_ns);
		break;
	case REPORT_ENDED:
		front->exit_code = report.value;
		break;
	}
	return true;
}

static void wait_for_end(struct front *front)
{
	struct pollfd fds[] = {{.fd = front->channel, .events = POLLIN}, {.events = POLLIN}};
	for (;;) {
		fds[1].fd = front->program > 0 ? front->signals : -1; /* until then signals wait: the program may run before we hear of it */
		if (poll(fds, ARRAY_LEN(fds), -1) < 0)
			continue;
		if (fds[1].revents & POLLIN)
			forward_signal(front);
		if (fds[0].revents && !handle_report(front))
			break;
		if (front->detached) {
			front->exit_code = 0;
			return;
		}
	}
	/* The guardian goes last: until then the swap file is locked and members may still be dying. */
	while (waitpid(front->guardian, NULL, 0) < 0 && errno == EINTR)
		;
}

static void swap_file_remove_if_ours(const struct run_config *config, struct swap *swap, const struct front *front)
{
	bool half_made = front->exit_code == EXIT_FAILED && front->program <= 0;
	if (swap && (config->swap_is_default || (half_made && swap_was_created(swap))))
		unlink(swap_path(swap));
}

static int run_front(const struct run_config *config, struct swap *swap, const struct start_state *start)
{
	struct front front = {.config = config, .exit_code = -1, .channel = -1, .signals = -1};
	sigset_t mask;
	sigemptyset(&mask);
	for (size_t i = 0; i < ARRAY_LEN(forwarded); i++)
		sigaddset(&mask, forwarded[i]);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	front.signals = signalfd(-1, &mask, SFD_CLOEXEC);
	front.guardian = front.signals < 0 ? -errno : guardian_start(config, swap, start, &front.channel);
	if (config->restore && config->restore->stream >= 0)
		close(config->restore->stream); /* who writes into it sees when the keeper reads it no more */
	if (front.guardian < 0) {
		log_error("cannot start the container: %s", strerror(-front.guardian));
		front.exit_code = EXIT_FAILED;
	} else {
		wait_for_end(&front);
	}
	if (front.exit_code < 0) {
		log_error("the keeper of container %s was killed: the container was ended, no page was lost to it", config->name);
		front.exit_code = EXIT_FAILED;
	}
	if (!front.detached)
		swap_file_remove_if_ours(config, swap, &front);
	if (front.signals >= 0)
		close(front.signals);
	if (front.channel >= 0)
		close(front.channel);
	return front.exit_code;
}

int container_run(const struct run_config *config)
{
	struct requirement_failure failure;
	struct start_state start;
	struct swap *swap;
	sigset_t file_size;
	sigemptyset(&file_size);
	sigaddset(&file_size, SIGXFSZ); /* a swap file that reaches `ulimit -f` is a full one, not the end of the keeper */
	sigprocmask(SIG_BLOCK, &file_size, &start.mask);
	if (requirements_check(&failure) < 0) {
		log_error("%s (see `membox doctor`)", failure.text);
		return EXIT_FAILED;
	}
	if (open_swap(config, &swap) < 0)
		return EXIT_FAILED;
	/* From here the keeper's copy of the swap object does the work; this process only holds the file open until the end. */
	return run_front(config, swap, &start);
}
