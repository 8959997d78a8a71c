#include "checkpoint/pack/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/pack/format.h"

static int fail_stream(struct checkpoint_error *error, const char *stream, int code)
{
	return checkpoint_fail(error, code, "%.200s: %s", stream, strerror(-code));
}

int pack_pages(const struct image *image, const struct named_slots *slots, struct pack_writer *writer, const char *stream, const struct pack_progress *progress,
	       struct checkpoint_error *error)
{
	_cleanup_free_ uint8_t *buffer = malloc(PACK_PAGES_AT_ONCE * PAGE_BYTES);
	uint64_t done = 0;
	slot_t first;
	if (!buffer)
		return fail_stream(error, stream, -ENOMEM);
	posix_fadvise(image->base.fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	for (slot_t at = 0;;) {
		uint32_t nr = named_slots_next_run(slots, at, PACK_PAGES_AT_ONCE, &first);
		if (!nr)
			return 0;
		int r = image_read_pages(image, first, nr, buffer);
		if (r < 0)
			return checkpoint_fail(error, r, "the checkpoint's file %.200s: %s", image->pages_path,
					       r == -EBADMSG ? "it is damaged: the checksum of a page is wrong" : strerror(-r));
		r = pack_writer_pages(writer, first, nr, image->base.checksums + first, buffer);
		if (r < 0)
			return fail_stream(error, stream, r);
		at = first + nr;
		done += nr;
		progress->show(progress->context, done, slots->nr);
	}
}

int pack_description(struct pack_writer *writer, const Image__Image *message)
{
	Image__Pages pages = *message->pages;
	Image__Image plain = *message;
	pages.key = (ProtobufCBinaryData){0};
	plain.pages = &pages;
	return pack_writer_image(writer, &plain);
}

int pack_image(const struct image *image, const char *path, struct pack_writer *writer, const char *stream, const struct pack_progress *progress,
	       struct pack_result *ret, struct checkpoint_error *error)
{
	struct named_slots slots;
	if (named_slots_of(image->message, &slots) < 0)
		return checkpoint_fail(error, -ENOMEM, "%.200s: %s", path, strerror(ENOMEM));
	int r = pack_writer_head(writer, image->message->machine, image->base.seed, slots.nr);
	if (r == 0)
		r = pack_pages(image, &slots, writer, stream, progress, error);
	if (r == 0)
		r = pack_description(writer, image->message);
	if (r == 0)
		r = pack_writer_end(writer, slots.nr);
	*ret = (struct pack_result){slots.nr, pack_writer_bytes(writer)};
	named_slots_release(&slots);
	return r < 0 ? fail_stream(error, stream, r) : 0; /* the first reason is kept */
}
