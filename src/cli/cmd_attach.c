/* membox attach: running processes into a container. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cli/container_options.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/verbs.h"
#include "control/runtime_folder.h"
#include "platform/process.h"

#define ONE_TIMEOUT_MS 2000
#define TAKE_OUT_TIMEOUT_MS 600000 /* a large swap file on a slow disk */

static const char usage[] =
	"Usage: membox attach [OPTION]... PID...\n"
	"Put running processes and their descendants into a new container. They go on while their memory comes down to the limit; the name of\n"
	"the container is printed. `membox release NAME` brings everything back and lets them go. A process that is a member of another container\n"
	"leaves that one, with those below it.\n"
	"\n"
	"  --limit SIZE      the limit (default: 90% of the memory that the surrounding cgroup or the machine grants)\n"
	"  --swap FILE       the swap file; kept at the end (default: a new one in the user's cache folder, removed at the end)\n"
	"  --swap-size SIZE  the swap file never grows beyond this (default: as the file system gives)\n"
	"  --no-swap         no swap file: over the limit the container's OOM killer decides\n"
	"  --encrypt         encrypt what is in the swap file, with a key in memory only (--no-encrypt: do not, which is the default)\n"
	"  --pool SIZE       the most that compressed pages in memory may take; 0: none (default: auto)\n"
	"  --oom POLICY      out of memory: 'kill' the process that holds most (default), or 'stop' all until there is room\n"
	"  --name NAME       name of the container (default: the first process's name and a number)\n"
	"  --stats FILE      write figures as JSON at the end\n"
	"  --help            print this\n"
	"\n"
	"SIZE is bytes, or K, M, G, T (powers of 1024), or N% of the memory granted. It needs the right to trace the processes: they are the\n"
	"user's own, and where sysctl kernel.yama.ptrace_scope is 1 or more, membox has CAP_SYS_PTRACE.\n"
	"Exit code: 0 when they are members, 125 when one of them cannot be (then none is).\n";

/* 0 with pids[] without repetitions, or -EINVAL after one line on stderr. */
static int read_pids(char **words, pid_t *pids, uint32_t *ret_nr)
{
	uint32_t nr = 0;

	for (char **word = words; *word; word++) {
		char *end;
		long pid = strtol(*word, &end, 10);
		uint32_t i;

		if (pid <= 0 || pid > INT_MAX || *end || **word < '0' || **word > '9') {
			log_error("%.40s: is not a process id (see `membox attach --help`)", *word);
			return -EINVAL;
		}
		for (i = 0; i < nr && pids[i] != (pid_t)pid; i++)
			;
		if (i == nr)
			pids[nr++] = (pid_t)pid;
	}
	*ret_nr = nr;
	return 0;
}

/* Where the processes to attach are members now. Looked up once; `taken` is known to the keeper only. */
struct place {
	pid_t pid;
	char container[RUNTIME_NAME_MAX + 1]; /* "": of none */
	bool has_departed; /* from the container that it runs below */
	bool is_taken;
};

struct places {
	struct place *items;
	uint32_t nr;
	struct membox *m;
};

static struct place *find_place(const struct places *places, pid_t pid)
{
	for (uint32_t i = 0; i < places->nr; i++)
		if (places->items[i].pid == pid)
			return &places->items[i];
	return NULL;
}

/* For membox_list. A container that does not answer is passed over: what is below its keeper, or adopted, is refused later. */
static int look_into(const char *name, void *context)
{
	struct places *places = context;
	int r = membox_connect(places->m, name);
	_cleanup_object_ json_object *object = r ? NULL : request_object(places->m, "stat", &r);
	json_object *members = object_array(object, "members"), *departed = object_array(object, "departed");
	struct place *place;

	for (size_t i = 0; i < array_length(members); i++) {
		place = find_place(places, (pid_t)object_number(json_object_array_get_idx(members, i), "pid"));
		if (place)
			snprintf(place->container, sizeof(place->container), "%s", name);
	}
	for (size_t i = 0; i < array_length(departed); i++) {
		place = find_place(places, (pid_t)json_object_get_int(json_object_array_get_idx(departed, i)));
		if (place)
			place->has_departed = true;
	}
	return 0;
}

