/* Folders of the file system. */
#pragma once

/* Creates path and what is missing above it, 0700. 0 (also when it was there), or -errno; -ENOTDIR: something else is in the way. */
int folder_create_path(const char *path);

/* The XDG rules for variables that name a folder: only an absolute path counts. NULL: not set, or not absolute. */
const char *folder_variable(const char *name);
