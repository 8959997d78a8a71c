/* What a checkpoint refers to in a swap file: it stays, whatever the container does with its pages, and when the file is closed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "swap/cipher.h"
#include "swap/swap.h"
#include "unit.h"

struct fixture {
	char folder[64], path[128];
	int directory;
	struct swap *swap;
};

static int open_again(struct fixture *f)
{
	struct swap_error error;
	struct swap_options options = {.path = f->path, .container = "test"};
	return swap_open(&options, &f->swap, &error);
}

static int set_up(void **state)
{
	static struct fixture f;
	snprintf(f.folder, sizeof(f.folder), "/tmp/membox-pins-XXXXXX");
	assert_non_null(mkdtemp(f.folder));
	snprintf(f.path, sizeof(f.path), "%s/swap", f.folder);
	f.directory = open(f.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(open_again(&f), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	if (f->swap)
		swap_close(f->swap, true);
	unlinkat(f->directory, "pages", 0);
	unlinkat(f->directory, "swap", 0);
	close(f->directory);
	rmdir(f->folder);
	return 0;
}

static slot_t take(struct swap *swap, unsigned char content)
{
	_Alignas(4096) static unsigned char page[PAGE_BYTES];
	slot_t slot;
	uint32_t nr;
	assert_int_equal(swap_alloc(swap, 1, &slot, &nr), 0);
	memset(page, content, sizeof(page));
	swap_set_checksum(swap, slot, swap_page_checksum(swap, page));
	assert_int_equal(swap_write(swap, slot, 1, page), 0);
	return slot;
}

static void pinned_slots_outlive_their_pages(void **state)
{
	struct fixture *f = *state;
	_Alignas(4096) unsigned char page[PAGE_BYTES];
	slot_t used = take(f->swap, 1), fresh = take(f->swap, 2);
	assert_int_equal(swap_pin(f->swap, used), 0);
	assert_int_equal(swap_pin(f->swap, used), 0);
	assert_int_equal(swap_pin_new(f->swap, fresh), 0);
	assert_int_equal(swap_references(f->swap, used), 2);
	assert_int_equal(swap_references(f->swap, fresh), 1);
	assert_int_equal(swap_pins_end(f->swap), (used > fresh ? used : fresh) + 1);
	assert_int_equal(swap_pins_commit(f->swap, false), 0);
	swap_put(f->swap, used); /* its page is gone */
	assert_int_equal(swap_pinned_slots(f->swap), 2);
	assert_int_equal(swap_used_slots(f->swap), 2);
	assert_int_equal(swap_read(f->swap, used, 1, page), 0);
	assert_int_equal(page[100], 1);
	assert_true(swap_check(f->swap));
}

static void cancelled_pins_are_given_back(void **state)
{
	struct fixture *f = *state;
	slot_t used = take(f->swap, 1);
	swap_pin(f->swap, used);
	swap_pin_new(f->swap, take(f->swap, 2));
	swap_pins_cancel(f->swap);
	assert_int_equal(swap_used_slots(f->swap), 1);
	assert_int_equal(swap_references(f->swap, used), 1);
	assert_int_equal(swap_pinned_slots(f->swap), 0);
}

/* Beside earlier ones, or in their place. */
static void sets_follow_each_other(void **state)
{
	struct fixture *f = *state;
	slot_t both = take(f->swap, 1), first = take(f->swap, 2), second = take(f->swap, 3);
	swap_pin(f->swap, both);
	swap_pin_new(f->swap, first);
	swap_pins_commit(f->swap, false);
	swap_pin(f->swap, both);
	swap_pin_new(f->swap, second);
	swap_pins_commit(f->swap, false);
	assert_int_equal(swap_references(f->swap, both), 2);
	assert_int_equal(swap_pinned_slots(f->swap), 3);
	swap_pin(f->swap, both);
	swap_pins_commit(f->swap, true);
	assert_int_equal(swap_pinned_slots(f->swap), 1);
	assert_int_equal(swap_references(f->swap, both), 2);
	assert_int_equal(swap_references(f->swap, first), 0);
	assert_int_equal(swap_references(f->swap, second), 0);
	assert_true(swap_check(f->swap));
}

