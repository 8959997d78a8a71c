/* membox pack: one stream of a checkpoint. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/options.h"
#include "cli/packing.h"
#include "cli/request.h"
#include "cli/verbs.h"
#include "platform/folders.h"

static const char usage[] =
	"Usage: membox pack [OPTION]... FOLDER [FILE]\n"
	"Write the checkpoint in FOLDER as one compressed stream, with only those pages that it needs, into FILE (default, and for '-': standard output).\n"
	"`membox unpack` makes a checkpoint of it again, here or on another machine.\n"
	"\n"
	"  -1 ... -19       fast ... small (default: -3)\n"
	"  -T, --threads N  compress in N threads; 0: one for each processor (default: that, at most 8)\n"
	"      --long       look for what repeats far back as well: smaller, with more memory and time\n"
	"  -o FILE          the same as the argument FILE\n"
	"  -f, --force      replace a FILE that is there\n"
	"      --json       print an object instead of a line for people\n"
	"      --help       print this\n"
	"\n"
	"FILE gets its name when it is complete. With standard output nothing else is printed. Exit code 0; 125 when it is not a checkpoint, is damaged, or membox\n"
	"itself failed.\n";

struct command {
	struct packing_options packing;
	const char *folder, *file; /* file NULL: standard output */
	bool force, json, help;
};

/* Where the stream goes. */
struct output {
	int fd;
	const char *path;
	char *work_path; /* NULL: it is no new file */
};

static int parse(int argc, char **argv, struct command *ret)
{
	static const struct option options[] = {
		PACKING_LONG_OPTIONS,
		{"force", no_argument, NULL, 'f'},
		{"json", no_argument, NULL, REQUEST_JSON},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c, r;
	packing_options_init(&ret->packing);
	opterr = 0;
	for (int word = optind; (c = getopt_long(argc, argv, ":ho:f" PACKING_SHORT_OPTIONS, options, NULL)) != -1; word = optind) {
		if (c == '?' || c == ':')
			return option_error("pack", options, c, argv);
		r = packing_take_option(&ret->packing, c, word);
		if (r > 1)
			return r;
		ret->help |= c == 'h';
		ret->force |= c == 'f';
		ret->json |= c == REQUEST_JSON;
		if (c == 'o')
			ret->file = optarg;
	}
	if (ret->help)
		return 0;
	int nr = argc - optind;
	if (nr < 1 || nr > 2 || (nr == 2 && ret->file)) {
		log_error("pack: %s (see `membox pack --help`)", nr < 1 ? "no folder given" : "give one folder and at most one file");
		return EXIT_MEMBOX_FAILED;
	}
	ret->folder = argv[optind];
	ret->file = nr == 2 ? argv[optind + 1] : ret->file;
	if (ret->file && !strcmp(ret->file, "-"))
		ret->file = NULL;
	return packing_check_options(&ret->packing);
}

static int fail_path(const char *path, int error)
{
	log_error("%s: %s", path, strerror(-error));
	return EXIT_MEMBOX_FAILED;
}

static void remove_output(const void *what)
{
	const struct output *output = what;
	unlink(output->work_path);
}

/* A new file under another name; what is there and is no plain file (a device, a named pipe) is written to. */
static int open_file(const struct command *command, struct output *ret)
{
	struct stat st;
	bool exists = stat(command->file, &st) == 0;
	ret->path = command->file;
	if (exists && S_ISDIR(st.st_mode))
		return fail_path(command->file, -EISDIR);
	if (exists && !S_ISREG(st.st_mode)) {
		ret->fd = open(command->file, O_WRONLY | O_CLOEXEC | O_NOCTTY);
		return ret->fd < 0 ? fail_path(command->file, -errno) : 0;
	}
	if (exists && !command->force) {
		log_error("%s: it is there already (--force replaces it)", command->file);
		return EXIT_MEMBOX_FAILED;
	}
	if (asprintf(&ret->work_path, "%s.XXXXXX", command->file) < 0) {
		ret->work_path = NULL;
		return fail_path(command->file, -ENOMEM);
	}
	packing_block_signals();
	ret->fd = mkostemp(ret->work_path, O_CLOEXEC);
	if (ret->fd >= 0)
		packing_begin_undo(remove_output, ret);
	return ret->fd < 0 ? fail_path(command->file, -errno) : 0;
}

static int open_output(const struct command *command, struct output *ret)
{
	*ret = (struct output){.fd = STDOUT_FILENO, .path = "standard output"};
	int code = command->file ? open_file(command, ret) : 0;
	if (code || !isatty(ret->fd))
		return code;
	log_error("%s: is a terminal (give a file, or a pipe to another program)", ret->path);
	return EXIT_MEMBOX_FAILED;
}

/* It gets its name, or nothing is left of it. */
static int close_output(struct output *output, bool force, int code)
{
	if (!code && output->work_path) {
		packing_block_signals();
		unsigned how = force ? 0 : RENAME_NOREPLACE;
		int r = fsync(output->fd) < 0 || renameat2(AT_FDCWD, output->work_path, AT_FDCWD, output->path, how) < 0 ? -errno : folder_sync_above(output->path);
		code = r < 0 ? fail_path(output->path, r) : 0;
	}
	if (output->work_path && output->fd >= 0) {
		if (code)
			unlink(output->work_path);
		packing_end_undo();
	}
	if (output->fd > STDERR_FILENO)
		close(output->fd);
	free(output->work_path);
	return code;
}

static void print_result(const struct command *command, const struct pack_result *result)
{
	char size[SIZE_TEXT_MAX], packed[SIZE_TEXT_MAX];
	_cleanup_object_ json_object *object = json_object_new_object();
	if (!command->file)
		return;
	json_object_object_add(object, "bytes", json_object_new_uint64(result->pages << PAGE_SHIFT));
	json_object_object_add(object, "packed", json_object_new_uint64(result->packed));
	if (command->json)
		print_object(object, false);
	else
		printf("%s of pages packed into %s\n", format_size(result->pages << PAGE_SHIFT, size), format_size(result->packed, packed));
}

static int pack(const struct command *command, const struct image *image, struct output *output, struct pack_result *ret)
{
	struct packing_display display = {.text = "packing"};
	struct pack_progress progress = packing_progress(&display);
	struct checkpoint_error error = {0};
	struct pack_writer *writer;
	int r = pack_writer_new(output->fd, &command->packing.pack, &writer);
	if (r < 0)
		return fail_path("pack", r);
	r = pack_image(image, command->folder, writer, output->path, &progress, ret, &error);
	pack_writer_free(writer);
	packing_clear(&display);
	if (r < 0)
		log_error("%s", error.text);
	return r < 0 ? EXIT_MEMBOX_FAILED : 0;
}

int cmd_pack(int argc, char **argv)
{
	struct command command = {0};
	struct checkpoint_error error = {0};
	struct image image;
	struct output output;
	struct pack_result result;
	int code = parse(argc, argv, &command);

	if (!code && command.help) {
		fputs(usage, stdout);
		return finish_output(0);
	}
	if (code)
		return code;
	signal(SIGPIPE, SIG_IGN); /* said as any other failure */
	signal(SIGXFSZ, SIG_IGN);
	if (image_open(command.folder, &image, &error) < 0) {
		log_error("%s", error.text);
		return EXIT_MEMBOX_FAILED;
	}
	code = open_output(&command, &output);
	if (!code)
		code = pack(&command, &image, &output, &result);
	code = close_output(&output, command.force, code);
	image_close(&image);
	if (!code)
		print_result(&command, &result);
	return finish_output(code);
}
