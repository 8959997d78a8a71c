/*
 * time-faults: how long a page fault takes that user space serves, as the program sees it.
 * usage: time-faults echo NR_FAULTS            a bare userfaultfd: this process serves its child, a thread that spins copies one page for each fault
 *        time-faults new SIZE_MB NR_FAULTS     touches SIZE_MB, then times first touches of new memory in random order
 *        time-faults evicted KIND NR_FAULTS    fills pages, says "ready", waits for a line, then times touches in random order;
 *                                              KIND is zeros, compressible (four to one) or random
 * Prints faults=N p50_us=T p99_us=T. Pages that are there already (brought in with a neighbour) are not counted.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, PAGE_WORDS = PAGE_BYTES / 8, PAGES_PER_MB = 256, SPIN_US = 100 };

struct faults {
	double *us;
	size_t n;
};

static void fail(const char *what)
{
	fprintf(stderr, "time-faults: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static uint64_t random_next(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15u;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static char *map_pages(size_t nr_pages)
{
	char *memory = mmap(NULL, nr_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	madvise(memory, nr_pages * PAGE_BYTES, MADV_NOHUGEPAGE);
	return memory;
}

/* Touches that are timed write where the memory is new and read where it has content; the fault is the same. */
static void time_touch(struct faults *faults, char *page, bool is_write)
{
	unsigned char resident = 0;

	if (mincore(page, PAGE_BYTES, &resident) < 0)
		fail("mincore");
	if (resident & 1)
		return;
	double start = now_us();
	if (is_write)
		*(volatile char *)page = 1;
	else
		(void)*(volatile char *)page;
	faults->us[faults->n++] = now_us() - start;
}

static size_t *random_order(size_t n)
{
	size_t *order = malloc(n * sizeof(*order));
	uint64_t state = 7;

	if (!order)
		fail("malloc");
	for (size_t i = 0; i < n; i++) {
		size_t k = random_next(&state) % (i + 1);
		order[i] = order[k];
		order[k] = i;
	}
	return order;
}

static struct faults faults_for(size_t n)
{
	struct faults faults = {.us = malloc(n * sizeof(double))};

	if (!faults.us)
		fail("malloc");
	memset(faults.us, 0xff, n * sizeof(double));
	return faults;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void faults_print(struct faults *faults)
{
	if (!faults->n) {
		fprintf(stderr, "time-faults: no page was missing\n");
		_exit(1);
	}
	qsort(faults->us, faults->n, sizeof(double), compare);
	printf("faults=%zu p50_us=%.3f p99_us=%.3f\n", faults->n, faults->us[faults->n / 2], faults->us[faults->n * 99 / 100]);
	fflush(stdout);
}

/* --- A bare userfaultfd --- */

struct shared {
	_Atomic int uffd; /* the child's number for it, 0 until it is open */
	_Atomic int is_registered;
	char *memory;
};

static void serve(int uffd, const char *content)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN};
	double last = now_us();

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, uffd, &event) < 0)
		fail("epoll");
	for (;;) {
		struct uffd_msg message;
		if (read(uffd, &message, sizeof(message)) != sizeof(message)) {
			if (now_us() - last > SPIN_US)
				epoll_wait(epoll, &event, 1, -1);
			continue;
		}
		struct uffdio_copy copy = {.dst = message.arg.pagefault.address & ~(uint64_t)(PAGE_BYTES - 1), .src = (uint64_t)(uintptr_t)content, .len = PAGE_BYTES};
		if (ioctl(uffd, UFFDIO_COPY, &copy) < 0)
			fail("UFFDIO_COPY");
		last = now_us();
	}
}

static void *serve_thread(void *argument)
{
	char *content = map_pages(1);

	memset(content, 1, PAGE_BYTES);
	serve((int)(intptr_t)argument, content);
	return NULL;
}

static void echo_child(struct shared *shared, size_t n)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	size_t *order = random_order(n);
	struct faults faults = faults_for(n);
	shared->memory = map_pages(n);
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0) {
		perror("time-faults: userfaultfd");
		_exit(77);
	}
	shared->uffd = uffd;
	while (!shared->is_registered)
		usleep(100);
	for (size_t i = 0; i < n; i++)
		time_touch(&faults, shared->memory + order[i] * PAGE_BYTES, false);
	faults_print(&faults);
	_exit(0);
}

static int echo(size_t n)
{
	struct shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;
	int status;
	pid_t child = fork();

	if (child == 0)
		echo_child(shared, n);
	while (!shared->uffd)
		if (waitpid(child, &status, WNOHANG) == child)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	int uffd = (int)syscall(SYS_pidfd_getfd, pidfd, shared->uffd, 0);
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {.range = {(uint64_t)(uintptr_t)shared->memory, n * PAGE_BYTES}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &range) < 0)
		fail("userfaultfd");
	if (pthread_create(&thread, NULL, serve_thread, (void *)(intptr_t)uffd))
		fail("pthread_create");
	shared->is_registered = 1;
	return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* --- In a container --- */

/* What the timing itself needs comes back first. */
static void touch_own(const struct faults *faults, const size_t *order, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		(void)((const volatile size_t *)order)[i];
		(void)((const volatile double *)faults->us)[i];
	}
}

static int new_memory(size_t size_mb, size_t n)
{
	struct faults faults = faults_for(n);
	size_t nr_old = size_mb * PAGES_PER_MB, nr_before = n / 4, nr_fresh = n + nr_before, *order = random_order(nr_fresh);
	char *old = map_pages(nr_old);
	uint64_t state = 1;

	for (size_t i = 0; i < nr_old; i++)
		for (size_t k = 0; k < PAGE_WORDS; k++)
			((uint64_t *)(void *)(old + i * PAGE_BYTES))[k] = random_next(&state);
	char *fresh = map_pages(nr_fresh);
	usleep(200000);
	touch_own(&faults, order, n);
	for (size_t i = 0; i < nr_before; i++) /* the new mapping is seen and registered */
		fresh[order[i] * PAGE_BYTES] = 1;
	for (size_t i = nr_before; i < nr_fresh; i++)
		time_touch(&faults, fresh + order[i] * PAGE_BYTES, true);
	faults_print(&faults);
	return 0;
}

static int evicted(const char *kind, size_t n)
{
	size_t nr_random = !strcmp(kind, "zeros") ? 0 : !strcmp(kind, "compressible") ? PAGE_WORDS / 4 : PAGE_WORDS;
	struct faults faults = faults_for(n);
	char *memory = map_pages(n), line[16];
	uint64_t state = 1;

	for (size_t i = 0; i < n; i++) {
		uint64_t *page = (uint64_t *)(void *)(memory + i * PAGE_BYTES);
		memset(page, 0, PAGE_BYTES);
		for (size_t k = 0; k < nr_random; k++)
			page[k] = random_next(&state);
	}
	size_t *order = random_order(n);
	puts("ready");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	touch_own(&faults, order, n);
	for (size_t i = 0; i < n; i++)
		time_touch(&faults, memory + order[i] * PAGE_BYTES, false);
	faults_print(&faults);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "echo"))
		return echo((size_t)atol(argv[2]));
	if (argc == 4 && !strcmp(argv[1], "new"))
		return new_memory((size_t)atol(argv[2]), (size_t)atol(argv[3]));
	if (argc == 4 && !strcmp(argv[1], "evicted"))
		return evicted(argv[2], (size_t)atol(argv[3]));
	fprintf(stderr, "usage: time-faults echo NR_FAULTS | new SIZE_MB NR_FAULTS | evicted zeros|compressible|random NR_FAULTS\n");
	return 2;
}
