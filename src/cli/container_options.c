#include "cli/container_options.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/options.h"
#include "cli/swap_folder.h"
#include "cli/verbs.h"
#include "platform/folders.h"
#include "platform/granted_memory.h"

#define DEFAULT_LIMIT_PERCENT 90

enum run_option {
	OPT_NAME = 256,
	OPT_LIMIT,
	OPT_SWAP,
	OPT_SWAP_SIZE,
	OPT_NO_SWAP,
	OPT_ENCRYPT,
	OPT_NO_ENCRYPT,
	OPT_POOL,
	OPT_OOM,
	OPT_STATS,
	OPT_ISOLATE, /* from here on: of what starts a program */
	OPT_DETACH,
	OPT_END,
};

static const struct option options[] = {
	{"name", required_argument, NULL, OPT_NAME},
	{"limit", required_argument, NULL, OPT_LIMIT},
	{"swap", required_argument, NULL, OPT_SWAP},
	{"swap-size", required_argument, NULL, OPT_SWAP_SIZE},
	{"no-swap", no_argument, NULL, OPT_NO_SWAP},
	{"encrypt", no_argument, NULL, OPT_ENCRYPT},
	{"no-encrypt", no_argument, NULL, OPT_NO_ENCRYPT},
	{"pool", required_argument, NULL, OPT_POOL},
	{"oom", required_argument, NULL, OPT_OOM},
	{"stats", required_argument, NULL, OPT_STATS},
	{"isolate", no_argument, NULL, OPT_ISOLATE},
	{"detach", no_argument, NULL, OPT_DETACH},
	{"help", no_argument, NULL, 'h'},
	{0},
};

_Static_assert(OPT_END - OPT_NAME <= ARRAY_LEN(((struct container_options *)0)->text), "room for all");

static const char *given(const struct container_options *request, enum run_option option)
{
	return request->text[option - OPT_NAME];
}

static bool is_option_of(const char *verb, enum run_option option)
{
	if (!strcmp(verb, "restore") || !strcmp(verb, "receive"))
		return option != OPT_NO_SWAP;
	return option < OPT_ISOLATE || !strcmp(verb, "run");
}

bool container_options_have_limit(const struct container_options *options_given)
{
	return given(options_given, OPT_LIMIT);
}

/* An option without value holds "". */
int container_options_parse(const char *verb, int argc, char **argv, struct container_options *request)
{
	int c, index = 0;

	*request = (struct container_options){0};
	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:h", options, &index)) != -1) {
		if (c == 'h') {
			request->help = true;
			return 0;
		}
		if (c == '?' || c == ':')
			return option_error(verb, options, c, argv);
		if (!is_option_of(verb, (enum run_option)c)) {
			log_error("--%s: is not an option of this verb (see `membox %s --help`)", options[index].name, verb);
			return EXIT_MEMBOX_FAILED;
		}
		if (given(request, (enum run_option)c)) {
			log_error("--%s: given more than once", options[index].name);
			return EXIT_MEMBOX_FAILED;
		}
		if (optarg && !*optarg) {
			log_error("--%s: the value is empty", options[index].name);
			return EXIT_MEMBOX_FAILED;
		}
		request->text[c - OPT_NAME] = optarg ? optarg : "";
	}
	request->rest = argv + optind;
	return 0;
}

/* 0, or the exit code after one line on stderr. */
static int check_combination(const struct container_options *request)
{
	if (given(request, OPT_NO_SWAP) && given(request, OPT_SWAP))
		log_error("--swap: contradicts --no-swap");
	else if (given(request, OPT_NO_SWAP) && given(request, OPT_SWAP_SIZE))
		log_error("--swap-size: contradicts --no-swap");
	else if (given(request, OPT_NO_SWAP) && given(request, OPT_POOL))
		log_error("--pool: contradicts --no-swap: what is in the pool has its place in the swap file");
	else if (given(request, OPT_ENCRYPT) && given(request, OPT_NO_ENCRYPT))
		log_error("--encrypt: contradicts --no-encrypt");
	else
		return 0;
	return EXIT_MEMBOX_FAILED;
}

/* 0, or the exit code after one line on stderr. */
static int read_default_limit(uint64_t *ret_bytes)
{
	struct granted_memory granted;
	int r = granted_memory(&granted);

	if (r) {
		log_error("memory of this machine: %s (give --limit SIZE in bytes)", strerror(-r));
		return EXIT_MEMBOX_FAILED;
	}
	*ret_bytes = page_floor(granted.bytes / 100 * DEFAULT_LIMIT_PERCENT);
	return 0;
}

