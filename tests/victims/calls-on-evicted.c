/*
 * calls-on-evicted: hands evicted buffers to the kernel in every way a program does: file and pipe I/O, vectors, sockets, epoll,
 * futexes, signal frames and the alternate stack, robust and priority-neutral mutexes, stat and readdir results, io with offsets.
 * usage: calls-on-evicted [NAME]
 */
#include <dirent.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "victim.h"

enum { NR = 64 };

static int open_scratch(void)
{
	char path[] = "victim-XXXXXX";
	int fd = mkstemp(path);

	CHECK(fd >= 0, "mkstemp in the working directory");
	unlink(path);
	return fd;
}

static void *evicted(size_t nr_pages, uint64_t tag)
{
	void *memory = map_pages(nr_pages);

	pages_fill(memory, nr_pages, tag);
	evict(memory, nr_pages);
	return memory;
}

static void file(void)
{
	int fd = open_scratch();
	char *out = evicted(NR, 1);
	const ssize_t bytes = NR * (ssize_t)PAGE_BYTES;

	CHECK(write(fd, out, (size_t)bytes) == bytes, "write from evicted memory");
	char *in = evicted(NR, 2);
	CHECK(pread(fd, in, (size_t)bytes, 0) == bytes, "read into evicted memory");
	pages_check(in, NR, 1, "read back");
	/* A read that covers parts of pages must leave the rest of them alone. */
	pages_fill(in, NR, 3);
	evict(in, NR);
	CHECK(pread(fd, in + 100, 5000, 100) == 5000, "pread");
	CHECK(!memcmp(in + 100, out + 100, 5000), "the part read");
	page_check(in + 2 * PAGE_BYTES, 5, "beside the part read");
	CHECK(*(uint64_t *)(void *)in == page_word(3, 0), "before the part read");
	struct iovec parts[4];
	evict(in, NR);
	for (size_t i = 0; i < 4; i++)
		parts[i] = (struct iovec){ in + (3 - i) * 16 * PAGE_BYTES, 16 * PAGE_BYTES };
	CHECK(preadv(fd, parts, 4, 0) == bytes, "preadv");
	for (size_t i = 0; i < 4; i++)
		pages_check(parts[i].iov_base, 16, 1 + i * 16, "preadv");
	evict(in, NR);
	CHECK(pwritev(fd, parts, 4, bytes) == bytes, "pwritev");
	CHECK(pread(fd, out, (size_t)bytes, bytes) == bytes, "pread");
	pages_check(out, NR, 1, "written by pwritev");
	close(fd);
}

static void through_pipe(void)
{
	int ends[2];
	char *out = evicted(NR, 10), *in = map_pages(NR);

	CHECK(!pipe(ends), "pipe");
	pages_fill(in, NR, 11);
	pid_t pid = fork();
	CHECK(pid >= 0, "fork");
	if (!pid) {
		close(ends[0]);
		for (size_t at = 0; at < NR * PAGE_BYTES;) {
			ssize_t n = write(ends[1], out + at, NR * PAGE_BYTES - at);
			CHECK(n > 0, "write to a pipe");
			at += (size_t)n;
		}
		_exit(0);
	}
	close(ends[1]);
	evict(in, NR);
	for (size_t at = 0; at < NR * PAGE_BYTES;) {
		ssize_t n = read(ends[0], in + at, NR * PAGE_BYTES - at);
		CHECK(n > 0, "read from a pipe");
		at += (size_t)n;
	}
	pages_check(in, NR, 10, "through the pipe");
	int status = 0;
	CHECK(waitpid(pid, &status, 0) == pid && !status, "writer ended with %#x", (unsigned)status);
	close(ends[0]);
}

