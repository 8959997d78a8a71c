/*
 * A trace as a workload: the faults in their order are the accesses. Pages of different address spaces are different pages. What a trace recorded in
 * a small limit leaves out are accesses that any larger memory would have had too.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "stats/trace.h"
#include "workload.h"

#define SPACE_SHIFT 36 /* page numbers have 36 bits: the address space goes above them */

struct input {
	struct workload *workload;
	uint64_t *key; /* of each access: address space and page */
	uint64_t capacity;
};

static int append(struct input *input, const struct trace_record *record)
{
	struct workload *w = input->workload;
	if (w->nr_accesses == input->capacity) {
		uint64_t capacity = input->capacity ? input->capacity * 2 : 65536;
		struct access *access = reallocarray(w->access, capacity, sizeof(*access));
		if (access)
			w->access = access;
		uint64_t *key = access ? reallocarray(input->key, capacity, sizeof(*key)) : NULL;
		if (!key)
			return -ENOMEM;
		input->key = key;
		input->capacity = capacity;
	}
	input->key[w->nr_accesses] = (uint64_t)record->space << SPACE_SHIFT | record->page;
	w->access[w->nr_accesses++].write = record->flags & TRACE_FLAG_WRITE;
	return 0;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* Numbers the pages in address order. */
static int number_pages(struct input *input)
{
	struct workload *w = input->workload;
	uint64_t *sorted = calloc(MAX_OF(w->nr_accesses, 1u), sizeof(*sorted));
	if (!sorted)
		return -ENOMEM;
	for (uint64_t i = 0; i < w->nr_accesses; i++)
		sorted[i] = input->key[i];
	qsort(sorted, w->nr_accesses, sizeof(*sorted), compare);
	for (uint64_t i = 0; i < w->nr_accesses; i++)
		if (!i || sorted[i] != sorted[w->nr_pages - 1])
			sorted[w->nr_pages++] = sorted[i];
	for (uint64_t i = 0; i < w->nr_accesses; i++) {
		const uint64_t *found = bsearch(&input->key[i], sorted, w->nr_pages, sizeof(*sorted), compare);
		w->access[i].page = (uint32_t)(found - sorted);
	}
	w->page_number = sorted;
	return 0;
}

static int read_records(FILE *file, struct input *input)
{
	struct trace_header header;
	struct trace_record record;
	if (fread(&header, sizeof(header), 1, file) != 1 || memcmp(header.magic, TRACE_MAGIC, sizeof(header.magic)) != 0 ||
	    header.version != TRACE_VERSION || header.record_bytes != sizeof(record))
		return -EINVAL;
	while (fread(&record, sizeof(record), 1, file) == 1) {
		int r = record.kind == TRACE_FAULT ? append(input, &record) : 0;
		if (r < 0)
			return r;
	}
	return ferror(file) ? -EIO : 0;
}

/* Memory sizes must leave the model something to work with. */
static void choose_sizes(struct workload *w)
{
	for (uint32_t i = 0, n = 0; i < 3; i++)
		if (w->nr_pages / 4 * (i + 1) >= 256)
			w->memory[n++] = w->nr_pages / 4 * (i + 1);
}

int workload_read_trace(const char *path, struct workload *ret)
{
	struct workload w = {0};
	struct input input = {.workload = &w};
	_cleanup_fclose_ FILE *file = fopen(path, "re");
	const char *base = strrchr(path, '/');
	if (!file)
		return -errno;
	int r = read_records(file, &input);
	if (r == 0)
		r = number_pages(&input);
	free(input.key);
	if (r < 0) {
		workload_release(&w);
		return r;
	}
	snprintf(w.name, sizeof(w.name), "%s", base ? base + 1 : path);
	choose_sizes(&w);
	*ret = w;
	return 0;
}
