/* What hands pages to the kernel: pipes, sockets, direct I/O, io_uring, reads of another process's memory. */
#include <liburing.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "torture.h"

/* A page whose content is known for certain, and one to copy it to. */
static bool choose_two(struct area *a, struct range range, size_t *ret_from, size_t *ret_to)
{
	*ret_from = range.first;
	*ret_to = range.first + range.count - 1;
	if (a->model[*ret_from] == UNMAPPED || a->model[*ret_to] == UNMAPPED)
		return false;
	if (a->model[*ret_from] & MAY_BE_ZERO)
		write_range(a, (struct range){*ret_from, 1});
	return true;
}

static void receive_page(struct area *a, int fd, size_t to)
{
	for (size_t done = 0; done < PAGE_BYTES;) {
		ssize_t n = read(fd, page_of(a, to) + done, PAGE_BYTES - done);
		CHECK(n > 0, "read");
		done += (size_t)n;
	}
}

static void copy_through(struct area *a, struct range range, const int ends[2], bool by_reference)
{
	size_t from, to;
	if (choose_two(a, range, &from, &to)) {
		struct iovec source = {page_of(a, from), PAGE_BYTES};
		ssize_t n = by_reference ? vmsplice(ends[1], &source, 1, 0)
					 : write(ends[1], source.iov_base, source.iov_len);
		CHECK(n == (ssize_t)PAGE_BYTES, "write or vmsplice");
		read_range(a, range);
		receive_page(a, ends[0], to);
		a->model[to] = a->model[from];
	}
	close(ends[0]);
	close(ends[1]);
}

static void copy_by_pipe(struct area *a, struct range range)
{
	int ends[2];
	CHECK(!pipe2(ends, O_CLOEXEC), "pipe");
	copy_through(a, range, ends, random_next(&a->state) % 2);
}

static void copy_by_socket(struct area *a, struct range range)
{
	int ends[2];
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
	copy_through(a, range, ends, false);
}

static void copy_by_process_vm(struct area *a, struct range range)
{
	size_t from, to;
	if (!choose_two(a, range, &from, &to))
		return;
	struct iovec source = {page_of(a, from), PAGE_BYTES}, target = {page_of(a, to), PAGE_BYTES};
	bool reads = random_next(&a->state) % 2;
	ssize_t n = reads ? process_vm_readv(getpid(), &target, 1, &source, 1, 0)
			  : process_vm_writev(getpid(), &source, 1, &target, 1, 0);
	CHECK(n == (ssize_t)PAGE_BYTES, "process_vm");
	a->model[to] = a->model[from];
}

static void copy_by_file(struct area *a, struct range range)
{
	size_t from, to;
	off_t at = (off_t)((random_next(&a->state) % FILE_PAGES) * PAGE_BYTES);
	if (!choose_two(a, range, &from, &to))
		return;
	CHECK(pwrite(a->file, page_of(a, from), PAGE_BYTES, at) == (ssize_t)PAGE_BYTES, "pwrite");
	CHECK(pread(a->file, page_of(a, to), PAGE_BYTES, at) == (ssize_t)PAGE_BYTES, "pread");
	a->model[to] = a->model[from];
}

static int complete(struct io_uring *ring)
{
	struct io_uring_cqe *cqe;
	CHECK(io_uring_submit_and_wait(ring, 1) == 1, "io_uring_submit");
	CHECK(!io_uring_wait_cqe(ring, &cqe), "io_uring_wait_cqe");
	int result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

/* The registered pages are pinned: they must not leave until the ring is closed, and may afterwards. */
static void copy_by_ring(struct area *a, struct range range)
{
	struct io_uring ring;
	size_t from, to;
	if (!choose_two(a, range, &from, &to) || !is_mapped(a, range) || io_uring_queue_init(2, &ring, 0) < 0)
		return;
	struct iovec buffer = {page_of(a, range.first), range.count * PAGE_BYTES};
	__u64 at = (random_next(&a->state) % FILE_PAGES) * PAGE_BYTES;
	if (io_uring_register_buffers(&ring, &buffer, 1) == 0) {
		io_uring_prep_write_fixed(io_uring_get_sqe(&ring), a->file, page_of(a, from), PAGE_BYTES, at, 0);
		CHECK(complete(&ring) == (int)PAGE_BYTES, "write_fixed");
		read_range(a, range_choose(a, 64));
		io_uring_prep_read_fixed(io_uring_get_sqe(&ring), a->file, page_of(a, to), PAGE_BYTES, at, 0);
		CHECK(complete(&ring) == (int)PAGE_BYTES, "read_fixed");
		a->model[to] = a->model[from];
		read_range(a, range);
	}
	io_uring_queue_exit(&ring);
}

const struct operation kernel_operations[] = {
	{"pipe", 30, 64, copy_by_pipe},
	{"socket", 15, 64, copy_by_socket},
	{"process_vm", 15, 64, copy_by_process_vm},
	{"direct I/O", 15, 64, copy_by_file},
	{"io_uring", 8, 32, copy_by_ring},
	{0},
};
