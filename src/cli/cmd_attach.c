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
#include "platform/process.h"

#define ONE_TIMEOUT_MS 2000

static const char usage[] =
	"Usage: membox attach [OPTION]... PID...\n"
	"Put running processes and their descendants into a new container. They go on while their memory comes down to the limit; the name of\n"
	"the container is printed. `membox release NAME` brings everything back and lets them go.\n"
	"\n"
	"  --limit SIZE      the limit (default: 90% of the memory that the surrounding cgroup or the machine grants)\n"
	"  --swap FILE       the swap file; kept at the end (default: a new one in the user's cache folder, removed at the end)\n"
	"  --swap-size SIZE  the swap file never grows beyond this (default: as the file system gives)\n"
	"  --no-swap         no swap file: over the limit the container's OOM killer decides\n"
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

struct search {
	const pid_t *pids;
	uint32_t nr;
	struct membox *m;
};

static bool is_wanted(const struct search *search, pid_t pid)
{
	for (uint32_t i = 0; i < search->nr; i++)
		if (search->pids[i] == pid)
			return true;
	return false;
}

/* For membox_list. -EBUSY after one line on stderr. A container that does not answer is passed over: what it has adopted is refused later. */
static int refuse_members_of(const char *name, void *context)
{
	const struct search *search = context;
	json_object *members = NULL;
	int r = membox_connect(search->m, name);
	_cleanup_object_ json_object *object = r ? NULL : request_object(search->m, "stat", &r);

	if (object)
		json_object_object_get_ex(object, "members", &members);
	for (size_t i = 0; members && i < json_object_array_length(members); i++) {
		pid_t pid = (pid_t)object_number(json_object_array_get_idx(members, i), "pid");

		if (!is_wanted(search, pid))
			continue;
		log_error("cannot attach process %d: it is a member of container %s (membox release lets go of what was attached)", pid, name);
		return -EBUSY;
	}
	return 0;
}

/* Only the other containers know whom they have attached. 0, or -EBUSY after one line on stderr. */
static int check_no_member(const pid_t *pids, uint32_t nr)
{
	_cleanup_membox_ struct membox *list = membox_new();
	_cleanup_membox_ struct membox *m = membox_new();
	struct search search = {pids, nr, m};

	if (m)
		membox_set_timeout(m, ONE_TIMEOUT_MS);
	return list && m && membox_list(list, refuse_members_of, &search) == -EBUSY ? -EBUSY : 0;
}

static int attach(const struct container_options *given, struct container_storage *storage, pid_t *pids)
{
	struct process_info info = {.name = "process"};
	char *command[] = {info.name, NULL};
	struct run_config config = {.detach = true, .attach = pids, .argv = command};

	if (read_pids(given->rest, pids, &config.nr_attach) || check_no_member(pids, config.nr_attach))
		return EXIT_MEMBOX_FAILED;
	process_info_read(pids[0], &info);
	if (container_options_apply(given, info.name, &config, storage))
		return EXIT_MEMBOX_FAILED;
	return container_run_controlled(&config);
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
