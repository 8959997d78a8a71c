#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/event.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "container/attach.h"
#include "container/bring_back.h"
#include "container/container.h"
#include "container/freeze.h"
#include "container/prefetch.h"
#include "container/processes.h"
#include "container/reclaimer.h"
#include "container/service.h"
#include "container/traced.h"
#include "inject/world.h"
#include "platform/process.h"
#include "platform/requirements.h"
#include "platform/scheduling.h"

#define EXIT_SIGNAL_BASE 128
#define SENT_NAP_NS 500000000

struct keeper {
	struct container container;
	int signals;
	_Atomic bool *in_order; /* see struct successor; NULL: the first guardian sees it by the exit status */
	bool said_why; /* the container was killed */
	bool said_arrived;
};

static void report(struct keeper *k, enum report_kind kind, int value)
{
	struct report r = {.kind = (int)kind, .value = value};
	if (kind == REPORT_TRACED_STOPPED)
		r.at_ns = monotonic_ns();
	if (!k->container.front_is_gone && send(k->container.channel, &r, sizeof(r), MSG_NOSIGNAL) < 0)
		log_debug("keeper: cannot report: errno %d", errno);
}

void container_kill(struct container *c, const char *reason)
{
	if (!atomic_exchange(&c->has_reason, true)) {
		snprintf(c->reason, sizeof(c->reason), "%s", reason);
		atomic_store(&c->killed, true);
	}
	event_raise(c->event);
}

static void on_fatal(void *context, const char *reason)
{
	container_kill(context, reason);
}

static void on_need_reclaim(void *context)
{
	struct container *c = context;
	reclaimer_kick(c->reclaimer);
}

static void on_forked(void *context, struct address_space *child)
{
	struct container *c = context;
	struct address_space *head = atomic_load(&c->newborn);
	do {
		child->next = head;
	} while (!atomic_compare_exchange_weak(&c->newborn, &head, child));
}

/* Whoever reads from the pipe waits for its end, and a detached container would keep it open. Files and terminals stay. */
static void leave_pipe(int fd, int null)
{
	struct stat st;
	if (fstat(fd, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)))
		dup2(null, fd);
}

/* A detached program: no terminal can interrupt it, and it waits for no input. */
static void leave_session_of_user(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	setsid();
	if (null < 0)
		return;
	dup2(null, STDIN_FILENO);
	leave_pipe(STDOUT_FILENO, null);
	leave_pipe(STDERR_FILENO, null);
}

/* In the new process: the user's signal mask, nothing else of membox (every descriptor is close-on-exec). */
static _Noreturn void exec_program(const struct container *c, const struct start_state *start, int failure)
{
	const struct run_config *config = c->config;
	backstop_enter(&c->backstop);
	sigprocmask(SIG_SETMASK, &start->mask, NULL);
	if (config->detach)
		leave_session_of_user();
	execvp(config->argv[0], config->argv);
	int error = errno;
	if (write(failure, &error, sizeof(error)) != sizeof(error))
		_exit(124);
	_exit(127);
}

/* As fork; a failure has been logged. */
static pid_t fork_program(struct container *c)
{
	struct isolate_failure failure;
	pid_t pid = c->config->isolate ? isolate_fork(&c->isolation, 0, &failure) : fork();
	if (pid < 0 && c->config->isolate)
		log_error("--isolate: %s", failure.text);
	else if (pid < 0)
		log_error("cannot start a process: %s", strerror(errno));
	return pid;
}

/* What is to be reported: REPORT_STARTED with c->program set, or why not. */
static struct report start_program(struct container *c, const struct start_state *start)
{
	int failure[2], error = 0;
	if (pipe2(failure, O_CLOEXEC) < 0) {
		log_error("cannot start a process: %s", strerror(errno));
		return (struct report){.kind = REPORT_FAILED};
	}
	pid_t pid = fork_program(c);
	if (pid == 0)
		exec_program(c, start, failure[1]);
	close(failure[1]);
	if (pid > 0 && read(failure[0], &error, sizeof(error)) == (ssize_t)sizeof(error)) {
		waitpid(pid, NULL, 0);
		isolate_release(&c->isolation);
	}
	close(failure[0]);
	if (pid < 0)
		return (struct report){.kind = REPORT_FAILED};
	c->program = pid;
	return error ? (struct report){.kind = REPORT_EXEC_FAILED, .value = error} : (struct report){.kind = REPORT_STARTED, .value = pid};
}

