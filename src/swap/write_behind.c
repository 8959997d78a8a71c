#include "swap/write_behind.h"

#include <errno.h>
#include <fcntl.h>

#define WRITE_OUT (SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)

int write_behind_wrote(struct write_behind *behind, int fd, off_t start, off_t bytes)
{
	__typeof__(behind->recent[0]) *oldest = &behind->recent[behind->next++ % WRITE_BEHIND];
	int r = sync_file_range(fd, start, bytes, SYNC_FILE_RANGE_WRITE) < 0 ? -errno : 0;
	if (oldest->bytes) {
		if (sync_file_range(fd, oldest->start, oldest->bytes, WRITE_OUT) < 0)
			r = -errno;
		posix_fadvise(fd, oldest->start, oldest->bytes, POSIX_FADV_DONTNEED);
	}
	oldest->start = start;
	oldest->bytes = bytes;
	return r == -EIO || r == -ENOSPC || r == -EDQUOT ? r : 0; /* anything else: the file system does not know the call */
}

void write_behind_read(int fd, off_t start, off_t bytes)
{
	posix_fadvise(fd, start, bytes, POSIX_FADV_DONTNEED);
}
