/*
 * A packed checkpoint. The first byte says how: the input is the stream itself, or what the records of one are made of, with checksums and digest that fit, so that what is behind
 * them is reached; and whether whoever reads it stops at the switch.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "checkpoint/pack/format.h"
#include "checkpoint/pack/unpack.h"
#include "fuzz.h"

#define SEED 77
#define IS_RAW 1
#define STOPS 2
#define RECORDS_MOST 64
#define WRONG_CHECKSUM 0x80 /* in the kind of a record: what it holds is not what its checksums say */

/* What is left of the input. */
struct input {
	const uint8_t *at;
	size_t left;
};

static size_t take(struct input *in, void *to, size_t size)
{
	size_t n = MIN_OF(size, in->left);
	memset(to, 0, size);
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
	return n;
}

struct stream {
	uint8_t *plain;
	size_t bytes;
};

static void put(struct stream *out, uint32_t kind, uint32_t nr, uint64_t first, const void *body, size_t bytes)
{
	struct pack_record record = {.kind = htole32(kind & 0x7f), .nr = htole32(nr), .first = htole64(first), .bytes = htole64(bytes)};
	XXH3_state_t *state = XXH3_createState();
	XXH3_64bits_reset(state);
	XXH3_64bits_update(state, &record, offsetof(struct pack_record, checksum));
	XXH3_64bits_update(state, body, bytes);
	record.checksum = htole64(XXH3_64bits_digest(state) ^ (kind & WRONG_CHECKSUM ? 1 : 0));
	XXH3_freeState(state);
	out->plain = realloc(out->plain, out->bytes + sizeof(record) + bytes + 1);
	memcpy(out->plain + out->bytes, &record, sizeof(record));
	memcpy(out->plain + out->bytes + sizeof(record), body, bytes);
	out->bytes += sizeof(record) + bytes;
}

/* Some pages, each of one byte all over. */
static void put_pages(struct stream *out, struct input *in, uint32_t kind, uint64_t first)
{
	uint8_t nr, fill, wrong;
	take(in, &nr, 1);
	take(in, &fill, 1);
	take(in, &wrong, 1);
	uint8_t *body = calloc(nr + 1u, PAGE_BYTES + sizeof(uint64_t));
	for (uint32_t i = 0; i < nr; i++) {
		uint8_t *page = body + nr * sizeof(uint64_t) + i * PAGE_BYTES;
		memset(page, fill + (int)i, PAGE_BYTES);
		uint64_t checksum = htole64(XXH3_64bits_withSeed(page, PAGE_BYTES, SEED) + (wrong == 1));
		memcpy(body + i * sizeof(checksum), &checksum, sizeof(checksum));
	}
	put(out, kind, nr, first, body, nr * (PAGE_BYTES + sizeof(uint64_t)));
	free(body);
}

static void put_head(struct stream *out)
{
	uint8_t body[sizeof(struct pack_head) + 256];
	Image__Machine machine;
	image__machine__init(&machine);
	struct pack_head head = {.version = htole32(PACK_VERSION), .seed = htole64(SEED)};
	memcpy(head.magic, PACK_MAGIC, sizeof(head.magic));
	memcpy(body, &head, sizeof(head));
	put(out, PACK_HEAD, 0, 0, body, sizeof(head) + image__machine__pack(&machine, body + sizeof(head)));
}

/* Numbers of a record that are the input's: kind, slot, length; then what it holds. */
static void put_record(struct stream *out, struct input *in)
{
	uint8_t kind, nr;
	uint32_t first;
	uint16_t bytes;
	take(in, &kind, 1);
	take(in, &first, sizeof(first));
	first = le32toh(first);
	if ((kind & 0x7f) == PACK_PAGES) {
		put_pages(out, in, kind, first);
		return;
	}
	take(in, &nr, 1);
	take(in, &bytes, sizeof(bytes));
	size_t len = MIN_OF((size_t)le16toh(bytes), in->left);
	put(out, kind, nr, first, in->at, len);
	in->at += len;
	in->left -= len;
}

static int compose(struct input in, int fd)
{
	struct stream out = {0};
	struct pack_trailer trailer = {.frame_magic = htole32(PACK_FRAME_MAGIC), .frame_bytes = htole32(sizeof(trailer) - 8)};
	XXH128_canonical_t digest;
	put_head(&out);
	for (int i = 0; i < RECORDS_MOST && in.left; i++)
		put_record(&out, &in);
	size_t room = ZSTD_compressBound(out.bytes);
	uint8_t *packed = malloc(room);
	size_t bytes = ZSTD_compress(packed, room, out.plain, out.bytes, 1);
	memcpy(trailer.magic, PACK_TRAILER_MAGIC, sizeof(trailer.magic));
	XXH128_canonicalFromHash(&digest, XXH3_128bits(packed, bytes));
	memcpy(trailer.digest, digest.digest, sizeof(trailer.digest));
	bool is_written = write(fd, packed, bytes) == (ssize_t)bytes && write(fd, &trailer, sizeof(trailer)) == sizeof(trailer);
	free(packed);
	free(out.plain);
	return is_written ? 0 : -1;
}

static void show_nothing(void *context, uint64_t done, uint64_t all)
{
}

static int see_image(const Image__Image *image, void *context, struct checkpoint_error *error)
{
	return 0;
}

static void use(int stream, bool stops)
{
	static const struct pack_progress quiet = {show_nothing, NULL};
	struct unpack_options options = {
		.pages = memfd_create("pages", MFD_CLOEXEC), .path = "there", .check_image = see_image, .stops_at_switch = stops, .progress = &quiet};
	struct checkpoint_error error = {0};
	struct late_pages late = {0};
	struct pack_reader *reader;
	struct image image;
	uint8_t page[PAGE_BYTES];
	lseek(stream, 0, SEEK_SET);
	if (pack_reader_new(stream, "stream", &reader) < 0)
		abort();
	if (unpack_image(reader, &options, &image, &late, &error) < 0) {
		close(options.pages);
	} else {
		for (uint32_t slot = 1; slot < MIN_OF(image.base.nr_slots, 300u); slot++)
			if (image.base.checksums[slot] && image_read_page(&image, slot, page) < 0)
				abort(); /* what counts was verified */
		named_slots_release(&late.slots);
		image_close(&image);
	}
	pack_reader_free(reader);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_be_quiet();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t how = size ? data[0] : 0;
	struct input in = {data + (size > 0), size - (size > 0)};
	int stream = memfd_create("stream", MFD_CLOEXEC);
	int r = how & IS_RAW ? (write(stream, in.at, in.left) == (ssize_t)in.left ? 0 : -1) : compose(in, stream);
	if (r == 0)
		use(stream, how & STOPS);
	close(stream);
	return 0;
}
