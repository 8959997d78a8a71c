/* Sizes as people write them. */
#pragma once

#include "base/types.h"

/*
 * Reads a size: bytes ("4096"), powers of 1024 ("512M"; K, M, G, T in either case) or a part of total ("10%"). No sign, no space,
 * no fraction. 0, or -EINVAL (not such a text), -ERANGE (does not fit 64 bits); *ret_bytes is untouched on failure.
 */
int parse_size(const char *text, uint64_t total_bytes, uint64_t *ret_bytes);

#define SIZE_TEXT_MAX 32

/* "512M", "1.5G", "17": for tables, rounded as below. Returns buffer. */
const char *format_size_short(uint64_t bytes, char buffer[SIZE_TEXT_MAX]);

/* "512 MiB", "1.5 GiB", "17 bytes": for people, rounded to one digit after the point. Returns buffer. */
const char *format_size(uint64_t bytes, char buffer[SIZE_TEXT_MAX]);
