/* membox restore: a container from a checkpoint. */
#include <stdio.h>

#include "base/log.h"
#include "cli/container_options.h"
#include "cli/options.h"
#include "cli/restoring.h"
#include "cli/verbs.h"

static const char usage[] =
	"Usage: membox restore [OPTION]... FOLDER\n"
	"Let the processes that `membox checkpoint` has saved in FOLDER go on where they were. They run at once; their pages come from FOLDER as they are touched,\n"
	"so it has to stay there. It is not changed, and can be restored again.\n"
	"\n"
	"  --limit SIZE      the limit (default: what it was)\n"
	"  --swap FILE       the swap file for what changes; kept at the end (default: a new one in the user's cache folder, removed at the end)\n"
	"  --swap-size SIZE  the swap file never grows beyond this (default: as the file system gives)\n"
	"  --encrypt         encrypt what is in the swap file, with a key in memory only (--no-encrypt: do not, which is the default)\n"
	"  --pool SIZE       the most that compressed pages in memory may take; 0: none (default: auto)\n"
	"  --oom POLICY      out of memory: 'kill' the process that holds most (default), or 'stop' all until there is room\n"
	"  --name NAME       name of the container (default: the program's name and a number)\n"
	"  --isolate         in PID, IPC and mount namespaces of its own, where all process ids are free (as they are if it was so before)\n"
	"  --detach          print the container's name and return when the processes run\n"
	"  --stats FILE      write figures as JSON at the end\n"
	"  --help            print this\n"
	"\n"
	"Descriptors that led out of the container (a terminal, a pipe to another program) are taken from this command's. Exit code: the program's own;\n"
	"128+N if signal N ended it; 125 membox itself failed.\n";

int cmd_restore(int argc, char **argv)
{
	struct container_options given;
	struct checkpoint_error error = {0};
	struct image image;

	if (container_options_parse("restore", argc, argv, &given))
		return EXIT_MEMBOX_FAILED;
	if (given.help) {
		fputs(usage, stdout);
		return finish_output(0);
	}
	if (!given.rest[0] || given.rest[1]) {
		log_error("restore: give one folder (see `membox restore --help`)");
		return EXIT_MEMBOX_FAILED;
	}
	if (image_open(given.rest[0], &image, &error) < 0) {
		log_error("%s", error.text);
		return EXIT_MEMBOX_FAILED;
	}
	int code = restoring_run("restore", &given, &image, NULL);
	image_close(&image);
	return code;
}
