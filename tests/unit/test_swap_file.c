/* The swap file: how it is made, what is refused and left as it was, and what happens when the disk gives no space. */
#include "swap/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "swap/swap_header.h"
#include "swap/swap_internal.h"
#include "unit.h"

/* ---- calls that fail on demand ---- */

static int fallocate_error;
static bool direct_fails;

int __real_fallocate64(int fd, int mode, off64_t offset, off64_t len);
int __wrap_fallocate64(int fd, int mode, off64_t offset, off64_t len);
ssize_t __real_pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset);
ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset);

int __wrap_fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
	if (!fallocate_error)
		return __real_fallocate64(fd, mode, offset, len);
	errno = fallocate_error;
	return -1;
}

ssize_t __wrap_pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset)
{
	if (direct_fails && fcntl(fd, F_GETFL) & O_DIRECT) {
		errno = EINVAL;
		return -1;
	}
	return __real_pwrite64(fd, buffer, bytes, offset);
}

/* ---- a folder for each test ---- */

static char folder[64];

static int make_folder(void **state)
{
	fallocate_error = 0;
	direct_fails = false;
	strcpy(folder, "test-swap-file-XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	char command[128];
	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return system(command);
}

static const char *in_folder(const char *name)
{
	static char paths[4][128];
	static unsigned next;
	char *path = paths[next++ % ARRAY_LEN(paths)];
	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static int open_it(const char *path, uint64_t size_bytes, struct swap **ret_swap, struct swap_error *error)
{
	struct swap_options options = {.path = path, .container = "tested", .size_bytes = size_bytes};
	*error = (struct swap_error){""};
	return swap_open(&options, ret_swap, error);
}

static struct swap *must_open(const char *path, uint64_t size_bytes)
{
	struct swap_error error;
	struct swap *swap = NULL;
	int r = open_it(path, size_bytes, &swap, &error);
	if (r < 0)
		fail_msg("%d: %s", r, error.text);
	return swap;
}

/* Refused with this code, words in the one line of text; nothing but the path's own content is looked at by the caller. */
static void refused(const char *path, int code, const char *words)
{
	struct swap_error error;
	struct swap *swap;
	assert_int_equal(open_it(path, 0, &swap, &error), code);
	assert_non_null(strstr(error.text, "cannot use swap file "));
	if (!strstr(error.text, words))
		fail_msg("\"%s\" is not in \"%s\"", words, error.text);
	assert_null(strchr(error.text, '\n'));
}

static void write_file(const char *path, const void *content, size_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, content, bytes), bytes);
	close(fd);
}

static size_t read_file(const char *path, uint8_t *content, size_t room)
{
	int fd = open(path, O_RDONLY);
	assert_true(fd >= 0);
	ssize_t n = read(fd, content, room);
	assert_true(n >= 0);
	close(fd);
	return (size_t)n;
}

static struct stat stat_of(const char *path)
{
	struct stat st = {0};
	assert_int_equal(lstat(path, &st), 0);
	return st;
}

static uint64_t number(const uint8_t *bytes, int n)
{
	uint64_t value = 0;
	while (n-- > 0)
		value = value << 8 | bytes[n];
	return value;
}

/* ---- the file ---- */

static void check_header(const uint8_t *page, bool clean)
{
	assert_memory_equal(page, "MEMBOXSW", 8);
	assert_int_equal(number(page + 8, 4), 1);
	assert_int_equal(number(page + 12, 4), 4096);
	assert_int_equal(number(page + 32, 4), clean);
	assert_int_equal(number(page + 36, 4), 0);
	assert_string_equal((const char *)page + 40, "tested");
	for (size_t i = 40 + sizeof("tested"); i < 4088; i++)
		assert_int_equal(page[i], 0);
	assert_int_equal(number(page + 4088, 8), XXH3_64bits(page, 4088));
}

static void made_as_the_format_says(void **state)
{
	const char *path = in_folder("swap");
	uint8_t page[PAGE_BYTES], again[PAGE_BYTES];
	umask(0);
	struct swap *swap = must_open(path, 0);
	assert_true(swap_was_created(swap));
	assert_int_equal(stat_of(path).st_mode & 07777, 0600);
	assert_int_equal(stat_of(path).st_size, 512 * PAGE_BYTES);
	assert_int_equal(read_file(path, page, sizeof(page)), sizeof(page));
	check_header(page, false);
	swap_close(swap, false);
	assert_int_equal(stat_of(path).st_size, PAGE_BYTES);
	assert_int_equal(read_file(path, again, sizeof(again)), sizeof(again));
	check_header(again, true);
	assert_memory_equal(page + 16, again + 16, 16);

	swap = must_open(path, 0);
	assert_false(swap_was_created(swap));
	read_file(path, again, sizeof(again));
	check_header(again, false);
	assert_memory_not_equal(page + 16, again + 16, 16); /* a uuid for each use */
	swap_close(swap, true);
	assert_int_equal(access(path, F_OK), -1);
}

