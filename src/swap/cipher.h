/*
 * Encryption of the pages in a swap file (docs/swapfile-format.md, "Encryption"): ChaCha20 with a key of the file, and for each page the nonce that its slot and
 * its checksum make. A page keeps its size. That it is what was written, its checksum says, as without encryption.
 */
#pragma once

#include "base/types.h"

#define CIPHER_KEY_BYTES 32u

/*
 * A new random key, in memory of its own that no core dump holds, that is empty in children and, where the limit of locked memory allows it, never swapped out.
 * 0 or -errno.
 */
int cipher_key_new(uint8_t **ret_key);
int cipher_key_read(int fd, uint8_t **ret_key); /* the key comes from this pipe */
void cipher_key_free(uint8_t *key); /* wipes it; NULL: nothing */

/* Encrypts the page of a slot where it lies, or decrypts it. The checksum is that of the plain page. */
void cipher_apply(const uint8_t *key, slot_t slot, uint64_t checksum, void *page);
