/* The client library against a keeper that is played here, also by one that misbehaves. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <membox.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/types.h"
#include "control/runtime_folder.h"

static char top[64];
static struct runtime_folder *folder;

static int set_up(void **state)
{
	strcpy(top, "/tmp/membox-unit-XXXXXX");
	return mkdtemp(top) ? setenv("MEMBOX_RUNTIME_DIR", top, 1) : -1;
}

static int tear_down(void **state)
{
	return rmdir(top);
}

/* A keeper of one client: for each line that it is asked it answers the next text, then it hangs up (or is stopped: says nothing more). */
struct script {
	const char *const *answers; /* ended by NULL */
	const char *asked;          /* the last line must be this one; NULL: any */
	bool stays;
};

static _Noreturn void play(int listener, const struct script *script)
{
	int fd = accept(listener, NULL, NULL), wrong = 0;
	char line[70000];

	for (const char *const *answer = script->answers; *answer; answer++) {
		size_t len = 0;

		while (len < sizeof(line) - 1 && read(fd, line + len, 1) == 1 && line[len] != '\n')
			len++;
		line[len] = '\0';
		for (const char *p = *answer; *p; p++) /* in the smallest pieces */
			wrong |= write(fd, p, 1) != 1;
	}
	if (script->asked)
		wrong |= strcmp(line, script->asked) != 0;
	if (wrong)
		fprintf(stderr, "asked: %s\n", line);
	while (script->stays)
		pause();
	_exit(wrong);
}

static pid_t start(const struct script *script, struct membox **ret)
{
	struct runtime_error error;
	int listener;
	pid_t pid;

	signal(SIGPIPE, SIG_DFL); /* the library raises none */
	assert_int_equal(runtime_folder_create("job", &folder, &error), 0);
	listener = runtime_folder_listen(folder);
	assert_true(listener >= 0);
	*ret = membox_new();
	assert_non_null(*ret);
	assert_int_equal(membox_connect(*ret, "job"), 0);
	pid = fork();
	if (pid == 0) {
		membox_free(*ret);
		alarm(20);
		fcntl(listener, F_SETFL, 0);
		play(listener, script);
	}
	close(listener);
	return pid;
}

static void end(pid_t pid, const struct script *script, struct membox *m)
{
	int status;

	membox_free(m);
	if (script->stays)
		kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!script->stays)
		assert_int_equal(status, 0);
	runtime_folder_remove(folder);
	runtime_folder_release(folder);
}

#define ANSWERS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OK "{\"version\": 1, \"ok\": true"

static void requests_are_what_the_document_says(void **state)
{
	static const struct {
		const char *asked, *answer;
	} cases[] = {
		{"{\"limit\":1048576,\"version\":1,\"verb\":\"set\"}", OK "}\n"},
		{"{\"bytes\":4096,\"version\":1,\"verb\":\"reclaim\"}", OK ", \"reclaimed\": 8192}\n"},
		{"{\"version\":1,\"verb\":\"reclaim\"}", OK ", \"reclaimed\": 18446744073709551615}\n"},
		{"{\"signal\":15,\"version\":1,\"verb\":\"kill\"}", OK ", \"signalled\": 3}\n"},
		{"{\"version\":1,\"verb\":\"wait\"}", OK ", \"exit_status\": 137, \"new\": [1]}\n"},
		{"{\"size\":0,\"path\":\"/a \\\"b\\\"\",\"version\":1,\"verb\":\"swapon\"}", OK "}\n"},
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct script script = {.answers = ANSWERS(cases[i].answer), .asked = cases[i].asked};
		struct membox *m;
		pid_t pid = start(&script, &m);
		uint64_t number = 1;
		int status = 1;

		switch (i) {
		case 0:
			assert_int_equal(membox_set_limit(m, 1 << 20), 0);
			break;
		case 1:
			assert_int_equal(membox_reclaim(m, 4096, &number), 0);
			assert_int_equal(number, 8192);
			break;
		case 2:
			assert_int_equal(membox_reclaim(m, UINT64_MAX, &number), 0);
			assert_true(number == UINT64_MAX);
			break;
		case 3:
			assert_int_equal(membox_kill(m, SIGTERM, &number), 0);
			assert_int_equal(number, 3);
			break;
		case 4:
			assert_int_equal(membox_wait(m, &status), 0);
			assert_int_equal(status, 137);
			break;
		default:
			assert_int_equal(membox_swapon(m, "/a \"b\"", 0), 0);
		}
		end(pid, &script, m);
	}
}

