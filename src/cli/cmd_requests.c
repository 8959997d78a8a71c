/* The verbs that ask a container for one thing: set, reclaim, park, unpark, kill, wait, swapon, swapoff, release. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/units.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/verbs.h"

#define EXIT_CODES "Exit code 0; 1 when the container refuses or there is none of that name; 125 when membox itself failed.\n"

static const struct option no_options[] = {
	{"help", no_argument, NULL, 'h'},
	{0},
};

/* A verb that has nothing but a NAME. */
static int ask_plain(int argc, char **argv, const char *usage, int timeout_ms, int (*ask)(struct membox *m))
{
	const struct request_syntax syntax = {usage, no_options, 1, 1, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (!r)
		r = request_connect(line.words[0], timeout_ms, &m);
	return r ? r : request_result(m, ask(m));
}

int cmd_park(int argc, char **argv)
{
	static const char usage[] = "Usage: membox park NAME\n"
				    "Stop all processes of the container and write all that can leave memory to its swap file. Ends when that is done.\n" EXIT_CODES;

	return ask_plain(argc, argv, usage, WAIT_FOR_WORK, membox_park);
}

int cmd_unpark(int argc, char **argv)
{
	static const char usage[] = "Usage: membox unpark NAME\n"
				    "Let the processes of a parked container go on. Their memory comes back as they touch it.\n" EXIT_CODES;

	return ask_plain(argc, argv, usage, ANSWER_TIMEOUT_MS, membox_unpark);
}

int cmd_swapoff(int argc, char **argv)
{
	static const char usage[] = "Usage: membox swapoff NAME\n"
				    "Bring everything that is in the container's swap file back into memory and give the file up. Refused, with nothing changed,\n"
				    "when the limit leaves no room for it. Ends when that is done.\n" EXIT_CODES;

	return ask_plain(argc, argv, usage, WAIT_FOR_WORK, membox_swapoff);
}

int cmd_release(int argc, char **argv)
{
	static const char usage[] = "Usage: membox release NAME\n"
				    "Bring everything back into memory and take membox out of the container's processes. Ends when that is done. A container made by\n"
				    "`membox attach` is gone then; one made by `membox run` has no limit until `membox set` gives it one.\n" EXIT_CODES;

	return ask_plain(argc, argv, usage, WAIT_FOR_WORK, membox_release);
}

int cmd_set(int argc, char **argv)
{
	static const char usage[] = "Usage: membox set NAME [--limit SIZE] [--pool SIZE|auto]\n"
				    "Change the limit of a container, or the share of its compressed pool. Ends when its usage is below the limit.\n"
				    "\n"
				    "  --limit SIZE  bytes, or K, M, G, T (powers of 1024), or N% of the memory granted\n"
				    "  --pool SIZE   the most that the compressed pool takes; 0: there is none; auto: what seems best\n"
				    "  --help        print this\n"
				    "\n" EXIT_CODES;
	static const struct option options[] = {
		{"limit", required_argument, NULL, REQUEST_LIMIT},
		{"pool", required_argument, NULL, REQUEST_POOL},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 1, 1, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	uint64_t limit = 0, pool = MEMBOX_POOL_AUTO;
	int r = request_parse(argc, argv, &syntax, &line);
	const char *limit_text = request_value(&line, REQUEST_LIMIT), *pool_text = request_value(&line, REQUEST_POOL);

	if (!r && line.help)
		return finish_output(0);
	if (!r && !limit_text && !pool_text) {
		log_error("set: nothing to change (give --limit SIZE or --pool SIZE)");
		return EXIT_MEMBOX_FAILED;
	}
	if (!r && limit_text)
		r = read_size("--limit", limit_text, &limit);
	if (!r && pool_text)
		r = read_pool_size(pool_text, &pool);
	if (!r)
		r = request_connect(line.words[0], WAIT_FOR_WORK, &m);
	if (!r && pool_text)
		r = request_result(m, membox_set_pool(m, pool));
	if (!r && limit_text)
		r = request_result(m, membox_set_limit(m, limit));
	return r;
}

int cmd_reclaim(int argc, char **argv)
{
	static const char usage[] = "Usage: membox reclaim NAME [SIZE|all]\n"
				    "Free SIZE of the container's memory (default: all that can leave) although there is room, and say how much it was. Less than\n"
				    "asked for is no error. SIZE is bytes, or K, M, G, T (powers of 1024), or N% of the memory granted.\n" EXIT_CODES;
	const struct request_syntax syntax = {usage, no_options, 1, 2, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	uint64_t bytes = UINT64_MAX, reclaimed;
	char text[SIZE_TEXT_MAX];
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (!r && line.nr_words == 2 && strcmp(line.words[1], "all"))
		r = read_size("SIZE", line.words[1], &bytes);
	if (!r)
		r = request_connect(line.words[0], WAIT_FOR_WORK, &m);
	if (!r)
		r = request_result(m, membox_reclaim(m, bytes, &reclaimed));
	if (r)
		return r;
	printf("%s reclaimed\n", format_size(reclaimed, text));
	return finish_output(0);
}

int cmd_kill(int argc, char **argv)
{
	static const char usage[] = "Usage: membox kill NAME [-s SIGNAL]\n"
				    "Send a signal to a container: SIGKILL (the default) to all of its processes, another one to its first process, or to all when\n"
				    "that has ended.\n"
				    "\n"
				    "  -s, --signal SIGNAL  a name (TERM, SIGTERM) or a number\n"
				    "  --help               print this\n"
				    "\n" EXIT_CODES;
	static const struct option options[] = {
		{"signal", required_argument, NULL, REQUEST_SIGNAL},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 1, 1, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	int r = request_parse(argc, argv, &syntax, &line), number = SIGKILL;

	if (!r && line.help)
		return finish_output(0);
	if (!r && request_value(&line, REQUEST_SIGNAL))
		number = parse_signal(request_value(&line, REQUEST_SIGNAL));
	if (number < 0) {
		log_error("--signal: '%s' is not a signal (a name as TERM, or a number)", request_value(&line, REQUEST_SIGNAL));
		return EXIT_MEMBOX_FAILED;
	}
	if (!r)
		r = request_connect(line.words[0], ANSWER_TIMEOUT_MS, &m);
	return r ? r : request_result(m, membox_kill(m, number, NULL));
}

/* 1 could be the program's own status, so no failure of ours is 1 here. */
int cmd_wait(int argc, char **argv)
{
	static const char usage[] = "Usage: membox wait NAME\n"
				    "Wait until the container has ended. Exit code: as that of `membox run`, the program's own, 128+N if signal N ended it; 125 when\n"
				    "there is no such container or membox itself failed.\n";
	const struct request_syntax syntax = {usage, no_options, 1, 1, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	int r = request_parse(argc, argv, &syntax, &line), status = 0;

	if (!r && line.help)
		return finish_output(0);
	if (!r)
		r = request_connect(line.words[0], WAIT_FOR_WORK, &m);
	if (!r)
		r = request_result(m, membox_wait(m, &status));
	return r ? EXIT_MEMBOX_FAILED : status;
}

int cmd_swapon(int argc, char **argv)
{
	static const char usage[] = "Usage: membox swapon NAME FILE [--size SIZE]\n"
				    "Give a container that has no swap file one. FILE is created with mode 0600 when it is not there.\n"
				    "\n"
				    "  --size SIZE  it never grows beyond this (default: as the file system gives)\n"
				    "  --help       print this\n"
				    "\n" EXIT_CODES;
	static const struct option options[] = {
		{"size", required_argument, NULL, REQUEST_SIZE},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 2, 2, "give a container and a file"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	_cleanup_free_ char *path = NULL;
	uint64_t size = 0;
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (!r && request_value(&line, REQUEST_SIZE))
		r = read_size("--size", request_value(&line, REQUEST_SIZE), &size);
	if (r)
		return r;
	path = request_absolute_path("swapon", line.words[1]);
	if (!path)
		return EXIT_MEMBOX_FAILED;
	r = request_connect(line.words[0], ANSWER_TIMEOUT_MS, &m);
	return r ? r : request_result(m, membox_swapon(m, path, size));
}
