/*
 * A container's swap file: header page, then 4 KiB slots (docs/swapfile-format.md). Slots are handed out in runs from clusters of 512, so
 * that what is evicted together lies together; they are reference counted (fork) and carry a checksum. Thread-safe: one internal lock
 * (rank LOCK_SWAP), never held during I/O on page data.
 *
 * Memory: 8 (checksum) + 2 (references) bytes a slot, in chunks allocated as the file grows.
 */
#pragma once

#include "base/types.h"

struct swap;

/*
 * The pages of a checkpoint, below a container's own file: read only, and never given back. Their slots have the highest bit set. A page that is
 * written to gets a slot of the container's own when it leaves memory again.
 */
#define SLOT_OF_BASE 0x80000000u

struct swap_base {
	int fd;
	uint32_t nr_slots;
	uint64_t seed;             /* of the checksums: the container's own are made with it too */
	const uint8_t *key;        /* of its encryption; NULL: there is none */
	const uint64_t *checksums; /* of each slot; 0: its content is not there yet. Set when it is, by another thread of this process */
	const char *path;          /* for messages */
};

struct swap_options {
	const char *path;
	const char *container;   /* name stored in the header */
	uint64_t size_bytes;     /* cap on slots; 0: as much as the file system gives */
	const struct swap_base *base; /* NULL: none; outlives the swap, as does what it points to */
};

struct swap_error {
	char text[256]; /* "WHAT: WHY (hint)" for the user, without the program's name */
};

/*
 * Opens or creates (0600) the file, locks it (flock), checks or writes the header. O_DIRECT where the file system has it; SIGXFSZ should be
 * blocked or ignored.
 * -EBUSY: in use by another container; -EEXIST: exists, is not empty and is not a membox swap file (never overwritten);
 * else what the system said. On failure nothing is left behind that was not there before.
 */
int swap_open(const struct swap_options *options, struct swap **ret_swap, struct swap_error *error);

/* Gives the space back and marks the header clean; with remove_file (or when swap_open made the file and remove_if_created) unlinks it. */
void swap_close(struct swap *swap, bool remove_file);

/*
 * From now on what is written is encrypted, with a key that is made here and exists in this process only. To be called by the process that uses the file (it
 * may be another one than that which has opened it), before slots are taken. 0 or -errno.
 */
int swap_encrypt(struct swap *swap);
bool swap_is_encrypted(const struct swap *swap);
const uint8_t *swap_key(const struct swap *swap); /* CIPHER_KEY_BYTES; NULL: not encrypted */

/*
 * Between memory and file: turns a page, where it lies, into what is in the file, and back. Nothing where there is no encryption. The slot's checksum is set, and
 * is that of the plain page: the nonce is made of it.
 */
void swap_apply_cipher(const struct swap *swap, slot_t slot, void *page);

/* Reads neighbouring pages of a base, as they were, and verifies them. 0 or -errno (-EBADMSG: damaged). */
int swap_base_read(const struct swap_base *base, slot_t first, uint32_t nr, void *pages);

/* From now on its pages are read past the page cache, if its file system can do that: only into memory that is aligned to pages. */
void swap_base_read_directly(const struct swap_base *base);

/* True when swap_open created the file (so that a failed start can remove it). */
bool swap_was_created(const struct swap *swap);
const char *swap_path(const struct swap *swap);

/* Where a slot lies. The file's path, and the offset in bytes. */
const char *swap_locate(const struct swap *swap, slot_t slot, uint64_t *ret_offset);

/*
 * For a checkpoint, whose pages the file is to be as well. swap_keep marks it so: closing then leaves its content as it is and only takes the name away
 * (the checkpoint has another one), and no container will use it.
 *
 * Pinned slots keep their content until the file is closed. Those of the checkpoint that is being made are collected first: swap_pin adds one that is
 * in use, swap_pin_new one that was just allocated, whose reference it takes over. swap_pins_commit makes them count, beside those of earlier checkpoints or,
 * when these are gone, in their place; swap_pins_cancel gives them back. One thread at a time. All return 0 or -errno.
 */
