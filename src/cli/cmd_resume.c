/* membox resume: the rest for a container whose stream broke when it ran already. */
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "checkpoint/image.h"
#include "cli/options.h"
#include "cli/packing.h"
#include "cli/request.h"
#include "cli/unpacking.h"
#include "cli/verbs.h"

static const char usage[] =
	"Usage: membox resume NAME [FILE]\n"
	"Give a container that `membox receive` has let go on, and whose stream broke before all of its pages had come, what is missing: from a stream that `membox pack` makes of the\n"
	"checkpoint that the sender has left (default, and for '-': from standard input):\n"
	"\n"
	"  membox pack job.sent | ssh host membox resume job\n"
	"\n"
	"Whoever waits for a page goes on. Another checkpoint than that one is refused.\n"
	"\n"
	"  --help  print this\n"
	"\n"
	"Exit code 0; 1 when the container refuses (nothing is missing) or there is none of that name; 125 when the stream is damaged, or membox itself failed.\n";

static int give(struct membox *m, const char *folder)
{
	_cleanup_object_ json_object *members = json_object_new_object();
	json_object_object_add(members, "path", json_object_new_string(folder));
	return request_result(m, membox_request(m, "resume", json_object_to_json_string(members), NULL));
}

int cmd_resume(int argc, char **argv)
{
	static const struct option options[] = {
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 1, 2, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	_cleanup_free_ char *folder = NULL;
	uint64_t pages;
	int code = request_parse(argc, argv, &syntax, &line);

	if (!code && line.help)
		return finish_output(0);
	if (!code)
		code = request_connect(line.words[0], WAIT_FOR_WORK, &m);
	if (code)
		return code;
	/* Until the container has taken from it what it needs. */
	folder = request_beside_swap(m, line.words[0], ".rest", "beside which its pages could be stored");
	if (!folder || unpacking_run("receiving", line.nr_words == 2 ? line.words[1] : "-", folder, &pages) < 0)
		return EXIT_MEMBOX_FAILED;
	packing_block_signals(); /* until the folder is gone again */
	code = give(m, folder);
	image_remove(folder);
	return code;
}