static void answers_in_pieces_and_many_on_one_connection(void **state)
{
	struct script script = {.answers = ANSWERS(OK ", \"n\": 1}\n", OK ", \"n\": 2}\n", OK ", \"n\": 3}\n")};
	struct membox *m;
	pid_t pid = start(&script, &m);
	char expected[64], *reply;

	for (int i = 1; i <= 3; i++) {
		assert_int_equal(membox_request(m, "describe", NULL, &reply), 0);
		snprintf(expected, sizeof(expected), "{\"version\":1,\"ok\":true,\"n\":%d}", i);
		assert_string_equal(reply, expected);
		free(reply);
	}
	end(pid, &script, m);
}

static void a_refusal_says_why_and_the_connection_goes_on(void **state)
{
	struct script script = {
		.answers = ANSWERS("{\"version\": 1, \"ok\": false, \"errno\": \"ENOSPC\", \"error\": \"no room\", \"hint\": \"make some\"}\n",
				   "{\"version\": 1, \"ok\": false, \"errno\": \"EFUTURE\", \"error\": \"strange\"}\n", OK "}\n")};
	struct membox *m;
	pid_t pid = start(&script, &m);

	assert_int_equal(membox_swapoff(m), -ENOSPC);
	assert_true(membox_was_refused(m));
	assert_string_equal(membox_error(m), "job: no room (make some)");
	assert_int_equal(membox_swapoff(m), -EPROTO);
	assert_true(membox_was_refused(m));
	assert_string_equal(membox_error(m), "job: strange");
	assert_int_equal(membox_swapoff(m), 0);
	assert_false(membox_was_refused(m));
	end(pid, &script, m);
}

static void nonsense_is_an_error_of_its_own(void **state)
{
	static const char *const nonsense[] = {
		"\n", "hello\n", "[]\n", "{}\n", "{\"version\": 2, \"ok\": true}\n", "{\"version\": 1}\n", "{\"version\": 1, \"ok\": 1}\n",
		"{\"version\": 1, \"ok\": true\n",
	};

	for (size_t i = 0; i < ARRAY_LEN(nonsense); i++) {
		struct script script = {.answers = ANSWERS(nonsense[i])};
		struct membox *m;
		pid_t pid = start(&script, &m);

		assert_int_equal(membox_park(m), -EPROTO);
		assert_false(membox_was_refused(m));
		assert_int_equal(membox_park(m), -ENOTCONN);
		end(pid, &script, m);
	}
}

static void a_keeper_that_dies_is_noticed(void **state)
{
	struct script script = {.answers = ANSWERS("{\"version\": 1, ")};
	struct membox *m;
	pid_t pid = start(&script, &m);

	assert_int_equal(membox_wait(m, NULL), -ECONNRESET);
	assert_int_equal(membox_wait(m, NULL), -ENOTCONN);
	assert_string_equal(membox_error(m), "job: not connected");
	end(pid, &script, m);
}

static void a_keeper_that_is_silent_is_given_up(void **state)
{
	struct script script = {.answers = ANSWERS("{\"version\": 1, "), .stays = true};
	struct membox *m;
	pid_t pid = start(&script, &m);

	membox_set_timeout(m, 20);
	assert_int_equal(membox_unpark(m), -ETIMEDOUT);
	assert_int_equal(membox_unpark(m), -ENOTCONN);
	end(pid, &script, m);
}

static void bad_members_are_not_sent(void **state)
{
	static char long_path[80000];
	struct script script = {.answers = ANSWERS(OK "}\n")};
	struct membox *m;
	pid_t pid = start(&script, &m);

	memset(long_path, 'x', sizeof(long_path) - 1);
	assert_int_equal(membox_request(m, "set", "[1]", NULL), -EINVAL);
	assert_int_equal(membox_request(m, "set", "{\"limit\": ", NULL), -EINVAL);
	assert_int_equal(membox_swapon(m, long_path, 0), -EMSGSIZE);
	assert_int_equal(membox_request(m, "set", "{\"limit\": 1}", NULL), 0);
	end(pid, &script, m);
}

static void no_container_no_connection(void **state)
{
	struct membox *m = membox_new();

	assert_int_equal(membox_connect(m, "none"), -ENOENT);
	assert_string_equal(membox_error(m), "none: no such container (see `membox ps`)");
	assert_int_equal(membox_park(m), -ENOTCONN);
	assert_int_equal(membox_connect(NULL, "none"), -ENOMEM);
	membox_free(m);
	membox_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_what_the_document_says),
		cmocka_unit_test(answers_in_pieces_and_many_on_one_connection),
		cmocka_unit_test(a_refusal_says_why_and_the_connection_goes_on),
		cmocka_unit_test(nonsense_is_an_error_of_its_own),
		cmocka_unit_test(a_keeper_that_dies_is_noticed),
		cmocka_unit_test(a_keeper_that_is_silent_is_given_up),
		cmocka_unit_test(bad_members_are_not_sent),
		cmocka_unit_test(no_container_no_connection),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