static void through_socket(void)
{
	int ends[2];
	char *out = evicted(4, 20), *in = evicted(4, 21);

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), "socketpair");
	struct iovec part = { out, 4 * PAGE_BYTES };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	CHECK(sendmsg(ends[0], &message, 0) == 4 * (ssize_t)PAGE_BYTES, "sendmsg");
	CHECK(recv(ends[1], in, 4 * PAGE_BYTES, 0) == 4 * (ssize_t)PAGE_BYTES, "recv");
	pages_check(in, 4, 20, "through the socket");
	struct sockaddr_un *address = (struct sockaddr_un *)(void *)in;
	socklen_t *length = (socklen_t *)(void *)out;
	*length = sizeof(*address);
	evict(in, 1);
	CHECK(!getsockname(ends[0], (struct sockaddr *)address, length) && address->sun_family == AF_UNIX, "getsockname");
	close(ends[0]);
	close(ends[1]);
}

static void with_epoll(void)
{
	char *memory = evicted(2, 30);
	struct epoll_event *events = (struct epoll_event *)(void *)memory;
	struct pollfd *polled = (struct pollfd *)(void *)(memory + PAGE_BYTES);
	int set = epoll_create1(EPOLL_CLOEXEC), event = eventfd(1, EFD_CLOEXEC);

	struct epoll_event wanted = { .events = EPOLLIN, .data.u64 = 0x1234567812345678u };
	CHECK(!epoll_ctl(set, EPOLL_CTL_ADD, event, &wanted), "epoll_ctl");
	CHECK(epoll_wait(set, events, 8, 1000) == 1 && events->data.u64 == wanted.data.u64, "epoll_wait into evicted memory");
	page_check(memory + PAGE_BYTES, 31, "beside the events");
	*polled = (struct pollfd){ event, POLLIN, 0 };
	evict(polled, 1);
	CHECK(poll(polled, 1, 1000) == 1 && polled->revents == POLLIN, "poll on evicted memory");
	close(set);
	close(event);
}

static long futex(uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

static void *wake_later(void *argument)
{
	uint32_t *word = argument;

	sleep_ms(300);
	__atomic_store_n(word, 2, __ATOMIC_SEQ_CST);
	CHECK(futex(word, FUTEX_WAKE, 1, NULL) >= 0, "FUTEX_WAKE");
	return NULL;
}

/* The word is evicted before the wait; in the second round also while a thread waits on it. */
static void with_futex(void)
{
	char *memory = evicted(1, 40);
	uint32_t *word = (uint32_t *)(void *)memory;
	struct timespec timeout = { 20, 0 };
	pthread_t thread;

	*word = 1;
	evict(memory, 1);
	CHECK(!pthread_create(&thread, NULL, wake_later, word), "pthread_create");
	while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == 1)
		CHECK(!futex(word, FUTEX_WAIT, 1, &timeout) || errno == EAGAIN, "FUTEX_WAIT");
	pthread_join(thread, NULL);
	evict(memory, 1);
	CHECK(*word == 2, "futex word is %u", *word);
}

struct shared_state {
	pthread_mutex_t mutex;
	pthread_cond_t condition;
	sem_t semaphore;
	int turn;
};

static void *take_turns(void *argument)
{
	struct shared_state *state = argument;

	for (int i = 0; i < 10; i++) {
		pthread_mutex_lock(&state->mutex);
		while (state->turn % 2 == 0)
			pthread_cond_wait(&state->condition, &state->mutex);
		state->turn++;
		pthread_cond_broadcast(&state->condition);
		pthread_mutex_unlock(&state->mutex);
		sem_post(&state->semaphore);
	}
	return NULL;
}

/* A thread waits on a condition while the page with the mutex and the condition is evicted under it. */
static void with_mutex(void)
{
	struct shared_state *state = map_pages(1);
	pthread_t thread;

	pthread_mutex_init(&state->mutex, NULL);
	pthread_cond_init(&state->condition, NULL);
	sem_init(&state->semaphore, 0, 0);
	CHECK(!pthread_create(&thread, NULL, take_turns, state), "pthread_create");
	for (int i = 0; i < 10; i++) {
		evict(state, 1);
		pthread_mutex_lock(&state->mutex);
		CHECK(state->turn == 2 * i, "turn %d in round %d", state->turn, i);
		state->turn++;
		pthread_cond_broadcast(&state->condition);
		while (state->turn % 2)
			pthread_cond_wait(&state->condition, &state->mutex);
		pthread_mutex_unlock(&state->mutex);
		sem_wait(&state->semaphore);
	}
	pthread_join(thread, NULL);
}

