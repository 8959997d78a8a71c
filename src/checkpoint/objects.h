/*
 * Files without a name that several mappings and descriptors lead to: anonymous shared memory, memfds, files that have been removed. Each is saved once, whoever has
 * it, and is one again after the restore. Container thread.
 */
#pragma once

#include "checkpoint/process/process.h"

struct pages_writer;

/*
 * The id of the object behind a mapping or descriptor of a held process, known by device and inode: `path` leads to it (/proc/PID/fd/N, /proc/PID/map_files/A-B).
 * Saved when it is seen for the first time. 0 or -errno with the reason.
 */
int object_find(struct saved_process *p, const char *path, const char *name, uint64_t *ret_id);

/* System V segments have small numbers for inodes, as other memory may have too. They are not made by objects_restore. */
#define OBJECT_OF_SEGMENT (UINT64_C(1) << 63)
int object_find_as(struct saved_process *p, const char *path, const char *name, uint64_t id);

bool object_is_saved(const Image__Image *image, uint64_t id);

/* Makes all of them, in descriptors of the keeper above `above`. 0 or -errno with the reason. */
int objects_restore(struct restoring *restoring, int above);
void objects_close(struct restoring *restoring);

/* The descriptor of one, or -1. */
int object_fd(const struct restoring *restoring, uint64_t id);
