/* membox checkpoint: asks a container to save itself. */
#include <stdio.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/verbs.h"

static const char usage[] =
	"Usage: membox checkpoint NAME FOLDER [--leave-running]\n"
	"Save the container's processes into FOLDER, from which `membox restore` lets them go on, and end the container. What is in its swap file already is not\n"
	"copied: the file becomes part of FOLDER, which has to be on the same file system. An earlier checkpoint in FOLDER is replaced in one step.\n"
	"\n"
	"  --leave-running  the container goes on\n"
	"  --help           print this\n"
	"\n"
	"Exit code 0; 1 when the container refuses (it says why, and goes on) or there is none of that name; 125 when membox itself failed.\n";

int cmd_checkpoint(int argc, char **argv)
{
	static const struct option options[] = {
		{"leave-running", no_argument, NULL, REQUEST_LEAVE_RUNNING},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 2, 2, "give a container and a folder"};
	struct request_line line = {0};
	struct membox_checkpoint_result result;
	_cleanup_membox_ struct membox *m = NULL;
	_cleanup_free_ char *path = NULL;
	char size[SIZE_TEXT_MAX], written[SIZE_TEXT_MAX];
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (r)
		return r;
	path = request_absolute_path("checkpoint", line.words[1]);
	if (!path)
		return EXIT_MEMBOX_FAILED;
	r = request_connect(line.words[0], WAIT_FOR_WORK, &m);
	if (!r)
		r = request_result(m, membox_checkpoint(m, path, request_value(&line, REQUEST_LEAVE_RUNNING), &result));
	if (r)
		return r;
	printf("%s saved, %s of it written; stopped for %.1f ms\n", format_size(result.pages << PAGE_SHIFT, size),
	       format_size(result.written << PAGE_SHIFT, written), (double)result.frozen_us / 1000);
	return finish_output(0);
}
