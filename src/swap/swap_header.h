/* The first page of a swap file (docs/swapfile-format.md): encoding, and recognising what a file is. Pure. */
#pragma once

#include "base/types.h"

#define SWAP_FORMAT_VERSION 1u
#define SWAP_UUID_BYTES 16
#define SWAP_CONTAINER_BYTES 128 /* with the terminating zero */

struct swap_header {
	uint8_t uuid[SWAP_UUID_BYTES];
	char container[SWAP_CONTAINER_BYTES];
	bool clean; /* nothing in the slots: closed in order */
	bool keeps_checkpoint; /* the slots hold a checkpoint's pages */
	bool is_encrypted;
};

enum swap_header_kind {
	SWAP_HEADER_OURS,
	SWAP_HEADER_FOREIGN, /* no magic number: somebody else's file */
	SWAP_HEADER_NEWER,   /* ours, of a format version that this program does not know */
	SWAP_HEADER_DAMAGED, /* magic number, but the checksum or a field is wrong */
};

/* Fills the page (PAGE_BYTES). */
void swap_header_encode(const struct swap_header *header, void *page);

/* Fills *ret_header only for SWAP_HEADER_OURS. */
enum swap_header_kind swap_header_decode(const void *page, struct swap_header *ret_header);
