#include "pager/stamp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "platform/process.h"

static int write_stamp(const struct stamp *stamp)
{
	struct stamp_copy copy = {stamp->owner, stamp->value};
	ssize_t n = pwrite(stamp->mem, &copy, sizeof(copy), (off_t)stamp->page);
	return n == (ssize_t)sizeof(copy) ? 0 : n < 0 ? -errno : -ESRCH;
}

int stamp_init(struct stamp *stamp, pid_t pid, remote_addr_t page)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	*stamp = (struct stamp){.page = page, .mem = open(path, O_RDWR | O_CLOEXEC), .value = 1};
	if (stamp->mem < 0)
		return -errno;
	if (getrandom(&stamp->owner, sizeof(stamp->owner), 0) != sizeof(stamp->owner))
		return -EAGAIN;
	stamp->owner |= 1;
	return write_stamp(stamp);
}

void stamp_release(struct stamp *stamp)
{
	if (stamp->page && stamp->mem >= 0)
		close(stamp->mem);
	stamp->page = 0;
}

int stamp_raise(struct stamp *stamp)
{
	stamp->value++;
	return write_stamp(stamp);
}

bool stamp_read(pid_t pid, remote_addr_t page, struct stamp_copy *ret)
{
	return page && process_read(pid, page, ret, sizeof(*ret)) == 0 && ret->owner;
}
