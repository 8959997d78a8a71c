/*
 * A checkpoint as one stream (docs/pack-format.md): records, compressed with zstd, and a digest of all bytes behind them.
 *
 *   zstd frames ─┬─ HEAD   what the rest needs, and of which machine it is
 *                ├─ PAGES  slots and their content; a later one of the same slot replaces an earlier one
 *                ├─ IMAGE  a piece of the description
 *                ├─ ROUND  the description is whole for now, of a program that still runs elsewhere: more will follow
 *                ├─ LATE   slots of the description whose content comes behind SWITCH
 *                ├─ SWITCH nobody runs elsewhere any more: the program may go on here, and waits for what is late
 *                └─ END    everything was there
 *   skippable frame: digest
 *
 * Private to pack/.
 */
#pragma once

#include "base/types.h"

#define PACK_MAGIC "MEMBOXPK"
#define PACK_VERSION_WHOLE 1u /* without LATE and SWITCH */
#define PACK_VERSION 2u

enum pack_kind {
	PACK_HEAD = 1,
	PACK_PAGES,
	PACK_IMAGE,
	PACK_END,
	PACK_ROUND,
	PACK_LATE,
	PACK_SWITCH,
};

/* Before each body. All numbers are little-endian here and below. */
struct pack_record {
	uint32_t kind;
	uint32_t nr;       /* PAGES: how many; LATE: how many runs; else 0 */
	uint64_t first;    /* PAGES: the slot of the first; IMAGE: where in the description the piece begins; else 0 */
	uint64_t bytes;    /* of the body */
	uint64_t checksum; /* XXH3-64, seed 0, of what stands before it, then of the body */
};

/* The body of PACK_HEAD; a message of type image.Machine follows. */
struct pack_head {
	char magic[8];
	uint32_t version;
	uint32_t zero;
	uint64_t seed;     /* of the pages' checksums */
	uint64_t nr_pages; /* that will follow; 0: not known yet */
};

/* The body of PACK_LATE: these, each behind the one before. */
struct pack_run {
	uint32_t first, nr; /* slots */
};

/* The body of PACK_END. */
struct pack_totals {
	uint64_t image_bytes; /* of the description */
	uint64_t nr_pages;    /* that it names */
};

#define PACK_PAGES_AT_ONCE 256u
#define PACK_RUNS_AT_ONCE 65536u
#define PACK_BODY_MAX_BYTES (PACK_PAGES_AT_ONCE * (PAGE_BYTES + sizeof(uint64_t)))

/* The last bytes: for zstd a frame to be skipped. */
struct pack_trailer {
	uint32_t frame_magic;
	uint32_t frame_bytes;
	char magic[8];
	uint8_t digest[16]; /* XXH3-128 (seed 0, canonical) of all bytes of the stream before the trailer */
};

#define PACK_FRAME_MAGIC 0x184D2A5Bu
#define PACK_TRAILER_MAGIC "MEMBOXND"
