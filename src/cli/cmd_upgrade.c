/* membox upgrade: lets another program take the keeper's place. */
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/verbs.h"

static const char usage[] =
	"Usage: membox upgrade NAME [--program FILE]\n"
	"Let another membox program take the place of the container's keeper while its processes run. Those that miss a page wait meanwhile, some tens of\n"
	"milliseconds; nothing else stops. When the program cannot take over, the keeper goes on as it was.\n"
	"\n"
	"  --program FILE  the program (default: the one that is called)\n"
	"  --help          print this\n"
	"\n"
	"Exit code 0; 1 when the container or the program refuses, or there is none of that name; 125 when membox itself failed.\n";

int cmd_upgrade(int argc, char **argv)
{
	static const struct option options[] = {
		{"program", required_argument, NULL, REQUEST_PROGRAM},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 1, 1, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	_cleanup_free_ char *file = NULL;
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (r)
		return r;
	const char *given = request_value(&line, REQUEST_PROGRAM);
	file = given ? request_absolute_path("upgrade", given) : realpath("/proc/self/exe", NULL);
	if (!file)
		return EXIT_MEMBOX_FAILED;
	r = request_connect(line.words[0], WAIT_FOR_WORK, &m);
	return r ? r : request_result(m, membox_upgrade(m, file));
}
