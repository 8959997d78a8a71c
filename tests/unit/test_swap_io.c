/* Transfers of pages, by every way that there is: what was written is read back, each completion comes once, and what fails says so. */
#include "swap/swap_io.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "unit.h"

#define DEPTH 8
#define RUN_PAGES 64
#define NR_RUNS 40

/* ---- calls that fail, or do less than they were asked for, on demand ---- */

static size_t most_at_once; /* 0: no limit; else bytes a transfer */
static int ring_error;      /* of io_uring_submit */

ssize_t __real_pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset);
ssize_t __real_pread64(int fd, void *buffer, size_t bytes, off64_t offset);
int __real_io_uring_submit(struct io_uring *ring);
ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off64_t offset);
int __wrap_io_uring_submit(struct io_uring *ring);

ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset)
{
	return __real_pwrite64(fd, buffer, most_at_once ? MIN_OF(bytes, most_at_once) : bytes, offset);
}

ssize_t __wrap_pread64(int fd, void *buffer, size_t bytes, off64_t offset)
{
	return __real_pread64(fd, buffer, most_at_once ? MIN_OF(bytes, most_at_once) : bytes, offset);
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
	return ring_error ? -ring_error : __real_io_uring_submit(ring);
}

/* ---- a swap file, a queue, and pages whose content is known by their slot ---- */

static struct swap *swap;
static struct swap_io *io;
static uint8_t *buffers; /* DEPTH runs */
static char path[128];

static uint8_t *buffer_of(uint32_t i)
{
	return buffers + (size_t)i * RUN_PAGES * PAGE_BYTES;
}

static void fill(uint8_t *buffer, slot_t first, uint32_t nr, uint64_t version)
{
	uint64_t *word = (uint64_t *)buffer;
	for (size_t i = 0; i < nr * PAGE_BYTES / sizeof(*word); i++)
		word[i] = (first + i / 512) * 0x9e3779b97f4a7c15ull + i * 0xbf58476d1ce4e5b9ull + version;
}

static void holds(const uint8_t *buffer, slot_t first, uint32_t nr, uint64_t version)
{
	const uint64_t *word = (const uint64_t *)buffer;
	for (size_t i = 0; i < nr * PAGE_BYTES / sizeof(*word); i++) {
		/* Each run of words counts from its own first page. */
		if (word[i] != (first + i / 512) * 0x9e3779b97f4a7c15ull + i * 0xbf58476d1ce4e5b9ull + version)
			fail_msg("slot %zu holds something else", first + i / 512);
	}
}

