#include "checkpoint/upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "checkpoint/arrivals.h"
#include "checkpoint/handed.h"
#include "container/container.h"
#include "container/prefetch.h"
#include "container/reclaimer.h"
#include "container/save_point.h"
#include "container/squeeze.h"
#include "inject/world.h"
#include "pager/hand_over.h"
#include "platform/process.h"
#include "swap/cipher.h"
#include "swap/swap_hand_over.h"

#define ASK_NS 10000000000ull    /* a program that does not answer ... */
#define CHECK_MS 5000            /* ... or not while everybody who misses a page waits */
#define REST_NS 10000000000ull   /* until the container comes to rest */
#define POOL_LEFT 256u           /* pages of it that are written while nobody makes room */
#define ANSWER_BYTES 300

struct answer {
	int pipe, pidfd;
	pid_t pid;
	char text[ANSWER_BYTES];
	size_t len;
	uint64_t deadline_ns;
};

struct upgrade {
	struct container *c;
	char *file;
	int program; /* O_PATH */
	struct answer answer; /* of the first question */
	bool is_asked, has_pool_share;
	uint64_t pool_most; /* before the pool was written to the file */
	uint64_t deadline_ns;
};

static int refuse(const struct upgrade *upgrade, struct checkpoint_error *error, int code, const char *why)
{
	return checkpoint_fail(error, code, "%.150s: %s", upgrade->file, why);
}

/* --- asking the program --- */