static void encrypted_pages_are_read_as_they_were(void **state)
{
	_Alignas(4096) uint8_t pages[2 * PAGE_BYTES], file[4 * PAGE_BYTES];
	const char *path = in_folder("swap");
	struct swap *swap = must_open(path, 0);
	slot_t first;
	uint32_t nr;
	assert_int_equal(swap_encrypt(swap), 0);
	assert_true(swap_is_encrypted(swap));
	assert_int_equal(swap_alloc(swap, 2, &first, &nr), 0);
	assert_int_equal(nr, 2);
	memset(pages, 0x5a, sizeof(pages));
	for (uint32_t i = 0; i < 2; i++)
		swap_set_checksum(swap, first + i, swap_page_checksum(swap, pages + i * PAGE_BYTES));
	assert_int_equal(swap_write(swap, first, 2, pages), 0);
	assert_int_equal(read_file(path, file, sizeof(file)), sizeof(file));
	assert_int_equal(number(file + 32, 4), 4);
	assert_memory_equal(file + first * PAGE_BYTES, pages, sizeof(pages));
	assert_memory_not_equal(pages, pages + PAGE_BYTES, PAGE_BYTES); /* equal pages in two slots */
	assert_int_equal(swap_read(swap, first, 2, pages), 0);
	for (size_t i = 0; i < sizeof(pages); i++)
		assert_int_equal(pages[i], 0x5a);
	swap_set_checksum(swap, first, swap_checksum(swap, first) ^ 1);
	assert_int_equal(swap_read(swap, first, 1, pages), -EBADMSG);
	swap_put(swap, first);
	swap_put(swap, first + 1);
	swap_close(swap, false);

	swap = must_open(path, 0);
	assert_false(swap_is_encrypted(swap));
	read_file(path, file, sizeof(file));
	check_header(file, false);
	swap_close(swap, true);
}

static void one_user_at_a_time(void **state)
{
	const char *path = in_folder("swap");
	struct swap *swap = must_open(path, 0);
	refused(path, -EBUSY, "in use by container \"tested\"");
	swap_close(swap, false);
	int fd = open(path, O_RDWR);
	assert_int_equal(flock(fd, LOCK_SH), 0);
	refused(path, -EBUSY, "in use");
	close(fd);
	swap_close(must_open(path, 0), false);
}

static void what_a_killed_keeper_left_is_used_again(void **state)
{
	const char *path = in_folder("swap");
	struct swap_header header = {.container = "killed"};
	uint8_t page[2 * PAGE_BYTES];
	memset(page, 0x5a, sizeof(page));
	swap_header_encode(&header, page);
	write_file(path, page, sizeof(page));
	swap_close(must_open(path, 0), false);
	read_file(path, page, sizeof(page));
	check_header(page, true);
}

static void empty_files_are_taken_and_emptied_when_that_fails(void **state)
{
	const char *path = in_folder("empty"), *other = in_folder("none");
	struct swap_error error;
	struct swap *swap;
	write_file(path, "", 0);
	fallocate_error = ENOSPC;
	assert_int_equal(open_it(path, 0, &swap, &error), -ENOSPC);
	assert_int_equal(stat_of(path).st_size, 0);
	assert_int_equal(open_it(other, 0, &swap, &error), -ENOSPC);
	assert_non_null(strstr(error.text, "no space left"));
	assert_int_equal(access(other, F_OK), -1);
	fallocate_error = 0;
	swap_close(must_open(path, 0), false);
}

static void refused_and_unchanged(const char *path, const uint8_t *content, size_t bytes, int code, const char *words)
{
	uint8_t after[2 * PAGE_BYTES];
	write_file(path, content, bytes);
	refused(path, code, words);
	assert_int_equal(read_file(path, after, sizeof(after)), bytes);
	assert_memory_equal(after, content, bytes);
}

static void files_of_others_are_left_as_they_are(void **state)
{
	struct swap_header header = {.container = "x"};
	const char *path = in_folder("file");
	uint8_t page[PAGE_BYTES];
	refused_and_unchanged(path, (const uint8_t *)"text\n", 5, -EEXIST, "not a membox swap file");
	swap_header_encode(&header, page);
	page[0] ^= 1;
	refused_and_unchanged(path, page, sizeof(page), -EEXIST, "not a membox swap file");

	swap_header_encode(&header, page);
	page[300] ^= 1;
	refused_and_unchanged(path, page, sizeof(page), -EEXIST, "damaged");
	swap_header_encode(&header, page);
	refused_and_unchanged(path, page, sizeof(page) - 1, -EEXIST, "damaged");
	page[8] = 2;
	uint64_t sum = XXH3_64bits(page, 4088);
	memcpy(page + 4088, &sum, sizeof(sum));
	refused_and_unchanged(path, page, sizeof(page), -EEXIST, "newer");
}

