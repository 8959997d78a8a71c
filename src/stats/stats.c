#include "stats/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define FIGURE(name, unit, meaning) {#name, STAT_##unit, meaning},
const struct stat_figure stats_figures[] = {STATS_LIST(FIGURE)};
#undef FIGURE
const size_t stats_nr_figures = ARRAY_LEN(stats_figures);

static int add_figure(json_object *object, const char *name, uint64_t value)
{
	json_object *number = json_object_new_uint64(value);

	if (!number)
		return -ENOMEM;
	if (json_object_object_add(object, name, number)) {
		json_object_put(number);
		return -ENOMEM;
	}
	return 0;
}

static int add_figures(json_object *object, const struct stats *stats)
{
	int r = 0;

#define ADD_FIGURE(name, unit, meaning) r = r ? r : add_figure(object, #name, stat_get(stats, name));
	STATS_LIST(ADD_FIGURE)
#undef ADD_FIGURE
	return r;
}

int stats_write_json(const struct stats *stats, FILE *out)
{
	json_object *object = json_object_new_object();
	const char *text;
	int r;

	if (!object)
		return -ENOMEM;
	r = add_figures(object, stats);
	if (!r) {
		text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED);
		if (!text)
			r = -ENOMEM;
		else if (fprintf(out, "%s\n", text) < 0 || fflush(out))
			r = errno ? -errno : -EIO;
	}
	json_object_put(object);
	return r;
}

/* Takes fd over. */
static int write_to_fd(const struct stats *stats, int fd)
{
	FILE *out = fdopen(fd, "w");
	int r;

	if (!out) {
		r = -errno;
		close(fd);
		return r;
	}
	r = stats_write_json(stats, out);
	if (fclose(out) && !r)
		r = -errno;
	return r;
}

static int save_by_rename(const struct stats *stats, const char *path)
{
	_cleanup_free_ char *temporary = NULL;
	int fd, r;

	if (asprintf(&temporary, "%s.%d.tmp", path, getpid()) < 0) {
		temporary = NULL;
		return -ENOMEM;
	}
	fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return -errno;
	r = write_to_fd(stats, fd);
	if (!r && rename(temporary, path))
		r = -errno;
	if (r)
		unlink(temporary);
	return r;
}

/*
 * A rename would put a plain file in the place of a device, a pipe or a symbolic link: the first two are written to directly, and
 * for a link the file that it names is replaced.
 */
int stats_save_json(const struct stats *stats, const char *path)
{
	_cleanup_free_ char *target = NULL;
	struct stat st;
	int fd;

	if (stat(path, &st)) {
		if (errno != ENOENT)
			return -errno;
		return save_by_rename(stats, path);
	}
	if (!S_ISREG(st.st_mode)) {
		fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
		return fd < 0 ? -errno : write_to_fd(stats, fd);
	}
	target = realpath(path, NULL);
	return target ? save_by_rename(stats, target) : -errno;
}
