#include "cli/request.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "platform/folders.h"

static int wrong_words(int argc, char **argv, const struct request_syntax *syntax)
{
	if (argc - optind > syntax->max_words)
		log_error("%s: unexpected argument (see `membox %s --help`)", argv[optind + syntax->max_words], argv[0]);
	else
		log_error("%s: %s (see `membox %s --help`)", argv[0], syntax->missing, argv[0]);
	return EXIT_MEMBOX_FAILED;
}

int request_parse(int argc, char **argv, const struct request_syntax *syntax, struct request_line *ret)
{
	int c, index = 0;

	opterr = 0;
	while ((c = getopt_long(argc, argv, ":hs:", syntax->options, &index)) != -1) {
		if (c == 'h') {
			fputs(syntax->usage, stdout);
			ret->help = true;
			return 0;
		}
		if (c == 's') { /* the one option with a short name, of the one verb that has it */
			for (index = 0; syntax->options[index].name && syntax->options[index].val != REQUEST_SIGNAL; index++)
				;
			c = syntax->options[index].name ? REQUEST_SIGNAL : '?';
			optopt = 's';
		}
		if (c == '?' || c == ':')
			return option_error(argv[0], syntax->options, c, argv);
		if (ret->values[c - REQUEST_JSON]) {
			log_error("--%s: given more than once", syntax->options[index].name);
			return EXIT_MEMBOX_FAILED;
		}
		ret->values[c - REQUEST_JSON] = optarg ? optarg : "";
	}
	if (argc - optind < syntax->min_words || argc - optind > syntax->max_words)
		return wrong_words(argc, argv, syntax);
	while (optind < argc)
		ret->words[ret->nr_words++] = argv[optind++];
	return 0;
}

const char *request_value(const struct request_line *line, enum request_option option)
{
	return line->values[option - REQUEST_JSON];
}

int request_result(const struct membox *m, int r)
{
	if (!r)
		return 0;
	log_error("%s", membox_error(m));
	return membox_was_refused(m) ? EXIT_REFUSED : EXIT_MEMBOX_FAILED;
}

int request_connect(const char *name, int timeout_ms, struct membox **ret)
{
	struct membox *m = membox_new();
	int r;

	if (m)
		membox_set_timeout(m, ANSWER_TIMEOUT_MS);
	r = membox_connect(m, name);
	if (r) {
		log_error("%s", membox_error(m));
		membox_free(m);
		return r == -ENOENT ? EXIT_REFUSED : EXIT_MEMBOX_FAILED;
	}
	membox_set_timeout(m, timeout_ms);
	*ret = m;
	return 0;
}

json_object *request_object(struct membox *m, const char *verb, int *ret_r)
{
	char *text = NULL;
	json_object *object = NULL;

	*ret_r = membox_request(m, verb, NULL, &text);
	if (!*ret_r)
		object = json_tokener_parse(text);
	free(text);
	if (object) {
		json_object_object_del(object, "version");
		json_object_object_del(object, "ok");
	}
	return object;
}

uint64_t object_number(json_object *object, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_uint64(value) : 0;
}

const char *object_text(json_object *object, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_string(value) : NULL;
}

json_object *object_array(json_object *object, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(object, name, &value) && json_object_is_type(value, json_type_array) ? value : NULL;
}

size_t array_length(json_object *array)
{
	return array ? json_object_array_length(array) : 0;
}

void print_object(json_object *object, bool on_one_line)
{
	int flags = JSON_C_TO_STRING_NOSLASHESCAPE | JSON_C_TO_STRING_SPACED | (on_one_line ? 0 : JSON_C_TO_STRING_PRETTY);
	const char *text = json_object_to_json_string_ext(object, flags);

	puts(text ? text : "null");
}

char *request_absolute_path(const char *verb, const char *path)
{
	char *whole = path[0] ? path_absolute(path) : NULL;

	if (!whole)
		log_error("%s: '%s': %s", verb, path, path[0] ? strerror(errno) : "not a path");
	return whole;
}

char *request_beside_swap(struct membox *m, const char *name, const char *suffix, const char *why)
{
	int r;
	char *folder = NULL;
	_cleanup_object_ json_object *object = request_object(m, "describe", &r);
	const char *swap = object ? object_text(object, "swap_file") : NULL;
	if (r)
		log_error("%s", membox_error(m));
	else if (!swap)
		log_error("%s: it has no swap file, %s", name, why);
	else if (asprintf(&folder, "%s%s", swap, suffix) < 0)
		folder = NULL;
	return folder;
}