static bool may_leave(void *context, pid_t pid)
{
	const struct place *place = find_place(context, pid);

	return place && (place->container[0] || place->has_departed);
}

/* ESRCH: it has left already, below another one that was taken out, or has ended. ENOENT: then its container is gone. */
static int take_out(void *context, pid_t pid)
{
	struct places *places = context;
	struct place *place = find_place(places, pid);
	char members[32];
	int r;

	if (!place || !place->container[0])
		return 0;
	membox_set_timeout(places->m, TAKE_OUT_TIMEOUT_MS);
	snprintf(members, sizeof(members), "{\"pid\": %d}", pid);
	r = membox_connect(places->m, place->container);
	if (!r)
		r = membox_request(places->m, "release", members, NULL);
	if (r == -ESRCH || r == -ENOENT)
		r = 0;
	place->is_taken = !r;
	if (r == -ETIMEDOUT)
		log_error("cannot attach process %d: it has not left container %s yet (it goes on leaving; attach it when it is no member)", pid,
			  place->container);
	else if (r)
		log_error("cannot attach process %d: it is a member of container %s", pid, membox_error(places->m));
	return r;
}

static void not_attached(void *context)
{
	const struct places *places = context;

	for (uint32_t i = 0; i < places->nr; i++)
		if (places->items[i].is_taken)
			log_error("process %d has left container %s and has no limit now", places->items[i].pid, places->items[i].container);
}

/* False: out of memory. */
static bool look_up(const pid_t *pids, uint32_t nr, struct places *places)
{
	_cleanup_membox_ struct membox *list = membox_new();

	places->items = calloc(nr, sizeof(*places->items));
	places->m = membox_new();
	if (!list || !places->items || !places->m)
		return false;
	for (uint32_t i = 0; i < nr; i++)
		places->items[i].pid = pids[i];
	places->nr = nr;
	membox_set_timeout(places->m, ONE_TIMEOUT_MS);
	membox_list(list, look_into, places);
	return true;
}

static void places_release(struct places *places)
{
	free(places->items);
	membox_free(places->m);
}

/*
 * Who else can be there: another attach of the same process. From the lookup until the new keeper has it as a member this process holds a lock, so the
 * other one finds it there, and moves it on.
 */
static int attach(const struct container_options *given, struct container_storage *storage, pid_t *pids)
{
	struct places places = {0};
	struct attach_source source = {may_leave, take_out, not_attached, &places};
	struct process_info info = {.name = "process"};
	char *command[] = {info.name, NULL};
	struct run_config config = {.detach = true, .attach = pids, .attach_source = &source, .argv = command};
	int code = EXIT_MEMBOX_FAILED;

	if (read_pids(given->rest, pids, &config.nr_attach))
		return EXIT_MEMBOX_FAILED;
	_cleanup_close_ int lock = runtime_folder_lock_attach(); /* without a runtime folder there is nobody to be looked up */
	if (lock < 0)
		log_debug("attach: no lock: errno %d", -lock);
	process_info_read(pids[0], &info);
	if (!look_up(pids, config.nr_attach, &places))
		log_error("attach: out of memory");
	else if (!container_options_apply(given, info.name, &config, storage))
		code = container_run_controlled(&config);
	places_release(&places);
	return code;
}

int cmd_attach(int argc, char **argv)
{
	struct container_storage storage = {0};
	struct container_options given;
	_cleanup_free_ pid_t *pids = NULL;
	int code;

	if (container_options_parse("attach", argc, argv, &given))
		return EXIT_MEMBOX_FAILED;
	if (given.help) {
		fputs(usage, stdout);
		return finish_output(0);
	}
	if (!given.rest[0]) {
		log_error("attach: no process id given (see `membox attach --help`)");
		return EXIT_MEMBOX_FAILED;
	}
	pids = calloc((size_t)argc, sizeof(*pids));
	if (!pids) {
		log_error("attach: out of memory");
		return EXIT_MEMBOX_FAILED;
	}
	code = attach(&given, &storage, pids);
	container_storage_release(&storage);
	return code;
}
