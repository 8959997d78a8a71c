#include "swap/swap_io.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event.h"
#include "base/fault.h"
#include "base/log.h"
#include "swap/swap_internal.h"
#include "swap/write_behind.h"

/* The owner enters the kernel all the time, for other things too: a completion need not interrupt it (io_uring_setup(2)). */
#define RING_FLAGS (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG)

struct request {
	struct request *next_free;
	void *token;
	uint8_t *buffer;
	int fd;
	off_t offset;
	uint32_t bytes;
	uint32_t left; /* bytes still to transfer */
	int result;
	bool is_write;
};

struct swap_io {
	const struct swap *swap;
	uint32_t in_flight;
	struct request *requests, *free;
	bool is_buffered; /* no O_DIRECT: the page cache is emptied behind the transfers */
	struct write_behind behind;
	bool has_ring;
	struct io_uring ring;
	/* Transfers that were done at once, because there is no ring or it did not take them: their completions wait here. */
	int event; /* without a ring */
	struct request **done;
	uint32_t nr_done;
};

bool swap_io_is_forced(const char *way)
{
	const char *ways = getenv("MEMBOX_IO");
	return ways && strstr(ways, way);
}

int swap_io_new(struct swap *swap, uint32_t depth, struct swap_io **ret_io)
{
	struct swap_io *io = calloc(1, sizeof(*io));
	if (!io)
		return -ENOMEM;
	io->swap = swap;
	io->is_buffered = !swap_is_direct(swap);
	io->event = -1;
	io->requests = calloc(depth, sizeof(*io->requests));
	io->done = calloc(depth, sizeof(*io->done));
	int r = io->requests && io->done ? 0 : -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < depth; i++) {
		io->requests[i].next_free = io->free;
		io->free = &io->requests[i];
	}
	if (r == 0 && !swap_io_is_forced("sync"))
		io->has_ring = io_uring_queue_init(depth, &io->ring, RING_FLAGS) == 0;
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
	while (io->in_flight) /* whatever happens: the kernel writes to buffers that the caller frees next */
		swap_io_reap(io, ignored, ARRAY_LEN(ignored), true);
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

/*
 * Takes account of n transferred bytes or -errno; false when something is left to do: after a short transfer, and when the kernel gave
 * up for a reason that is not the file's (a signal, a shortage, the end of the thread that had asked).
 */
static bool advance(struct request *request, ssize_t n)
{
	n = request->is_write ? FAULT_TRANSFER("swap write", request->buffer, n) : FAULT_TRANSFER("swap read", request->buffer, n);
	if (n == -EINTR || n == -EAGAIN || n == -ECANCELED)
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

/* Does what is left of a request. */
static void transfer_now(struct request *request)
{
	ssize_t n;
	do {
		n = request->is_write ? pwrite(request->fd, request->buffer, request->left, request->offset)
				      : pread(request->fd, request->buffer, request->left, request->offset);
		if (n < 0)
			n = errno == EAGAIN ? -EIO : -errno; /* this call may block: it has no reason to ask for another */
	} while (!advance(request, n));
}

/*
 * False when the kernel does not take the request now (a shortage, a filter). Its entry in the queue cannot be taken out and would be
 * submitted with a later one, when the buffer holds something else: it is turned into one that does nothing and belongs to nobody.
 */
static bool submit(struct swap_io *io, struct request *request)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
	if (!sqe) { /* full of such entries */
		io_uring_submit(&io->ring);
		return false;
	}
	if (request->is_write)
		io_uring_prep_write(sqe, request->fd, request->buffer, request->left, (uint64_t)request->offset);
	else
		io_uring_prep_read(sqe, request->fd, request->buffer, request->left, (uint64_t)request->offset);
	io_uring_sqe_set_data(sqe, request);
	int r = io_uring_submit(&io->ring);
	if (!io_uring_sq_ready(&io->ring)) /* whatever it returned: the last entry, ours, is the kernel's */
		return true;
	log_debug("swap: the ring took %d requests, done at once", r);
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, NULL);
	return false;
}

static void start_now(struct swap_io *io, struct request *request)
{
	transfer_now(request);
	io->done[io->nr_done++] = request;
	if (io->event >= 0)
		event_raise(io->event);
}

static int start(struct swap_io *io, slot_t first, uint32_t nr_slots, void *buffer, bool is_write, void *token)
{
	struct request *request = io->free;
	if (!request)
		return -EAGAIN;
	io->free = request->next_free;
	*request = (struct request){.token = token,
				    .buffer = buffer,
				    .fd = swap_fd_of(io->swap, first),
				    .offset = (off_t)(first & ~SLOT_OF_BASE) * (off_t)PAGE_BYTES,
				    .bytes = nr_slots * (uint32_t)PAGE_BYTES,
				    .left = nr_slots * (uint32_t)PAGE_BYTES,
				    .is_write = is_write};
	if (!io->has_ring || !submit(io, request))
		start_now(io, request);
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
	if (io->is_buffered && request->result == 0 && request->fd == swap_fd(io->swap)) {
		off_t start = request->offset - (off_t)request->bytes;
		if (request->is_write)
			request->result = write_behind_wrote(&io->behind, request->fd, start, request->bytes);
		else
			write_behind_read(request->fd, start, request->bytes);
	}
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
	if (!io->nr_done && io->event >= 0 && read(io->event, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_debug("swap: event: errno %d", errno);
	return n;
}

static int reap_ring(struct swap_io *io, struct swap_completion *completions, int max)
{
	struct io_uring_cqe *cqe;
	int n = 0;
	while (n < max && io_uring_peek_cqe(&io->ring, &cqe) == 0) {
		struct request *request = io_uring_cqe_get_data(cqe);
		ssize_t result = cqe->res;
		io_uring_cqe_seen(&io->ring, cqe);
		if (!request) /* of an entry that submit() has made void */
			continue;
		if (!advance(request, result))
			transfer_now(request);
		complete(io, request, &completions[n++]);
	}
	return n;
}

int swap_io_reap(struct swap_io *io, struct swap_completion *completions, int max, bool wait)
{
	int n = reap_done(io, completions, max);
	if (!io->has_ring)
		return n;
	n += reap_ring(io, completions + n, max - n);
	while (wait && !n && io->in_flight) { /* poll cannot be refused, as io_uring_enter can */
		struct pollfd ready = {.fd = io->ring.ring_fd, .events = POLLIN};
		poll(&ready, 1, -1);
		n = reap_ring(io, completions, max);
	}
	return n;
}
