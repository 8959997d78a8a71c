#include "checkpoint/pack/reader.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "base/xxh3.h"

struct pack_reader {
	int fd;
	const char *name;
	ZSTD_DCtx *zstd;
	XXH3_state_t *digest; /* of what has been decompressed */
	ZSTD_inBuffer in;     /* read and not decompressed yet */
	size_t in_room;
	uint64_t taken; /* read in all */
	bool has_head, is_between_frames;
	uint8_t *body;
};

int pack_reader_new(int fd, const char *name, struct pack_reader **ret)
{
	struct pack_reader *reader = calloc(1, sizeof(*reader));
	if (!reader)
		return -ENOMEM;
	reader->fd = fd;
	reader->name = name;
	reader->is_between_frames = true;
	reader->in_room = ZSTD_DStreamInSize();
	reader->zstd = ZSTD_createDCtx();
	reader->digest = XXH3_createState();
	reader->in.src = malloc(reader->in_room);
	reader->body = malloc(PACK_BODY_MAX_BYTES);
	if (!reader->zstd || !reader->digest || !reader->in.src || !reader->body) {
		pack_reader_free(reader);
		return -ENOMEM;
	}
	XXH3_128bits_reset(reader->digest);
	*ret = reader;
	return 0;
}

void pack_reader_free(struct pack_reader *reader)
{
	if (!reader)
		return;
	ZSTD_freeDCtx(reader->zstd);
	XXH3_freeState(reader->digest);
	free((void *)(uintptr_t)reader->in.src);
	free(reader->body);
	free(reader);
}

static int damaged(const struct pack_reader *reader, struct checkpoint_error *error, const char *how)
{
	if (!reader->has_head)
		return checkpoint_fail(error, -EBADMSG, "%.200s: it is not a packed checkpoint of membox, or damaged: %s", reader->name, how);
	return checkpoint_fail(error, -EBADMSG, "%.200s: the packed checkpoint is damaged: %s", reader->name, how);
}

/* 1: there is something to decompress; 0: the file ends; or -errno. */
static int refill(struct pack_reader *reader, struct checkpoint_error *error)
{
	ssize_t n;
	if (reader->in.pos < reader->in.size)
		return 1;
	do
		n = read(reader->fd, (void *)(uintptr_t)reader->in.src, reader->in_room);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return checkpoint_fail(error, -errno, "%.200s: %s", reader->name, strerror(errno));
	reader->in.pos = 0;
	reader->in.size = (size_t)n;
	reader->taken += (uint64_t)n;
	return n > 0;
}

static int need_more(struct pack_reader *reader, struct checkpoint_error *error)
{
	int r = refill(reader, error);
	if (r != 0)
		return MIN_OF(r, 0);
	if (!reader->taken)
		return damaged(reader, error, "it is empty");
	return checkpoint_fail(error, -ENODATA, "%.200s: the packed checkpoint ends too early: it was cut off", reader->name);
}

/* One step of the decompressor, which may need more input. */
static int decompress(struct pack_reader *reader, ZSTD_outBuffer *out, struct checkpoint_error *error)
{
	size_t before = reader->in.pos;
	size_t left = ZSTD_decompressStream(reader->zstd, out, &reader->in);
	if (ZSTD_isError(left))
		return damaged(reader, error, ZSTD_getErrorName(left));
	XXH3_128bits_update(reader->digest, (const uint8_t *)reader->in.src + before, reader->in.pos - before);
	reader->is_between_frames = left == 0;
	return 0;
}

static int pull(struct pack_reader *reader, void *data, size_t len, struct checkpoint_error *error)
{
	ZSTD_outBuffer out = {data, len, 0};
	while (out.pos < out.size) {
		size_t before = out.pos;
		int r = decompress(reader, &out, error); /* what it holds already may be enough */
		if (r == 0 && out.pos == before)
			r = need_more(reader, error);
		if (r < 0)
			return r;
	}
	return 0;
}

static int check_head(struct pack_reader *reader, const struct pack_record *record, struct checkpoint_error *error)
{
	struct pack_head head;
	if (record->kind != PACK_HEAD || record->bytes < sizeof(head))
		return damaged(reader, error, "it does not begin as it must");
	memcpy(&head, reader->body, sizeof(head));
	if (memcmp(head.magic, PACK_MAGIC, sizeof(head.magic)))
		return damaged(reader, error, "it does not begin as it must");
	if (le32toh(head.version) > PACK_VERSION)
		return checkpoint_fail(error, -ENOTSUP, "%.200s: it was written by a newer membox", reader->name);
	reader->has_head = true;
	return 0;
}

