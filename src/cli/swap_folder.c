#include "cli/swap_folder.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "platform/folders.h"

int swap_folder_path(char **ret_path)
{
	const char *cache = folder_variable("XDG_CACHE_HOME");
	const char *home = folder_variable("HOME");
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
