/* The table of verbs. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"
#include "cli/options.h"
#include "cli/verbs.h"

static int cmd_help(int argc, char **argv);

static const struct verb {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} verbs[] = {
	{"run", cmd_run, "run a program with its resident memory under a limit"},
	{"attach", cmd_attach, "put running processes under a limit"},
	{"ps", cmd_ps, "list the containers"},
	{"stat", cmd_stat, "show what a container is doing"},
	{"set", cmd_set, "change a container's limit"},
	{"reclaim", cmd_reclaim, "free memory of a container now"},
	{"park", cmd_park, "stop a container and take it out of memory"},
	{"unpark", cmd_unpark, "let a parked container go on"},
	{"kill", cmd_kill, "send a signal to a container"},
	{"wait", cmd_wait, "wait for the end of a container"},
	{"swapon", cmd_swapon, "give a container a swap file"},
	{"swapoff", cmd_swapoff, "take a container's swap file away"},
	{"release", cmd_release, "let a container's processes go on without membox"},
	{"migrate", cmd_migrate, "move a container's memory to other NUMA nodes"},
	{"checkpoint", cmd_checkpoint, "save a container into a folder, so that it can be restored"},
	{"restore", cmd_restore, "let a saved container go on"},
	{"inspect", cmd_inspect, "show what a checkpoint holds"},
	{"pack", cmd_pack, "make one portable stream of a checkpoint"},
	{"unpack", cmd_unpack, "make a checkpoint of such a stream again"},
	{"send", cmd_send, "send a running container to another membox, through standard output"},
	{"receive", cmd_receive, "let a container go on that comes through standard input"},
	{"resume", cmd_resume, "give a received container the pages that its stream has lost"},
	{"upgrade", cmd_upgrade, "let another membox program take over a container that runs"},
	{"doctor", cmd_doctor, "check what this machine allows, and say what to change"},
	{"version", cmd_version, "print the version"},
	{"help", cmd_help, "print this, or the help of a verb: membox help VERB"},
};

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

static void print_overview(void)
{
	puts("Usage: membox VERB [OPTION]... [ARG]...\n"
	     "Run any Linux program in less memory than it needs; what does not fit goes to a swap file of its own.\n");
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		printf("  %-10s %s\n", verbs[i].name, verbs[i].help);
	puts("\n`membox VERB --help` says more. Exit code of `run`: the program's own; 128+N if signal N ended it;\n"
	     "125 membox itself failed, 126 the program cannot be executed, 127 it was not found.\n"
	     "Exit code of the others: 0; 1 when a container refuses or is not there; 125 membox itself failed.");
}

static int unknown_verb(const char *name)
{
	log_error("%s: unknown verb (see `membox --help`)", name);
	return EXIT_MEMBOX_FAILED;
}

static int cmd_help(int argc, char **argv)
{
	char help_option[] = "--help";
	const struct verb *verb;
	char *verb_argv[3];

	if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_overview();
		return finish_output(0);
	}
	verb = find_verb(argv[1]);
	if (!verb)
		return unknown_verb(argv[1]);
	verb_argv[0] = argv[1];
	verb_argv[1] = help_option;
	verb_argv[2] = NULL;
	return verb->run(2, verb_argv);
}

/*
 * A standard descriptor that is closed must not become one of ours. What takes its place cannot be used either, and is closed again in the program
 * of a container (close-on-exec).
 */
static void occupy_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", (fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	const struct verb *verb;

	occupy_standard_descriptors();
	if (argc < 2) {
		log_error("no verb given: nothing to do (see `membox --help`)");
		return EXIT_MEMBOX_FAILED;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		print_overview();
		return finish_output(0);
	}
	if (!strcmp(argv[1], "--version")) {
		char version_verb[] = "version";
		char *version_argv[] = {version_verb, NULL};

		return cmd_version(1, version_argv);
	}
	if (!strcmp(argv[1], "take-over")) /* what a keeper calls exec with; nothing for people */
		return cmd_take_over(argc - 1, argv + 1);
	verb = find_verb(argv[1]);
	return verb ? verb->run(argc - 1, argv + 1) : unknown_verb(argv[1]);
}
