/* Small files of one line, as /proc and /sys have them. */
#pragma once

#include <stddef.h>

/* The first line without its newline. 0 or -errno (-ENODATA: there is none). */
int first_line_read(const char *path, char *buffer, size_t size);
