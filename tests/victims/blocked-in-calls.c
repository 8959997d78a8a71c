/*
 * blocked-in-calls: every thread is blocked in another system call while the process comes under pressure and is adopted. No call may
 * end early or with EINTR, and each must end with the right result once it is released.
 * usage: blocked-in-calls NAME   the call of that name blocks the first thread, all the others block a thread each
 */
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "victim.h"

struct blocker {
	const char *name;
	void (*prepare)(struct blocker *);
	bool (*block)(struct blocker *); /* true when the call gave the right result */
	void (*release)(struct blocker *); /* NULL: it ends by time */
	int ends[2];
	uint32_t word;
	pid_t child;
	bool is_right;
	_Atomic bool is_blocked, is_done;
	double took;
	int error;
};

static const double sleep_seconds = 4;

static void make_pipe(struct blocker *b)
{
	CHECK(!pipe2(b->ends, O_CLOEXEC), "pipe");
}

static void make_sockets(struct blocker *b)
{
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b->ends), "socketpair");
}

static void write_byte(struct blocker *b)
{
	CHECK(write(b->ends[1], "x", 1) == 1, "write");
}

static bool block_read(struct blocker *b)
{
	char byte = 0;
	return read(b->ends[0], &byte, 1) == 1 && byte == 'x';
}

static bool block_recv_timeout(struct blocker *b)
{
	struct timeval timeout = { 60, 0 };
	char byte = 0;
	setsockopt(b->ends[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	return recv(b->ends[0], &byte, 1, 0) == 1 && byte == 'x';
}

static bool block_poll(struct blocker *b)
{
	struct pollfd polled = { b->ends[0], POLLIN, 0 };
	return poll(&polled, 1, -1) == 1 && polled.revents == POLLIN;
}

static bool block_poll_timeout(struct blocker *b)
{
	struct pollfd polled = { b->ends[0], POLLIN, 0 };
	return poll(&polled, 1, (int)(sleep_seconds * 1000)) == 0;
}

static bool block_select(struct blocker *b)
{
	fd_set set;
	FD_ZERO(&set);
	FD_SET(b->ends[0], &set);
	return select(b->ends[0] + 1, &set, NULL, NULL, NULL) == 1;
}

static bool block_epoll(struct blocker *b)
{
	int set = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 77 };
	epoll_ctl(set, EPOLL_CTL_ADD, b->ends[0], &event);
	event.data.u64 = 0;
	return epoll_wait(set, &event, 1, -1) == 1 && event.data.u64 == 77;
}

static bool block_epoll_timeout(struct blocker *b)
{
	int set = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event;
	return epoll_pwait(set, &event, 1, (int)(sleep_seconds * 1000), NULL) == 0;
}

static bool block_nanosleep(struct blocker *b)
{
	struct timespec time = { (time_t)sleep_seconds, 0 };
	return syscall(SYS_nanosleep, &time, NULL) == 0;
}

static bool block_clock_nanosleep(struct blocker *b)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	time.tv_sec += (time_t)sleep_seconds;
	return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == 0;
}

static bool block_futex(struct blocker *b)
{
	/* EAGAIN: it was being started again when the word changed. */
	return syscall(SYS_futex, &b->word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0) == 0 || (errno == EAGAIN && __atomic_load_n(&b->word, __ATOMIC_SEQ_CST));
}

static void release_futex(struct blocker *b)
{
	__atomic_store_n(&b->word, 1, __ATOMIC_SEQ_CST);
	CHECK(syscall(SYS_futex, &b->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) >= 0, "cannot wake the futex");
}

static bool block_futex_timeout(struct blocker *b)
{
	struct timespec time = { (time_t)sleep_seconds, 0 };
	return syscall(SYS_futex, &b->word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0) == -1 && errno == ETIMEDOUT;
}

static bool block_sigwait(struct blocker *b)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return syscall(SYS_rt_sigtimedwait, &set, NULL, NULL, 8) == SIGUSR1;
}