static void what_is_no_plain_file_is_refused(void **state)
{
	assert_int_equal(mkdir(in_folder("folder"), 0700), 0);
	assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
	assert_int_equal(symlink("target", in_folder("link")), 0);
	refused(in_folder("folder"), -EISDIR, "directory");
	refused(in_folder("pipe"), -EINVAL, "not a regular file");
	refused(in_folder("link"), -ELOOP, "symbolic link");
	refused(in_folder("missing/swap"), -ENOENT, "does not exist");
	refused(in_folder("pipe/swap"), -ENOTDIR, "not a directory");
	refused("", -EINVAL, "empty");
	assert_int_equal(access(in_folder("target"), F_OK), -1);
}

/* ---- space ---- */

/* Takes all there is, 100 slots at a time; *ret_error is what it ended with. */
static uint32_t take_all(struct swap *swap, int *ret_error)
{
	uint32_t total = 0, nr;
	slot_t first;
	while ((*ret_error = swap_alloc(swap, 100, &first, &nr)) == 0) {
		assert_in_range(nr, 1, 100);
		total += nr;
	}
	return total;
}

static void never_larger_than_allowed(void **state)
{
	static const uint32_t sizes[] = {1, 2, 300, 511, 512, 700, 1024, 5000};
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		const char *path = in_folder("swap");
		struct swap *swap = must_open(path, sizes[i] * PAGE_BYTES);
		int error;
		assert_int_equal(swap_total_slots(swap), sizes[i]);
		assert_int_equal(take_all(swap, &error), sizes[i]);
		assert_int_equal(error, -ENOSPC);
		assert_int_equal(swap_used_slots(swap), sizes[i]);
		assert_true(stat_of(path).st_size <= (off_t)((sizes[i] + 1) * PAGE_BYTES));
		for (slot_t slot = 1; slot <= sizes[i]; slot++)
			swap_put(swap, slot);
		assert_int_equal(swap_used_slots(swap), 0);
		assert_true(swap_check(swap));
		swap_close(swap, true);
	}
}

static void a_full_disk_and_a_broken_one_differ(void **state)
{
	static const struct {
		int error, told;
	} cases[] = {{ENOSPC, -ENOSPC}, {EDQUOT, -ENOSPC}, {EFBIG, -ENOSPC}, {EIO, -EIO}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct swap *swap = must_open(in_folder("swap"), 0);
		int error;
		fallocate_error = cases[i].error;
		take_all(swap, &error);
		assert_int_equal(error, cases[i].told);
		take_all(swap, &error); /* not asked again so soon: the same answer */
		assert_int_equal(error, cases[i].told);
		swap_put(swap, 1);
		slot_t first;
		uint32_t nr;
		assert_int_equal(swap_alloc(swap, 1, &first, &nr), 0); /* what is free is still given */
		assert_int_equal(first, 1);
		assert_true(swap_check(swap));
		swap_close(swap, true);
		fallocate_error = 0;
	}
}

static void grows_where_space_cannot_be_promised(void **state)
{
	const char *path = in_folder("swap");
	int error;
	fallocate_error = EOPNOTSUPP;
	struct swap *swap = must_open(path, 700 * PAGE_BYTES);
	assert_int_equal(take_all(swap, &error), 700);
	assert_int_equal(stat_of(path).st_size, 701 * PAGE_BYTES);
	swap_close(swap, true);
}

/* ---- O_DIRECT ---- */

static void direct_only_where_a_transfer_works(void **state)
{
	const char *path = in_folder("swap");
	struct swap *swap = must_open(path, 0);
	assert_int_equal(swap_is_direct(swap), (fcntl(swap_fd(swap), F_GETFL) & O_DIRECT) != 0);
	swap_close(swap, false);

	direct_fails = true; /* takes the flag, refuses the transfer */
	swap = must_open(path, 0);
	assert_false(swap_is_direct(swap));
	assert_false(fcntl(swap_fd(swap), F_GETFL) & O_DIRECT);
	swap_close(swap, false);

	direct_fails = false;
	setenv("MEMBOX_IO", "sync,buffered", 1);
	swap = must_open(path, 0);
	assert_false(swap_is_direct(swap));
	swap_close(swap, true);
	unsetenv("MEMBOX_IO");
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_FOLDER(made_as_the_format_says),
		IN_FOLDER(encrypted_pages_are_read_as_they_were), IN_FOLDER(one_user_at_a_time),
		IN_FOLDER(what_a_killed_keeper_left_is_used_again),
		IN_FOLDER(empty_files_are_taken_and_emptied_when_that_fails),
		IN_FOLDER(files_of_others_are_left_as_they_are),
		IN_FOLDER(what_is_no_plain_file_is_refused),
		IN_FOLDER(never_larger_than_allowed),
		IN_FOLDER(a_full_disk_and_a_broken_one_differ),
		IN_FOLDER(grows_where_space_cannot_be_promised),
		IN_FOLDER(direct_only_where_a_transfer_works),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
