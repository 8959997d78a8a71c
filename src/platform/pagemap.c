#include "platform/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

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
#endif

#ifndef PROCMAP_QUERY
struct procmap_query {
	uint64_t size;
	uint64_t query_flags;
	uint64_t query_addr;
	uint64_t vma_start;
	uint64_t vma_end;
	uint64_t vma_flags;
	uint64_t vma_page_size;
	uint64_t vma_offset;
	uint64_t inode;
	uint32_t dev_major;
	uint32_t dev_minor;
	uint32_t vma_name_size;
	uint32_t build_id_size;
	uint64_t vma_name_addr;
	uint64_t build_id_addr;
};
#define PROCMAP_QUERY _IOWR('f', 17, struct procmap_query)
#define PROCMAP_QUERY_VMA_READABLE 1
#define PROCMAP_QUERY_VMA_WRITABLE 2
#define PROCMAP_QUERY_VMA_EXECUTABLE 4
#define PROCMAP_QUERY_VMA_SHARED 8
#endif

#define SCAN_TRIES 10

static int open_file_of(pid_t pid, const char *name)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 ? fd : errno == ENOENT ? -ESRCH : -errno;
}

int pagemap_open(pid_t pid)
{
	return open_file_of(pid, "pagemap");
}

int maps_open(pid_t pid)
{
	return open_file_of(pid, "maps");
}

/* struct page_run has the layout of the kernel's struct page_region, so the kernel fills the caller's array itself. */
_Static_assert(sizeof(struct page_run) == 24 && offsetof(struct page_run, categories) == 16, "layout of struct page_region");

int pagemap_scan(int pagemap_fd, const struct pagemap_query *query, struct page_run *runs, uint32_t max_runs,
		 uint64_t *ret_walked_to)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = query->write_protect ? PM_SCAN_WP_MATCHING : 0,
		.start = query->start,
		.end = query->end,
		.vec = (uint64_t)(uintptr_t)runs,
		.vec_len = max_runs,
		.max_pages = query->max_pages,
		.category_inverted = query->forbid,
		.category_mask = query->require | query->forbid,
		.category_anyof_mask = query->any,
		.return_mask = query->report,
	};
	int n = -1;

	if (query->start >= query->end) {
		*ret_walked_to = query->end;
		return 0;
	}
	errno = ENOMEM;
	for (int i = 0; n < 0 && errno != ESRCH && i < SCAN_TRIES; i++) /* it takes memory for its answer, which may be short for a moment */
		n = ioctl(pagemap_fd, PAGEMAP_SCAN, &arg);
	if (n < 0)
		return -errno;
	*ret_walked_to = arg.walk_end;
	return n;
}

int pagemap_find_shared(int pagemap_fd, remote_addr_t start, uint32_t nr, bool *ret_shared)
{
	const uint64_t present = 1ull << 63, exclusive = 1ull << 56;
	uint64_t entries[256];
	for (uint32_t done = 0; done < nr;) {
		size_t n = MIN_OF(nr - done, ARRAY_LEN(entries));
		off_t at = (off_t)(((start >> PAGE_SHIFT) + done) * sizeof(*entries));
		if (pread(pagemap_fd, entries, n * sizeof(*entries), at) != (ssize_t)(n * sizeof(*entries)))
			return -EIO;
		for (size_t i = 0; i < n; i++)
			ret_shared[done + i] = (entries[i] & (present | exclusive)) == present;
		done += (uint32_t)n;
	}
	return 0;
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
	_cleanup_close_ int fd = maps_open(pid);
	char buf[4096 * 4]; /* a path is shorter than 4096 bytes, four with escapes */
	size_t len = 0;

	if (fd < 0)
		return fd;
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

struct search {
	remote_addr_t addr;
	struct mapping *found;
};

static int compare_mapping(const struct mapping *m, void *context)
{
	const struct search *search = context;
	if (search->addr >= m->end)
		return 0;
	*search->found = *m;
	return 1;
}

static int search_maps(pid_t pid, remote_addr_t addr, struct mapping *ret)
{
	struct search search = {addr, ret};
	int r = maps_for_each(pid, compare_mapping, &search);
	return r < 0 ? r : r == 1 && ret->start <= addr ? 0 : -ENOENT;
}

int mapping_find(pid_t pid, int maps_fd, remote_addr_t addr, struct mapping *ret)
{
	*ret = (struct mapping){0};
	struct procmap_query query = {.size = sizeof(query),
				      .query_addr = addr,
				      .vma_name_addr = (uint64_t)(uintptr_t)ret->name,
				      .vma_name_size = sizeof(ret->name)};
	int r = ioctl(maps_fd, PROCMAP_QUERY, &query);
	if (r < 0 && errno == ENAMETOOLONG) { /* a long path: that it is one is enough */
		ret->name[0] = '/';
		ret->name[1] = '\0';
		query.vma_name_addr = 0;
		query.vma_name_size = 0;
		r = ioctl(maps_fd, PROCMAP_QUERY, &query);
	}
	if (r < 0)
		return errno == ENOTTY ? search_maps(pid, addr, ret) : -errno;
	ret->start = query.vma_start;
	ret->end = query.vma_end;
	ret->offset = query.vma_offset;
	ret->inode = query.inode;
	ret->readable = query.vma_flags & PROCMAP_QUERY_VMA_READABLE;
	ret->writable = query.vma_flags & PROCMAP_QUERY_VMA_WRITABLE;
	ret->executable = query.vma_flags & PROCMAP_QUERY_VMA_EXECUTABLE;
	ret->shared = query.vma_flags & PROCMAP_QUERY_VMA_SHARED;
	return 0;
}
