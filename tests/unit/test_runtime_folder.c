/* A container's folder: who owns it, and what becomes of leftovers. */
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/runtime_folder.h"

#define USER 65534 /* nobody */

static char top[64], runtime[128];
static struct runtime_error error;

static int set_up(void **state)
{
	strcpy(top, "/tmp/membox-unit-XXXXXX");
	if (!mkdtemp(top))
		return -1;
	snprintf(runtime, sizeof(runtime), "%s/run/membox", top);
	return setenv("MEMBOX_RUNTIME_DIR", runtime, 1);
}

static int tear_down(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command);
}

static const char *in_runtime(const char *rest)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", runtime, rest);
	return path;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static bool exists(const char *path)
{
	struct stat st;

	return !lstat(path, &st);
}

static struct runtime_folder *create(const char *name)
{
	struct runtime_folder *folder = NULL;

	if (runtime_folder_create(name, &folder, &error))
		fail_msg("%s", error.text);
	return folder;
}

static void refused(const char *name, int expected)
{
	struct runtime_folder *folder = NULL;

	error.text[0] = '\0';
	assert_int_equal(runtime_folder_create(name, &folder, &error), expected);
	assert_null(folder);
	assert_true(error.text[0]);
}

static void make_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static int collect(const char *name, void *context)
{
	strcat(strcat(context, name), " ");
	return 0;
}

static void lists(const char *expected)
{
	char names[256] = "";

	assert_int_equal(runtime_folder_list(collect, names, &error), 0);
	assert_string_equal(names, expected);
}