static void open_at(const char *folder, const char *ways)
{
	struct swap_error error;
	snprintf(path, sizeof(path), "%s/membox-test-swap-io-%d", folder, (int)getpid());
	struct swap_options options = {.path = path, .container = "tested"};
	if (ways)
		setenv("MEMBOX_IO", ways, 1);
	if (swap_open(&options, &swap, &error) < 0)
		fail_msg("%s", error.text);
	assert_int_equal(swap_io_new(swap, DEPTH, &io), 0);
	unsetenv("MEMBOX_IO");
	buffers = mmap(NULL, DEPTH * RUN_PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(buffers, MAP_FAILED);
}

static int close_all(void **state)
{
	most_at_once = 0;
	ring_error = 0;
	if (!swap)
		return 0;
	swap_io_free(io);
	swap_close(swap, true);
	munmap(buffers, DEPTH * RUN_PAGES * PAGE_BYTES);
	swap = NULL;
	return 0;
}

/* Does one transfer and waits for it. */
static int one(bool is_write, slot_t first, uint32_t nr, void *buffer)
{
	struct swap_completion done = {0};
	int r = is_write ? swap_io_write(io, first, nr, buffer, &done) : swap_io_read(io, first, nr, buffer, &done);
	assert_int_equal(r, 0);
	assert_int_equal(swap_io_in_flight(io), 1);
	assert_int_equal(swap_io_reap(io, &done, 1, true), 1);
	assert_ptr_equal(done.token, &done);
	assert_int_equal(swap_io_in_flight(io), 0);
	return done.result;
}

struct run {
	slot_t first;
	uint32_t nr;
	uint8_t *buffer;
	bool done;
};

/* Waits for one transfer at least; returns a buffer that is free again. */
static uint8_t *reap_some(struct run *runs, bool is_write)
{
	struct swap_completion done[3];
	uint8_t *buffer = NULL;
	int n = swap_io_reap(io, done, ARRAY_LEN(done), true);
	assert_in_range(n, 1, ARRAY_LEN(done));
	for (int i = 0; i < n; i++) {
		struct run *run = done[i].token;
		assert_int_equal(done[i].result, 0);
		assert_true(run >= runs && run < runs + NR_RUNS && !run->done);
		run->done = true;
		if (!is_write)
			holds(run->buffer, run->first, run->nr, 1);
		buffer = run->buffer;
		memset(buffer, 0xee, run->nr * PAGE_BYTES); /* nobody may need it any more */
		run->buffer = NULL;
	}
	return buffer;
}

static uint8_t *free_buffer(const struct run *runs)
{
	for (uint32_t i = 0; i < DEPTH; i++) {
		bool used = false;
		for (uint32_t k = 0; k < NR_RUNS; k++)
			used |= runs[k].buffer == buffer_of(i);
		if (!used)
			return buffer_of(i);
	}
	return NULL;
}

/* All runs, in an order that jumps, with as many in flight as there may be. */
static void transfer_all(struct run *runs, bool is_write)
{
	for (uint32_t i = 0; i < NR_RUNS; i++)
		runs[i].done = false;
	for (uint32_t i = 0; i < NR_RUNS; i++) {
		struct run *run = &runs[i * 7 % NR_RUNS];
		uint8_t *buffer = free_buffer(runs);
		if (!buffer) {
			assert_int_equal(swap_io_in_flight(io), DEPTH);
			assert_int_equal(swap_io_read(io, 1, 1, buffers, NULL), -EAGAIN);
			buffer = reap_some(runs, is_write);
		}
		run->buffer = buffer;
		if (is_write)
			fill(buffer, run->first, run->nr, 1);
		assert_int_equal(is_write ? swap_io_write(io, run->first, run->nr, buffer, run)
					  : swap_io_read(io, run->first, run->nr, buffer, run), 0);
	}
	while (swap_io_in_flight(io))
		reap_some(runs, is_write);
	for (uint32_t i = 0; i < NR_RUNS; i++)
		assert_true(runs[i].done);
}

static void round_trip(void)
{
	struct run runs[NR_RUNS] = {0};
	struct swap_completion none;
	for (uint32_t i = 0; i < NR_RUNS; i++)
		assert_int_equal(swap_alloc(swap, 1 + i * 13 % RUN_PAGES, &runs[i].first, &runs[i].nr), 0);
	assert_int_equal(swap_io_reap(io, &none, 1, true), 0); /* nothing to wait for */
	transfer_all(runs, true);
	transfer_all(runs, false);
	assert_int_equal(swap_io_reap(io, &none, 1, false), 0);
	for (uint32_t i = 0; i < NR_RUNS; i++)
		for (uint32_t k = 0; k < runs[i].nr; k++)
			swap_put(swap, runs[i].first + k);
	assert_true(swap_check(swap));
}

static void round_trip_with_a_ring(void **state)
{
	open_at(".", NULL);
	round_trip();
}

static void round_trip_without_a_ring(void **state)
{
	open_at(".", "sync");
	round_trip();
}

static void round_trip_through_the_page_cache(void **state)
{
	open_at(".", "buffered");
	round_trip();
}

static void round_trip_through_the_page_cache_without_a_ring(void **state)
{
	open_at(".", "sync,buffered");
	round_trip();
}

static void round_trip_in_memory(void **state)
{
	if (access("/dev/shm", W_OK) < 0)
		skip();
	open_at("/dev/shm", NULL);
	round_trip();
}

static void round_trip_in_small_pieces(void **state)
{
	open_at(".", "sync");
	most_at_once = 3 * PAGE_BYTES;
	round_trip();
}

static void round_trip_past_a_ring_that_takes_nothing(void **state)
{
	open_at(".", NULL);
	ring_error = EAGAIN;
	round_trip();
	ring_error = 0;
	round_trip();
}

/* What the ring did not take was done at once; it must not be done once more with what is in its buffer by then. */
static void a_refused_request_is_not_submitted_later(void **state)
{
	static const int errors[] = {EAGAIN, EBUSY, EPERM};
	open_at(".", NULL);
	uint8_t *page = buffer_of(0), *other = buffer_of(1);
	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		ring_error = errors[i];
		for (slot_t slot = 1; slot <= 3 * DEPTH; slot++) { /* also when its queue is full of them */
			fill(page, slot, 1, i);
			assert_int_equal(one(true, slot, 1, page), 0);
		}
		memset(page, 0xee, PAGE_BYTES);
		ring_error = 0;
		assert_int_equal(one(false, 1, 1, other), 0);
		for (slot_t slot = 1; slot <= 3 * DEPTH; slot++) {
			assert_int_equal(one(false, slot, 1, other), 0);
			holds(other, slot, 1, i);
		}
	}
}

