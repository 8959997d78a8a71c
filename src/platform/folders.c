#include "platform/folders.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

const char *folder_variable(const char *name)
{
	const char *value = getenv(name);

	return value && value[0] == '/' ? value : NULL;
}

char *path_absolute(const char *path)
{
	char folder[PATH_MAX], *whole;

	if (path[0] == '/')
		return strdup(path);
	return getcwd(folder, sizeof(folder)) && asprintf(&whole, "%s/%s", folder, path) >= 0 ? whole : NULL;
}

int folder_create_path(const char *path)
{
	_cleanup_free_ char *part = strdup(path);
	struct stat st;

	if (!part)
		return -ENOMEM;
	for (char *slash = part;;) {
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = '\0';
		/* EEXIST is the usual case; other errors count only when the folder then is not there (EROFS, EACCES on / ...). */
		if (mkdir(part, 0700)) {
			int error = errno;

			if (stat(part, &st))
				return -error;
			if (!S_ISDIR(st.st_mode))
				return -ENOTDIR;
		}
		if (!slash)
			return 0;
		*slash = '/';
	}
}

int folder_sync_above(const char *path)
{
	_cleanup_free_ char *copy = strdup(path);
	char *slash = copy ? strrchr(copy, '/') : NULL;

	if (!copy)
		return -ENOMEM;
	if (slash)
		slash[slash == copy] = '\0';
	_cleanup_close_ int fd = open(slash ? copy : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

FILE *file_open_below(const char *root_dir, const char *path)
{
	_cleanup_free_ char *full = NULL;

	if (asprintf(&full, "%s%s", root_dir, path) < 0) {
		full = NULL;
		return NULL;
	}
	return fopen(full, "re");
}
