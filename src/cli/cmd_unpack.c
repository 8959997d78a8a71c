/* membox unpack: a checkpoint's folder from a stream. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/units.h"
#include "checkpoint/image.h"
#include "checkpoint/pack/unpack.h"
#include "cli/options.h"
#include "cli/packing.h"
#include "cli/request.h"
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

static void remove_draft(const void *what)
{
	image_draft_remove(what);
}

static int commit(struct image_draft *draft, const struct unpacked *unpacked, int pages, struct checkpoint_error *error)
{
	if (fdatasync(pages) < 0)
		return checkpoint_fail(error, -errno, "%.200s: %s", draft->path, strerror(errno));
	packing_block_signals();
	return image_draft_commit(draft, unpacked->message, unpacked->checksums, unpacked->message->pages->nr_slots, error);
}

static int unpack(int fd, const char *file, struct image_draft *draft, struct unpacked *ret, struct checkpoint_error *error)
{
	struct packing_display display = {.text = "unpacking"};
	struct pack_progress progress = packing_progress(&display);
	struct pack_reader *reader = NULL;
	_cleanup_close_ int pages = image_draft_create_pages(draft, error);
	struct unpack_options options = {.pages = pages, .path = draft->path, .progress = &progress};
	int r = pages < 0 ? pages : pack_reader_new(fd, file, &reader);
	if (r == -ENOMEM)
		checkpoint_fail(error, r, "unpack: %s", strerror(ENOMEM));
	if (r == 0)
		r = unpack_stream(reader, &options, ret, error);
	if (r == 0)
		r = pack_reader_finish(reader, error);
	packing_clear(&display);
	if (r == 0)
		r = commit(draft, ret, pages, error);
	pack_reader_free(reader);
	return r;
}

static int open_input(const char *file, const char **ret_name)
{
	bool is_standard = !strcmp(file, "-");
	int fd = is_standard ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	*ret_name = is_standard ? "standard input" : file;
	if (fd < 0)
		log_error("%s: %s", file, strerror(errno));
	else if (isatty(fd))
		log_error("%s: is a terminal (give a file, or a pipe from another program)", *ret_name);
	else
		return fd;
	if (fd > STDERR_FILENO)
		close(fd);
	return -1;
}

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
	struct checkpoint_error error = {0};
	struct unpacked unpacked = {0};
	struct image_draft draft;
	const char *name;
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (r)
		return r;
	const char *folder = line.words[line.nr_words - 1];
	int fd = open_input(line.nr_words == 2 ? line.words[0] : "-", &name);
	if (fd < 0)
		return EXIT_MEMBOX_FAILED;
	signal(SIGXFSZ, SIG_IGN);
	packing_block_signals();
	r = image_draft_begin(folder, &draft, &error);
	if (r == 0) {
		packing_begin_undo(remove_draft, &draft);
		r = unpack(fd, name, &draft, &unpacked, &error);
		packing_block_signals();
		image_draft_end(&draft);
		packing_end_undo();
	}
	if (fd > STDERR_FILENO)
		close(fd);
	if (r == 0)
		print_result(folder, unpacked.pages, request_value(&line, REQUEST_JSON));
	else
		log_error("%s", error.text);
	unpacked_release(&unpacked);
	return finish_output(r < 0 ? EXIT_MEMBOX_FAILED : 0);
}
