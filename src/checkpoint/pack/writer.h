/* Writes the stream of a checkpoint (format.h). One thread. After a failure every further call fails with the same -errno, which is the descriptor's, or -ENOMEM. */
#pragma once

#include "checkpoint/image.pb-c.h"
#include "base/types.h"
#include "checkpoint/pack/named_slots.h"

struct pack_writer;

struct pack_options {
	int level;             /* of zstd, 1 to 19 */
	unsigned nr_threads;   /* that compress beside the caller; 0: none */
	bool looks_far_back;   /* zstd's long-distance matching */
	bool may_switch;       /* pack_writer_switch may come: an older membox cannot read it */
};

/* The descriptor stays the caller's. 0 or -errno. */
int pack_writer_new(int fd, const struct pack_options *options, struct pack_writer **ret);
void pack_writer_free(struct pack_writer *writer);

/* First. nr_pages: how many will follow; 0: not known. */
int pack_writer_head(struct pack_writer *writer, const Image__Machine *machine, uint64_t seed, uint64_t nr_pages);

/* At most PACK_PAGES_AT_ONCE neighbouring slots, their checksums and their content. */
int pack_writer_pages(struct pack_writer *writer, slot_t first, uint32_t nr, const uint64_t *checksums, const void *pages);

/* The description; a later one replaces it. */
int pack_writer_image(struct pack_writer *writer, const Image__Image *image);

/* What was written until now is a whole of which the other end can see whether it would take it; it can be read there at once. */
int pack_writer_round(struct pack_writer *writer);

/* The content of these slots comes behind the switch, and what came of them until now does not count. The description is not replaced any more. */
int pack_writer_late(struct pack_writer *writer, const struct named_slots *slots);

/* Nobody runs here any more, and the other end may go on, at once. */
int pack_writer_switch(struct pack_writer *writer);

/* All that was written until now can be read at the other end. */
int pack_writer_flush(struct pack_writer *writer);

/* Last: only now the stream is whole. nr_pages: that the description names. */
int pack_writer_end(struct pack_writer *writer, uint64_t nr_pages);

uint64_t pack_writer_bytes(const struct pack_writer *writer); /* that the descriptor has got */
