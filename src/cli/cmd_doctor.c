/* membox doctor: what this machine allows, and what to change. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cli/options.h"
#include "cli/swap_folder.h"
#include "cli/verbs.h"
#include "platform/requirements.h"

static const char usage[] =
	"Usage: membox doctor [--json]\n"
	"Check what this machine and this user allow, and say what to change. Exit code 0 when `membox run` can work, else 1.\n";

static const char *const state_names[] = {
	[REQUIREMENT_OK] = "ok",
	[REQUIREMENT_WARNING] = "warning",
	[REQUIREMENT_MISSING] = "MISSING",
};

static void print_table(const struct requirement *reqs, uint32_t nr, bool ready)
{
	for (uint32_t i = 0; i < nr; i++) {
		printf("%-20s  %-7s  %s\n", reqs[i].name, state_names[reqs[i].state], reqs[i].found);
		if (reqs[i].advice[0])
			printf("%-20s  %-7s  -> %s\n", "", "", reqs[i].advice);
	}
	puts(ready ? "\nmembox run can work here." : "\nmembox run cannot work here: see MISSING above.");
}

static int print_json(const struct requirement *reqs, uint32_t nr, bool ready)
{
	json_object *top = json_object_new_object();
	json_object *list = json_object_new_array();
	const char *text;

	if (!top || !list)
		return -ENOMEM;
	for (uint32_t i = 0; i < nr; i++) {
		json_object *line = json_object_new_object();

		json_object_object_add(line, "name", json_object_new_string(reqs[i].name));
		json_object_object_add(line, "state", json_object_new_string(state_names[reqs[i].state]));
		json_object_object_add(line, "found", json_object_new_string(reqs[i].found));
		json_object_object_add(line, "advice", json_object_new_string(reqs[i].advice));
		json_object_array_add(list, line);
	}
	json_object_object_add(top, "ready", json_object_new_boolean(ready));
	json_object_object_add(top, "checks", list);
	text = json_object_to_json_string_ext(top, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
							   JSON_C_TO_STRING_NOSLASHESCAPE);
	if (text)
		puts(text);
	json_object_put(top);
	return text ? 0 : -ENOMEM;
}

int cmd_doctor(int argc, char **argv)
{
	enum listing_answer format = parse_listing_options(argc, argv, usage);
	struct requirement reqs[REQUIREMENTS_MAX];
	_cleanup_free_ char *swap_folder = NULL;
	bool ready = true;
	uint32_t nr;

	if (format == LISTING_WRONG)
		return EXIT_MEMBOX_FAILED;
	if (format == LISTING_HELP)
		return finish_output(0);
	swap_folder_path(&swap_folder);
	nr = requirements_examine(swap_folder, reqs);
	for (uint32_t i = 0; i < nr; i++)
		ready &= reqs[i].state != REQUIREMENT_MISSING;
	if (format == LISTING_TEXT) {
		print_table(reqs, nr, ready);
	} else if (print_json(reqs, nr, ready)) {
		log_error("doctor: out of memory");
		return EXIT_MEMBOX_FAILED;
	}
	return finish_output(ready ? 0 : 1);
}
