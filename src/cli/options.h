/* What the option parsers of the verbs share. */
#pragma once

#include <getopt.h>

#include "base/types.h"

/*
 * Says in one line why getopt_long just returned '?' or ':' (opterr must be 0 and the short options begin with ':' or "+:"), with the
 * hint where to look. All long options must have values above 255. Returns the exit code.
 */
int option_error(const char *verb, const struct option *options, int answer, char **argv);

/* For verbs whose only options are --json and --help. */
enum listing_answer {
	LISTING_TEXT,
	LISTING_JSON,
	LISTING_HELP,  /* usage has been printed */
	LISTING_WRONG, /* one line on stderr has been printed */
};

enum listing_answer parse_listing_options(int argc, char **argv, const char *usage);

/* A size, also in percent of the memory granted; `what` names it in messages. 0, or the exit code after one line on stderr. */
/* The same for the compressed pool, where "auto" is UINT64_MAX. */
int read_pool_size(const char *text, uint64_t *ret_bytes);
int read_size(const char *what, const char *text, uint64_t *ret_bytes);

/* Makes sure that all of stdout really got out; then returns code, else says so and returns the failure's exit code. */
int finish_output(int code);