static struct report start_restored(struct container *c)
{
	const struct restore_source *restore = c->config->restore;
	pid_t pid = restore->create(restore->context, c);
	if (pid < 0)
		return (struct report){.kind = REPORT_FAILED};
	c->program = pid;
	return (struct report){.kind = REPORT_STARTED, .value = pid};
}

static struct report start_attached(struct container *c)
{
	return container_attach(c) < 0 ? (struct report){.kind = REPORT_FAILED} : (struct report){.kind = REPORT_STARTED, .value = c->program};
}

/* The terminal's descriptors belong to the program: a pipe must see its end when the program closes it. stderr stays for messages. */
static void leave_terminal(bool is_detached)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup3(null, STDIN_FILENO, O_CLOEXEC);
		dup3(null, STDOUT_FILENO, O_CLOEXEC);
		if (is_detached)
			leave_pipe(STDERR_FILENO, null);
		if (null > STDERR_FILENO)
			close(null);
	}
	fcntl(STDERR_FILENO, F_SETFD, FD_CLOEXEC);
	setsid();
}

/* By itself init ends only when nobody is left; the program, if it died with it, may have been reaped first. */
static void init_ended(struct container *c, bool by_itself)
{
	c->isolation.init = 0;
	if (!by_itself && !atomic_load(&c->killed))
		container_kill(c, "pid 1 of its namespaces was killed");
}

static void program_ended(struct container *c, const siginfo_t *info)
{
	c->program_ended = true;
	c->exit_status = info->si_code == CLD_EXITED ? info->si_status : EXIT_SIGNAL_BASE + info->si_status;
	isolate_drain(&c->isolation);
}

static bool take_traced(struct keeper *k, const siginfo_t *info)
{
	bool is_stopped;
	bool taken = traced_report(&k->container, info, &is_stopped);
	if (is_stopped)
		report(k, REPORT_TRACED_STOPPED, 0);
	return taken;
}

/*
 * Reaps what has ended and notes stops of the program. Races: a thread that did not stop in time for ptrace stops later and shows up here;
 * world_collect_late takes those first, and none is waited for by another thread because all waiting is done by this one.
 */
static void reap_children(struct keeper *k)
{
	struct container *c = &k->container;
	for (;;) {
		siginfo_t info = {0};
		world_collect_late();
		if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) < 0 || info.si_pid == 0)
			return;
		if (world_is_late(info.si_pid))
			return;
		if (c->pager.forkless && take_traced(k, &info))
			continue;
		if (waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WSTOPPED | WNOHANG | __WALL) < 0)
			continue;
		if (info.si_code == CLD_TRAPPED)
			world_let_stranger_go(info.si_pid, info.si_status);
		bool ended = info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED;
		if (info.si_pid == c->isolation.init && ended)
			init_ended(c, info.si_code == CLD_EXITED);
		if (info.si_pid != c->program)
			continue;
		if (info.si_code == CLD_STOPPED)
			report(k, REPORT_STOPPED, info.si_status);
		else if (ended)
			program_ended(c, &info);
	}
}

/* With init everything inside goes at once. The agents too: our userfaultfds keep what is out from being read as zeros. */
static void kill_members(struct container *c)
{
	if (c->isolation.init)
		kill(c->isolation.init, SIGKILL);
	container_refresh_members(c);
	for (uint32_t i = 0; i < c->members.nr; i++)
		member_kill(&c->members.items[i], SIGKILL);
}

static void drain(int fd)
{
	char buffer[sizeof(struct signalfd_siginfo) * 8];
	if (read(fd, buffer, sizeof(buffer)) < 0 && errno != EAGAIN)
		log_debug("keeper: drain: errno %d", errno);
}

static void wait_for_work(struct keeper *k, uint64_t timeout_ns)
{
	struct pollfd fds[] = {{.fd = k->signals, .events = POLLIN},
			       {.fd = k->container.event, .events = POLLIN},
			       {.fd = k->container.front_is_gone ? -1 : k->container.channel, .events = POLLIN},
			       {.fd = k->container.config->service ? k->container.config->service->fd : -1, .events = POLLIN}};
	struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / 1000000000u), .tv_nsec = (long)(timeout_ns % 1000000000u)};
	if (ppoll(fds, ARRAY_LEN(fds), &timeout, NULL) <= 0)
		return;
	if (fds[0].revents)
		drain(k->signals);
	if (fds[1].revents)
		drain(k->container.event);
	if (fds[2].revents & (POLLHUP | POLLERR)) { /* the front was killed: nobody waits for this container any more */
		k->container.front_is_gone = true;
		if (!k->container.config->detach)
			container_kill(&k->container, "the process that started it was killed");
	}
	if (fds[0].revents)
		reap_children(k);
}

