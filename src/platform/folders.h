/* Folders of the file system. */
#pragma once

#include <stdio.h>

/* Opens root_dir followed by path ("" for the real one) for reading; NULL with errno set. */
FILE *file_open_below(const char *root_dir, const char *path);

/* Creates path and what is missing above it, 0700. 0 (also when it was there), or -errno; -ENOTDIR: something else is in the way. */
int folder_create_path(const char *path);

/* A name is durable when the folder that it is in is. path: without slash at its end. 0 or -errno. */
int folder_sync_above(const char *path);

/* What path is from any folder; the caller frees it. NULL with errno set. */
char *path_absolute(const char *path);

/* The XDG rules for variables that name a folder: only an absolute path counts. NULL: not set, or not absolute. */
const char *folder_variable(const char *name);
