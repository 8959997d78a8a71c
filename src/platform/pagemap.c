#include "platform/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/cleanup.h"

#ifndef PAGEMAP_SCAN
struct pm_scan_arg {
	uint64_t size;
	uint64_t flags;
	uint64_t start;
	uint64_t end;
	uint64_t walk_end;
	uint64_t vec;
	uint64_t vec_len;
	uint64_t max_pages;
	uint64_t category_inverted;
	uint64_t category_mask;
	uint64_t category_anyof_mask;
	uint64_t return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PM_SCAN_WP_MATCHING ((uint64_t)1 << 0)
#define PM_SCAN_CHECK_WPASYNC ((uint64_t)1 << 1)
#endif

int pagemap_open(pid_t pid)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* struct page_run has the layout of the kernel's struct page_region, so the kernel fills the caller's array itself. */
_Static_assert(sizeof(struct page_run) == 24 && offsetof(struct page_run, categories) == 16, "layout of struct page_region");

int pagemap_scan(int pagemap_fd, const struct pagemap_query *query, struct page_run *runs, uint32_t max_runs,
		 uint64_t *ret_walked_to)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = query->write_protect ? PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC : 0,
		.start = query->start,
		.end = query->end,
		.vec = (uint64_t)(uintptr_t)runs,
		.vec_len = max_runs,
		.max_pages = query->max_pages,
		.category_inverted = query->forbid,
		.category_mask = query->require | query->forbid,
		.return_mask = query->report,
	};
	int n;

	if (query->start >= query->end) {
		*ret_walked_to = query->end;
		return 0;
	}
	n = ioctl(pagemap_fd, PAGEMAP_SCAN, &arg);
	if (n < 0)
		return -errno;
	*ret_walked_to = arg.walk_end;
	return n;
}

static bool parse_hex(const char **at, uint64_t *ret)
{
	char *end;

	*ret = strtoull(*at, &end, 16);
	if (end == *at)
		return false;
	*at = end;
	return true;
}

/* "start-end perms offset major:minor inode   name" */
static bool parse_mapping(const char *line, struct mapping *ret)
{
	uint64_t device;
	char *end;

	if (!parse_hex(&line, &ret->start) || *line++ != '-' || !parse_hex(&line, &ret->end) || *line++ != ' ')
		return false;
	if (strnlen(line, 5) < 5)
		return false;
	ret->readable = line[0] == 'r';
	ret->writable = line[1] == 'w';
	ret->executable = line[2] == 'x';
	ret->shared = line[3] == 's';
	line += 5;
	if (!parse_hex(&line, &ret->offset) || !parse_hex(&line, &device) || *line++ != ':' || !parse_hex(&line, &device))
		return false;
	ret->inode = strtoull(line, &end, 10);
	while (*end == ' ')
		end++;
	snprintf(ret->name, sizeof(ret->name), "%s", end);
	return true;
}

/* Cuts complete lines off buf[0, *len) and visits them; what is left of an incomplete one is moved to the front. */
static int visit_lines(char *buf, size_t *len, int (*visit)(const struct mapping *m, void *context), void *context)
{
	char *line = buf;
	char *newline;
	int r = 0;

	while (!r && (newline = memchr(line, '\n', (size_t)(buf + *len - line)))) {
		struct mapping m;

		*newline = '\0';
		r = parse_mapping(line, &m) ? visit(&m, context) : -EBADMSG;
		line = newline + 1;
	}
	*len = (size_t)(buf + *len - line);
	memmove(buf, line, *len);
	return r;
}

int maps_for_each(pid_t pid, int (*visit)(const struct mapping *m, void *context), void *context)
{
	_cleanup_close_ int fd = -1;
	char buf[4096 * 4]; /* a path is shorter than 4096 bytes, four with escapes */
	size_t len = 0;
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	for (;;) {
		ssize_t n = read(fd, buf + len, sizeof(buf) - len);
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		len += (size_t)n;
		r = visit_lines(buf, &len, visit, context);
		if (r)
			return r;
		if (len == sizeof(buf))
			return -EBADMSG;
	}
}
