#include "swap/swap_io.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "swap/swap_internal.h"

struct request {
	struct request *next_free;
	void *token;
	uint8_t *buffer;
	off_t offset;
	uint32_t left; /* bytes still to transfer */
	int result;
	bool is_write;
};

struct swap_io {
	int fd;
	uint32_t depth, in_flight;
	struct request *requests, *free;
	bool has_ring;
	struct io_uring ring;
	/* Without a ring: transfers are done at once, their completions wait here. */
	int event;
	struct request **done;
	uint32_t nr_done;
};

static bool sync_is_forced(void)
{
	const char *mode = getenv("MEMBOX_IO"); /* "sync": for tests and for comparing */
	return mode && !strcmp(mode, "sync");
}

int swap_io_new(struct swap *swap, uint32_t depth, struct swap_io **ret_io)
{
	struct swap_io *io = calloc(1, sizeof(*io));
	if (!io)
		return -ENOMEM;
	io->fd = swap_fd(swap);
	io->depth = depth;
	io->event = -1;
	io->requests = calloc(depth, sizeof(*io->requests));
	io->done = calloc(depth, sizeof(*io->done));
	int r = io->requests && io->done ? 0 : -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < depth; i++) {
		io->requests[i].next_free = io->free;
		io->free = &io->requests[i];
	}
	if (r == 0 && !sync_is_forced())
		io->has_ring = io_uring_queue_init(depth, &io->ring, 0) == 0;
	if (r == 0 && !io->has_ring) {
		io->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r = io->event < 0 ? -errno : 0;
	}
	if (r < 0) {
		swap_io_free(io);
		return r;
	}
	*ret_io = io;
	return 0;
}

void swap_io_free(struct swap_io *io)
{
	struct swap_completion ignored[16];
	if (!io)
		return;
	while (io->in_flight && swap_io_reap(io, ignored, ARRAY_LEN(ignored), true) > 0)
		;
	if (io->has_ring)
		io_uring_queue_exit(&io->ring);
	if (io->event >= 0)
		close(io->event);
	free(io->requests);
	free(io->done);
	free(io);
}

int swap_io_fd(const struct swap_io *io)
{
	return io->has_ring ? io->ring.ring_fd : io->event;
}

uint32_t swap_io_in_flight(const struct swap_io *io)
{
	return io->in_flight;
}

/* Takes account of n transferred bytes or -errno; true when the request is complete. */
static bool advance(struct request *request, ssize_t n)
{
	if (n == -EINTR || n == -EAGAIN)
		return false;
	if (n <= 0) {
		request->result = n < 0 ? (int)n : -EIO; /* 0: the end of the file, which no slot lies behind */
		return true;
	}
	request->buffer += n;
	request->offset += n;
	request->left -= (uint32_t)n;
	return request->left == 0;
}

/* Ring: queues what is left of a request. */
static int submit(struct swap_io *io, struct request *request)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
	if (!sqe)
		return -EAGAIN;
	if (request->is_write)
		io_uring_prep_write(sqe, io->fd, request->buffer, request->left, (uint64_t)request->offset);
	else
		io_uring_prep_read(sqe, io->fd, request->buffer, request->left, (uint64_t)request->offset);
	io_uring_sqe_set_data(sqe, request);
	int r;
	do {
		r = io_uring_submit(&io->ring);
	} while (r == -EINTR || r == -EAGAIN);
	return r < 0 ? r : 0;
}

static void transfer_now(struct swap_io *io, struct request *request)
{
	uint64_t one = 1;
	ssize_t n;
	do {
		n = request->is_write ? pwrite(io->fd, request->buffer, request->left, request->offset)
				      : pread(io->fd, request->buffer, request->left, request->offset);
	} while (!advance(request, n < 0 ? -errno : n));
	io->done[io->nr_done++] = request;
	if (write(io->event, &one, sizeof(one)) < 0)
		log_debug("swap: event: errno %d", errno);
}

static int start(struct swap_io *io, slot_t first, uint32_t nr_slots, void *buffer, bool is_write, void *token)
{
	struct request *request = io->free;
	if (!request)
		return -EAGAIN;
	io->free = request->next_free;
	*request = (struct request){.token = token,
				    .buffer = buffer,
				    .offset = (off_t)first * (off_t)PAGE_BYTES,
				    .left = nr_slots * (uint32_t)PAGE_BYTES,
				    .is_write = is_write};
	int r = 0;
	if (io->has_ring)
		r = submit(io, request);
	else
		transfer_now(io, request);
	if (r < 0) {
		request->next_free = io->free;
		io->free = request;
		return r;
	}
	io->in_flight++;
	return 0;
}

int swap_io_read(struct swap_io *io, slot_t first, uint32_t nr_slots, void *buffer, void *token)
{
	return start(io, first, nr_slots, buffer, false, token);
}

int swap_io_write(struct swap_io *io, slot_t first, uint32_t nr_slots, const void *buffer, void *token)
{
	return start(io, first, nr_slots, (void *)buffer, true, token);
}

static void complete(struct swap_io *io, struct request *request, struct swap_completion *completion)
{
	*completion = (struct swap_completion){.token = request->token, .result = request->result};
	request->next_free = io->free;
	io->free = request;
	io->in_flight--;
}

static int reap_done(struct swap_io *io, struct swap_completion *completions, int max)
{
	uint64_t count;
	int n = 0;
	while (n < max && io->nr_done)
		complete(io, io->done[--io->nr_done], &completions[n++]);
	if (!io->nr_done && read(io->event, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_debug("swap: event: errno %d", errno);
	return n;
}

static int reap_ring(struct swap_io *io, struct swap_completion *completions, int max, bool wait)
{
	int n = 0;
	while (n < max) {
		struct io_uring_cqe *cqe = NULL;
		int r = wait && !n && io->in_flight ? io_uring_wait_cqe(&io->ring, &cqe) : io_uring_peek_cqe(&io->ring, &cqe);
		if (r == -EINTR)
			continue;
		if (r < 0 || !cqe)
			break;
		struct request *request = io_uring_cqe_get_data(cqe);
		ssize_t result = cqe->res;
		io_uring_cqe_seen(&io->ring, cqe);
		if (!advance(request, result)) {
			r = submit(io, request);
			if (r == 0)
				continue;
			request->result = r;
		}
		complete(io, request, &completions[n++]);
	}
	return n;
}

int swap_io_reap(struct swap_io *io, struct swap_completion *completions, int max, bool wait)
{
	return io->has_ring ? reap_ring(io, completions, max, wait) : reap_done(io, completions, max);
}
