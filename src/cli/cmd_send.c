/* membox send: a running container through standard output. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/options.h"
#include "cli/packing.h"
#include "cli/request.h"
#include "cli/verbs.h"
#include "control/send.h"

static const char usage[] =
	"Usage: membox send [OPTION]... NAME\n"
	"Write the container, while it runs, as a stream to standard output, end it, and let it go on where `membox receive` reads the stream:\n"
	"\n"
	"  membox send job | ssh host membox receive --detach\n"
	"\n"
	"Its memory is sent while it runs, then what has changed, until little is left or it does not get less; then it is stopped here. If what is left would take long it goes on there\n"
	"without that, which follows, and whoever touches a page that has not come waits for it. If the stream breaks before it is stopped for good, it goes on here as if nothing had\n"
	"happened. In the end it has ended here, and its last checkpoint stays, from which `membox restore` or `membox pack` can take it up.\n"
	"\n"
	"      --image FOLDER  where that checkpoint is to be, on the file system of the swap file (default: the swap file's path and '.sent')\n"
	"      --no-post-copy  send everything before it goes on there, however long it is stopped for that\n"
	"  -1 ... -19          fast ... small (default: -1)\n"
	"  -T, --threads N     compress in N threads; 0: one for each processor (default: that, at most 8)\n"
	"      --long          look for what repeats far back as well\n"
	"      --help          print this\n"
	"\n"
	"Exit code 0; 1 when the container refuses (it says why, and goes on) or there is none of that name; 125 when membox itself failed.\n";

enum { OPT_IMAGE = 400, OPT_NO_POST_COPY };

struct command {
	struct packing_options packing;
	const char *name, *folder;
	bool sends_all_before, help;
};

static int parse(int argc, char **argv, struct command *ret)
{
	static const struct option options[] = {
		PACKING_LONG_OPTIONS,
		{"image", required_argument, NULL, OPT_IMAGE},
		{"no-post-copy", no_argument, NULL, OPT_NO_POST_COPY},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c, r;
	packing_options_init(&ret->packing);
	ret->packing.pack.level = 1; /* it has to keep up with the program */
	opterr = 0;
	for (int word = optind; (c = getopt_long(argc, argv, ":h" PACKING_SHORT_OPTIONS, options, NULL)) != -1; word = optind) {
		if (c == '?' || c == ':')
			return option_error("send", options, c, argv);
		r = packing_take_option(&ret->packing, c, word);
		if (r > 1)
			return r;
		ret->help |= c == 'h';
		ret->sends_all_before |= c == OPT_NO_POST_COPY;
		if (c == OPT_IMAGE)
			ret->folder = optarg;
	}
	if (ret->help)
		return 0;
	if (argc - optind != 1) {
		log_error("send: give one container (see `membox send --help`)");
		return EXIT_MEMBOX_FAILED;
	}
	ret->name = argv[optind];
	return packing_check_options(&ret->packing);
}

/* 0, or the exit code after one line on stderr. */
static int check_folder(const char *folder)
{
	if (access(folder, F_OK) < 0 && errno == ENOENT)
		return 0;
	log_error("%s: it is there already (what was sent before? remove it, or give --image FOLDER)", folder);
	return EXIT_MEMBOX_FAILED;
}

static void say_result(const struct command *command, const char *folder, const struct send_result *result)
{
	char size[SIZE_TEXT_MAX], sent[SIZE_TEXT_MAX], packed[SIZE_TEXT_MAX], late[SIZE_TEXT_MAX], after[SIZE_TEXT_MAX + 32] = "";
	if (result->late)
		snprintf(after, sizeof(after), ", %s of it afterwards", format_size(result->late << PAGE_SHIFT, late));
	log_error("%s is sent: %s, in %u rounds %s (%s in the stream)%s; stopped for %.1f ms. Its checkpoint %s stays until you remove it", command->name,
		  format_size(result->pages << PAGE_SHIFT, size), result->rounds + 1, format_size(result->sent << PAGE_SHIFT, sent), format_size(result->packed, packed),
		  after, (double)result->held_us / 1000, folder);
}

static void say_failure(const struct command *command, const char *folder, const struct send_result *result, const char *why)
{
	if (result->is_switched)
		log_error("%s: %s has ended here, and may go on there without all of its pages: `membox pack %s` into `membox resume` there brings the rest. Restore it here only when it is ended there",
			  why, command->name, folder);
	else if (result->is_gone)
		log_error("%s: %s has ended here, and its checkpoint is %s (membox restore lets it go on, membox pack sends it again)", why, command->name, folder);
	else
		log_error("%s (%s)", why, result->goes_on ? "it goes on here" : "nothing was sent that could run");
}

static int send(struct membox *m, const struct command *command, const char *folder)
{
	struct packing_display display = {.text = "sending"};
	struct pack_progress progress = packing_progress(&display);
	struct send_options options = {
		.name = command->name, .folder = folder, .fd = STDOUT_FILENO, .stream = "standard output", .pack = command->packing.pack,
		.sends_all_before = command->sends_all_before, .progress = &progress};
	struct send_result result;
	struct checkpoint_error error = {0};
	int r = send_container(m, &options, &result, &error);
	packing_clear(&display);
	if (r == 0)
		say_result(command, folder, &result);
	else
		say_failure(command, folder, &result, error.text);
	return r == 0 ? 0 : result.was_refused ? EXIT_REFUSED : EXIT_MEMBOX_FAILED;
}

int cmd_send(int argc, char **argv)
{
	struct command command = {0};
	_cleanup_membox_ struct membox *m = NULL;
	_cleanup_free_ char *folder = NULL;
	int code = parse(argc, argv, &command);

	if (!code && command.help) {
		fputs(usage, stdout);
		return finish_output(0);
	}
	if (code)
		return code;
	if (isatty(STDOUT_FILENO)) {
		log_error("standard output: is a terminal (give a pipe to `membox receive`)");
		return EXIT_MEMBOX_FAILED;
	}
	signal(SIGPIPE, SIG_IGN); /* said as any other failure */
	code = request_connect(command.name, WAIT_FOR_WORK, &m);
	if (code)
		return code;
	folder = command.folder ? request_absolute_path("send", command.folder)
				: request_beside_swap(m, command.name, ".sent", "through which it is sent (membox swapon gives it one)");
	if (!folder)
		return EXIT_MEMBOX_FAILED;
	code = check_folder(folder);
	return code ? code : send(m, &command, folder);
}
