/* The checks agree with each other and leave nothing behind. */
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/types.h"
#include "platform/requirements.h"

static uint32_t open_descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	uint32_t nr = 0;

	assert_non_null(d);
	while (readdir(d))
		nr++;
	closedir(d);
	return nr;
}

static void quick_check_agrees_with_the_full_one(void **state)
{
	struct requirement reqs[REQUIREMENTS_MAX];
	uint32_t nr = requirements_examine(NULL, reqs);
	struct requirement_failure failure = {""};
	bool missing = false;

	assert_true(nr > 0 && nr <= REQUIREMENTS_MAX);
	for (uint32_t i = 0; i < nr; i++) {
		assert_non_null(reqs[i].name);
		assert_true(reqs[i].found[0]);
		/* Whoever is told that something is wrong is told what to do. */
		assert_true((reqs[i].state == REQUIREMENT_OK) == !reqs[i].advice[0]);
		missing |= reqs[i].state == REQUIREMENT_MISSING;
	}
	assert_int_equal(requirements_check(&failure), missing ? -EOPNOTSUPP : 0);
	assert_true(missing == !!failure.text[0]);
}

static void nothing_is_left_behind(void **state)
{
	char folder[] = "/tmp/membox-requirements-XXXXXX", below[64];
	struct requirement reqs[REQUIREMENTS_MAX];
	uint32_t before = open_descriptors();

	assert_non_null(mkdtemp(folder));
	snprintf(below, sizeof(below), "%s/not/there/yet", folder);
	requirements_examine(folder, reqs);
	requirements_examine(below, reqs);
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quick_check_agrees_with_the_full_one),
		cmocka_unit_test(nothing_is_left_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
