/*
 * Keeps a swap file that cannot be used with O_DIRECT from moving into the page cache: what has been written is on its way to the disk at once,
 * waited for when WRITE_BEHIND more writes have followed, and dropped from the cache. One for each I/O queue; no locks.
 */
#pragma once

#include "base/types.h"

#define WRITE_BEHIND 16

struct write_behind {
	struct {
		off_t start, bytes;
	} recent[WRITE_BEHIND]; /* a ring; bytes 0: empty */
	uint32_t next;
};

/* 0, or -errno when the disk did not take an earlier write (then what it held is lost; its checksum tells whoever reads it). */
int write_behind_wrote(struct write_behind *behind, int fd, off_t start, off_t bytes);

/* What was read is in memory twice now. */
void write_behind_read(int fd, off_t start, off_t bytes);