/* Its arguments: `membox take-over --check`, and the number of a memfd with a keeper's state or nothing. 0 or -errno. */
static int ask(const struct upgrade *upgrade, int state, struct answer *ret)
{
	char path[64], number[16];
	char *argv[] = {(char[]){"membox"}, (char[]){"take-over"}, (char[]){"--check"}, state < 0 ? NULL : number, NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", upgrade->program);
	snprintf(number, sizeof(number), "%d", state);
	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
	if (state >= 0)
		posix_spawn_file_actions_adddup2(&actions, state, state); /* not close-on-exec there */
	int e = posix_spawn(&ret->pid, path, &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	close(fds[1]);
	if (e) {
		close(fds[0]);
		return -e;
	}
	int pidfd = pidfd_open_process(ret->pid); /* it is waited for by this thread only, so it is still there */
	if (pidfd < 0) {
		kill(ret->pid, SIGKILL);
		waitpid(ret->pid, NULL, 0);
		close(fds[0]);
		return pidfd;
	}
	ret->pipe = fds[0];
	ret->pidfd = pidfd;
	ret->len = 0;
	return 0;
}

/* True when there is nothing more to come, or too much has. */
static bool read_answer(struct answer *answer)
{
	while (answer->len < sizeof(answer->text) - 1) {
		ssize_t n = read(answer->pipe, answer->text + answer->len, sizeof(answer->text) - 1 - answer->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno != EAGAIN;
		if (n == 0)
			break;
		answer->len += (size_t)n;
	}
	answer->text[answer->len] = '\0';
	answer->text[strcspn(answer->text, "\n")] = '\0';
	return true;
}

/* Reaped here, so that it is not taken for a member; by pidfd, because the loop may have done it before, and the number be somebody else's. */
static void end_answer(struct answer *answer)
{
	siginfo_t info;
	if (answer->pidfd >= 0) {
		pidfd_kill(answer->pidfd, SIGKILL); /* one that has more to say than that */
		while (waitid(P_PIDFD, (id_t)answer->pidfd, &info, WEXITED) < 0 && errno == EINTR)
			;
		close(steal_fd(&answer->pidfd));
	}
	if (answer->pipe >= 0)
		close(steal_fd(&answer->pipe));
}

static int judge_format(const struct upgrade *upgrade, struct checkpoint_error *error)
{
	const char *text = upgrade->answer.text;
	unsigned format = 0;
	if (sscanf(text, UPGRADE_TAKES "%u", &format) != 1)
		return refuse(upgrade, error, -ENOEXEC, "it is no membox that can take over from a running keeper");
	if (format != HANDED_FORMAT)
		return checkpoint_fail(error, -EPROTO, "%.150s: it takes over keepers of format %u, and this one is of format %u", upgrade->file, format,
				       HANDED_FORMAT);
	return 0;
}

/* The state as it is now, while nothing in it changes. */
static int check_state(const struct upgrade *upgrade, int state, struct checkpoint_error *error)
{
	struct answer answer;
	int r = ask(upgrade, state, &answer);
	if (r < 0)
		return refuse(upgrade, error, r, strerror(-r));
	upgrade->c->helper = answer.pid;
	struct pollfd wait = {.fd = answer.pipe, .events = POLLIN};
	uint64_t deadline_ns = monotonic_ns() + CHECK_MS * 1000000ull;
	bool is_done = false;
	fcntl(answer.pipe, F_SETFL, O_NONBLOCK);
	while (!is_done && monotonic_ns() < deadline_ns)
		is_done = poll(&wait, 1, 100) > 0 && read_answer(&answer);
	end_answer(&answer);
	upgrade->c->helper = 0;
	if (!is_done || !answer.len)
		return refuse(upgrade, error, -EIO, "it ended, or hung, when it was given the keeper's state");
	if (!strncmp(answer.text, UPGRADE_NO, strlen(UPGRADE_NO)))
		return refuse(upgrade, error, -EBADMSG, answer.text + strlen(UPGRADE_NO));
	return !strcmp(answer.text, UPGRADE_YES) ? 0 : refuse(upgrade, error, -EIO, "its answer makes no sense");
}

/* --- what can be handed over --- */

static int check_container(const struct container *c, struct checkpoint_error *error)
{
	if (atomic_load(&c->killed) || c->program_ended)
		return checkpoint_fail(error, -EBUSY, "the container is ending");
	if (c->pager.forkless)
		return checkpoint_fail(error, -ENOTSUP, "its processes are traced, because the kernel announces no forks to a keeper without CAP_SYS_PTRACE");
	if (c->arrivals && arrivals_state(c->arrivals) < 0)
		return checkpoint_fail(error, -EBUSY, "its pages are still coming from where it was sent from");
	if (c->pager.trace)
		return checkpoint_fail(error, -ENOTSUP, "a trace of it is being recorded");
	if (c->is_being_saved || c->handover)
		return checkpoint_fail(error, -EBUSY, "a checkpoint is under way, or it is being sent");
	if (c->swapoff || c->release != RELEASE_NOT || c->bring_back || c->leave)
		return checkpoint_fail(error, -EBUSY, "a swapoff or a release is under way, or it was released");
	if (c->migration)
		return checkpoint_fail(error, -EBUSY, "a migration is under way");
	if (c->parking != PARKING_NOT || c->frozen || c->frozen_by)
		return checkpoint_fail(error, -EBUSY, "it is parked or stopped");
	if (c->guardian < 0)
		return checkpoint_fail(error, -ENOTSUP, "its guardian cannot be told");
	return 0;
}

static bool is_passing(const struct address_space *as)
{
	return atomic_load(&as->dead) || atomic_load(&as->lost) || atomic_load(&as->leaves) || as->released || as->stamp.page;
}

static void unlock_all(struct container *c)
{
	for (struct address_space *as = c->spaces; as; as = as->next)
		lock_drop(&as->layout);
}

/* Nobody else ever holds two. A fork that was announced while they were taken has a child that is not on the list: -EAGAIN, as for what will be over soon. */
static int lock_all(struct container *c)
{
	int r = 0;
	for (struct address_space *as = c->spaces; as; as = as->next)
		lock_take_another(&as->layout);
	for (struct address_space *as = c->spaces; r == 0 && as; as = as->next)
		r = is_passing(as) ? -EAGAIN : hand_over_check(as);
	if (r == 0 && atomic_load(&c->newborn))
		r = -EAGAIN;
	if (r < 0)
		unlock_all(c);
	return r;
}

/* --- the switch --- */

/* Memory of the kernel, which is never written to a disk. -1: there is no key; -errno otherwise. */
static int key_pipe(const struct container *c)
{
	const uint8_t *own = c->swap ? swap_key(c->swap) : NULL, *base = c->swap ? swap_base_key(c->swap) : NULL;
	bool is_written = true;
	int fds[2];
	if (!own && !base)
		return -1;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	if (own)
		is_written = write(fds[1], own, CIPHER_KEY_BYTES) == (ssize_t)CIPHER_KEY_BYTES;
	if (base)
		is_written = is_written && write(fds[1], base, CIPHER_KEY_BYTES) == (ssize_t)CIPHER_KEY_BYTES;
	close(fds[1]);
	if (is_written)
		return fds[0];
	close(fds[0]);
	return -EIO;
}

static void keep_open(const struct handed *handed, int state, int key, bool keep)
{
	int flags = keep ? 0 : FD_CLOEXEC;
	for (size_t i = 0; i < handed->nr_fds; i++)
		fcntl(handed->fds[i], F_SETFD, flags);
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		fcntl(fd, F_SETFD, flags);
	fcntl(state, F_SETFD, flags);
	if (key >= 0)
		fcntl(key, F_SETFD, flags);
}

/* Returns when the kernel refuses, with nothing changed: all other threads are still there. */
static int exec(const struct upgrade *upgrade, const struct handed *handed, int state, int key)
{
	char state_text[16], key_text[16];
	char *argv[] = {(char[]){"membox"}, (char[]){"take-over"}, state_text, key_text, NULL};
	snprintf(state_text, sizeof(state_text), "%d", state);
	snprintf(key_text, sizeof(key_text), "%d", key);
	keep_open(handed, state, key, true);
	FAULT_POINT("upgrade.exec");
	syscall(SYS_execveat, upgrade->program, "", argv, environ, AT_EMPTY_PATH);
	int error = errno;
	keep_open(handed, state, key, false);
	return -error;
}

static int hand_over(const struct upgrade *upgrade, struct handed *handed, const struct upgrade_control *control, struct checkpoint_error *error)
{
	struct container *c = upgrade->c;
	Upgrade__Control *message = control ? control->describe(control->context, handed) : NULL;
	int r = handed_describe(c, message, handed);
	_cleanup_close_ int state = r < 0 ? r : handed_write(handed);
	if (state < 0)
		return checkpoint_fail(error, state, "the keeper's state cannot be written down: %s", strerror(-state));
	FAULT_POINT("upgrade.described");
	uint64_t described_ns = monotonic_ns();
	r = check_state(upgrade, state, error);
	if (r < 0)
		return r;
	log_debug("upgrade: described in %llu us, checked in %llu us", (unsigned long long)(described_ns - handed->stopped_ns) / 1000,
		  (unsigned long long)(monotonic_ns() - described_ns) / 1000);
	FAULT_POINT("upgrade.checked");
	_cleanup_close_ int key = key_pipe(c);
	if (key < -1)
		return checkpoint_fail(error, key, "the key of the swap file cannot be handed over: %s", strerror(-key));
	r = exec(upgrade, handed, state, key);
	return refuse(upgrade, error, r, strerror(-r));
}

/* With the reclaim thread paused, and nothing on its way to the swap file. */
static int switch_program(struct upgrade *upgrade, const struct upgrade_control *control, struct checkpoint_error *error)
{
	struct container *c = upgrade->c;
	struct handed handed = {.stopped_ns = monotonic_ns()};
	int r = c->swap ? container_settle_pool(c) : 0;
	if (r < 0)
		return checkpoint_fail(error, r, "the swap file takes nothing: its pages on the way there cannot be handed over");
	FAULT_POINT("upgrade.settled");
	handed.stopped_ns = monotonic_ns();
	r = lock_all(c);
	if (r < 0)
		return r == -EAGAIN || r == -EBUSY ? -EINPROGRESS : r;
	FAULT_POINT("upgrade.locked");
	r = hand_over(upgrade, &handed, control, error);
	unlock_all(c);
	arena_release(&handed.arena);
	return r;
}

static bool pool_is_small(const struct container *c)
{
	return !c->pager.pool || atomic_load(pool_memory(c->pager.pool)) <= POOL_LEFT;
}

static int try_to_switch(struct upgrade *upgrade, const struct upgrade_control *control, struct checkpoint_error *error)
{
	struct container *c = upgrade->c;
	int r = check_container(c, error);
	if (r == 0 && control && control->works(control->context))
		r = checkpoint_fail(error, -EBUSY, "another request is under way");
	if (r < 0)
		return r;
	bool is_late = monotonic_ns() > upgrade->deadline_ns;
	if (!is_late && (!pool_is_small(c) || world_collect_late()))
		return -EINPROGRESS;
	container_end_prefetch(c);
	container_upkeep(c);
	container_refresh_members(c);
	reclaimer_pause(c->reclaimer);
	atomic_store(&c->pager.unreclaimed, false); /* it is for a moment: whoever needs room waits for it, here or there */
	uint64_t pool_most = atomic_exchange(&c->pool_most, upgrade->pool_most); /* as the other one is to have it */
	r = world_collect_late() ? -EINPROGRESS : switch_program(upgrade, control, error);
	atomic_store(&c->pool_most, pool_most);
	reclaimer_resume(c->reclaimer);
	reclaimer_kick(c->reclaimer);
	return r == -EINPROGRESS && is_late ? checkpoint_fail(error, -EBUSY, "the container does not come to rest") : r;
}

/* --- the whole --- */

int upgrade_begin(struct container *c, const char *file, struct upgrade **ret, struct checkpoint_error *error)
{
	int r = c->is_being_upgraded ? checkpoint_fail(error, -EBUSY, "another upgrade is under way") : check_container(c, error);
	struct upgrade *upgrade = r == 0 ? calloc(1, sizeof(*upgrade)) : NULL;
	if (!upgrade)
		return r < 0 ? r : checkpoint_fail(error, -ENOMEM, "upgrade: %s", strerror(ENOMEM));
	*upgrade = (struct upgrade){.c = c, .file = strdup(file), .answer = {.pipe = -1, .pidfd = -1}};
	c->is_being_upgraded = true;
	upgrade->program = open(file, O_PATH | O_CLOEXEC);
	if (!upgrade->file || upgrade->program < 0)
		r = upgrade->file ? refuse(upgrade, error, -errno, strerror(errno)) : checkpoint_fail(error, -ENOMEM, "upgrade: %s", strerror(ENOMEM));
	if (r == 0) {
		r = ask(upgrade, -1, &upgrade->answer);
		if (r < 0)
			refuse(upgrade, error, r, strerror(-r));
	}
	if (r < 0) {
		upgrade_free(upgrade);
		return r;
	}
	fcntl(upgrade->answer.pipe, F_SETFL, O_NONBLOCK);
	upgrade->answer.deadline_ns = monotonic_ns() + ASK_NS;
	c->helper = upgrade->answer.pid;
	*ret = upgrade;
	FAULT_POINT("upgrade.begun");
	return 0;
}

int upgrade_step(struct upgrade *upgrade, const struct upgrade_control *control, struct checkpoint_error *error)
{
	struct container *c = upgrade->c;
	if (!upgrade->is_asked) {
		bool is_answered = read_answer(&upgrade->answer);
		if (!is_answered && monotonic_ns() < upgrade->answer.deadline_ns)
			return -EINPROGRESS;
		end_answer(&upgrade->answer);
		upgrade->is_asked = true;
		c->helper = 0;
		int r = is_answered ? judge_format(upgrade, error) : refuse(upgrade, error, -ETIMEDOUT, "it does not say whether it can take over");
		if (r < 0)
			return r;
		upgrade->pool_most = atomic_load(&c->pool_most);
		upgrade->has_pool_share = true;
		upgrade->deadline_ns = monotonic_ns() + REST_NS;
		container_set_pool(c, 0);
	}
	return try_to_switch(upgrade, control, error);
}

void upgrade_free(struct upgrade *upgrade)
{
	if (!upgrade)
		return;
	upgrade->c->is_being_upgraded = false;
	end_answer(&upgrade->answer);
	if (!upgrade->is_asked)
		upgrade->c->helper = 0;
	if (upgrade->has_pool_share)
		container_set_pool(upgrade->c, upgrade->pool_most);
	if (upgrade->program >= 0)
		close(upgrade->program);
	free(upgrade->file);
	free(upgrade);
}