static void release_sigwait(struct blocker *b)
{
	kill(getpid(), SIGUSR1);
}

static bool block_wait(struct blocker *b)
{
	int status = 0;
	return waitpid(b->child, &status, 0) == b->child && WIFEXITED(status) && WEXITSTATUS(status) == 9;
}

static void prepare_wait(struct blocker *b)
{
	char byte;
	make_pipe(b);
	b->child = fork();
	CHECK(b->child >= 0, "fork");
	if (b->child)
		return;
	close(b->ends[1]);
	_exit(read(b->ends[0], &byte, 1) == 0 ? 9 : 1);
}

static void release_wait(struct blocker *b)
{
	close(b->ends[1]);
}

static bool block_accept(struct blocker *b)
{
	return accept(b->ends[0], NULL, NULL) >= 0;
}

static void prepare_accept(struct blocker *b)
{
	b->ends[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_storage address = { .ss_family = AF_UNIX };
	CHECK(!bind(b->ends[0], (struct sockaddr *)&address, sizeof(sa_family_t)) && !listen(b->ends[0], 1), "listen");
}

static void release_accept(struct blocker *b)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(!getsockname(b->ends[0], (struct sockaddr *)&address, &length) && !connect(fd, (struct sockaddr *)&address, length), "connect");
}

static void prepare_semaphore(struct blocker *b)
{
	b->ends[0] = semget(IPC_PRIVATE, 1, 0600 | IPC_CREAT);
	CHECK(b->ends[0] >= 0, "semget");
}

static bool block_semaphore(struct blocker *b)
{
	struct sembuf operation = { 0, -1, 0 };
	return semop(b->ends[0], &operation, 1) == 0;
}

static void release_semaphore(struct blocker *b)
{
	struct sembuf operation = { 0, 1, 0 };
	CHECK(!semop(b->ends[0], &operation, 1), "semop");
}

static void prepare_message(struct blocker *b)
{
	b->ends[0] = msgget(IPC_PRIVATE, 0600 | IPC_CREAT);
	CHECK(b->ends[0] >= 0, "msgget");
}

static bool block_message(struct blocker *b)
{
	struct {
		long type;
		char text[8];
	} message = { 0 };
	return msgrcv(b->ends[0], &message, 8, 5, 0) == 8 && message.type == 5;
}

static void release_message(struct blocker *b)
{
	struct {
		long type;
		char text[8];
	} message = { 5, "seven.." };
	CHECK(!msgsnd(b->ends[0], &message, 8, 0), "msgsnd");
}

static void prepare_flock(struct blocker *b)
{
	char path[] = "victim-XXXXXX";
	b->ends[0] = mkstemp(path);
	b->ends[1] = open(path, O_RDWR | O_CLOEXEC);
	unlink(path);
	CHECK(b->ends[0] >= 0 && b->ends[1] >= 0 && !flock(b->ends[1], LOCK_EX), "flock");
}

static bool block_flock(struct blocker *b)
{
	return flock(b->ends[0], LOCK_EX) == 0;
}

static void release_flock(struct blocker *b)
{
	flock(b->ends[1], LOCK_UN);
}

#define BLOCKER(its_name, its_prepare, its_block, its_release) \
	{ .name = its_name, .prepare = its_prepare, .block = its_block, .release = its_release }