static int read_sizes(const struct container_options *request, struct run_config *config)
{
	const char *limit = given(request, OPT_LIMIT);
	const char *swap_size = given(request, OPT_SWAP_SIZE);
	char text[SIZE_TEXT_MAX];

	if (limit && read_size("--limit", limit, &config->limit_bytes))
		return EXIT_MEMBOX_FAILED;
	if (!limit && read_default_limit(&config->limit_bytes))
		return EXIT_MEMBOX_FAILED;
	if (config->limit_bytes < CONTAINER_MIN_LIMIT_BYTES) {
		log_error("--limit: %s is too small, the least is %s", limit ? limit : "90% of the memory granted",
			  format_size(CONTAINER_MIN_LIMIT_BYTES, text));
		return EXIT_MEMBOX_FAILED;
	}
	config->pool_bytes = POOL_AUTO;
	if (given(request, OPT_POOL) && read_pool_size(given(request, OPT_POOL), &config->pool_bytes))
		return EXIT_MEMBOX_FAILED;
	if (!swap_size)
		return 0;
	if (read_size("--swap-size", swap_size, &config->swap_size_bytes))
		return EXIT_MEMBOX_FAILED;
	if (config->swap_size_bytes < PAGE_BYTES) {
		log_error("--swap-size: %s is less than a page (use --no-swap for no swap file)", swap_size);
		return EXIT_MEMBOX_FAILED;
	}
	return 0;
}

/* NULL: the default. 0, or the exit code after one line on stderr. */
static int read_oom_policy(const char *text, enum oom_policy *ret_policy)
{
	bool stop = text && !strcmp(text, "stop");

	if (text && !stop && strcmp(text, "kill")) {
		log_error("--oom: '%s' is neither kill nor stop", text);
		return EXIT_MEMBOX_FAILED;
	}
	*ret_policy = stop ? OOM_STOP : OOM_KILL;
	return 0;
}

/* The program's base name, made a valid name, and a number. */
static void default_name(const char *program, char ret[RUNTIME_NAME_MAX + 1])
{
	const char *base = strrchr(program, '/');
	char start[RUNTIME_NAME_MAX - 10];

	base = base && base[1] ? base + 1 : program;
	snprintf(start, sizeof(start), "%s", base);
	for (char *p = start; *p; p++)
		if (!isgraph((unsigned char)*p) || (unsigned char)*p > 126 || *p == '/' ||
		    (p == start && (*p == '.' || *p == '-')))
			*p = '_';
	snprintf(ret, RUNTIME_NAME_MAX + 1, "%s-%d", start, getpid());
}

/* The default swap file of a container; NULL after one line on stderr. */
static char *default_swap_path(const char *name)
{
	_cleanup_free_ char *folder = NULL;
	char *path = NULL;
	int r = swap_folder_path(&folder);

	if (r == -ENOENT) {
		log_error("swap file: HOME and XDG_CACHE_HOME are not set (give --swap FILE or --no-swap)");
		return NULL;
	}
	if (!r) {
		r = folder_create_path(folder);
		if (r) {
			log_error("%s: %s (give --swap FILE or --no-swap)", folder, strerror(-r));
			return NULL;
		}
	}
	if (r || asprintf(&path, "%s/%s.swap", folder, name) < 0) {
		log_error("swap file: out of memory");
		return NULL;
	}
	return path;
}

int container_options_apply(const struct container_options *options_given, const char *base, struct run_config *config, struct container_storage *storage)
{
	if (check_combination(options_given) || read_sizes(options_given, config) ||
	    read_oom_policy(given(options_given, OPT_OOM), &config->oom))
		return EXIT_MEMBOX_FAILED;
	default_name(base, storage->name);
	config->name = given(options_given, OPT_NAME) ? given(options_given, OPT_NAME) : storage->name;
	if (!runtime_name_is_valid(config->name)) {
		log_error(
			"--name: '%.80s' is not a name (1 to %d printable characters; no '/' or space; not beginning with '.' or '-')",
			config->name, RUNTIME_NAME_MAX);
		return EXIT_MEMBOX_FAILED;
	}
	config->swap_path = given(options_given, OPT_SWAP);
	if (!config->swap_path && !given(options_given, OPT_NO_SWAP)) {
		config->swap_path = storage->swap_path = default_swap_path(config->name);
		config->swap_is_default = true;
		if (!storage->swap_path)
			return EXIT_MEMBOX_FAILED;
	}
	config->encrypt = given(options_given, OPT_ENCRYPT);
	config->stats_path = given(options_given, OPT_STATS);
	config->isolate = given(options_given, OPT_ISOLATE);
	config->detach |= given(options_given, OPT_DETACH) != NULL;
	return 0;
}

void container_storage_release(struct container_storage *storage)
{
	free(storage->swap_path);
}
