/* membox stat: everything about one container. */
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
#include "stats/stats.h"

#define WATCH_SECONDS_DEFAULT 1.0
#define WATCH_SECONDS_LEAST 0.01
#define WATCH_SECONDS_MOST 86400.0

static const char usage[] = "Usage: membox stat NAME [--json] [--watch [SECONDS]]\n"
			    "Show what a container is doing: its memory, swap file, processes, and all figures.\n"
			    "\n"
			    "  --json     print one JSON object; with --watch one line for each\n"
			    "  --watch    print again every SECONDS (default: 1) until the container has ended\n"
			    "  --help     print this\n"
			    "\n"
			    "Exit code 0; 1 when there is no such container; 125 when membox itself failed.\n";

static const struct option options[] = {
	{"json", no_argument, NULL, REQUEST_JSON},
	{"watch", optional_argument, NULL, REQUEST_WATCH},
	{"help", no_argument, NULL, 'h'},
	{0},
};

/* The figures belong to the object itself, as in the file of `run --stats`. */
static void flatten(json_object *object)
{
	json_object *figures;

	if (!json_object_object_get_ex(object, "figures", &figures) || !json_object_is_type(figures, json_type_object))
		return;
	_cleanup_object_ json_object *kept = json_object_get(figures); /* one of them may have the name of all */
	json_object_object_foreach(kept, name, value) {
		json_object_object_add(object, name, json_object_get(value));
	}
	json_object_object_del(object, "figures");
}

static void print_head(json_object *object)
{
	char usage_text[SIZE_TEXT_MAX], other_text[SIZE_TEXT_MAX], age_text[AGE_TEXT_MAX];

	printf("%-10s  ", "name");
	print_safely(object_text(object, "name"), 0);
	printf("\n%-10s  ", "state");
	print_safely(object_text(object, "state"), 0);
	printf(", %s", format_age(object_number(object, "started"), age_text));
	printf("\n%-10s  %" PRIu64 ", its keeper %" PRIu64, "process", object_number(object, "program"), object_number(object, "keeper"));
	if (object_array(object, "command")) {
		printf("\n%-10s  ", "command");
		print_command(object_array(object, "command"));
	}
	format_size_short(object_number(object, "rss_usage"), usage_text);
	format_limit(object_number(object, "rss_limit"), other_text);
	printf("\n%-10s  %s, limit %s", "memory", usage_text, other_text);
	printf("\n%-10s  ", "swap");
	if (object_text(object, "swap_file")) {
		format_size_short(object_number(object, "swap_used"), usage_text);
		format_size_short(object_number(object, "swap_total"), other_text);
		printf("%s of %s, ", usage_text, other_text);
		print_safely(object_text(object, "swap_file"), 0);
		printf("%s", json_object_get_boolean(json_object_object_get(object, "swap_encrypted")) ? ", encrypted" : "");
	} else {
		printf("none");
	}
	putchar('\n');
}

static void print_nodes(json_object *object)
{
	char text[SIZE_TEXT_MAX];
	json_object *nodes = object_array(object, "nodes");

	if (!nodes)
		return;
	printf("%-10s  ", "nodes");
	for (size_t i = 0; i < array_length(nodes); i++) {
		json_object *node = json_object_array_get_idx(nodes, i);

		printf("%s%s on %" PRIu64, i ? ", " : "", format_size_short(object_number(node, "rss"), text), object_number(node, "node"));
	}
	putchar('\n');
}

static void print_members(json_object *object)
{
	char rss_text[SIZE_TEXT_MAX], file_text[SIZE_TEXT_MAX];
	json_object *members = object_array(object, "members");

	if (!array_length(members))
		return;
	printf("\n%8s  %-16s  %8s  %8s  %7s\n", "PID", "PROCESS", "MEMORY", "OF FILES", "OOM ADJ");
	for (size_t i = 0; i < array_length(members); i++) {
		json_object *member = json_object_array_get_idx(members, i), *adjust;

		format_size_short(object_number(member, "rss"), rss_text);
		format_size_short(object_number(member, "file"), file_text);
		printf("%8" PRIu64 "  ", object_number(member, "pid"));
		print_safely(object_text(member, "name"), 16);
		printf("  %8s  %8s  %7d\n", rss_text, file_text,
		       json_object_object_get_ex(member, "oom_score_adj", &adjust) ? json_object_get_int(adjust) : 0);
	}
}

