/* The folder of a checkpoint: whole or not there, and whatever is not as it was written is refused with a reason. */
#include "checkpoint/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit.h"

static char folder[64], path[128];

static int set_up(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/membox-image-XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/saved", folder);
	return 0;
}

static int tear_down(void **state)
{
	char command[128];
	snprintf(command, sizeof(command), "rm -rf %s", folder);
	return system(command);
}

/* A checkpoint of one process of that name, with two slots. */
static int write_one_with(typeof(image_draft_commit) *commit, const char *name, struct checkpoint_error *error)
{
	Image__Image image = IMAGE__IMAGE__INIT;
	Image__Machine machine = IMAGE__MACHINE__INIT;
	Image__Container container = IMAGE__CONTAINER__INIT;
	Image__Pages pages = IMAGE__PAGES__INIT;
	const uint64_t checksums[2] = {0, 42};
	struct image_draft draft;
	machine.architecture = machine.kernel = "";
	container.name = (char *)(uintptr_t)name;
	pages.nr_slots = 2;
	image.machine = &machine;
	image.container = &container;
	image.pages = &pages;
	int r = image_draft_begin(path, &draft, error);
	if (r < 0)
		return r;
	int fd = openat(draft.folder, "pages", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(fd, 2 * PAGE_BYTES), 0);
	close(fd);
	r = commit(&draft, &image, checksums, 2, error);
	image_draft_end(&draft);
	return r;
}

static int write_one(const char *name, struct checkpoint_error *error)
{
	return write_one_with(image_draft_commit, name, error);
}

static size_t entries_in(const char *name)
{
	size_t nr = 0;
	DIR *dir = opendir(name);
	while (readdir(dir))
		nr++;
	closedir(dir);
	return nr - 2;
}

static void what_is_written_is_read(void **state)
{
	struct checkpoint_error error = {0};
	struct image image;
	assert_int_equal(write_one("first", &error), 0);
	assert_int_equal(image_open(path, &image, &error), 0);
	assert_string_equal(image.message->container->name, "first");
	assert_int_equal(image.base.checksums[1], 42);
	image_close(&image);
	assert_int_equal(entries_in(folder), 1);
	assert_int_equal(entries_in(path), 3);
}

static void an_older_one_is_replaced(void **state)
{
	struct checkpoint_error error = {0};
	struct image image;
	assert_int_equal(write_one("first", &error), 0);
	assert_int_equal(write_one("second", &error), 0);
	assert_int_equal(image_open(path, &image, &error), 0);
	assert_string_equal(image.message->container->name, "second");
	image_close(&image);
	assert_int_equal(entries_in(folder), 1);
}

static void what_is_made_durable_afterwards(void **state)
{
	struct checkpoint_error error = {0};
	struct image image;
	char file[160];
	assert_int_equal(image_sync(path), -ENOENT);
	assert_int_equal(write_one_with(image_draft_commit_unsynced, "first", &error), 0);
	assert_int_equal(entries_in(folder), 1);
	assert_int_equal(image_sync(path), 0);
	assert_int_equal(image_open(path, &image, &error), 0);
	image_close(&image);
	snprintf(file, sizeof(file), "%s/checksums", path);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(image_sync(path), -ENOENT);
}

static void an_empty_folder_is_used_and_another_is_not(void **state)
{
	struct checkpoint_error error = {0};
	char file[160];
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(write_one("first", &error), 0);
	snprintf(file, sizeof(file), "%s/image.pb", path);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(write_one("second", &error), -ENOTEMPTY);
	assert_non_null(strstr(error.text, path));
	assert_int_equal(entries_in(path), 2);
	assert_int_equal(entries_in(folder), 1);
}

static void what_was_not_committed_leaves_nothing(void **state)
{
	struct checkpoint_error error = {0};
	struct image_draft draft;
	assert_int_equal(image_draft_begin(path, &draft, &error), 0);
	image_draft_end(&draft);
	assert_int_equal(entries_in(folder), 0);
}

/* Each byte of the description changed, and each length that is too short: refused, and never a crash. */
static void damage_is_refused(void **state)
{
	struct checkpoint_error error = {0};
	struct image image;
	char file[160];
	assert_int_equal(write_one("first", &error), 0);
	snprintf(file, sizeof(file), "%s/image.pb", path);
	int fd = open(file, O_RDWR | O_CLOEXEC);
	struct stat st;
	fstat(fd, &st);
	for (off_t at = 0; at < st.st_size; at++) {
		uint8_t byte, changed;
		if (at >= 12 && at < 16) /* unused */
			continue;
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		changed = byte ^ 0x81;
		assert_int_equal(pwrite(fd, &changed, 1, at), 1);
		error.text[0] = '\0';
		assert_true(image_open(path, &image, &error) < 0);
		assert_non_null(strstr(error.text, path));
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	assert_int_equal(image_open(path, &image, &error), 0);
	image_close(&image);
	for (off_t size = st.st_size - 1; size >= 0; size--) {
		assert_int_equal(ftruncate(fd, size), 0);
		assert_true(image_open(path, &image, &error) < 0);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_written_is_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_older_one_is_replaced, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_made_durable_afterwards, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_empty_folder_is_used_and_another_is_not, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_was_not_committed_leaves_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(damage_is_refused, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
