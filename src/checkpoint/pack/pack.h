/* The pages of a checkpoint's folder into a stream (writer.h). */
#pragma once

#include "checkpoint/image.h"
#include "checkpoint/pack/named_slots.h"
#include "checkpoint/pack/writer.h"

/* For a display. Called after each piece. */
struct pack_progress {
	void (*show)(void *context, uint64_t done_pages, uint64_t all_pages); /* all_pages 0: not known */
	void *context;
};

struct pack_result {
	uint64_t pages;  /* slots */
	uint64_t packed; /* bytes of the stream */
};

/* Those slots of an image; each page is verified. stream: the name of where it goes, for messages. 0 or -errno with the reason. */
int pack_pages(const struct image *image, const struct named_slots *slots, struct pack_writer *writer, const char *stream, const struct pack_progress *progress,
	       struct checkpoint_error *error);

/* The description of an image, without the key of its swap file: the stream's pages are plain. 0 or -errno. */
int pack_description(struct pack_writer *writer, const Image__Image *message);

/* A whole image as a whole stream. path is the image's, for messages. As above. */
int pack_image(const struct image *image, const char *path, struct pack_writer *writer, const char *stream, const struct pack_progress *progress,
	       struct pack_result *ret, struct checkpoint_error *error);
