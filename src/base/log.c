#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/types.h"

#define LOG_LINE_MAX 2048

/* A message may carry names that the program chose: one call stays one line, and the terminal obeys none of it. */
static void defuse(char *text)
{
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
}

/* Appends the message to the prefix already in line and writes both at once. */
static void write_line(char line[LOG_LINE_MAX], size_t prefix_len, const char *format, va_list args)
{
	size_t len;

	/* One byte stays free for the newline. */
	vsnprintf(line + prefix_len, LOG_LINE_MAX - 1 - prefix_len, format, args);
	defuse(line);
	len = strlen(line);
	line[len++] = '\n';
	while (write(STDERR_FILENO, line, len) < 0 && errno == EINTR)
		;
}

void log_error(const char *format, ...)
{
	char line[LOG_LINE_MAX] = "membox: ";
	int saved_errno = errno;
	va_list args;

	va_start(args, format);
	write_line(line, strlen(line), format, args);
	va_end(args);
	errno = saved_errno;
}

bool log_debug_is_wanted(void)
{
	static _Atomic int known = -1; /* every thread that asks first finds the same answer */
	int wanted = atomic_load_explicit(&known, memory_order_relaxed);

	if (wanted < 0) {
		const char *value = getenv("MEMBOX_DEBUG");

		wanted = value && *value && strcmp(value, "0") != 0;
		atomic_store_explicit(&known, wanted, memory_order_relaxed);
	}
	return wanted;
}

void log_debug(const char *format, ...)
{
	char line[LOG_LINE_MAX];
	int saved_errno = errno;
	struct timespec now;
	va_list args;

	if (!log_debug_is_wanted())
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(line, sizeof(line), "membox[%d %lld.%06ld]: ", gettid(), (long long)now.tv_sec, now.tv_nsec / 1000);
	va_start(args, format);
	write_line(line, strlen(line), format, args);
	va_end(args);
	errno = saved_errno;
}