static void the_content_stays_under_its_other_name(void **state)
{
	struct fixture *f = *state;
	struct swap_error error;
	struct stat before, after;
	slot_t slot = take(f->swap, 7);
	swap_pin_new(f->swap, slot);
	assert_int_equal(swap_keep(f->swap, true), 0);
	assert_int_equal(swap_link(f->swap, f->directory, "pages"), 0);
	swap_pins_commit(f->swap, true);
	assert_int_equal(fstatat(f->directory, "pages", &before, 0), 0);
	swap_close(f->swap, false);
	f->swap = NULL;
	assert_int_equal(fstatat(f->directory, "swap", &after, 0), -1);
	assert_int_equal(fstatat(f->directory, "pages", &after, 0), 0);
	assert_int_equal(before.st_size, after.st_size);
	char path[192];
	snprintf(path, sizeof(path), "%s/pages", f->folder);
	struct swap_options options = {.path = path, .container = "other"};
	struct swap *other;
	close(openat(f->directory, "image.pb", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	assert_int_equal(swap_open(&options, &other, &error), -EEXIST);
	assert_non_null(strstr(error.text, "checkpoint"));
	assert_int_equal(unlinkat(f->directory, "image.pb", 0), 0);
}

/* Its checkpoint has it under another name, or never came to be: nothing is done to the content, and the name leads to a new file. */
static void a_name_that_was_left_is_free(void **state)
{
	struct fixture *f = *state;
	struct stat kept, fresh;
	swap_pin_new(f->swap, take(f->swap, 7));
	assert_int_equal(swap_keep(f->swap, true), 0);
	assert_int_equal(swap_link(f->swap, f->directory, "pages"), 0);
	swap_pins_commit(f->swap, true);
	swap_close(f->swap, false);
	assert_int_equal(linkat(f->directory, "pages", f->directory, "swap", 0), 0); /* as if the keeper had been killed before that */
	assert_int_equal(open_again(f), 0);
	assert_int_equal(fstatat(f->directory, "pages", &kept, 0), 0);
	assert_int_equal(fstatat(f->directory, "swap", &fresh, 0), 0);
	assert_true(kept.st_ino != fresh.st_ino);
	assert_true(kept.st_size > (off_t)PAGE_BYTES);
}

/* A container's own file above a checkpoint's, which is encrypted: the slots of that are read, counted nowhere and never given back. */
static void a_base_lies_below(void **state)
{
	struct fixture *f = *state;
	_Alignas(4096) unsigned char page[PAGE_BYTES];
	uint8_t key[CIPHER_KEY_BYTES];
	assert_int_equal(swap_encrypt(f->swap), 0);
	memcpy(key, swap_key(f->swap), sizeof(key));
	slot_t slot = take(f->swap, 9);
	uint64_t *checksums = calloc(slot + 1, sizeof(*checksums));
	swap_pin_new(f->swap, slot);
	swap_pins_checksums(f->swap, checksums);
	swap_keep(f->swap, true);
	swap_link(f->swap, f->directory, "pages");
	swap_pins_commit(f->swap, true);
	struct swap_base base = {.fd = openat(f->directory, "pages", O_RDONLY | O_CLOEXEC), .nr_slots = slot + 1, .seed = swap_seed(f->swap), .key = key, .checksums = checksums, .path = "pages"};
	swap_close(f->swap, false);
	struct swap_error error;
	struct swap_options options = {.path = f->path, .container = "restored", .base = &base};
	assert_int_equal(swap_open(&options, &f->swap, &error), 0);
	assert_int_equal(swap_read(f->swap, slot | SLOT_OF_BASE, 1, page), 0);
	assert_int_equal(page[0], 9);
	assert_int_equal(swap_base_read(&base, slot, 1, page), 0);
	assert_int_equal(page[0], 9);
	assert_int_equal(swap_base_read(&base, slot, 2, page), -EIO);
	assert_false(swap_is_encrypted(f->swap));
	swap_get(f->swap, slot | SLOT_OF_BASE);
	swap_put(f->swap, slot | SLOT_OF_BASE);
	swap_put(f->swap, slot | SLOT_OF_BASE);
	assert_true(swap_get_if_used(f->swap, slot | SLOT_OF_BASE));
	assert_int_equal(swap_used_slots(f->swap), 0);
	slot_t own = take(f->swap, 9);
	assert_int_equal(swap_checksum(f->swap, own), swap_checksum(f->swap, slot | SLOT_OF_BASE));
	swap_put(f->swap, own);
	checksums[slot] ^= 1;
	assert_int_equal(swap_read(f->swap, slot | SLOT_OF_BASE, 1, page), -EBADMSG);
	swap_close(f->swap, true);
	f->swap = NULL;
	close(base.fd);
	free(checksums);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(pinned_slots_outlive_their_pages, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cancelled_pins_are_given_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(sets_follow_each_other, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_content_stays_under_its_other_name, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_name_that_was_left_is_free, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_base_lies_below, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
