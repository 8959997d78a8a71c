#include "base/first_line.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

int first_line_read(const char *path, char *buffer, size_t size)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");

	if (!f)
		return -errno;
	if (!fgets(buffer, (int)size, f))
		return -ENODATA;
	buffer[strcspn(buffer, "\n")] = '\0';
	return 0;
}
