/*
 * What a process has mapped and resident: the PAGEMAP_SCAN ioctl (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst) and
 * PROCMAP_QUERY (Linux 6.11; include/uapi/linux/fs.h). Both work on another process's /proc/PID files.
 */
#pragma once

#include "base/types.h"

enum page_category {
	PAGE_WP_ALLOWED = 1 << 0, /* in a range registered with WP_ASYNC */
	PAGE_WRITTEN = 1 << 1,    /* not write-protected: written since it was put in with WP */
	PAGE_FILE = 1 << 2,
	PAGE_PRESENT = 1 << 3,
	PAGE_SWAPPED = 1 << 4,
	PAGE_ZERO = 1 << 5, /* the shared zero page; not part of RSS */
	PAGE_HUGE = 1 << 6,
};

struct page_run {
	uint64_t start; /* bytes, page aligned */
	uint64_t end;
	uint64_t categories;
};

struct pagemap_query {
	uint64_t start, end;
	uint64_t require;      /* all of these set ... */
	uint64_t forbid;       /* ... and none of these */
	uint64_t any;          /* 0, or at least one of these set */
	uint64_t report;       /* categories to return; runs are split where they differ */
	uint64_t max_pages;    /* 0: no limit */
	bool write_protect;    /* also re-protect the matching pages, atomically (PM_SCAN_WP_MATCHING); require PAGE_WP_ALLOWED then */
};

/* Opens /proc/PID/pagemap; returns the descriptor or -errno. */
int pagemap_open(pid_t pid);

/*
 * Scans; fills up to max_runs runs in address order. Never without room for runs: without an output the kernel write-protects all it walks over,
 * holes too, and a protected hole is not missing. Returns the number of runs or -errno; *ret_walked_to is where a next call
 * goes on (== query->end when all was seen).
 */
int pagemap_scan(int pagemap_fd, const struct pagemap_query *query, struct page_run *runs, uint32_t max_runs,
		 uint64_t *ret_walked_to);

/*
 * For nr pages from start: which are present and mapped by more than one process (pages left shared by fork, and file pages). Costs about 50 ns a
 * page. A page that is not shared any more may still be marked so inside the kernel (UFFDIO_MOVE: EBUSY) until it is written to. 0 or -errno.
 */
int pagemap_find_shared(int pagemap_fd, remote_addr_t start, uint32_t nr, bool *ret_shared);

struct mapping {
	remote_addr_t start, end;
	uint64_t offset;
	uint64_t inode;
	bool readable, writable, executable, shared;
	char name[64]; /* cut off when longer; "" for none */
};

/* Calls visit for every line of /proc/PID/maps until it returns non-zero; returns that, 0 at the end, or -errno. */
int maps_for_each(pid_t pid, int (*visit)(const struct mapping *m, void *context), void *context);

/* Opens /proc/PID/maps for mapping_find; returns the descriptor or -errno. */
int maps_open(pid_t pid);

/*
 * The mapping that addr lies in. 0, -ENOENT when there is none, or -errno. One ioctl, PROCMAP_QUERY; on older kernels all lines are read.
 */
int mapping_find(pid_t pid, int maps_fd, remote_addr_t addr, struct mapping *ret);