/* True when the program has ended and none of its descendants is left: init, which has inherited them, knows best. */
static bool is_empty(struct container *c)
{
	if (c->config->attach)
		return container_attached_is_over(c);
	if (atomic_load(&c->killed) && !c->program_ended && members_has_departed(&c->members, c->program)) {
		c->program_ended = true; /* it goes on in another container; this one ends as if it were killed */
		c->exit_status = EXIT_SIGNAL_BASE + SIGKILL;
	}
	if (!c->program_ended)
		return false;
	return c->config->isolate ? !c->isolation.init : container_refresh_members(c) == 0;
}

/* What comes from outside; returns when it wants to be asked again. */
static uint64_t serve_outside(struct container *c)
{
	struct container_service *service = c->config->service;
	return service ? service->serve(service, c) : UINT64_MAX;
}

/* Once, if the container is being killed. */
static void say_why(struct keeper *k)
{
	const struct container *c = &k->container;
	if (atomic_load(&c->killed) && !k->said_why)
		log_error("container %s is ended: %s", c->config->name, c->reason);
	k->said_why = atomic_load(&c->killed);
}

/* Once, if it began to run before its pages were there. */
static void say_arrived(struct keeper *k)
{
	const struct restore_source *restore = k->container.config->restore;
	int r = restore && restore->arrived && !k->said_arrived ? restore->arrived(restore->context) : -EINPROGRESS;
	if (r == -EINPROGRESS)
		return;
	k->said_arrived = true;
	report(k, REPORT_ARRIVED, -r);
}

static void serve(struct keeper *k)
{
	struct container *c = &k->container;
	uint64_t timeout_ns = 0;
	while (!is_empty(c)) {
		wait_for_work(k, timeout_ns);
		if (atomic_load(&c->killed)) {
			say_why(k);
			kill_members(c);
			reap_children(k);
			timeout_ns = 1000000;
			continue;
		}
		say_arrived(k);
		timeout_ns = container_tick(c);
		timeout_ns = MIN_OF(timeout_ns, serve_outside(c));
	}
	say_why(k);
}

static int prepare(struct keeper *k, const struct run_config *config, struct swap *swap, const struct backstop *backstop)
{
	struct container *c = &k->container;
	sigset_t mask;
	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	c->config = config;
	c->swap = swap;
	c->backstop = *backstop;
	c->swap_is_default = config->swap_is_default;
	c->isolation = (struct isolation){.lifeline = -1, .proc = -1};
	c->crowd = 1;
	atomic_store(&c->squeeze_to, NO_SQUEEZE);
	atomic_store(&c->pool_most, config->pool_bytes);
	members_init(&c->members);
	lock_init(&c->spaces_lock, LOCK_SPACES);
	charge_init(&c->charge, config->limit_bytes >> PAGE_SHIFT);
	stat_set(&c->stats, rss_limit, config->limit_bytes);
	k->signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	c->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (k->signals < 0 || c->event < 0)
		return -errno;
	return 0;
}

/* The threads start after the program: it is forked from a process with one thread, and without the swap file's key. */
static int start_pager(struct container *c)
{
	struct pager_callbacks callbacks = {
		.forked = on_forked, .need_reclaim = on_need_reclaim, .fatal = on_fatal, .context = c};
	bool isolated = c->config->isolate;
	struct pager_home home = {.proc = isolated ? c->isolation.proc : open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC),
				  .reaper = isolated ? c->isolation.init : getpid()};
	int r = home.proc < 0 ? -errno : pager_init(&c->pager, c->swap, &c->stats, &c->charge, &home, &callbacks);
	c->pager.forkless = !requirements_have_fork_events();
	return r;
}

static int start_threads(struct container *c)
{
	int r = c->swap && c->config->encrypt ? swap_encrypt(c->swap) : 0;
	if (r == 0)
		r = start_pager(c);
	return r < 0 ? r : reclaimer_start(c, &c->reclaimer);
}

static void save_figures(struct container *c)
{
	container_publish_figures(c);
	if (!c->config->stats_path)
		return;
	int r = stats_save_json(&c->stats, c->config->stats_path);
	if (r < 0)
		log_error("cannot write statistics to %s: %s", c->config->stats_path, strerror(-r));
}

/*
 * The container begins in another place, often on this machine. To give back gigabytes takes as long as all that has to be done there, and holds it up: in a virtual machine
 * nobody at all runs for a part of that time. Who is killed with the init of its namespaces has given them back already.
 */
