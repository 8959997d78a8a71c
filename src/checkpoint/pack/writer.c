#include "checkpoint/pack/writer.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/cleanup.h"
#include "base/xxh3.h"
#include "checkpoint/pack/format.h"

#define LONG_WINDOW_LOG 27 /* the most that a reader takes without being told to */

struct pack_writer {
	int fd, error;
	ZSTD_CCtx *zstd;
	XXH3_state_t *digest; /* of what the descriptor has got */
	uint32_t version;
	uint64_t written, image_bytes;
	size_t out_room;
	uint8_t *out;
};

static int fail(struct pack_writer *writer, int error)
{
	writer->error = error;
	return error;
}

static int configure(ZSTD_CCtx *zstd, const struct pack_options *options)
{
	size_t r = ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, options->level);
	if (!ZSTD_isError(r))
		r = ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
	if (!ZSTD_isError(r) && options->looks_far_back) {
		ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, LONG_WINDOW_LOG);
		r = ZSTD_CCtx_setParameter(zstd, ZSTD_c_enableLongDistanceMatching, 1);
	}
	if (ZSTD_isError(r))
		return -EINVAL;
	/* A library that was built without threads refuses: then the caller compresses. */
	ZSTD_CCtx_setParameter(zstd, ZSTD_c_nbWorkers, (int)options->nr_threads);
	return 0;
}

int pack_writer_new(int fd, const struct pack_options *options, struct pack_writer **ret)
{
	struct pack_writer *writer = calloc(1, sizeof(*writer));
	if (!writer)
		return -ENOMEM;
	writer->fd = fd;
	writer->version = options->may_switch ? PACK_VERSION : PACK_VERSION_WHOLE;
	writer->out_room = ZSTD_CStreamOutSize();
	writer->zstd = ZSTD_createCCtx();
	writer->digest = XXH3_createState();
	writer->out = malloc(writer->out_room);
	int r = writer->zstd && writer->digest && writer->out ? configure(writer->zstd, options) : -ENOMEM;
	if (r < 0) {
		pack_writer_free(writer);
		return r;
	}
	XXH3_128bits_reset(writer->digest);
	*ret = writer;
	return 0;
}

void pack_writer_free(struct pack_writer *writer)
{
	if (!writer)
		return;
	ZSTD_freeCCtx(writer->zstd);
	XXH3_freeState(writer->digest);
	free(writer->out);
	free(writer);
}

