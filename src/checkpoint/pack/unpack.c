#include "checkpoint/pack/unpack.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/xxh3.h"
#include "checkpoint/image.h"
#include "checkpoint/pack/format.h"
#include "checkpoint/pack/named_slots.h"
#include "swap/swap_header.h"

#define HOLE_LEAST 64 /* slots: the kernel writes out what lies there first, while nobody runs */

struct unpacking {
	const struct unpack_options *options;
	struct unpacked *out;
	struct checkpoint_error *error;
	uint64_t seed, expected, done; /* pages */
	slot_t sent_end;               /* one behind the last slot that has come */
	uint8_t *image;
	size_t image_bytes;
	struct named_slots named, late; /* when the description is decoded */
};

static int fail(struct unpacking *u, int code)
{
	return checkpoint_fail(u->error, code, "%.200s: %s", u->options->path, strerror(-code));
}

static int nonsense(struct unpacking *u, const char *how)
{
	return checkpoint_fail(u->error, -EBADMSG, "%.200s: the packed checkpoint is damaged: %s", u->options->path, how);
}

static int take_head(struct unpacking *u, const struct pack_record *record, const uint8_t *body)
{
	struct pack_head head;
	memcpy(&head, body, sizeof(head));
	u->seed = le64toh(head.seed);
	u->expected = le64toh(head.nr_pages);
	Image__Machine *machine = image__machine__unpack(NULL, record->bytes - sizeof(head), body + sizeof(head));
	if (!machine)
		return nonsense(u, "it does not say of which machine it is");
	int r = u->options->check_machine ? u->options->check_machine(machine, u->error) : 0;
	image__machine__free_unpacked(machine, NULL);
	return r;
}

/* Room for the checksums of slots below end: a mapping, of which only what is used takes memory. */
static int make_room(struct unpacked *out, uint64_t end)
{
	uint64_t bytes = page_ceil(end * sizeof(*out->checksums));
	if (bytes <= out->room_bytes)
		return 0;
	bytes = MAX_OF(bytes, 2 * out->room_bytes);
	void *map = out->room_bytes ? mremap(out->checksums, out->room_bytes, bytes, MREMAP_MAYMOVE)
				    : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		return -errno;
	out->checksums = map;
	out->room_bytes = bytes;
	return 0;
}

