/* membox version */
#include <stdio.h>

#include "cli/options.h"
#include "cli/verbs.h"

static const char usage[] = "Usage: membox version [--json]\n"
			    "Print the version of membox.\n";

int cmd_version(int argc, char **argv)
{
	switch (parse_listing_options(argc, argv, usage)) {
	case LISTING_WRONG:
		return EXIT_MEMBOX_FAILED;
	case LISTING_HELP:
		break;
	case LISTING_JSON:
		printf("{ \"version\": \"%s\" }\n", MEMBOX_VERSION);
		break;
	case LISTING_TEXT:
		printf("membox %s\n", MEMBOX_VERSION);
		break;
	}
	return finish_output(0);
}
