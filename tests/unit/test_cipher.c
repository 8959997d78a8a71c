/* Encryption of pages: it is what docs/swapfile-format.md says, and no two slots or contents share a key stream. */
#include "swap/cipher.h"

#include <sodium.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"

static uint8_t *key;

static int make_key(void **state)
{
	return cipher_key_new(&key);
}

static int free_key(void **state)
{
	cipher_key_free(key);
	return 0;
}

static void stream(slot_t slot, uint64_t checksum, uint8_t *ret_page)
{
	memset(ret_page, 0, PAGE_BYTES);
	cipher_apply(key, slot, checksum, ret_page);
}

static void as_the_format_says(void **state)
{
	const uint8_t nonce[12] = {0x04, 0x03, 0x02, 0x01, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
	uint8_t page[PAGE_BYTES], expected[PAGE_BYTES];
	memset(page, 'x', sizeof(page));
	cipher_apply(key, 0x01020304, 0x1122334455667788, page);
	memset(expected, 'x', sizeof(expected));
	crypto_stream_chacha20_ietf_xor(expected, expected, sizeof(expected), nonce, key);
	assert_memory_equal(page, expected, sizeof(page));
	cipher_apply(key, 0x01020304, 0x1122334455667788, page);
	for (size_t i = 0; i < sizeof(page); i++)
		assert_int_equal(page[i], 'x');
}

static void every_part_of_the_nonce_counts(void **state)
{
	uint8_t pages[5][PAGE_BYTES];
	stream(1, 1, pages[0]);
	stream(2, 1, pages[1]);
	stream(1, 2, pages[2]);
	stream(1, UINT64_C(1) << 63 | 1, pages[3]);
	stream(0x80000001, 1, pages[4]);
	for (size_t i = 0; i < ARRAY_LEN(pages); i++)
		for (size_t k = 0; k < i; k++)
			assert_memory_not_equal(pages[i], pages[k], 64);
}

static void a_key_is_new_and_empty_in_children(void **state)
{
	static const uint8_t zeros[CIPHER_KEY_BYTES];
	uint8_t *other;
	int status;
	assert_int_equal(cipher_key_new(&other), 0);
	assert_memory_not_equal(key, other, CIPHER_KEY_BYTES);
	assert_memory_not_equal(key, zeros, CIPHER_KEY_BYTES);
	pid_t child = fork();
	if (child == 0)
		_exit(memcmp(key, zeros, CIPHER_KEY_BYTES) != 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	cipher_key_free(other);
	cipher_key_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_the_format_says),
		cmocka_unit_test(every_part_of_the_nonce_counts),
		cmocka_unit_test(a_key_is_new_and_empty_in_children),
	};
	return cmocka_run_group_tests(tests, make_key, free_key);
}
