/* membox migrate: the memory of a running container to other NUMA nodes. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/units.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/verbs.h"

#define PROGRESS_NS 200000000

static const char usage[] =
	"Usage: membox migrate NAME --to-node LIST [--from-node LIST] [--json]\n"
	"Move the memory of a container to other NUMA nodes while it runs. What it takes or brings back from now on comes from there too.\n"
	"\n"
	"  --to-node LIST    nodes that have memory: 1, or 0,2-3\n"
	"  --from-node LIST  move only what lies there (default: all that does not lie on the target nodes)\n"
	"  --json            print one JSON object\n"
	"  --help            print this\n"
	"\n"
	"Exit code 0, also when pages could not move: the result says so; 1 when the container refuses or there is none of that name; 125 when\n"
	"membox itself failed.\n";

static const struct option options[] = {
	{"to-node", required_argument, NULL, REQUEST_TO_NODE},
	{"from-node", required_argument, NULL, REQUEST_FROM_NODE},
	{"json", no_argument, NULL, REQUEST_JSON},
	{"help", no_argument, NULL, 'h'},
	{0},
};

/* The request is answered at the end; meanwhile somebody else asks how far it has come. */
struct work {
	struct membox *m;
	const char *members;
	char *reply;
	int r;
	_Atomic bool done;
};

static void *ask_and_wait(void *argument)
{
	struct work *work = argument;

	work->r = membox_request(work->m, "migrate", work->members, &work->reply);
	atomic_store(&work->done, true);
	return NULL;
}

/* One line on the terminal, written over again and again. False: nothing more can be learnt. */
static bool show_progress(struct membox *m)
{
	int r;
	_cleanup_object_ json_object *object = request_object(m, "migration", &r);
	uint64_t resident = object_number(object, "resident"), looked_at = object_number(object, "looked_at");
	char moved[SIZE_TEXT_MAX];

	if (!object)
		return false;
	if (resident) {
		format_size_short(object_number(object, "moved") << PAGE_SHIFT, moved);
		fprintf(stderr, "\r%3" PRIu64 " %% looked at, %s moved\033[K", MIN_OF(looked_at * 100 / resident, 100), moved);
	}
	return true;
}

static void watch(const char *name, struct work *work)
{
	const struct timespec pause = {.tv_nsec = PROGRESS_NS};
	_cleanup_membox_ struct membox *m = NULL;
	bool can_see = request_connect(name, ANSWER_TIMEOUT_MS, &m) == 0;

	while (can_see && !atomic_load(&work->done)) {
		nanosleep(&pause, NULL);
		can_see = show_progress(m);
	}
	fputs("\r\033[K", stderr);
}

static void migrate(const char *name, struct work *work)
{
	pthread_t thread;
	bool watched = isatty(STDERR_FILENO) && pthread_create(&thread, NULL, ask_and_wait, work) == 0;

	if (!watched) {
		ask_and_wait(work);
		return;
	}
	watch(name, work);
	pthread_join(thread, NULL);
}

static void print_pages(json_object *result, const char *name, const char *meaning)
{
	uint64_t pages = object_number(result, name);
	char text[SIZE_TEXT_MAX];

	if (pages)
		printf(", %s %s", format_size(pages << PAGE_SHIFT, text), meaning);
}

static void print_reasons(json_object *result)
{
	static const char *const names[][2] = {{"busy", "busy all the time"},
					       {"shared", "shared, and the right to move it for all is missing (CAP_SYS_NICE)"},
					       {"refused", "refused by the rights or the cpuset of the process"},
					       {"other", "refused by the kernel"}};
	const char *separator = " (";
	json_object *reasons;

	if (!object_number(result, "failed") || !json_object_object_get_ex(result, "failed_by_reason", &reasons))
		return;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		uint64_t pages = object_number(reasons, names[i][0]);
		char text[SIZE_TEXT_MAX];

		if (!pages)
			continue;
		printf("%s%s %s", separator, format_size(pages << PAGE_SHIFT, text), names[i][1]);
		separator = "; ";
	}
	putchar(')');
}

static double object_real(json_object *object, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_double(value) : 0;
}

static void print_text(json_object *result)
{
	char text[SIZE_TEXT_MAX];

	printf("%s moved in %.3f s (%.2f GB/s)", format_size(object_number(result, "moved") << PAGE_SHIFT, text), object_real(result, "seconds"),
	       object_real(result, "gb_per_s"));
	print_pages(result, "swapped", "through swap");
	print_pages(result, "freed", "freed meanwhile");
	print_pages(result, "failed", "did not move");
	print_reasons(result);
	print_pages(result, "left", "left: there is no room on the target");
	if (object_number(result, "undirected"))
		printf(", new memory of %" PRIu64 " processes comes from where it came before", object_number(result, "undirected"));
	putchar('\n');
}

static int print_result(const char *reply, bool as_json)
{
	_cleanup_object_ json_object *result = json_tokener_parse(reply);

	if (!result) {
		log_error("migrate: out of memory");
		return EXIT_MEMBOX_FAILED;
	}
	json_object_object_del(result, "version");
	json_object_object_del(result, "ok");
	if (as_json)
		print_object(result, false);
	else
		print_text(result);
	return finish_output(0);
}

/* The request's members; NULL: out of memory. */
static json_object *members_of(const struct request_line *line)
{
	json_object *members = json_object_new_object();
	const char *from = request_value(line, REQUEST_FROM_NODE);

	if (members)
		json_object_object_add(members, "to", json_object_new_string(request_value(line, REQUEST_TO_NODE)));
	if (members && from)
		json_object_object_add(members, "from", json_object_new_string(from));
	return members;
}

int cmd_migrate(int argc, char **argv)
{
	const struct request_syntax syntax = {usage, options, 1, 1, "no container given"};
	struct request_line line = {0};
	struct work work = {0};
	_cleanup_membox_ struct membox *m = NULL;
	_cleanup_object_ json_object *members = NULL;
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (!r && !request_value(&line, REQUEST_TO_NODE)) {
		log_error("migrate: no target given (give --to-node LIST)");
		return EXIT_MEMBOX_FAILED;
	}
	if (!r)
		r = request_connect(line.words[0], WAIT_FOR_WORK, &m);
	if (r)
		return r;
	members = members_of(&line);
	work.m = m;
	work.members = json_object_to_json_string(members);
	migrate(line.words[0], &work);
	r = request_result(m, work.r);
	if (!r)
		r = print_result(work.reply, request_value(&line, REQUEST_JSON));
	free(work.reply);
	return r;
}
