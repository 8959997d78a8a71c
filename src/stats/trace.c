#include "stats/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/log.h"

#define BUFFERED 8192u /* records */

_Static_assert(sizeof(struct trace_record) == 16 && sizeof(struct trace_header) == 32, "as in docs/trace-format.md");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is little-endian");

struct trace {
	struct lock lock;
	int fd; /* -1 after a write has failed */
	uint32_t nr;
	struct trace_record buffer[BUFFERED];
};

static int write_all(int fd, const void *data, size_t len)
{
	const char *p = data;
	while (len) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int trace_open(const char *path, uint64_t memory_pages, uint32_t epochs_per_memory, struct trace **ret_trace)
{
	struct trace_header header = {
		.version = TRACE_VERSION, .record_bytes = sizeof(struct trace_record), .memory_pages = memory_pages, .epochs_per_memory = epochs_per_memory};
	struct trace *trace = calloc(1, sizeof(*trace));
	if (!trace)
		return -ENOMEM;
	memcpy(header.magic, TRACE_MAGIC, sizeof(header.magic));
	lock_init(&trace->lock, LOCK_TRACE);
	trace->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r = trace->fd < 0 ? -errno : write_all(trace->fd, &header, sizeof(header));
	if (r < 0) {
		trace_close(trace);
		return r;
	}
	*ret_trace = trace;
	return 0;
}

/* Lock held, or nobody else is left. */
static void flush(struct trace *trace)
{
	int r = trace->fd < 0 ? 0 : write_all(trace->fd, trace->buffer, trace->nr * sizeof(*trace->buffer));
	trace->nr = 0;
	if (r == 0)
		return;
	log_error("cannot write the trace: %s: it ends here", strerror(-r));
	close(trace->fd);
	trace->fd = -1;
}

void trace_close(struct trace *trace)
{
	if (!trace)
		return;
	flush(trace);
	if (trace->fd >= 0)
		close(trace->fd);
	lock_destroy(&trace->lock);
	free(trace);
}

void trace_record(struct trace *trace, enum trace_kind kind, unsigned flags, uint32_t space, remote_addr_t page, uint32_t value)
{
	lock_take(&trace->lock);
	trace->buffer[trace->nr++] = (struct trace_record){
		.kind = (uint8_t)kind, .flags = (uint8_t)flags, .space = (uint16_t)space, .value = value, .page = page >> PAGE_SHIFT};
	if (trace->nr == BUFFERED)
		flush(trace);
	lock_drop(&trace->lock);
}
