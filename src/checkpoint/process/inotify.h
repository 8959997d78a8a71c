/* inotify objects. What they watch is saved by its path. */
#pragma once

#include "checkpoint/process/process.h"

/* A restore takes each number up to the highest once. */
#define INOTIFY_NUMBER_MAX (1u << 20)

/*
 * Describes the object behind a descriptor, of which info is the text of its fdinfo. 0 or -errno with the reason; -EBUSY: events wait to be read, and the kernel shows them to nobody
 * without taking them away.
 */
int inotify_save(struct saved_process *p, Image__File *f, int fd, const char *info);

/* A descriptor of a new object that watches the same under the same numbers, or -errno. */
int inotify_restore(const Image__File *f);