int swap_pin(struct swap *swap, slot_t slot);
int swap_pin_run(struct swap *swap, slot_t first, uint32_t nr); /* the same for slots that follow each other */
int swap_pin_new(struct swap *swap, slot_t slot);
int swap_pins_commit(struct swap *swap, bool earlier_are_gone);
void swap_pins_cancel(struct swap *swap);
uint64_t swap_pinned_slots(const struct swap *swap);
uint32_t swap_pins_end(const struct swap *swap); /* all slots of the set that is being collected are below */
/* The checksums of that set by slot, 0 for others: swap_pins_end of them. */
void swap_pins_checksums(const struct swap *swap, uint64_t *ret_checksums);
uint64_t swap_links(const struct swap *swap); /* names that the file has */
int swap_keep(struct swap *swap, bool keep);
int swap_link(const struct swap *swap, int folder, const char *name); /* -EXDEV: on another file system */
int swap_write(struct swap *swap, slot_t first, uint32_t nr, void *pages);      /* page aligned; at once; encrypts them where they lie. Checksums are set */
int swap_read(const struct swap *swap, slot_t first, uint32_t nr, void *pages); /* the same, verified (-EBADMSG), also of the base */
uint64_t swap_seed(const struct swap *swap);

/*
 * Called by one thread (reclaim). Takes up to `want` contiguous slots, each with one reference. Space on disk is reserved (fallocate) before a
 * cluster is used, so that a full disk shows here and not in a write. 0 with *ret_first, *ret_nr (1..want), or -ENOSPC (cap reached, disk,
 * quota or the largest file size full), or what else kept the file from growing (-EIO; it has been said).
 */
int swap_alloc(struct swap *swap, uint32_t want, slot_t *ret_first, uint32_t *ret_nr);

/*
 * Some file systems promise nothing: there a full disk shows in a write. Whoever meets that says so, and swap_alloc gives nothing out (-ENOSPC) for a moment. Any thread.
 */
bool swap_error_is_about_space(int error);
void swap_note_no_space(struct swap *swap);
bool swap_has_no_space(const struct swap *swap);

/*
 * Called when the last reference of a slot is given back, before the slot can be taken again: by any thread, with the swap's lock held. Set once,
 * before slots are taken.
 */
void swap_on_free(struct swap *swap, void (*freed)(void *context, slot_t slot), void *context);

void swap_get(struct swap *swap, slot_t slot); /* one more reference; saturates at 65535 and is then never freed */
void swap_put(struct swap *swap, slot_t slot); /* drops one; the last one frees the slot (empty clusters are punched out) */
/* One more reference if the slot is in use with this checksum: for content that another page may have been stored with. */
bool swap_get_if_same(struct swap *swap, slot_t slot, uint64_t checksum);
/* One more reference if the slot is in use, which it may not be any more. */
bool swap_get_if_used(struct swap *swap, slot_t slot);
uint32_t swap_references(struct swap *swap, slot_t slot);

/* XXH3-64 of the page, seeded with a random secret of this container. */
uint64_t swap_page_checksum(const struct swap *swap, const void *page);
/* Another 64 bits: two pages of which both agree are the same, among however many. */
uint64_t swap_page_second_checksum(const struct swap *swap, const void *page);
/* A slot just allocated has checksum 0 until it is set. */
void swap_set_checksum(struct swap *swap, slot_t slot, uint64_t checksum);
uint64_t swap_checksum(const struct swap *swap, slot_t slot);
/* False for a slot of the base whose content is still to come. */
bool swap_has_arrived(const struct swap *swap, slot_t slot);

uint64_t swap_used_slots(struct swap *swap);
uint64_t swap_total_slots(const struct swap *swap); /* the cap */

/* For tests and for the end of a run: the allocator's books. True when counts, free lists and references agree. */
bool swap_check(struct swap *swap);
