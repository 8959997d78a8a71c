#include "fuzz.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct fuzz_file present[FUZZ_FILES_MAX];
static size_t nr_present;

void fuzz_files_set(const struct fuzz_file *files, size_t nr)
{
	nr_present = nr;
	for (size_t i = 0; i < nr; i++)
		present[i] = files[i];
}

void fuzz_be_quiet(void)
{
	if (!freopen("/dev/null", "w", stdout))
		abort();
}

static const struct fuzz_file *find(const char *path)
{
	for (size_t i = 0; i < nr_present; i++) {
		size_t len = strlen(path), end = strlen(present[i].name);
		if (len >= end && !strcmp(path + len - end, present[i].name))
			return &present[i];
	}
	return NULL;
}

static int open_present(const char *path)
{
	const struct fuzz_file *file = find(path);
	if (!file) {
		errno = ENOENT;
		return -1;
	}
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write(fd, file->data, file->len) != (ssize_t)file->len ||
	    (file->bytes && ftruncate(fd, (off_t)file->bytes) < 0) || lseek(fd, 0, SEEK_SET) < 0)
		abort();
	return fd;
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int __wrap_open64(const char *path, int flags, ...)
{
	return nr_present && !(flags & O_DIRECTORY) ? open_present(path) : __real_open64(path, flags, 0600);
}

int __real_openat64(int folder, const char *path, int flags, ...);
int __wrap_openat64(int folder, const char *path, int flags, ...);

int __wrap_openat64(int folder, const char *path, int flags, ...)
{
	return nr_present ? open_present(path) : __real_openat64(folder, path, flags, 0600);
}

FILE *__real_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);

FILE *__wrap_fopen64(const char *path, const char *mode)
{
	int fd = nr_present ? open_present(path) : -1;
	return fd >= 0 ? fdopen(fd, "r") : nr_present ? NULL : __real_fopen64(path, mode);
}

void __wrap_log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

void __wrap_log_error(const char *format, ...)
{
	char text[2048];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
}