/* Numbers that would lead out of the body, or of what a swap file can hold. */
static bool makes_sense(const struct pack_record *record)
{
	bool has_pages = record->kind == PACK_PAGES, has_runs = record->kind == PACK_LATE;
	if (record->kind < PACK_HEAD || record->kind > PACK_SWITCH || record->bytes > PACK_BODY_MAX_BYTES || (has_pages || has_runs) != (record->nr > 0))
		return false;
	if (record->kind == PACK_END)
		return record->bytes == sizeof(struct pack_totals);
	if (record->kind == PACK_ROUND || record->kind == PACK_SWITCH)
		return record->bytes == 0;
	if (has_runs)
		return record->nr <= PACK_RUNS_AT_ONCE && record->bytes == record->nr * sizeof(struct pack_run);
	return !has_pages || (record->nr <= PACK_PAGES_AT_ONCE && record->bytes == record->nr * (PAGE_BYTES + sizeof(uint64_t)));
}

/* What follows the last record: the end of its frame and the digest, to the byte. */
static int check_end(struct pack_reader *reader, struct checkpoint_error *error)
{
	struct pack_trailer trailer;
	XXH128_canonical_t digest;
	int r = 0;
	while (r == 0 && !reader->is_between_frames) {
		uint8_t more;
		ZSTD_outBuffer out = {&more, 1, 0};
		size_t before = reader->in.pos;
		r = decompress(reader, &out, error);
		if (r == 0 && out.pos)
			r = damaged(reader, error, "there is something behind its end");
		if (r == 0 && !reader->is_between_frames && reader->in.pos == before)
			r = need_more(reader, error);
	}
	for (size_t i = 0; r == 0 && i < sizeof(trailer); i++) {
		r = need_more(reader, error);
		if (r == 0)
			((uint8_t *)&trailer)[i] = ((const uint8_t *)reader->in.src)[reader->in.pos++];
	}
	if (r < 0)
		return r;
	XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(reader->digest));
	bool is_right = le32toh(trailer.frame_magic) == PACK_FRAME_MAGIC && le32toh(trailer.frame_bytes) == sizeof(trailer) - 8 &&
			!memcmp(trailer.magic, PACK_TRAILER_MAGIC, sizeof(trailer.magic)) && !memcmp(trailer.digest, digest.digest, sizeof(trailer.digest));
	return is_right ? 0 : damaged(reader, error, "its digest is wrong");
}

int pack_reader_next(struct pack_reader *reader, struct pack_record *ret, const uint8_t **ret_body, struct checkpoint_error *error)
{
	struct pack_record raw, record;
	int r = pull(reader, &raw, sizeof(raw), error);
	if (r < 0)
		return r;
	record = (struct pack_record){le32toh(raw.kind), le32toh(raw.nr), le64toh(raw.first), le64toh(raw.bytes), le64toh(raw.checksum)};
	if (!makes_sense(&record))
		return damaged(reader, error, reader->has_head ? "a record makes no sense" : "it does not begin as it must");
	r = pull(reader, reader->body, record.bytes, error);
	if (r < 0)
		return r;
	XXH3_state_t *state = XXH3_createState();
	if (!state)
		return checkpoint_fail(error, -ENOMEM, "%.200s: %s", reader->name, strerror(ENOMEM));
	XXH3_64bits_reset(state);
	XXH3_64bits_update(state, &raw, offsetof(struct pack_record, checksum));
	XXH3_64bits_update(state, reader->body, record.bytes);
	bool is_right = XXH3_64bits_digest(state) == record.checksum;
	XXH3_freeState(state);
	if (!is_right)
		return damaged(reader, error, "a checksum is wrong");
	if (!reader->has_head)
		r = check_head(reader, &record, error);
	else if (record.kind == PACK_HEAD)
		r = damaged(reader, error, "it begins twice");
	else if (record.kind == PACK_END)
		r = check_end(reader, error);
	if (r < 0)
		return r;
	*ret = record;
	*ret_body = reader->body;
	return 0;
}

int pack_reader_finish(struct pack_reader *reader, struct checkpoint_error *error)
{
	int r = refill(reader, error);
	return r > 0 ? damaged(reader, error, "there is something behind its end") : r;
}

uint64_t pack_reader_bytes(const struct pack_reader *reader)
{
	return reader->taken;
}
