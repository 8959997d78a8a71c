/*
 * keep-state: everything that a process is besides its memory, watched by the process itself while somebody stops it and makes it again elsewhere.
 * usage: keep-state ROUNDS [THREADS=8]
 * Each thread keeps numbers in vector registers, in thread-local memory and on its stack, through loops of ROUNDS; an interval timer, a POSIX timer and signals
 * to single threads (on alternate stacks) arrive meanwhile. Prints "ok" and the sum; what is not as it was is said, with exit code 1.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "victim.h"

#ifdef __x86_64__
#define WITH_WIDE_VECTORS __attribute__((target("avx2")))
#else
#define WITH_WIDE_VECTORS
#endif

typedef uint64_t vector __attribute__((vector_size(32)));

struct worker {
	pthread_t thread;
	unsigned number;
	long rounds;
	pid_t tid;
	uint64_t sum;
	_Atomic unsigned signals;
	char alternate[65536];
};

static _Thread_local struct worker *self;
static _Thread_local uint64_t secret;
static _Atomic unsigned ticks, posix_ticks;
static _Atomic unsigned done;

static void on_user(int number, siginfo_t *info, void *context)
{
	char here;
	CHECK(&here >= self->alternate && &here < self->alternate + sizeof(self->alternate), "a handler does not run on its stack");
	atomic_fetch_add(&self->signals, 1);
}

static void on_alarm(int number)
{
	atomic_fetch_add(&ticks, 1);
}

static void on_posix(int number, siginfo_t *info, void *context)
{
	CHECK(info->si_code == SI_TIMER && info->si_value.sival_int == 4711, "a timer's value: %d", info->si_value.sival_int);
	atomic_fetch_add(&posix_ticks, 1);
}

/* The vectors stay in registers all the time. */
WITH_WIDE_VECTORS static uint64_t spin(uint64_t seed, long rounds)
{
	vector a = {seed, seed + 1, seed + 2, seed + 3}, b = a * 3, c = a ^ b;
	for (long i = 0; i < rounds; i++) {
		a = a * 6364136223846793005ull + 1442695040888963407ull;
		b = (b ^ (a >> 7)) + c;
		c = (c << 3) + b;
#ifdef __x86_64__
		__asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c));
#endif
	}
	a ^= b ^ c;
	return a[0] ^ a[1] ^ a[2] ^ a[3];
}

static void *work(void *argument)
{
	struct worker *w = argument;
	stack_t stack = {.ss_sp = w->alternate, .ss_size = sizeof(w->alternate)};
	uint64_t expected = spin(w->number, 100000);
	self = w;
	secret = w->number * 1000003ull;
	w->tid = (pid_t)syscall(SYS_gettid);
	CHECK(!sigaltstack(&stack, NULL), "sigaltstack");
	for (long i = 0; i < w->rounds; i++) {
		CHECK(spin(w->number, 100000) == expected, "thread %u: registers are not what they were", w->number);
		CHECK(secret == w->number * 1000003ull, "thread %u: thread-local memory", w->number);
		CHECK((pid_t)syscall(SYS_gettid) == w->tid, "thread %u: its id has changed", w->number);
		unsigned before = atomic_load(&w->signals);
		pthread_kill(pthread_self(), SIGUSR1);
		CHECK(atomic_load(&w->signals) == before + 1, "thread %u: a signal to itself was lost", w->number);
		w->sum = w->sum * 31 + expected + (uint64_t)i;
	}
	atomic_fetch_add(&done, 1);
	return NULL;
}

static void install(int number, void (*handler)(int number, siginfo_t *info, void *context), int flags)
{
	struct sigaction action = {.sa_flags = SA_SIGINFO | SA_RESTART | flags};
	action.sa_sigaction = handler;
	sigaddset(&action.sa_mask, SIGUSR2);
	CHECK(!sigaction(number, &action, NULL), "sigaction");
}

static timer_t start_timers(void)
{
	struct itimerval interval = {{0, 20000}, {0, 20000}};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 4711};
	struct itimerspec value = {{0, 30000000}, {0, 30000000}};
	timer_t unused, timer;
	signal(SIGALRM, on_alarm);
	install(SIGRTMIN + 1, on_posix, 0);
	CHECK(!timer_create(CLOCK_MONOTONIC, NULL, &unused) && !timer_create(CLOCK_MONOTONIC, &event, &timer), "timer_create");
	timer_delete(unused); /* so that the other one's id is not the first */
	CHECK(!timer_settime(timer, 0, &value, NULL) && !setitimer(ITIMER_REAL, &interval, NULL), "timers");
	return timer;
}

/* A signal that is blocked waits, with its value, until the end. */
static void leave_pending(void)
{
	sigset_t set;
	union sigval value = {.sival_int = 99};
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	CHECK(!sigqueue(getpid(), SIGRTMIN + 5, value), "sigqueue");
}

static void check_pending(void)
{
	sigset_t set, pending;
	siginfo_t info;
	struct timespec none = {0};
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	CHECK(!sigpending(&pending) && sigismember(&pending, SIGRTMIN + 5), "the blocked signal does not wait any more");
	CHECK(sigtimedwait(&set, &info, &none) == SIGRTMIN + 5 && info.si_value.sival_int == 99, "the blocked signal has lost its value");
}

static void wait_for_ticks(unsigned more)
{
	unsigned alarms = atomic_load(&ticks) + more, timers = atomic_load(&posix_ticks) + more;
	for (int i = 0; i < 500 && (atomic_load(&ticks) < alarms || atomic_load(&posix_ticks) < timers); i++)
		usleep(20000);
	CHECK(atomic_load(&ticks) >= alarms && atomic_load(&posix_ticks) >= timers, "timers do not run: %u %u", atomic_load(&ticks), atomic_load(&posix_ticks));
}

int main(int argc, char **argv)
{
	unsigned nr = argc > 2 ? (unsigned)atoi(argv[2]) : 8;
	struct worker *workers = calloc(nr, sizeof(*workers));
	uint64_t sum = 0;
	pid_t pid = getpid(), parent_session = getsid(0);
	start_timers();
	leave_pending();
	install(SIGUSR1, on_user, SA_ONSTACK);
	for (unsigned i = 0; i < nr; i++) {
		workers[i].number = i;
		workers[i].rounds = argc > 1 ? atol(argv[1]) : 1000;
		CHECK(!pthread_create(&workers[i].thread, NULL, work, &workers[i]), "pthread_create");
	}
	for (unsigned i = 0; i < nr; i++) {
		CHECK(!pthread_join(workers[i].thread, NULL), "pthread_join");
		sum ^= workers[i].sum;
	}
	wait_for_ticks(3);
	check_pending();
	CHECK((pid_t)syscall(SYS_getpid) == pid && parent_session >= 0, "the process id has changed");
	printf("ok %llu\n", (unsigned long long)sum);
	return 0;
}
