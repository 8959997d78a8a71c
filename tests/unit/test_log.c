/* One call, one line, whatever is in the message. */
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"

static int saved_stderr, pipe_fds[2];

static void capture_start(void)
{
	assert_int_equal(pipe(pipe_fds), 0);
	saved_stderr = dup(STDERR_FILENO);
	dup2(pipe_fds[1], STDERR_FILENO);
	close(pipe_fds[1]);
}

static void capture_end(char *text, size_t size)
{
	ssize_t len;

	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	len = read(pipe_fds[0], text, size - 1);
	assert_true(len >= 0);
	text[len] = '\0';
	close(pipe_fds[0]);
}

static void error_is_one_line(void **state)
{
	char text[4096];

	capture_start();
	errno = EPERM;
	log_error("%s: %s", "swap", "no space");
	assert_int_equal(errno, EPERM);
	capture_end(text, sizeof(text));
	assert_string_equal(text, "membox: swap: no space\n");
}

static void control_characters_are_defused(void **state)
{
	char text[4096];

	capture_start();
	log_error("%s", "a\nb\033[2Jc\x7f");
	capture_end(text, sizeof(text));
	assert_string_equal(text, "membox: a?b?[2Jc?\n");
}

static void long_message_is_cut_and_still_ends(void **state)
{
	char text[8192], message[5000];

	memset(message, 'x', sizeof(message) - 1);
	message[sizeof(message) - 1] = '\0';
	capture_start();
	log_error("%s", message);
	capture_end(text, sizeof(text));
	assert_true(strlen(text) > 1000);
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

static void debug_appears_when_wanted(void **state)
{
	char text[4096];

	setenv("MEMBOX_DEBUG", "1", 1);
	capture_start();
	log_debug("batch of %d", 512);
	capture_end(text, sizeof(text));
	assert_int_equal(strncmp(text, "membox[", 7), 0);
	assert_non_null(strstr(text, "]: batch of 512\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(error_is_one_line),
		cmocka_unit_test(control_characters_are_defused),
		cmocka_unit_test(long_message_is_cut_and_still_ends),
		cmocka_unit_test(debug_appears_when_wanted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