static void let_them_begin_there(const struct container *c)
{
	static const struct timespec nap = {.tv_nsec = SENT_NAP_NS};
	if (c->was_sent && !c->config->isolate)
		nanosleep(&nap, NULL);
}

static void shut_down(struct keeper *k)
{
	struct container *c = &k->container;
	let_them_begin_there(c);
	container_thaw_all(c);
	container_end_prefetch(c);
	bring_back_free(c->swapoff);
	bring_back_free(c->bring_back);
	bring_back_free(c->leave);
	reclaimer_stop(c->reclaimer);
	save_figures(c);
	container_upkeep(c);
	while (c->spaces) {
		struct address_space *as = c->spaces;
		c->spaces = as->next;
		address_space_bury(as);
		address_space_put(as);
	}
	pager_release(&c->pager);
	isolate_release(&c->isolation);
	members_release(&c->members);
	free(steal_pointer(c->oom_report));
	uint64_t killed = backstop_remove(&c->backstop);
	if (killed)
		log_error("the kernel has killed %llu processes of container %s: they had outrun its limit by far", (unsigned long long)killed,
			  c->config->name);
	if (c->swap && log_debug_is_wanted() && !swap_check(c->swap)) /* looks at every cluster that could be */
		log_debug("keeper: the books of the swap file do not balance");
	if (c->swap && swap_used_slots(c->swap) != swap_pinned_slots(c->swap))
		log_debug("keeper: %llu slots were not given back", (unsigned long long)(swap_used_slots(c->swap) - swap_pinned_slots(c->swap)));
	if (c->swap)
		swap_close(c->swap, c->swap_is_default);
}

static struct keeper keeper;

/* Until the container is empty. */
static void live(struct keeper *k)
{
	const struct run_config *config = k->container.config;
	scheduling_preempt();
	serve(k);
	if (config->service)
		config->service->ended(config->service, &k->container);
	shut_down(k);
	if (k->in_order)
		atomic_store(k->in_order, true);
	report(k, REPORT_ENDED, k->container.exit_status);
	FAULT_REPORT();
}

void keeper_go_on(const struct run_config *config, const struct keeper_links *links, const struct successor *successor)
{
	struct keeper *k = &keeper;
	struct container *c = &k->container;
	c->channel = links->channel;
	c->guardian = links->guardian;
	k->in_order = successor->in_order;
	int r = prepare(k, config, NULL, &(struct backstop){0});
	if (r == 0)
		r = config->handed->begin(config->handed->context, c);
	if (r == 0)
		r = start_pager(c);
	if (r == 0)
		r = config->handed->fill(config->handed->context, c);
	if (r == 0)
		r = reclaimer_start(c, &c->reclaimer);
	if (r == 0)
		r = config->handed->serve(config->handed->context, c);
	if (r < 0) {
		log_error("the keeper of container %s cannot go on after the upgrade: %s", config->name, strerror(-r));
		_exit(EXIT_FAILURE);
	}
	FAULT_POINT("upgrade.taken_over");
	live(k);
}

void keeper_main(const struct run_config *config, struct swap *swap, const struct backstop *backstop, const struct start_state *start,
		 const struct keeper_links *links)
{
	struct keeper *k = &keeper;
	FAULT_ARM();
	k->container.channel = links->channel;
	k->container.guardian = links->guardian;
	k->container.begin_ns = monotonic_ns();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	int r = prepare(k, config, swap, backstop);
	if (r < 0) {
		log_error("cannot prepare the container: %s", strerror(-r));
		backstop_remove(&k->container.backstop);
		report(k, REPORT_FAILED, 0);
		return;
	}
	struct report started = config->attach    ? start_attached(&k->container)
				: config->restore ? start_restored(&k->container)
						  : start_program(&k->container, start);
	if (started.kind != REPORT_STARTED)
		backstop_remove(&k->container.backstop);
	if (started.kind != REPORT_STARTED && swap)
		swap_close(swap, config->swap_is_default || swap_was_created(swap));
	report(k, (enum report_kind)started.kind, started.value);
	if (started.kind != REPORT_STARTED)
		return;
	leave_terminal(config->detach);
	r = start_threads(&k->container);
	if (r < 0) {
		log_error("cannot start the container's threads: %s", strerror(-r));
		container_kill(&k->container, "its keeper could not start");
	} else if (config->restore && config->restore->start(config->restore->context, &k->container) < 0) {
		container_kill(&k->container, "it could not be restored");
	}
	live(k);
}
