/* membox ps: all containers of this user. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/text.h"
#include "cli/verbs.h"

#define ONE_TIMEOUT_MS 2000

static const char usage[] = "Usage: membox ps [--json]\n"
			    "List the containers of this user that live. What a container left behind whose keeper was killed is removed.\n";

static int add_name(const char *name, void *context)
{
	return json_object_array_add(context, json_object_new_string(name)) ? -ENOMEM : 0;
}

static int by_name(const void *a, const void *b)
{
	json_object *const *first = a, *const *second = b;

	return strcmp(json_object_get_string(*first), json_object_get_string(*second));
}

/* What stands for a container whose keeper lives but says nothing (it may be stopped). */
static json_object *silent_container(const char *name)
{
	json_object *object = json_object_new_object();

	json_object_object_add(object, "name", json_object_new_string(name));
	json_object_object_add(object, "state", json_object_new_string("no answer"));
	return object;
}

/* One container's description; NULL: it has ended meanwhile. */
static json_object *describe(struct membox *m, const char *name)
{
	json_object *object = NULL;
	int r = membox_connect(m, name);

	if (!r)
		object = request_object(m, "describe", &r);
	if (object)
		return object;
	return r == -ENOENT || r == -ECONNRESET ? NULL : silent_container(name);
}

static void print_row(json_object *object)
{
	char usage_text[SIZE_TEXT_MAX], limit_text[SIZE_TEXT_MAX], swap_text[SIZE_TEXT_MAX], age_text[AGE_TEXT_MAX];
	json_object *command = object_array(object, "command");

	print_safely(object_text(object, "name"), 20);
	printf("  ");
	print_safely(object_text(object, "state"), command ? 8 : 0);
	if (!command) {
		putchar('\n');
		return;
	}
	format_size_short(object_number(object, "rss_usage"), usage_text);
	format_limit(object_number(object, "rss_limit"), limit_text);
	format_size_short(object_number(object, "swap_used"), swap_text);
	format_age(object_number(object, "started"), age_text);
	printf("  %8" PRIu64 "  %5" PRIu64 "  %7s  %7s  %7s  %8s  ", object_number(object, "program"), object_number(object, "nr_processes"), usage_text,
	       limit_text, swap_text, age_text);
	print_command(command);
	putchar('\n');
}

static void print_table(json_object *list)
{
	printf("%-20s  %-8s  %8s  %5s  %7s  %7s  %7s  %8s  %s\n", "NAME", "STATE", "PID", "PROCS", "MEMORY", "LIMIT", "SWAP", "AGE", "COMMAND");
	for (size_t i = 0; i < json_object_array_length(list); i++)
		print_row(json_object_array_get_idx(list, i));
}

int cmd_ps(int argc, char **argv)
{
	enum listing_answer format = parse_listing_options(argc, argv, usage);
	_cleanup_object_ json_object *names = json_object_new_array(), *list = json_object_new_array();
	_cleanup_membox_ struct membox *m = membox_new();

	if (format == LISTING_WRONG)
		return EXIT_MEMBOX_FAILED;
	if (format == LISTING_HELP)
		return finish_output(0);
	if (!m || !names || !list) {
		log_error("ps: out of memory");
		return EXIT_MEMBOX_FAILED;
	}
	membox_set_timeout(m, ONE_TIMEOUT_MS);
	if (membox_list(m, add_name, names)) {
		log_error("%s", membox_error(m));
		return EXIT_MEMBOX_FAILED;
	}
	json_object_array_sort(names, by_name);
	for (size_t i = 0; i < json_object_array_length(names); i++) {
		json_object *object = describe(m, json_object_get_string(json_object_array_get_idx(names, i)));

		if (object)
			json_object_array_add(list, object);
	}
	if (format == LISTING_JSON)
		print_object(list, false);
	else
		print_table(list);
	return finish_output(0);
}
