/* membox run: options to a struct run_config. */
#include <stdio.h>

#include "base/log.h"
#include "cli/container_options.h"
#include "cli/options.h"
#include "cli/verbs.h"

static const char usage[] =
	"Usage: membox run [OPTION]... [--] PROGRAM [ARG]...\n"
	"Run PROGRAM with its resident memory, and that of its descendants, under a limit. What does not fit goes to a swap file.\n"
	"\n"
	"  --limit SIZE      the limit (default: 90% of the memory that the surrounding cgroup or the machine grants)\n"
	"  --swap FILE       the swap file; kept at the end (default: a new one in the user's cache folder, removed at the end)\n"
	"  --swap-size SIZE  the swap file never grows beyond this (default: as the file system gives)\n"
	"  --no-swap         no swap file: over the limit the container's OOM killer decides\n"
	"  --encrypt         encrypt what is in the swap file, with a key in memory only (--no-encrypt: do not, which is the default)\n"
	"  --pool SIZE       the most that compressed pages in memory may take; 0: none (default: auto)\n"
	"  --oom POLICY      out of memory: 'kill' the process that holds most (default), or 'stop' all until there is room\n"
	"  --name NAME       name of the container (default: the program's name and a number)\n"
	"  --detach          print the container's name and return when the program runs; it gets a session of its own and no input\n"
	"  --isolate         in PID, IPC and mount namespaces of its own: sees only its own processes and shared memory\n"
	"  --stats FILE      write figures as JSON at the end\n"
	"  --help            print this\n"
	"\n"
	"SIZE is bytes, or K, M, G, T (powers of 1024), or N% of the memory granted. Exit code: the program's own; 128+N if signal\n"
	"N ended it; 125 membox itself failed, 126 the program cannot be executed, 127 it was not found.\n";

static int check_program(char **program)
{
	if (!program[0])
		log_error("run: no program given (see `membox run --help`)");
	else if (!program[0][0])
		log_error("run: the program's name is empty (see `membox run --help`)");
	else
		return 0;
	return EXIT_MEMBOX_FAILED;
}

int cmd_run(int argc, char **argv)
{
	struct container_options given;
	struct container_storage storage = {0};
	struct run_config config = {0};

	if (container_options_parse("run", argc, argv, &given))
		return EXIT_MEMBOX_FAILED;
	if (given.help) {
		fputs(usage, stdout);
		return finish_output(0);
	}
	if (check_program(given.rest) || container_options_apply(&given, given.rest[0], &config, &storage))
		return EXIT_MEMBOX_FAILED;
	config.argv = given.rest;
	int code = container_run_controlled(&config);
	container_storage_release(&storage);
	return code;
}
