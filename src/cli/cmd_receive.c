/* membox receive: a container from standard input. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "checkpoint/machine.h"
#include "checkpoint/pack/unpack.h"
#include "checkpoint/preflight.h"
#include "cli/options.h"
#include "cli/packing.h"
#include "cli/restoring.h"
#include "cli/verbs.h"
#include "platform/requirements.h"

static const char usage[] =
	"Usage: membox receive [OPTION]...\n"
	"Let a container go on here that `membox send` (or `membox pack`) writes into the pipe to standard input. It runs when its sender has ended it; a stream that breaks before\n"
	"that leaves nothing here. What cannot go on here is refused while it still runs there, as far as that can be seen. Pages that the sender has kept for last come while it\n"
	"runs: who touches one waits for it, and when the stream breaks meanwhile, until `membox resume` brings the rest.\n"
	"\n"
	"  --limit SIZE      the limit (default: what it was)\n"
	"  --swap FILE       the swap file for what changes, kept at the end; the pages that come are stored in its folder (default: in the user's cache folder)\n"
	"  --swap-size SIZE  the swap file never grows beyond this (default: as the file system gives)\n"
	"  --encrypt         encrypt what is in the swap file, with a key in memory only (--no-encrypt: do not, which is the default)\n"
	"  --pool SIZE       the most that compressed pages in memory may take; 0: none (default: auto)\n"
	"  --oom POLICY      out of memory: 'kill' the process that holds most (default), or 'stop' all until there is room\n"
	"  --name NAME       name of the container (default: the program's name and a number)\n"
	"  --isolate         in PID, IPC and mount namespaces of its own, where all process ids are free (as they are if it was so before)\n"
	"  --detach          print the container's name and return when the processes run and everything has come\n"
	"  --stats FILE      write figures as JSON at the end\n"
	"  --help            print this\n"
	"\n"
	"Exit code: the program's own; 128+N if signal N ended it; 125 membox itself failed.\n";

/* A file without a name, which goes with its last user, in the folder of that one. -1 after one line on stderr. */
static int create_pages(const char *beside)
{
	_cleanup_free_ char *path = NULL;
	if (asprintf(&path, "%s.XXXXXX", beside) < 0)
		path = NULL;
	int fd = path ? mkostemp(path, O_CLOEXEC) : -1;
	if (fd < 0)
		log_error("cannot make a file for the pages beside %s: %s", beside, strerror(path ? errno : ENOMEM));
	else
		unlink(path);
	return fd;
}

static int check_image(const Image__Image *image, void *context, struct checkpoint_error *error)
{
	const struct run_config *config = context;
	return preflight_check(image, config->isolate, error);
}

/* A descriptor of its own, which the program does not get as its input. */
static int dup_stream(void)
{
	int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (fd < 0)
		log_error("standard input: %s", strerror(errno));
	return fd;
}

/* The program may have lost its own input on the way, and would read what is left of the stream. */
static int leave_stream(void)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int r = null < 0 || dup2(null, STDIN_FILENO) < 0 ? -errno : 0;
	if (null >= 0)
		close(null);
	return r;
}

/* Whether all has come or the rest is to come while it runs. The reader and the descriptor are taken over. */
static int end_reading(struct image *image, struct late_pages *late, struct pack_reader *reader, int fd, struct arrivals **ret)
{
	int r = late->is_switched ? leave_stream() : 0;
	if (r == 0 && late->is_switched)
		r = arrivals_new(image, late, reader, fd, ret);
	if (*ret)
		return 0;
	pack_reader_free(reader);
	close(fd);
	return r;
}

static int receive_image(struct run_config *config, struct image *ret, struct arrivals **ret_arrivals)
{
	struct packing_display display = {.text = "receiving"};
	struct pack_progress progress = packing_progress(&display);
	struct checkpoint_error error = {0};
	struct pack_reader *reader = NULL;
	struct late_pages late = {0};
	struct unpack_options options = {.path = "received pages", .check_machine = machine_check, .check_image = check_image, .context = config, .stops_at_switch = true,
					 .progress = &progress};
	int fd = dup_stream();
	options.pages = fd < 0 ? -1 : create_pages(config->swap_path);
	if (options.pages < 0)
		return EXIT_MEMBOX_FAILED;
	int r = pack_reader_new(fd, "standard input", &reader);
	if (r == 0)
		r = unpack_image(reader, &options, ret, &late, &error);
	packing_clear(&display);
	if (r == 0)
		return end_reading(ret, &late, reader, fd, ret_arrivals) ? EXIT_MEMBOX_FAILED : 0;
	pack_reader_free(reader);
	log_error("receive: %s", error.text[0] ? error.text : strerror(-r));
	close(options.pages);
	close(fd);
	return EXIT_MEMBOX_FAILED;
}

/* What would make the restore fail when it is too late for the sender. 0, or the exit code after one line on stderr. */
static int check_before(const struct container_options *given, struct run_config *config, struct container_storage *storage)
{
	struct requirement_failure failure;
	struct runtime_folder *folder = NULL;
	struct runtime_error error;
	if (isatty(STDIN_FILENO)) {
		log_error("standard input: is a terminal (give a pipe from `membox send`)");
		return EXIT_MEMBOX_FAILED;
	}
	if (container_options_apply(given, "received", config, storage))
		return EXIT_MEMBOX_FAILED;
	if (requirements_check(&failure) < 0) {
		log_error("%s (see `membox doctor`)", failure.text);
		return EXIT_MEMBOX_FAILED;
	}
	int r = runtime_folder_create(config->name, &folder, &error);
	if (r == 0)
		runtime_folder_remove(folder);
	runtime_folder_release(folder);
	if (r != -EEXIST)
		return 0;
	log_error("%s", error.text);
	return EXIT_MEMBOX_FAILED;
}

int cmd_receive(int argc, char **argv)
{
	struct container_options given;
	struct container_storage storage = {0};
	struct run_config config = {0};
	struct arrivals *arrivals = NULL;
	struct image image;

	if (container_options_parse("receive", argc, argv, &given))
		return EXIT_MEMBOX_FAILED;
	if (given.help) {
		fputs(usage, stdout);
		return finish_output(0);
	}
	if (given.rest[0]) {
		log_error("%s: unexpected argument (see `membox receive --help`)", given.rest[0]);
		return EXIT_MEMBOX_FAILED;
	}
	int code = check_before(&given, &config, &storage);
	if (!code)
		code = receive_image(&config, &image, &arrivals);
	container_storage_release(&storage);
	if (code)
		return code;
	code = restoring_run("receive", &given, &image, arrivals);
	arrivals_free(arrivals);
	image_close(&image);
	return code;
}
