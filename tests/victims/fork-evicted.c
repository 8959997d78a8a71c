/*
 * fork-evicted: forks while pages are evicted; parent and child verify, write and verify again; nested forks; mappings that the
 * child must get as zeros (MADV_WIPEONFORK) or not at all (MADV_DONTFORK); vfork and posix_spawn; many forks one after the other.
 * usage: fork-evicted
 */
#include <spawn.h>
#include <sys/wait.h>

#include "victim.h"

enum { NR = 512 };

static void wait_right(pid_t pid, const char *what)
{
	int status = 0;

	CHECK(waitpid(pid, &status, 0) == pid, "%s: waitpid", what);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "%s: child ended with %#x", what, (unsigned)status);
}

static pid_t fork_checked(void)
{
	fflush(NULL);
	pid_t pid = fork();
	CHECK(pid >= 0, "fork");
	return pid;
}

static void child_writes(char *memory)
{
	pages_fill(memory, NR, 1);
	evict(memory, NR);
	pid_t pid = fork_checked();
	if (!pid) {
		pages_check(memory, NR, 1, "child, before writing");
		pages_fill(memory, NR, 100000);
		evict(memory, NR);
		pages_check(memory, NR, 100000, "child, written and evicted");
		_exit(0);
	}
	pages_check(memory, NR / 2, 1, "parent, while the child writes");
	wait_right(pid, "child that writes");
	pages_check(memory, NR, 1, "parent, after the child wrote");
}

static void parent_writes(char *memory)
{
	int go[2];
	char byte;

	pages_fill(memory, NR, 200000);
	evict(memory, NR);
	CHECK(!pipe(go), "pipe");
	pid_t pid = fork_checked();
	if (!pid) {
		close(go[1]);
		CHECK(read(go[0], &byte, 1) == 0, "read");
		pages_check(memory, NR, 200000, "child, after the parent wrote");
		_exit(0);
	}
	close(go[0]);
	pages_fill(memory, NR, 300000);
	evict(memory, NR);
	close(go[1]);
	pages_check(memory, NR, 300000, "parent, written");
	wait_right(pid, "child that reads");
}

static void nest(char *memory, int depth, uint64_t tag)
{
	pages_check(memory, NR, tag, "nested fork");
	if (!depth)
		return;
	for (size_t i = (size_t)depth; i < NR; i += 4)
		page_fill(memory + i * PAGE_BYTES, tag + i);
	pid_t pid = fork_checked();
	if (!pid) {
		nest(memory, depth - 1, tag);
		pages_fill(memory, NR, tag + 7777);
		evict(memory, NR);
		pages_check(memory, NR, tag + 7777, "nested child, written");
		_exit(0);
	}
	wait_right(pid, "nested child");
	pages_check(memory, NR, tag, "nested parent");
}

static void wipe_and_dont(void)
{
	char *wiped = map_pages(NR), *kept = map_pages(NR), *absent = map_pages(NR);

	pages_fill(wiped, NR, 1);
	pages_fill(kept, NR, 2);
	pages_fill(absent, NR, 3);
	CHECK(!madvise(wiped, NR * PAGE_BYTES, MADV_WIPEONFORK), "WIPEONFORK");
	CHECK(!madvise(absent, NR * PAGE_BYTES, MADV_DONTFORK), "DONTFORK");
	evict(wiped, NR);
	pid_t pid = fork_checked();
	if (!pid) {
		pages_check_zero(wiped, NR, "WIPEONFORK in the child");
		pages_check(kept, NR, 2, "beside WIPEONFORK");
		char *again = mmap(absent, NR * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (again == absent)
			pages_check_zero(again, NR, "mapped where the parent has DONTFORK");
		_exit(0);
	}
	wait_right(pid, "child of wipe");
	pages_check(wiped, NR, 1, "WIPEONFORK in the parent");
	pages_check(kept, NR, 2, "kept in the parent");
	pages_check(absent, NR, 3, "DONTFORK in the parent");
	munmap(wiped, NR * PAGE_BYTES);
	munmap(kept, NR * PAGE_BYTES);
	munmap(absent, NR * PAGE_BYTES);
}

/* Path, arguments and environment of the spawned program lie on evicted memory. */
static void spawn_from_evicted(void)
{
	char *text = map_pages(8);
	char *path = text, *flag = text + PAGE_BYTES, *script = text + 2 * PAGE_BYTES, *variable = text + 3 * PAGE_BYTES;
	char **arguments = (char **)(void *)(text + 4 * PAGE_BYTES), **environment = (char **)(void *)(text + 5 * PAGE_BYTES);
	pid_t pid;

	strcpy(path, "/bin/sh");
	strcpy(flag, "-c");
	strcpy(script, "test \"$VICTIM_WORD\" = evicted-word");
	strcpy(variable, "VICTIM_WORD=evicted-word");
	arguments[0] = path;
	arguments[1] = flag;
	arguments[2] = script;
	environment[0] = variable;
	evict(text, 8);
	CHECK(!posix_spawn(&pid, path, NULL, NULL, arguments, environment), "posix_spawn");
	wait_right(pid, "spawned program");
	evict(text, 8);
	pid = fork_checked();
	if (!pid) {
		execve(path, arguments, environment);
		_exit(2);
	}
	wait_right(pid, "program of execve");
	munmap(text, 8 * PAGE_BYTES);
}

static void vfork_and_spawn(char *memory)
{
	pages_fill(memory, NR, 400000);
	evict(memory, NR);
	volatile long wrong = 0;
	pid_t pid = vfork();
	if (!pid) {
		for (size_t i = 0; i < NR; i++)
			if (page_wrong_word(memory + i * PAGE_BYTES, 400000 + i) >= 0)
				wrong++;
		_exit(wrong ? 1 : 0);
	}
	wait_right(pid, "vfork child");
	CHECK(!wrong, "wrong pages in the vfork child");
	spawn_from_evicted();
}

static void many_forks(char *memory)
{
	for (uint64_t i = 0; i < 100; i++) {
		size_t chosen = (size_t)(i * 37 % NR);
		pid_t pid = fork_checked();
		if (!pid) {
			page_check(memory + chosen * PAGE_BYTES, 400000 + chosen, "one of many children");
			page_fill(memory + chosen * PAGE_BYTES, i);
			page_check(memory + chosen * PAGE_BYTES, i, "one of many children, written");
			_exit(0);
		}
		wait_right(pid, "one of many children");
	}
	pages_check(memory, NR, 400000, "after many children");
}

int main(void)
{
	char *memory = map_pages(NR);

	memory_press();
	for (int round = 0; round < 2; round++) {
		child_writes(memory);
		parent_writes(memory);
		pages_fill(memory, NR, 500000);
		evict(memory, NR);
		nest(memory, 4, 500000);
		wipe_and_dont();
		vfork_and_spawn(memory);
		many_forks(memory);
	}
	victim_report();
	puts("right");
	return 0;
}
