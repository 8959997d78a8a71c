/*
 * A stream (reader.h) into an image: its pages into a file, the rest into memory. Nothing of it counts before the stream was whole; or, for who can wait for pages, before
 * the switch.
 */
#pragma once

#include "checkpoint/error.h"
#include "checkpoint/image.pb-c.h"
#include "checkpoint/pack/named_slots.h"
#include "checkpoint/pack/pack.h"
#include "checkpoint/pack/reader.h"

/* What a stream has left for later when the switch came. */
struct late_pages {
	bool is_switched;         /* false: the stream was whole */
	struct named_slots slots; /* that the description names and that have not come; the checksum of each is 0 */
	uint64_t description;     /* XXH3-64 of its bytes */
};

struct unpacked {
	Image__Image *message;
	uint64_t *checksums; /* of message->pages->nr_slots slots, 0 for those that it does not name */
	uint64_t room_bytes; /* of checksums, a mapping */
	uint64_t pages;      /* slots that it names */
	struct late_pages late;
};

struct unpack_options {
	int pages;        /* an empty file, open for writing: becomes a swap file that holds those slots and holes */
	const char *path; /* its name, for messages */
	/*
	 * Whether what comes would be taken: called with the machine before anything is written, and with the description of each round. 0, or -errno with the reason to
	 * refuse it. NULL: nobody asks.
	 */
	int (*check_machine)(const Image__Machine *machine, struct checkpoint_error *error);
	int (*check_image)(const Image__Image *image, void *context, struct checkpoint_error *error);
	void *context;
	bool stops_at_switch; /* and leaves what comes behind it to the caller; else it is read as well */
	const struct pack_progress *progress;
};

/* 0, when pack_reader_next has said that the stream is whole, or -errno with the reason. */
int unpack_stream(struct pack_reader *reader, const struct unpack_options *options, struct unpacked *ret, struct checkpoint_error *error);
void unpacked_release(struct unpacked *unpacked);

/* The same as an image that is open, which takes the file over: image_close. *ret_late: named_slots_release. */
int unpack_image(struct pack_reader *reader, const struct unpack_options *options, struct image *ret, struct late_pages *ret_late, struct checkpoint_error *error);

/* The checksum that comes with page i of a record PAGES. False: the page has another one. */
bool unpack_check_page(const struct pack_record *record, const uint8_t *body, uint32_t i, uint64_t seed, uint64_t *ret_checksum);

/* Into the slots of a file. 0 or -errno. */
int write_pages_at(int fd, const void *pages, uint32_t nr, slot_t first);

/* XXH3-64 of what pack_description writes; 0: no memory. */
uint64_t unpack_description_digest(const Image__Image *message);
