/*
 * A record of what the replacement policy sees, for bench/policy-sim. The file is described in docs/trace-format.md. Who records asks `if (trace)`
 * first: off, it costs that branch. Thread-safe; a full buffer is written by the thread that fills it. Callers may hold any lock.
 */
#pragma once

#include "base/types.h"

#define TRACE_MAGIC "MEMBOXTR"
#define TRACE_VERSION 1u
#define TRACE_NO_DISTANCE UINT32_MAX

enum trace_kind {
	TRACE_FAULT = 1, /* a page was missing; value: epochs since its eviction, or TRACE_NO_DISTANCE */
	TRACE_FILLED,    /* value pages from `page` on were brought in */
	TRACE_EVICTED,   /* value pages from `page` on left */
	TRACE_WRITTEN,   /* the hand passed, and the page was written to since it came before; value: its age */
	TRACE_FORGOTTEN, /* value pages from `page` on were unmapped, moved away or discarded by the program */
	TRACE_NR_KINDS,
};

#define TRACE_FLAG_WRITE 1u /* FAULT: by a write */
#define TRACE_FLAG_DOWN 2u  /* FILLED: the window extends downwards from the page that was asked for */

struct trace_header {
	char magic[8];
	uint32_t version;
	uint32_t record_bytes;
	uint64_t memory_pages; /* the limit at the beginning */
	uint64_t epochs_per_memory;
};

struct trace_record {
	uint8_t kind, flags;
	uint16_t space; /* which address space, counted from 1 in the order in which they were adopted */
	uint32_t value;
	uint64_t page; /* address / 4096 */
};

struct trace;

/* Creates the file anew, readable by its owner only. 0 or -errno. */
int trace_open(const char *path, uint64_t memory_pages, uint32_t epochs_per_memory, struct trace **ret_trace);

/* Writes what is left. NULL is allowed. */
void trace_close(struct trace *trace);

/* A write that failed ends the trace: it is said once, and what follows is dropped. */
void trace_record(struct trace *trace, enum trace_kind kind, unsigned flags, uint32_t space, remote_addr_t page, uint32_t value);