static int write_at(int fd, const void *data, size_t len, uint64_t offset)
{
	const char *from = data;
	while (len) {
		ssize_t n = pwrite(fd, from, len, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		from += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int write_pages_at(int fd, const void *pages, uint32_t nr, slot_t first)
{
	return write_at(fd, pages, nr * PAGE_BYTES, first * PAGE_BYTES);
}

bool unpack_check_page(const struct pack_record *record, const uint8_t *body, uint32_t i, uint64_t seed, uint64_t *ret_checksum)
{
	const uint8_t *pages = body + record->nr * sizeof(*ret_checksum);
	uint64_t checksum;
	memcpy(&checksum, body + i * sizeof(checksum), sizeof(checksum));
	*ret_checksum = le64toh(checksum);
	return XXH3_64bits_withSeed(pages + i * PAGE_BYTES, PAGE_BYTES, seed) == *ret_checksum;
}

static int take_pages(struct unpacking *u, const struct pack_record *record, const uint8_t *body)
{
	const uint8_t *pages = body + record->nr * sizeof(uint64_t);
	if (!record->first || record->first >= SLOT_OF_BASE - record->nr)
		return nonsense(u, "pages lie in no slot");
	if (u->out->message && !u->out->late.is_switched)
		return nonsense(u, "pages come before the switch of which it says that they come behind it");
	int r = make_room(u->out, record->first + record->nr);
	if (r < 0)
		return fail(u, r);
	u->sent_end = MAX_OF(u->sent_end, (slot_t)record->first + record->nr);
	for (uint32_t i = 0; i < record->nr; i++) {
		if (!unpack_check_page(record, body, i, u->seed, &u->out->checksums[record->first + i]))
			return nonsense(u, "the checksum of a page is wrong");
	}
	r = write_pages_at(u->options->pages, pages, record->nr, (slot_t)record->first);
	u->done += record->nr;
	u->options->progress->show(u->options->progress->context, u->done, u->expected);
	return r < 0 ? fail(u, r) : 0;
}

static int take_image(struct unpacking *u, const struct pack_record *record, const uint8_t *body)
{
	if (!record->first)
		u->image_bytes = 0;
	if (u->out->message)
		return nonsense(u, "its description comes again");
	if (record->first != u->image_bytes || u->image_bytes + record->bytes > IMAGE_MAX_BYTES)
		return nonsense(u, "the pieces of the description do not fit");
	uint8_t *image = realloc(u->image, u->image_bytes + record->bytes + 1);
	if (!image)
		return fail(u, -ENOMEM);
	memcpy(image + u->image_bytes, body, record->bytes);
	u->image = image;
	u->image_bytes += record->bytes;
	return 0;
}

static int take_round(struct unpacking *u)
{
	Image__Image *image;
	if (u->out->message)
		return nonsense(u, "it goes back to what was before");
	int r = u->options->check_image ? image_decode(u->image, u->image_bytes, u->options->path, &image, u->error) : 0;
	if (r < 0 || !u->options->check_image)
		return r;
	r = u->options->check_image(image, u->options->context, u->error);
	image__image__free_unpacked(image, NULL);
	return r;
}

static int write_header(struct unpacking *u)
{
	_Alignas(8) uint8_t page[PAGE_BYTES];
	struct swap_header header = {.keeps_checkpoint = true};
	if (getrandom(header.uuid, sizeof(header.uuid), 0) < 0)
		return -errno;
	snprintf(header.container, sizeof(header.container), "%s", u->out->message->container->name);
	swap_header_encode(&header, page);
	return write_at(u->options->pages, page, sizeof(page), 0);
}

static int punch(int fd, slot_t first, slot_t end)
{
	int r = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first * (off_t)PAGE_BYTES, (off_t)(end - first) * (off_t)PAGE_BYTES);
	return r < 0 && errno != EOPNOTSUPP && errno != ENOSYS ? -errno : 0;
}

/* What was sent and is not named any more goes, but for short stretches of the file, of which no checksum is left; what is named must have been sent, or come behind the switch. */
static int settle_slots(struct unpacking *u, bool may_be_late)
{
	const struct named_slots *slots = &u->named;
	uint64_t *checksums = u->out->checksums;
	slot_t end = MIN_OF(slots->end, MAX_OF(u->sent_end, named_slots_end(slots))); /* the description says how many there are, and may say anything */
	int r = 0;
	for (slot_t slot = 1, begin; r == 0 && slot < end; slot++) {
		if (named_slots_have(slots, slot) && !checksums[slot] && !(may_be_late && named_slots_have(&u->late, slot)))
			return nonsense(u, "a page that its description names is missing");
		for (begin = slot; slot < end && checksums[slot] && !named_slots_have(slots, slot); slot++)
			checksums[slot] = 0;
		r = slot - begin >= HOLE_LEAST ? punch(u->options->pages, begin, slot) : 0;
		slot -= slot > begin;
	}
	return r < 0 ? fail(u, r) : 0;
}

/* From here on the description counts. Nothing is done the second time. */
static int take_description(struct unpacking *u)
{
	struct unpacked *out = u->out;
	if (out->message)
		return 0;
	int r = image_decode(u->image, u->image_bytes, u->options->path, &out->message, u->error);
	if (r < 0)
		return r;
	if (out->message->pages->checksum_seed != u->seed)
		return nonsense(u, "its description is of another container");
	if (out->message->pages->key.len)
		return nonsense(u, "its description has a key, and pages in it are never encrypted");
	r = make_room(out, out->message->pages->nr_slots);
	if (r == 0)
		r = named_slots_of(out->message, &u->named);
	if (r == 0)
		r = named_slots_new(u->named.end, &u->late);
	out->pages = u->named.nr;
	return r < 0 ? fail(u, r) : 0;
}

static int take_late(struct unpacking *u, const struct pack_record *record, const uint8_t *body)
{
	int r = u->out->late.is_switched ? nonsense(u, "it switches twice") : take_description(u);
	for (uint32_t i = 0; r == 0 && i < record->nr; i++) {
		struct pack_run run;
		memcpy(&run, body + i * sizeof(run), sizeof(run));
		slot_t first = le32toh(run.first), nr = le32toh(run.nr);
		if (!first || !nr || first >= u->named.end || nr > u->named.end - first)
			return nonsense(u, "pages lie in no slot");
		for (slot_t slot = first; slot < first + nr; slot++) {
			if (!named_slots_have(&u->named, slot))
				return nonsense(u, "pages are to come that its description does not name");
			u->out->checksums[slot] = 0;
		}
		named_slots_add(&u->late, first, nr);
	}
	return r;
}

/* The processes are made of what is there. */
static int check_first_pages(struct unpacking *u)
{
	struct named_slots first;
	bool has_all = true;
	uint32_t nr;
	if (named_slots_of_first_pages(u->out->message, &first) < 0)
		return fail(u, -ENOMEM);
	for (slot_t slot, at = 0; (nr = named_slots_next_run(&first, at, UINT32_MAX, &slot)); at = slot + nr)
		for (uint32_t i = 0; i < nr; i++)
			has_all &= !named_slots_have(&u->late, slot + i);
	named_slots_release(&first);
	return has_all ? 0 : nonsense(u, "it switches before the first pages are there");
}

static int finish_file(struct unpacking *u)
{
	int r = write_header(u);
	if (r == 0 && ftruncate(u->options->pages, (off_t)MAX_OF(u->out->message->pages->nr_slots, 1u) * (off_t)PAGE_BYTES) < 0)
		r = -errno;
	return r < 0 ? fail(u, r) : 0;
}

static int take_switch(struct unpacking *u)
{
	int r = u->out->late.is_switched ? nonsense(u, "it switches twice") : take_description(u);
	if (r == 0)
		r = settle_slots(u, true);
	if (r == 0)
		r = check_first_pages(u);
	if (r == 0 && u->options->stops_at_switch)
		r = finish_file(u);
	u->out->late.is_switched = true;
	return r;
}

static int take_end(struct unpacking *u, const uint8_t *body)
{
	struct pack_totals totals;
	memcpy(&totals, body, sizeof(totals));
	if (le64toh(totals.image_bytes) != u->image_bytes)
		return nonsense(u, "a part of its description is missing");
	int r = take_description(u);
	if (r == 0)
		r = u->named.nr == le64toh(totals.nr_pages) ? settle_slots(u, false) : nonsense(u, "it does not have as many pages as it says");
	return r < 0 ? r : finish_file(u);
}

static int take(struct unpacking *u, const struct pack_record *record, const uint8_t *body)
{
	switch ((enum pack_kind)record->kind) {
	case PACK_HEAD:
		return take_head(u, record, body);
	case PACK_PAGES:
		return take_pages(u, record, body);
	case PACK_IMAGE:
		return take_image(u, record, body);
	case PACK_ROUND:
		return take_round(u);
	case PACK_LATE:
		return take_late(u, record, body);
	case PACK_SWITCH:
		return take_switch(u);
	case PACK_END:
		return take_end(u, body);
	}
	return nonsense(u, "a record makes no sense");
}

static bool is_done(const struct unpacking *u, const struct pack_record *record)
{
	return record->kind == PACK_END || (record->kind == PACK_SWITCH && u->options->stops_at_switch);
}

static struct named_slots steal_slots(struct named_slots *slots)
{
	struct named_slots stolen = *slots;
	*slots = (struct named_slots){0};
	return stolen;
}

int unpack_stream(struct pack_reader *reader, const struct unpack_options *options, struct unpacked *ret, struct checkpoint_error *error)
{
	struct unpacked out = {0};
	struct unpacking u = {.options = options, .out = &out, .error = error};
	struct pack_record record = {0};
	int r = 0;
	while (r == 0 && !is_done(&u, &record)) {
		const uint8_t *body;
		r = pack_reader_next(reader, &record, &body, error);
		if (r == 0)
			r = take(&u, &record, body);
	}
	if (r == 0 && record.kind == PACK_SWITCH)
		out.late = (struct late_pages){true, steal_slots(&u.late), XXH3_64bits(u.image, u.image_bytes)};
	else
		out.late.is_switched = false;
	free(u.image);
	named_slots_release(&u.named);
	named_slots_release(&u.late);
	if (r < 0)
		unpacked_release(&out);
	else
		*ret = out;
	return r;
}

uint64_t unpack_description_digest(const Image__Image *message)
{
	Image__Pages pages = *message->pages;
	Image__Image plain = *message;
	pages.key = (ProtobufCBinaryData){0};
	plain.pages = &pages;
	size_t bytes = image__image__get_packed_size(&plain);
	_cleanup_free_ uint8_t *packed = malloc(bytes + 1);
	return packed ? XXH3_64bits(packed, image__image__pack(&plain, packed)) : 0;
}

int unpack_image(struct pack_reader *reader, const struct unpack_options *options, struct image *ret, struct late_pages *ret_late, struct checkpoint_error *error)
{
	struct unpacked out;
	char *path = strdup(options->path);
	int r = path ? unpack_stream(reader, options, &out, error) : checkpoint_fail(error, -ENOMEM, "%.200s: %s", options->path, strerror(ENOMEM));
	if (r < 0) {
		free(path);
		return r;
	}
	*ret_late = out.late;
	*ret = (struct image){
		.message = out.message, .checksums_bytes = out.room_bytes, .pages_path = path,
		.base = {.fd = options->pages, .nr_slots = out.message->pages->nr_slots, .seed = out.message->pages->checksum_seed, .checksums = out.checksums, .path = path}};
	return 0;
}

void unpacked_release(struct unpacked *unpacked)
{
	if (unpacked->message)
		image__image__free_unpacked(unpacked->message, NULL);
	if (unpacked->checksums)
		munmap(unpacked->checksums, unpacked->room_bytes);
	named_slots_release(&unpacked->late.slots);
	*unpacked = (struct unpacked){0};
}