static int write_raw(struct pack_writer *writer, const void *data, size_t len)
{
	const char *from = data;
	while (len) {
		ssize_t n = write(writer->fd, from, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail(writer, n < 0 ? -errno : -EIO);
		from += n;
		len -= (size_t)n;
		writer->written += (uint64_t)n;
	}
	return 0;
}

static int compress(struct pack_writer *writer, const void *data, size_t len, ZSTD_EndDirective how)
{
	ZSTD_inBuffer in = {data, len, 0};
	size_t left;
	if (writer->error < 0)
		return writer->error;
	do {
		ZSTD_outBuffer out = {writer->out, writer->out_room, 0};
		left = ZSTD_compressStream2(writer->zstd, &out, &in, how);
		if (ZSTD_isError(left))
			return fail(writer, ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation ? -ENOMEM : -EIO);
		XXH3_128bits_update(writer->digest, out.dst, out.pos);
		int r = write_raw(writer, out.dst, out.pos);
		if (r < 0)
			return r;
	} while (how == ZSTD_e_continue ? in.pos < in.size : left > 0);
	return 0;
}

struct part {
	const void *data;
	size_t bytes;
};

static int write_record(struct pack_writer *writer, enum pack_kind kind, uint32_t nr, uint64_t first, const struct part parts[2])
{
	struct pack_record record = {
		.kind = htole32(kind), .nr = htole32(nr), .first = htole64(first), .bytes = htole64(parts[0].bytes + parts[1].bytes)};
	XXH3_state_t *state = XXH3_createState();
	if (!state)
		return fail(writer, -ENOMEM);
	XXH3_64bits_reset(state);
	XXH3_64bits_update(state, &record, offsetof(struct pack_record, checksum));
	for (int i = 0; i < 2; i++)
		XXH3_64bits_update(state, parts[i].data, parts[i].bytes);
	record.checksum = htole64(XXH3_64bits_digest(state));
	XXH3_freeState(state);
	int r = compress(writer, &record, sizeof(record), ZSTD_e_continue);
	for (int i = 0; r == 0 && i < 2; i++)
		r = compress(writer, parts[i].data, parts[i].bytes, ZSTD_e_continue);
	return r;
}

int pack_writer_head(struct pack_writer *writer, const Image__Machine *machine, uint64_t seed, uint64_t nr_pages)
{
	struct pack_head head = {.version = htole32(writer->version), .seed = htole64(seed), .nr_pages = htole64(nr_pages)};
	size_t bytes = image__machine__get_packed_size(machine);
	_cleanup_free_ uint8_t *message = malloc(bytes + 1);
	if (!message)
		return fail(writer, -ENOMEM);
	memcpy(head.magic, PACK_MAGIC, sizeof(head.magic));
	image__machine__pack(machine, message);
	return write_record(writer, PACK_HEAD, 0, 0, (struct part[2]){{&head, sizeof(head)}, {message, bytes}});
}

int pack_writer_pages(struct pack_writer *writer, slot_t first, uint32_t nr, const uint64_t *checksums, const void *pages)
{
	uint64_t sums[PACK_PAGES_AT_ONCE];
	assert(nr <= PACK_PAGES_AT_ONCE);
	for (uint32_t i = 0; i < nr; i++)
		sums[i] = htole64(checksums[i]);
	return write_record(writer, PACK_PAGES, nr, first, (struct part[2]){{sums, nr * sizeof(*sums)}, {pages, nr * PAGE_BYTES}});
}

int pack_writer_image(struct pack_writer *writer, const Image__Image *image)
{
	size_t bytes = image__image__get_packed_size(image);
	_cleanup_free_ uint8_t *message = malloc(bytes + 1);
	int r = message ? 0 : fail(writer, -ENOMEM);
	if (message)
		image__image__pack(image, message);
	for (size_t at = 0; r == 0 && at < bytes; at += PACK_BODY_MAX_BYTES)
		r = write_record(writer, PACK_IMAGE, 0, at, (struct part[2]){{message + at, MIN_OF(bytes - at, PACK_BODY_MAX_BYTES)}});
	writer->image_bytes = bytes;
	return r;
}

int pack_writer_round(struct pack_writer *writer)
{
	int r = write_record(writer, PACK_ROUND, 0, 0, (struct part[2]){{0}});
	return r < 0 ? r : pack_writer_flush(writer);
}

int pack_writer_late(struct pack_writer *writer, const struct named_slots *slots)
{
	_cleanup_free_ struct pack_run *runs = malloc(PACK_RUNS_AT_ONCE * sizeof(*runs));
	uint32_t nr, n = 0;
	slot_t first;
	int r = runs ? 0 : fail(writer, -ENOMEM);
	for (slot_t at = 0; r == 0; at = first + nr) {
		nr = named_slots_next_run(slots, at, UINT32_MAX, &first);
		if (n && (!nr || n == PACK_RUNS_AT_ONCE)) {
			r = write_record(writer, PACK_LATE, n, 0, (struct part[2]){{runs, n * sizeof(*runs)}});
			n = 0;
		}
		if (!nr)
			break;
		runs[n++] = (struct pack_run){htole32(first), htole32(nr)};
	}
	return r < 0 ? r : pack_writer_flush(writer);
}

int pack_writer_switch(struct pack_writer *writer)
{
	int r = write_record(writer, PACK_SWITCH, 0, 0, (struct part[2]){{0}});
	return r < 0 ? r : pack_writer_flush(writer);
}

int pack_writer_flush(struct pack_writer *writer)
{
	return compress(writer, NULL, 0, ZSTD_e_flush);
}

int pack_writer_end(struct pack_writer *writer, uint64_t nr_pages)
{
	struct pack_totals totals = {htole64(writer->image_bytes), htole64(nr_pages)};
	struct pack_trailer trailer = {.frame_magic = htole32(PACK_FRAME_MAGIC), .frame_bytes = htole32(sizeof(trailer) - 8)};
	XXH128_canonical_t digest;
	int r = write_record(writer, PACK_END, 0, 0, (struct part[2]){{&totals, sizeof(totals)}});
	if (r == 0)
		r = compress(writer, NULL, 0, ZSTD_e_end);
	memcpy(trailer.magic, PACK_TRAILER_MAGIC, sizeof(trailer.magic));
	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(writer->digest));
	memcpy(trailer.digest, digest.digest, sizeof(trailer.digest));
	return r < 0 ? r : write_raw(writer, &trailer, sizeof(trailer));
}

uint64_t pack_writer_bytes(const struct pack_writer *writer)
{
	return writer->written;
}
