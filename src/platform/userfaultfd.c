#include "platform/userfaultfd.h"

#include <errno.h>
#include <unistd.h>

#define REGISTER_TRIES 10

/* ioctl(2) on a userfaultfd: 0 or -errno; the request numbers do not fit the signed type some C libraries declare. */
static int uffd_ioctl(int uffd, unsigned long request, void *arg)
{
	return ioctl(uffd, request, arg) < 0 ? -errno : 0;
}

int uffd_api(int uffd, uint64_t features)
{
	struct uffdio_api api = {.api = UFFD_API, .features = features};

	return uffd_ioctl(uffd, UFFDIO_API, &api);
}

int uffd_register(int uffd, remote_addr_t start, uint64_t len, bool write_protect)
{
	struct uffdio_register reg = {
		.range = {.start = start, .len = len},
		.mode = UFFDIO_REGISTER_MODE_MISSING | (write_protect ? UFFDIO_REGISTER_MODE_WP : 0),
	};

	int r = -ENOMEM;

	for (int i = 0; r == -ENOMEM && i < REGISTER_TRIES; i++) /* memory may be short for a moment */
		r = uffd_ioctl(uffd, UFFDIO_REGISTER, &reg);
	return r;
}

int uffd_unregister(int uffd, remote_addr_t start, uint64_t len)
{
	struct uffdio_range range = {.start = start, .len = len};

	return uffd_ioctl(uffd, UFFDIO_UNREGISTER, &range);
}

/*
 * Since Linux 6.9 the kernel looks for the mapping before it looks for pending events, so a fill that meets mremap, munmap or fork can end with ENOENT although the page
 * is only about to be elsewhere. It raises the mark of a pending event before it changes the layout: ENOENT without the mark now is true.
 */
static int why_not_filled(int uffd, int error)
{
	return error == -ENOENT && uffd_event_pending(uffd) ? -EAGAIN : error;
}

/*
 * The kernel reports a partial fill as -EAGAIN whatever stopped it, so the rest is tried again until it is done or nothing at all went
 * in: only then the error says why. That stays within the content the caller chose: while an event is pending the next try moves nothing.
 */
int uffd_copy(int uffd, remote_addr_t dst, const void *src, uint64_t len, bool write_protect, uint64_t *ret_done)
{
	uint64_t done = 0;
	int r = 0;

	while (done < len) {
		struct uffdio_copy copy = {
			.dst = dst + done,
			.src = (uint64_t)(uintptr_t)src + done,
			.len = len - done,
			.mode = write_protect ? UFFDIO_COPY_MODE_WP : 0,
		};

		r = uffd_ioctl(uffd, UFFDIO_COPY, &copy);
		if (copy.copy <= 0)
			break;
		done += (uint64_t)copy.copy;
	}
	*ret_done = done;
	return done == len ? 0 : why_not_filled(uffd, r);
}

int uffd_zeropage(int uffd, remote_addr_t dst, uint64_t len, uint64_t *ret_done)
{
	uint64_t done = 0;
	int r = 0;

	while (done < len) {
		struct uffdio_zeropage zero = {.range = {.start = dst + done, .len = len - done}};

		r = uffd_ioctl(uffd, UFFDIO_ZEROPAGE, &zero);
		if (zero.zeropage <= 0)
			break;
		done += (uint64_t)zero.zeropage;
	}
	*ret_done = done;
	return done == len ? 0 : why_not_filled(uffd, r);
}

int uffd_wake(int uffd, remote_addr_t start, uint64_t len)
{
	struct uffdio_range range = {.start = start, .len = len};

	return uffd_ioctl(uffd, UFFDIO_WAKE, &range);
}

int uffd_read(int uffd, struct uffd_msg *msgs, int max)
{
	ssize_t n = read(uffd, msgs, sizeof(*msgs) * (size_t)max);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return (int)((size_t)n / sizeof(*msgs));
}

/* The kernel looks for pending events before it looks at the arguments: an empty range is EAGAIN with one, EINVAL without. */
bool uffd_event_pending(int uffd)
{
	struct uffdio_copy copy = {.len = 0};

	return uffd_ioctl(uffd, UFFDIO_COPY, &copy) == -EAGAIN;
}

bool uffd_is_dead(int uffd, remote_addr_t probe_addr)
{
	static const char source[PAGE_BYTES];
	struct uffdio_copy copy = {
		.dst = page_floor(probe_addr),
		.src = (uint64_t)(uintptr_t)source,
		.len = PAGE_BYTES,
	};

	return uffd_ioctl(uffd, UFFDIO_COPY, &copy) == -ESRCH;
}

/* Lifting a write protection at the end of the address space, where no mapping is: the kernel looks for the memory first. EINVAL: no UFFDIO_API yet. */
bool uffd_is_needless(int uffd)
{
	struct uffdio_writeprotect protect = {.range = {.start = (UINT64_C(1) << 47) - 2 * PAGE_BYTES, .len = PAGE_BYTES}};
	int r = uffd_ioctl(uffd, UFFDIO_WRITEPROTECT, &protect);

	return r == -ESRCH || r == -EINVAL;
}