/* A process that creates the folder and then only waits; it has done so when this returns. */
static pid_t start_owner(const char *name)
{
	int ready[2];
	char byte;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		struct runtime_folder *folder;

		if (runtime_folder_create(name, &folder, &error) || write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void kill_owner(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void folders_and_files_are_private(void **state)
{
	struct runtime_folder *folder = create("a");
	char pid[16] = "";
	int fd;

	assert_int_equal(runtime_folder_write_pid(folder, 4711), 0);
	assert_string_equal(runtime_folder_path(folder), in_runtime("a"));
	assert_int_equal(mode_of(runtime), 0700);
	assert_int_equal(mode_of(in_runtime("a")), 0700);
	assert_int_equal(mode_of(in_runtime("a/lock")), 0600);
	assert_int_equal(mode_of(in_runtime("a/pid")), 0600);
	fd = open(in_runtime("a/pid"), O_RDONLY);
	assert_int_equal(read(fd, pid, sizeof(pid)), 5);
	close(fd);
	assert_string_equal(pid, "4711\n");
	lists("a ");
	runtime_folder_remove(folder);
	assert_false(exists(in_runtime("a")));
	runtime_folder_release(folder);
	lists("");
}

static void a_name_in_use_is_refused(void **state)
{
	pid_t owner = start_owner("a");
	struct runtime_folder *folder;

	refused("a", -EEXIST);
	assert_non_null(strstr(error.text, "a: a container of this name is running"));
	lists("a ");
	kill_owner(owner);
	folder = create("a");
	refused("a", -EEXIST);
	runtime_folder_remove(folder);
	runtime_folder_release(folder);
	assert_int_equal(runtime_folder_connect("a", 0, &error), -ENOENT);
}

static void the_lock_lives_with_each_process_that_has_it(void **state)
{
	struct runtime_folder *folder = create("a");
	pid_t child = fork();

	if (child == 0)
		for (;;)
			pause();
	runtime_folder_release(folder);
	refused("a", -EEXIST);
	kill_owner(child);
	lists("");
	assert_false(exists(in_runtime("a")));
}

static void a_leftover_is_emptied_and_taken_over(void **state)
{
	struct runtime_folder *folder;

	kill_owner(start_owner("a"));
	make_file(in_runtime("a/control"));
	make_file(in_runtime("a/of a later version"));
	chmod(in_runtime("a"), 0755);
	folder = create("a");
	assert_false(exists(in_runtime("a/control")));
	assert_false(exists(in_runtime("a/of a later version")));
	assert_true(exists(in_runtime("a/lock")));
	assert_int_equal(mode_of(in_runtime("a")), 0700);
	runtime_folder_remove(folder);
	runtime_folder_release(folder);
}

static void a_keeper_that_takes_no_connections_is_not_waited_for(void **state)
{
	struct runtime_folder *folder = create("a");
	int listener = runtime_folder_listen(folder), fds[8], nr = 0, r;

	assert_int_equal(listen(listener, 0), 0);
	while ((r = runtime_folder_connect("a", 1, &error)) >= 0 && nr < (int)ARRAY_LEN(fds))
		fds[nr++] = r;
	assert_int_equal(r, -ETIMEDOUT);
	while (nr > 0)
		close(fds[--nr]);
	close(listener);
	runtime_folder_remove(folder);
	runtime_folder_release(folder);
}

static void listing_removes_leftovers_only(void **state)
{
	struct runtime_folder *mine = create("mine");
	pid_t other = start_owner("other");
	char names[256] = "";

	kill_owner(start_owner("dead"));
	make_file(in_runtime("dead/control"));
	mkdir(in_runtime("just-made"), 0700);
	mkdir(in_runtime(".hidden"), 0700);
	make_file(in_runtime("a-file"));
	assert_int_equal(runtime_folder_list(collect, names, &error), 0);
	assert_int_equal(strlen(names), strlen("mine other "));
	assert_false(exists(in_runtime("dead")));
	assert_false(exists(in_runtime("just-made")));
	assert_true(exists(in_runtime(".hidden")));
	assert_true(exists(in_runtime("a-file")));
	kill_owner(other);
	lists("mine ");
	runtime_folder_remove(mine);
	runtime_folder_release(mine);
	rmdir(in_runtime(".hidden"));
	unlink(in_runtime("a-file"));
}

static void another_process_of_the_owner_may_remove(void **state)
{
	struct runtime_folder *folder = create("a"), *next;
	pid_t child = fork();

	if (child == 0) {
		runtime_folder_remove(folder);
		_exit(0);
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_false(exists(in_runtime("a")));
	runtime_folder_remove(folder);
	next = create("a");
	assert_int_equal(runtime_folder_write_pid(next, 1), 0);
	runtime_folder_remove(folder); /* the first owner again: what is there now is not its */
	assert_true(exists(in_runtime("a/pid")));
	lists("a ");
	runtime_folder_release(folder);
	runtime_folder_remove(next);
	runtime_folder_release(next);
}

static void a_runtime_that_others_can_change_is_refused(void **state)
{
	char elsewhere[512];

	runtime_folder_release(create("a"));
	chmod(runtime, 0770);
	refused("b", -EPERM);
	chmod(runtime, 0702);
	refused("b", -EPERM);
	assert_int_equal(runtime_folder_list(collect, NULL, &error), -EPERM);
	chmod(runtime, 0755);
	lists("");
	snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", top);
	assert_int_equal(rename(runtime, elsewhere), 0);
	assert_int_equal(symlink(elsewhere, runtime), 0);
	refused("b", -ENOTDIR);
	unlink(runtime);
	make_file(runtime);
	refused("b", -ENOTDIR);
	unlink(runtime);
	lists(""); /* no RUNTIME: no containers */
}

static void a_runtime_of_another_user_is_refused(void **state)
{
	if (geteuid() != 0)
		skip();
	runtime_folder_release(create("a"));
	assert_int_equal(chown(runtime, 65534, 65534), 0);
	refused("b", -EPERM);
	assert_int_equal(chown(runtime, 0, 0), 0);
	lists("");
}

static void names_that_could_mean_something_else_are_refused(void **state)
{
	static const char *const names[] = {"", ".", "..", ".a", "-a", "a/b", "a b", "a\nb", "\xc3\xa4"};
	char long_name[RUNTIME_NAME_MAX + 2];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		refused(names[i], -EINVAL);
		assert_int_equal(runtime_folder_connect(names[i], 0, &error), -ENOENT);
	}
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[RUNTIME_NAME_MAX + 1] = '\0';
	refused(long_name, -EINVAL);
	long_name[RUNTIME_NAME_MAX] = '\0';
	runtime_folder_release(create(long_name));
}

static void a_long_path_has_a_socket_too(void **state)
{
	char name[RUNTIME_NAME_MAX + 1] = "", deep[512];
	struct runtime_folder *folder;
	int listener, fd;

	memset(name, 'n', RUNTIME_NAME_MAX);
	snprintf(deep, sizeof(deep), "%s/%s/%s/%s", runtime, name, name, name);
	setenv("MEMBOX_RUNTIME_DIR", deep, 1);
	folder = create(name);
	assert_int_equal(runtime_folder_connect(name, 0, &error), -ENOENT);
	listener = runtime_folder_listen(folder);
	assert_true(listener >= 0);
	fd = runtime_folder_connect(name, 0, &error);
	assert_true(fd >= 0);
	close(fd);
	close(listener);
	assert_int_equal(runtime_folder_connect(name, 0, &error), -ENOENT);
	setenv("MEMBOX_RUNTIME_DIR", runtime, 1);
	snprintf(deep + strlen(deep), sizeof(deep) - strlen(deep), "/%s/control", name);
	assert_int_equal(mode_of(deep), 0600);
	runtime_folder_remove(folder);
	assert_false(exists(deep));
	runtime_folder_release(folder);
}

/* As a user without rights: 0 when the container's folder is at path, and gone again in the end. */
static int at_default_place(const char *path)
{
	struct runtime_folder *folder;
	struct stat st;

	if (setgroups(0, NULL) || setresgid(USER, USER, USER) || setresuid(USER, USER, USER))
		return 1;
	if (runtime_folder_create(strrchr(path, '/') + 1, &folder, &error))
		return 2;
	if (strcmp(runtime_folder_path(folder), path) || stat(path, &st) || (st.st_mode & 07777) != 0700 || st.st_uid != USER)
		return 3;
	runtime_folder_remove(folder);
	return stat(path, &st) ? 0 : 4;
}

static void expect_default_place(const char *session, const char *path)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		unsetenv("MEMBOX_RUNTIME_DIR");
		if (session)
			setenv("XDG_RUNTIME_DIR", session, 1);
		else
			unsetenv("XDG_RUNTIME_DIR");
		_exit(at_default_place(path));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void other_users_have_places_of_their_own(void **state)
{
	char session[128], path[512];

	if (geteuid() != 0)
		skip();
	chmod(top, 0755);
	snprintf(session, sizeof(session), "%s/session", top);
	snprintf(path, sizeof(path), "%s/membox/unit", session);
	assert_int_equal(mkdir(session, 0700), 0);
	assert_int_equal(chown(session, USER, USER), 0);
	expect_default_place(session, path);
	snprintf(path, sizeof(path), "/tmp/membox-%d/unit-%d", USER, getpid()); /* which this machine may have in use */
	expect_default_place(NULL, path);
	expect_default_place("not/absolute", path);
}

/* Creates and removes one of two names again and again; while the folder is its own nobody else may own or empty it. 0: that was so. */
static int compete(int which)
{
	const char *name = which % 2 ? "odd" : "even";
	char names[4096];

	for (int i = 0; i < 300; i++) {
		struct runtime_folder *folder;
		char pid[512], text[32];
		int r = runtime_folder_create(name, &folder, &error);
		ssize_t len;
		int fd;

		if (r == -EEXIST) {
			names[0] = '\0';
			if (runtime_folder_list(collect, names, &error))
				return 1;
			continue;
		}
		if (r || runtime_folder_write_pid(folder, getpid()))
			return 2;
		snprintf(pid, sizeof(pid), "%s/%s/pid", runtime, name);
		fd = open(pid, O_RDONLY);
		len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		close(fd);
		if (len <= 0 || atoi(text) != getpid())
			return 3;
		if (i % 3)
			runtime_folder_remove(folder);
		runtime_folder_release(folder);
	}
	return 0;
}

static void creators_removers_and_listers_do_not_harm_each_other(void **state)
{
	pid_t pids[6];
	int status;

	for (int i = 0; i < (int)ARRAY_LEN(pids); i++) {
		pids[i] = fork();
		if (pids[i] == 0)
			_exit(compete(i));
	}
	for (size_t i = 0; i < ARRAY_LEN(pids); i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	lists("");
}

/* While the name is free for nobody else, those who list must not make it look taken. */
static void listing_never_makes_a_free_name_look_taken(void **state)
{
	pid_t lister = fork();

	if (lister == 0)
		for (char names[4096];;) {
			names[0] = '\0';
			runtime_folder_list(collect, names, &error);
		}
	for (int i = 0; i < 1000; i++) {
		struct runtime_folder *folder = create("a");

		if (i % 2)
			runtime_folder_remove(folder);
		runtime_folder_release(folder);
	}
	kill_owner(lister);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(folders_and_files_are_private),
		cmocka_unit_test(a_name_in_use_is_refused),
		cmocka_unit_test(the_lock_lives_with_each_process_that_has_it),
		cmocka_unit_test(a_leftover_is_emptied_and_taken_over),
		cmocka_unit_test(a_keeper_that_takes_no_connections_is_not_waited_for),
		cmocka_unit_test(listing_removes_leftovers_only),
		cmocka_unit_test(another_process_of_the_owner_may_remove),
		cmocka_unit_test(a_runtime_that_others_can_change_is_refused),
		cmocka_unit_test(a_runtime_of_another_user_is_refused),
		cmocka_unit_test(other_users_have_places_of_their_own),
		cmocka_unit_test(names_that_could_mean_something_else_are_refused),
		cmocka_unit_test(a_long_path_has_a_socket_too),
		cmocka_unit_test(creators_removers_and_listers_do_not_harm_each_other),
		cmocka_unit_test(listing_never_makes_a_free_name_look_taken),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
