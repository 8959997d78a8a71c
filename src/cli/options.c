#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "cli/verbs.h"
#include "platform/granted_memory.h"

int option_error(const char *verb, const struct option *options, int answer, char **argv)
{
	const struct option *known = NULL;

	for (const struct option *o = options; o->name; o++)
		if (optopt && o->val == optopt)
			known = o;
	if (answer == ':' && known)
		log_error("--%s: needs a value (see `membox %s --help`)", known->name, verb);
	else if (known)
		log_error("--%s: takes no value (see `membox %s --help`)", known->name, verb);
	else if (answer == ':')
		log_error("-%c: needs a value (see `membox %s --help`)", optopt, verb);
	else if (optopt)
		log_error("-%c: unknown option (see `membox %s --help`)", optopt, verb);
	else
		log_error("%s: unknown option (see `membox %s --help`)", argv[optind - 1], verb);
	return EXIT_MEMBOX_FAILED;
}

enum listing_answer parse_listing_options(int argc, char **argv, const char *usage)
{
	enum {
		OPT_JSON = 256
	};
	static const struct option options[] = {
		{"json", no_argument, NULL, OPT_JSON},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	enum listing_answer answer = LISTING_TEXT;
	int c;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:h", options, NULL)) != -1) {
		if (c == OPT_JSON) {
			answer = LISTING_JSON;
		} else if (c == 'h') {
			fputs(usage, stdout);
			return LISTING_HELP;
		} else {
			option_error(argv[0], options, c, argv);
			return LISTING_WRONG;
		}
	}
	if (optind < argc) {
		log_error("%s: unexpected argument (see `membox %s --help`)", argv[optind], argv[0]);
		return LISTING_WRONG;
	}
	return answer;
}

int read_size(const char *what, const char *text, uint64_t *ret_bytes)
{
	struct granted_memory granted = {0};
	int r = strchr(text, '%') ? granted_memory(&granted) : 0;

	if (r) {
		log_error("memory of this machine: %s (give %s in bytes)", strerror(-r), what);
		return EXIT_MEMBOX_FAILED;
	}
	r = parse_size(text, granted.bytes, ret_bytes);
	if (r == -ERANGE || (!r && *ret_bytes > INT64_MAX))
		log_error("%s: '%s' is too large", what, text);
	else if (r)
		log_error("%s: '%s' is not a size (bytes, or a whole number with K, M, G, T or %%)", what, text);
	else
		return 0;
	return EXIT_MEMBOX_FAILED;
}

int read_pool_size(const char *text, uint64_t *ret_bytes)
{
	if (strcmp(text, "auto") != 0)
		return read_size("--pool", text, ret_bytes);
	*ret_bytes = UINT64_MAX;
	return 0;
}

int finish_output(int code)
{
	if (!fflush(stdout) && !ferror(stdout))
		return code;
	log_error("standard output: %s", strerror(errno));
	return EXIT_MEMBOX_FAILED;
}
