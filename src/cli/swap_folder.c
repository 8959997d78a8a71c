#include "cli/swap_folder.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

/* The XDG rules: only an absolute path counts. */
static const char *absolute_variable(const char *name)
{
	const char *value = getenv(name);

	return value && value[0] == '/' ? value : NULL;
}

int swap_folder_path(char **ret_path)
{
	const char *cache = absolute_variable("XDG_CACHE_HOME");
	const char *home = absolute_variable("HOME");
	const struct passwd *user;
	char *path;
	int r;

	if (!cache && !home) {
		user = getpwuid(geteuid());
		home = user && user->pw_dir[0] == '/' ? user->pw_dir : NULL;
	}
	if (cache)
		r = asprintf(&path, "%s/membox", cache);
	else if (home)
		r = asprintf(&path, "%s/.cache/membox", home);
	else
		return -ENOENT;
	if (r < 0)
		return -ENOMEM;
	*ret_path = path;
	return 0;
}

int swap_folder_create(const char *path)
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
