#include "swap/cipher.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

static_assert(CIPHER_KEY_BYTES == crypto_stream_chacha20_ietf_KEYBYTES, "docs/swapfile-format.md");

static int key_page_new(uint8_t **ret_key)
{
	if (sodium_init() < 0)
		return -EIO;
	uint8_t *key = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (key == MAP_FAILED)
		return -errno;
	if (sodium_mlock(key, PAGE_BYTES) < 0)
		log_debug("swap: the key cannot be locked in memory: errno %d", errno);
	madvise(key, PAGE_BYTES, MADV_WIPEONFORK);
	*ret_key = key;
	return 0;
}

int cipher_key_new(uint8_t **ret_key)
{
	int r = key_page_new(ret_key);
	if (r == 0)
		randombytes_buf(*ret_key, CIPHER_KEY_BYTES);
	return r;
}

int cipher_key_read(int fd, uint8_t **ret_key)
{
	uint8_t *key = NULL;
	int r = key_page_new(&key);
	if (r < 0)
		return r;
	if (read(fd, key, CIPHER_KEY_BYTES) != (ssize_t)CIPHER_KEY_BYTES) {
		cipher_key_free(key);
		return -EBADMSG;
	}
	*ret_key = key;
	return 0;
}

void cipher_key_free(uint8_t *key)
{
	if (!key)
		return;
	sodium_munlock(key, PAGE_BYTES); /* wipes first */
	munmap(key, PAGE_BYTES);
}

void cipher_apply(const uint8_t *key, slot_t slot, uint64_t checksum, void *page)
{
	const struct {
		uint32_t slot;
		uint32_t checksum[2];
	} nonce = {htole32(slot), {htole32((uint32_t)checksum), htole32((uint32_t)(checksum >> 32))}};
	static_assert(sizeof(nonce) == crypto_stream_chacha20_ietf_NONCEBYTES, "docs/swapfile-format.md");
	crypto_stream_chacha20_ietf_xor(page, page, PAGE_BYTES, (const uint8_t *)&nonce, key);
}
