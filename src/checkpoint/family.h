/*
 * What processes share since a fork, made so again. Only fork lets two processes have one page of private memory, so what at least two processes of the image have in the
 * same slot at the same address, and had in memory, is brought into the first process while it is empty otherwise; the others are cloned from it, and each drops what
 * is not its own. What is shared but was out of memory comes as faults like everything else, to each process by itself; so does what the limit has no room for.
 *
 *      first process, empty:   area ─────────────┐        area: of the smallest size in which all mappings lie that overlap each other
 *                              │ run │   │ run │ │        run:  pages with their slots
 *      clone:                  the same pages, shared
 *      each process then:      [mapping       ]x unmapped; in the mapping the pages of another process's slots are dropped
 *
 * Container thread.
 */
#pragma once

#include "checkpoint/image.h"
#include "checkpoint/process/process.h"

struct family;

/*
 * room: pages that may be brought in. checksums: of each slot, 0 for those whose content is still to come, which are left out; NULL: all are there. NULL: nothing is shared, or no
 * memory. Pure.
 */
struct family *family_new(const Image__Image *image, const uint64_t *checksums, uint64_t room);
void family_free(struct family *family);

/* Whether an area lies there. NULL is allowed for the family in this and all that follows. */
bool family_is_at(const struct family *family, remote_addr_t start, remote_addr_t end);

uint64_t family_nr_pages(const struct family *family);

/* A stretch of pages that were brought in, all of them of this process or none. */
struct family_piece {
	remote_addr_t start, end;
	bool is_own;
};

/* Whether the mapping is made of what was inherited. */
bool family_has_mapping(const struct family *family, const Image__Mapping *m);

/* The first such piece of the mapping from an address on. False: there is none. */
bool family_next_piece(const struct family *family, const Image__Mapping *m, remote_addr_t from, struct family_piece *ret);

/* Brings the pages into the first process. 0, 1 (there is no place for them: nothing was done) or -errno with the reason. */
int family_fill(const struct family *family, struct restored_process *first);

/* The process, a clone of the first or of a clone, keeps of them what is its own. 0 or -errno with the reason. */
int family_keep_own(const struct family *family, struct restored_process *p);
