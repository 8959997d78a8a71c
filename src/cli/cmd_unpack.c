/* membox unpack: a checkpoint's folder from a stream. */
#include <stdio.h>

#include "base/units.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/unpacking.h"
#include "cli/verbs.h"

static const char usage[] =
	"Usage: membox unpack [FILE] FOLDER\n"
	"Make a checkpoint in FOLDER of what `membox pack` has written (default, and for '-': from standard input). FOLDER gets its name when everything is there and\n"
	"right; an earlier checkpoint of that name is replaced in one step. A stream that was cut off or changed is refused and leaves nothing.\n"
	"\n"
	"  --json  print an object instead of a line for people\n"
	"  --help  print this\n"
	"\n"
	"Exit code 0; 125 when it is no packed checkpoint, is damaged, or membox itself failed.\n";

static void print_result(const char *folder, uint64_t pages, bool json)
{
	char size[SIZE_TEXT_MAX];
	_cleanup_object_ json_object *object = json_object_new_object();
	json_object_object_add(object, "bytes", json_object_new_uint64(pages << PAGE_SHIFT));
	if (json)
		print_object(object, false);
	else
		printf("%s of pages unpacked into %s\n", format_size(pages << PAGE_SHIFT, size), folder);
}

int cmd_unpack(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, REQUEST_JSON},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 1, 2, "no folder given"};
	struct request_line line = {0};
	uint64_t pages;
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (r)
		return r;
	const char *folder = line.words[line.nr_words - 1];
	r = unpacking_run("unpacking", line.nr_words == 2 ? line.words[0] : "-", folder, &pages);
	if (r == 0)
		print_result(folder, pages, request_value(&line, REQUEST_JSON));
	return finish_output(r < 0 ? EXIT_MEMBOX_FAILED : 0);
}