static void print_figures(json_object *object)
{
	putchar('\n');
	for (size_t i = 0; i < stats_nr_figures; i++) {
		const struct stat_figure *figure = &stats_figures[i];
		uint64_t value = object_number(object, figure->name);
		char text[SIZE_TEXT_MAX];

		if (figure->unit == STAT_BYTES)
			format_size_short(value, text);
		else if (figure->unit == STAT_MICROSECONDS)
			snprintf(text, sizeof(text), "%" PRIu64 ".%03" PRIu64 " s", value / 1000000, value / 1000 % 1000);
		else
			snprintf(text, sizeof(text), "%" PRIu64, value);
		printf("%-16s  %14s  %s%s\n", figure->name, text, figure->unit == STAT_PAGES ? "pages " : "", figure->meaning);
	}
}

static void print_report(json_object *object)
{
	const char *report = object_text(object, "oom_report");

	for (const char *line = report; line && *line;) {
		int len = (int)strcspn(line, "\n");
		_cleanup_free_ char *copy = strndup(line, (size_t)len);

		if (line == report)
			putchar('\n');
		print_safely(copy, 0);
		putchar('\n');
		line += len + (line[len] == '\n');
	}
}

static void print_text(json_object *object)
{
	print_head(object);
	print_nodes(object);
	print_members(object);
	print_figures(object);
	print_report(object);
}

/* Seconds between two looks; 0: only one. -1 after one line on stderr. */
static double watch_seconds(const struct request_line *line)
{
	const char *value = request_value(line, REQUEST_WATCH), *word = line->nr_words == 2 ? line->words[1] : NULL;
	const char *text = word ? word : value;
	double seconds;
	char *end;

	if (!value && !word)
		return 0;
	if (!value || (word && *value)) {
		log_error("%s: unexpected argument (see `membox stat --help`)", word);
		return -1;
	}
	if (!*text)
		return WATCH_SECONDS_DEFAULT;
	seconds = strtod(text, &end);
	if (!*end && end != text && seconds >= WATCH_SECONDS_LEAST && seconds <= WATCH_SECONDS_MOST)
		return seconds;
	log_error("--watch: '%s' is not a number of seconds (%g to %g)", text, WATCH_SECONDS_LEAST, WATCH_SECONDS_MOST);
	return -1;
}

static void print_sample(json_object *object, bool as_json, bool watching, bool first)
{
	if (as_json) {
		print_object(object, watching);
		return;
	}
	if (watching && isatty(STDOUT_FILENO))
		fputs("\033[H\033[J", stdout);
	else if (!first)
		putchar('\n');
	print_text(object);
}

static int show(struct membox *m, bool as_json, double seconds)
{
	struct timespec pause = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

	for (bool first = true;; first = false) {
		int r, code;
		_cleanup_object_ json_object *object = request_object(m, "stat", &r);

		if (r == -ECONNRESET && !first) /* the end of what was watched */
			return 0;
		if (r)
			return request_result(m, r);
		if (!object) {
			log_error("stat: out of memory");
			return EXIT_MEMBOX_FAILED;
		}
		flatten(object);
		print_sample(object, as_json, seconds > 0, first);
		code = finish_output(0);
		if (code || seconds <= 0)
			return code;
		nanosleep(&pause, NULL);
	}
}

int cmd_stat(int argc, char **argv)
{
	const struct request_syntax syntax = {usage, options, 1, 2, "no container given"};
	struct request_line line = {0};
	_cleanup_membox_ struct membox *m = NULL;
	int r = request_parse(argc, argv, &syntax, &line);
	double seconds;

	if (r)
		return r;
	if (line.help)
		return finish_output(0);
	seconds = watch_seconds(&line);
	if (seconds < 0)
		return EXIT_MEMBOX_FAILED;
	r = request_connect(line.words[0], ANSWER_TIMEOUT_MS, &m);
	return r ? r : show(m, request_value(&line, REQUEST_JSON), seconds);
}
