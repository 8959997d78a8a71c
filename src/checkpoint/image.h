/*
 * A checkpoint's folder (docs/checkpoint-format.md):
 *
 *   image.pb    a header with length and checksum, then the Image message (image.proto)
 *   pages       a swap file, with the pages in its slots
 *   checksums   8 bytes for each slot
 *
 * A folder is made under another name and gets its own when it is complete, so there is never half of one.
 */
#pragma once

#include "base/arena.h"
#include "base/types.h"
#include "checkpoint/error.h"
#include "checkpoint/image.pb-c.h"
#include "swap/swap.h"

struct swap;

/* A folder that is being made. */
struct image_draft {
	char *path, *work_path; /* what it is to be called; what it is called so far */
	int folder;
	bool replaces;          /* there is an older checkpoint of that name, which stays until then */
};

/* 0 or -errno with the reason: the folder exists and is neither empty nor a checkpoint, ... Nothing is left behind on failure. */
int image_draft_begin(const char *path, struct image_draft *ret, struct checkpoint_error *error);

/* The file `pages`, new and empty, where it is not another name of a swap file: a descriptor that is the caller's, or -errno with the reason. */
int image_draft_create_pages(const struct image_draft *draft, struct checkpoint_error *error);

/* Writes image and checksums (of nr_slots), makes everything durable, and gives the folder its name. The file `pages` is there already. 0 or -errno. */
int image_draft_commit(struct image_draft *draft, const Image__Image *image, const uint64_t *checksums, uint32_t nr_slots,
		       struct checkpoint_error *error);

/*
 * The same without waiting for the disk, which image_sync does afterwards: until then a crash of the machine (of nothing less) may leave a damaged folder. Only for one
 * that replaces none.
 */
int image_draft_commit_unsynced(struct image_draft *draft, const Image__Image *image, const uint64_t *checksums, uint32_t nr_slots,
				struct checkpoint_error *error);

/* Makes a folder durable. Any thread. 0 or -errno. */
int image_sync(const char *path);

/* Removes what was not committed; frees. */
void image_draft_end(struct image_draft *draft);

/* Removes what was not committed. Async-signal-safe: for who is about to die. */
void image_draft_remove(const struct image_draft *draft);

/* Removes a checkpoint's folder. */
void image_remove(const char *path);

/* Removes what is left of drafts for that path whose maker was killed. Nobody else may name anything so. */
void image_remove_drafts(const char *path);

/* A folder that is complete, opened for reading. */
struct image {
	Image__Image *message;
	struct swap_base base;
	uint64_t checksums_bytes;
	char *pages_path;
};

/* Verifies what can be without reading all pages. 0 or -errno with the reason. */
int image_open(const char *path, struct image *ret, struct checkpoint_error *error);
void image_close(struct image *image);

/* Reads neighbouring pages and verifies them. 0 or -errno (-EBADMSG: damaged). */
int image_read_pages(const struct image *image, uint32_t first, uint32_t nr, void *pages);

/* These will be read soon: the disk may begin. */
void image_expect_pages(const struct image *image, uint32_t first, uint32_t nr);

static inline int image_read_page(const struct image *image, uint32_t slot, void *page)
{
	return image_read_pages(image, slot, 1, page);
}

#define IMAGE_MAX_BYTES ((uint64_t)1 << 30) /* of the message */

/* The message from its bytes, when it makes sense; path is for messages. 0 or -EBADMSG with the reason. Freed with image__image__free_unpacked. */
int image_decode(const void *message, size_t bytes, const char *path, Image__Image **ret, struct checkpoint_error *error);
