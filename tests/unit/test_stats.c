/* Figures as JSON, and how the file is replaced. */
#include "unit.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/types.h"
#include "stats/stats.h"

static char folder[64], path[128];

static int make_folder(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/membox-stats-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof(path), "%s/stats.json", folder);
	return 0;
}

static int remove_folder(void **state)
{
	char link_path[128];

	snprintf(link_path, sizeof(link_path), "%s/link", folder);
	unlink(link_path);
	unlink(path);
	return rmdir(folder); /* fails when a temporary file was left */
}

static uint64_t figure(json_object *object, const char *name)
{
	json_object *value;

	assert_true(json_object_object_get_ex(object, name, &value));
	return json_object_get_uint64(value);
}

static void every_figure_is_written(void **state)
{
	struct stats stats = {0};
	json_object *object;
	unsigned nr = 0;

	stat_set(&stats, rss_limit, UINT64_MAX);
	stat_add(&stats, faults, 3);
	stat_add(&stats, faults, 4);
	assert_int_equal(stats_save_json(&stats, path), 0);
	object = json_object_from_file(path);
	assert_non_null(object);
#define COUNT(name, unit, meaning)                                          \
	assert_true(figure(object, #name) == stat_get(&stats, name)); \
	nr++;
	STATS_LIST(COUNT)
#undef COUNT
	assert_int_equal(json_object_object_length(object), nr);
	assert_true(figure(object, "rss_limit") == UINT64_MAX);
	assert_int_equal(figure(object, "faults"), 7);
	json_object_put(object);
}

static void an_older_file_is_replaced(void **state)
{
	struct stats stats = {0};
	FILE *f = fopen(path, "w");
	json_object *object;

	for (int i = 0; i < 10000; i++)
		fputs("old ", f);
	fclose(f);
	assert_int_equal(stats_save_json(&stats, path), 0);
	object = json_object_from_file(path);
	assert_non_null(object);
	json_object_put(object);
}

static void a_link_stays_a_link(void **state)
{
	struct stats stats = {0};
	char link_path[128];
	struct stat st;

	snprintf(link_path, sizeof(link_path), "%s/link", folder);
	fclose(fopen(path, "w"));
	assert_int_equal(symlink("stats.json", link_path), 0);
	assert_int_equal(stats_save_json(&stats, link_path), 0);
	assert_int_equal(lstat(link_path, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_size > 0);
}

static void devices_are_written_to_not_replaced(void **state)
{
	struct stats stats = {0};
	struct stat st;

	assert_int_equal(stats_save_json(&stats, "/dev/null"), 0);
	assert_int_equal(stat("/dev/null", &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(stats_save_json(&stats, "/dev/full"), -ENOSPC);
}

static void errors_are_reported(void **state)
{
	struct stats stats = {0};
	char nowhere[160];

	snprintf(nowhere, sizeof(nowhere), "%s/no/such", folder);
	assert_int_equal(stats_save_json(&stats, nowhere), -ENOENT);
	assert_int_equal(stats_save_json(&stats, folder), -EISDIR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_figure_is_written, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(an_older_file_is_replaced, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(a_link_stays_a_link, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(devices_are_written_to_not_replaced, make_folder, remove_folder),
		cmocka_unit_test_setup_teardown(errors_are_reported, make_folder, remove_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