static char *alternate, *signal_data;
static volatile sig_atomic_t nr_signals;

static void on_signal(int signal_number, siginfo_t *info, void *context)
{
	char here;

	CHECK(&here >= alternate && &here < alternate + 16 * PAGE_BYTES, "handler does not run on the alternate stack");
	pages_check(signal_data, 4, 50, "in a signal handler");
	nr_signals = nr_signals + 1;
}

static void with_signals(void)
{
	alternate = map_pages(16);
	signal_data = evicted(4, 50);
	stack_t stack = { .ss_sp = alternate, .ss_size = 16 * PAGE_BYTES };
	struct sigaction *action = (struct sigaction *)evicted(1, 51);

	CHECK(!sigaltstack(&stack, NULL), "sigaltstack");
	memset(action, 0, sizeof(*action));
	action->sa_sigaction = on_signal;
	action->sa_flags = SA_ONSTACK | SA_SIGINFO;
	evict(action, 1);
	CHECK(!sigaction(SIGUSR1, action, NULL), "sigaction");
	for (int i = 0; i < 5; i++) {
		memset(alternate, i, 16 * PAGE_BYTES);
		evict(alternate, 16);
		raise(SIGUSR1);
		CHECK(nr_signals == i + 1, "signal %d did not come", i);
	}
	/* A timer hits at any moment, while pages come and go. */
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct itimerspec period = { { 0, 5000000 }, { 0, 5000000 } }, stop = { 0 };
	timer_t timer;
	int before = nr_signals;
	CHECK(!timer_create(CLOCK_MONOTONIC, &event, &timer) && !timer_settime(timer, 0, &period, NULL), "timer");
	double until = now_seconds() + 0.5;
	do
		evict(alternate, 16);
	while (now_seconds() < until);
	timer_settime(timer, 0, &stop, NULL);
	timer_delete(timer);
	CHECK(nr_signals > before, "no signal of the timer came");
	stack.ss_flags = SS_DISABLE;
	sigaltstack(&stack, NULL);
}

/* Small results of calls, and strings handed to them. */
static void small(void)
{
	char *path = evicted(1, 60);
	struct stat *status = evicted(1, 61);

	strcpy(path, "/proc/self/status");
	evict(path, 1);
	CHECK(!stat(path, status) && S_ISREG(status->st_mode), "stat");
	int fd = open("/", O_RDONLY | O_DIRECTORY);
	char *entries = evicted(8, 62);
	CHECK(syscall(SYS_getdents64, fd, entries, 8 * PAGE_BYTES) > 0, "getdents64");
	close(fd);
	struct timespec *time = evicted(1, 63);
	CHECK(!syscall(SYS_clock_gettime, CLOCK_MONOTONIC, time) && (double)time->tv_sec <= now_seconds(), "clock_gettime");
	evict(time, 1);
	*time = (struct timespec){ 0, 1000 };
	evict(time, 1);
	CHECK(!nanosleep(time, NULL), "nanosleep");
	char *cwd = evicted(1, 64);
	CHECK(syscall(SYS_getcwd, cwd, PAGE_BYTES) > 0 && cwd[0] == '/', "getcwd");
	char *random = evicted(4, 65);
	CHECK(syscall(SYS_getrandom, random, 4 * PAGE_BYTES, 0) == 4 * (long)PAGE_BYTES, "getrandom");
	int *child_status = evicted(1, 66);
	pid_t pid = fork();
	if (!pid)
		_exit(23);
	CHECK(waitpid(pid, child_status, 0) == pid && WEXITSTATUS(*child_status) == 23, "waitpid");
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "file", file },	{ "pipe", through_pipe },  { "socket", through_socket }, { "epoll", with_epoll },
	{ "futex", with_futex }, { "mutex", with_mutex }, { "signals", with_signals },	 { "small", small },
};

int main(int argc, char **argv)
{
	memory_press();
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		if (argc < 2 || !strcmp(argv[1], tests[i].name))
			tests[i].run();
	victim_report();
	puts("right");
	return 0;
}