static struct blocker blockers[] = {
	BLOCKER("read", make_pipe, block_read, write_byte),
	BLOCKER("recv-timeout", make_sockets, block_recv_timeout, write_byte),
	BLOCKER("poll", make_pipe, block_poll, write_byte),
	BLOCKER("poll-timeout", make_pipe, block_poll_timeout, NULL),
	BLOCKER("select", make_pipe, block_select, write_byte),
	BLOCKER("epoll", make_pipe, block_epoll, write_byte),
	BLOCKER("epoll-timeout", NULL, block_epoll_timeout, NULL),
	BLOCKER("nanosleep", NULL, block_nanosleep, NULL),
	BLOCKER("clock-nanosleep", NULL, block_clock_nanosleep, NULL),
	BLOCKER("futex", NULL, block_futex, release_futex),
	BLOCKER("futex-timeout", NULL, block_futex_timeout, NULL),
	BLOCKER("sigwait", NULL, block_sigwait, release_sigwait),
	BLOCKER("wait", prepare_wait, block_wait, release_wait),
	BLOCKER("accept", prepare_accept, block_accept, release_accept),
	BLOCKER("semaphore", prepare_semaphore, block_semaphore, release_semaphore),
	BLOCKER("message", prepare_message, block_message, release_message),
	BLOCKER("flock", prepare_flock, block_flock, release_flock),
};

enum { NR_BLOCKERS = sizeof(blockers) / sizeof(*blockers) };

/* While pthread_create blocks all signals in its thread, the kernel wakes another one for a signal that is ignored: that call would end with EINTR, membox or not. */
static _Atomic bool all_are_made;

static void *run_blocker(void *argument)
{
	struct blocker *b = argument;

	while (!all_are_made)
		sleep_ms(1);
	double start = now_seconds();
	b->is_blocked = true;
	errno = 0;
	b->is_right = b->block(b);
	b->error = errno;
	b->took = now_seconds() - start;
	b->is_done = true;
	return NULL;
}

/* Presses for half of the time that the sleeping calls sleep, looks that all are still there, then lets go. */
static void *press_and_release(void *argument)
{
	double start = now_seconds();
	char *memory = map_pages(256);

	for (size_t i = 0; i < NR_BLOCKERS; i++)
		while (!blockers[i].is_blocked)
			sleep_ms(1);
	sleep_ms(50);
	pages_fill(memory, 256, 1);
	do
		evict(memory, 256);
	while (now_seconds() - start < sleep_seconds / 2);
	pages_check(memory, 256, 1, "memory");
	for (size_t i = 0; i < NR_BLOCKERS; i++) {
		struct blocker *b = &blockers[i];
		CHECK(!b->is_done || (!b->release && now_seconds() - start > sleep_seconds), "%s ended early, %s, error %d", b->name,
		      b->is_right ? "right" : "wrong", b->error);
	}
	for (size_t i = 0; i < NR_BLOCKERS; i++)
		if (blockers[i].release)
			blockers[i].release(&blockers[i]);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t presser, threads[NR_BLOCKERS];
	struct blocker *mine = NULL;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (size_t i = 0; i < NR_BLOCKERS; i++) {
		if (blockers[i].prepare)
			blockers[i].prepare(&blockers[i]);
		if (argc > 1 && !strcmp(argv[1], blockers[i].name))
			mine = &blockers[i];
	}
	CHECK(mine, "no such call");
	for (size_t i = 0; i < NR_BLOCKERS; i++)
		if (&blockers[i] != mine)
			CHECK(!pthread_create(&threads[i], NULL, run_blocker, &blockers[i]), "pthread_create");
	CHECK(!pthread_create(&presser, NULL, press_and_release, NULL), "pthread_create");
	all_are_made = true;
	run_blocker(mine);
	pthread_join(presser, NULL);
	for (size_t i = 0; i < NR_BLOCKERS; i++) {
		struct blocker *b = &blockers[i];
		if (b != mine)
			pthread_join(threads[i], NULL);
		CHECK(b->is_right, "%s gave a wrong result, error %d, after %.3f s", b->name, b->error, b->took);
		if (!b->release)
			CHECK(b->took > sleep_seconds - 0.01, "%s slept only %.3f s", b->name, b->took);
		if (!strcmp(b->name, "semaphore"))
			semctl(b->ends[0], 0, IPC_RMID);
		if (!strcmp(b->name, "message"))
			msgctl(b->ends[0], IPC_RMID, NULL);
	}
	victim_report();
	puts("right");
	return 0;
}
