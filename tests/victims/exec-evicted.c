/*
 * exec-evicted: a program that has been under pressure executes itself again, from its first thread and from another one, with arguments
 * and environment that lie on evicted memory; the new program must have them right, and must be served again when it is under pressure.
 * usage: exec-evicted [ROUND=0]
 */
#include <pthread.h>

#include "victim.h"

enum { NR = 512, LAST_ROUND = 4, NR_ARGUMENTS = 64 };

static char self[] = "/proc/self/exe";

/* Argument i is its number and then a filler that depends on round and number. */
static void argument_make(char *text, size_t size, int round, int i)
{
	snprintf(text, size, "%d-%d-%016llx-%0*d", round, i, (unsigned long long)mix((uint64_t)(round * 1000 + i)), 200 + i, i);
}

static void arguments_check(int argc, char **argv, int round)
{
	char expected[512];

	CHECK(argc == 2 + NR_ARGUMENTS, "%d arguments", argc);
	for (int i = 0; i < NR_ARGUMENTS; i++) {
		argument_make(expected, sizeof(expected), round, i);
		CHECK(!strcmp(argv[2 + i], expected), "argument %d is %s", i, argv[2 + i]);
	}
	argument_make(expected, sizeof(expected), round, -1);
	CHECK(getenv("VICTIM_ROUND") && !strcmp(getenv("VICTIM_ROUND"), expected), "environment");
	/* ps and top read it from outside: the pages of the arguments stay. */
	char line[64] = "";
	int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
	CHECK(read(fd, line, sizeof(line) - 1) > 0 && line[0], "/proc/self/cmdline is empty");
	close(fd);
}

static void *execute(void *argument)
{
	int round = *(int *)argument + 1;
	char *text = map_pages(16), **arguments = map_pages(1), **environment = map_pages(1), *press = getenv("VICTIM_PRESS_MB");

	snprintf(text, 512, "%d", round);
	arguments[0] = self;
	arguments[1] = text;
	for (int i = 0; i < NR_ARGUMENTS; i++) {
		arguments[2 + i] = text + 512 * (i + 1);
		argument_make(arguments[2 + i], 512, round, i);
	}
	environment[0] = text + 512 * (NR_ARGUMENTS + 1);
	strcpy(environment[0], "VICTIM_ROUND=");
	argument_make(environment[0] + 13, 400, round, -1);
	environment[1] = text + 512 * (NR_ARGUMENTS + 2);
	snprintf(environment[1], 512, "VICTIM_PRESS_MB=%s", press ? press : "96");
	evict(text, 16);
	victim_report();
	execve(self, arguments, environment);
	CHECK(false, "execve");
	return NULL;
}

int main(int argc, char **argv)
{
	int round = argc > 1 ? atoi(argv[1]) : 0;
	char *memory = map_pages(NR);
	pthread_t thread;

	if (round)
		arguments_check(argc, argv, round);
	pages_fill(memory, NR, (uint64_t)round * 1000);
	evict(memory, NR);
	pages_check(memory, NR, (uint64_t)round * 1000, "after exec");
	if (round)
		arguments_check(argc, argv, round);
	if (round == LAST_ROUND) {
		puts("right");
		return 0;
	}
	if (round % 2)
		execute(&round);
	CHECK(!pthread_create(&thread, NULL, execute, &round), "pthread_create");
	pthread_join(thread, NULL);
	return 1;
}