static void the_descriptor_tells_when_to_reap(void **state)
{
	static const char *const ways[] = {NULL, "sync"};
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		struct swap_completion done;
		open_at(".", ways[i]);
		struct pollfd ready = {.fd = swap_io_fd(io), .events = POLLIN};
		assert_int_equal(poll(&ready, 1, 0), 0);
		assert_int_equal(swap_io_write(io, 1, 1, buffers, NULL), 0);
		while (poll(&ready, 1, -1) < 0)
			assert_int_equal(errno, EINTR);
		assert_int_equal(swap_io_reap(io, &done, 1, false), 1);
		assert_int_equal(poll(&ready, 1, 0), 0);
		close_all(state);
	}
}

static void freeing_waits_for_what_is_in_flight(void **state)
{
	open_at(".", NULL);
	for (uint32_t i = 0; i < DEPTH; i++) {
		fill(buffer_of(i), 1 + i * RUN_PAGES, RUN_PAGES - 1, 5);
		assert_int_equal(swap_io_write(io, 1 + i * RUN_PAGES, RUN_PAGES - 1, buffer_of(i), NULL), 0);
	}
	swap_io_free(io);
	memset(buffers, 0xee, DEPTH * RUN_PAGES * PAGE_BYTES);
	assert_int_equal(swap_io_new(swap, DEPTH, &io), 0);
	for (uint32_t i = 0; i < DEPTH; i++) {
		assert_int_equal(one(false, 1 + i * RUN_PAGES, RUN_PAGES - 1, buffer_of(0)), 0);
		holds(buffer_of(0), 1 + i * RUN_PAGES, RUN_PAGES - 1, 5);
	}
}

/* ---- failures ---- */

static void reading_beyond_the_end_fails(void **state)
{
	static const char *const ways[] = {NULL, "sync", "buffered"};
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		open_at(".", ways[i]);
		assert_int_equal(one(false, 510, 2, buffers), 0); /* a new file has one cluster */
		assert_int_equal(one(false, 510, 4, buffers), -EIO);
		assert_int_equal(one(false, 512, 1, buffers), -EIO);
		assert_int_equal(one(false, 511, 1, buffers), 0);
		close_all(state);
	}
}

/* The largest size that a file may have stands for a disk that takes a part of a write, and then none. */
static void writing_beyond_the_limit_fails(void **state)
{
	static const char *const ways[] = {NULL, "sync", "buffered"};
	struct rlimit limit, small;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &limit);
	small = (struct rlimit){600 * PAGE_BYTES, limit.rlim_max};
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		open_at(".", ways[i]);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
		fill(buffers, 598, 4, 9);
		int short_result = one(true, 598, 4, buffers), none_result = one(true, 600, 1, buffers);
		fill(buffers, 598, 2, 9);
		int result = one(true, 598, 2, buffers);
		setrlimit(RLIMIT_FSIZE, &limit);
		assert_int_equal(short_result, -EFBIG);
		assert_int_equal(none_result, -EFBIG);
		assert_int_equal(result, 0);
		assert_int_equal(one(false, 598, 2, buffer_of(1)), 0);
		holds(buffer_of(1), 598, 2, 9);
		close_all(state);
	}
}

#define AND_CLOSE(test) cmocka_unit_test_teardown(test, close_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
		AND_CLOSE(round_trip_with_a_ring),
		AND_CLOSE(round_trip_without_a_ring),
		AND_CLOSE(round_trip_through_the_page_cache),
		AND_CLOSE(round_trip_through_the_page_cache_without_a_ring),
		AND_CLOSE(round_trip_in_memory),
		AND_CLOSE(round_trip_in_small_pieces),
		AND_CLOSE(round_trip_past_a_ring_that_takes_nothing),
		AND_CLOSE(a_refused_request_is_not_submitted_later),
		AND_CLOSE(the_descriptor_tells_when_to_reap),
		AND_CLOSE(freeing_waits_for_what_is_in_flight),
		AND_CLOSE(reading_beyond_the_end_fails),
		AND_CLOSE(writing_beyond_the_limit_fails),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
