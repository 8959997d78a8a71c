#include "control/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/arrivals.h"
#include "checkpoint/handover.h"
#include "checkpoint/save.h"
#include "checkpoint/upgrade.h"
#include "container/leave.h"
#include "container/prefetch.h"
#include "container/release.h"
#include "container/swap_switch.h"
#include "platform/folders.h"
#include "platform/numa.h"
#include "platform/process.h"

static int refuse(struct request *request, int error, const char *why, const char *hint)
{
	request->error = why;
	request->hint = hint;
	return error;
}

static void add_number(json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static void add_text(json_object *object, const char *name, const char *text)
{
	json_object_object_add(object, name, text ? json_object_new_string(text) : NULL);
}

static uint64_t number_of(const struct request *request, const char *name, uint64_t otherwise)
{
	json_object *value;
	return json_object_object_get_ex(request->members, name, &value) ? json_object_get_uint64(value) : otherwise;
}

static const char *state_name(const struct container *c)
{
	if (atomic_load(&c->killed) || c->program_ended)
		return "ending";
	if (c->parking != PARKING_NOT)
		return c->parking == PARKING_DONE ? "parked" : "parking";
	return container_is_stopped(c) ? "stopped" : "running";
}

static json_object *command_of(const struct container *c)
{
	json_object *command = json_object_new_array();
	for (char **word = c->config->argv; *word; word++)
		json_object_array_add(command, json_object_new_string(*word));
	return command;
}

static void add_usage(json_object *reply, const struct container *c)
{
	add_number(reply, "rss_usage", stat_get(&c->stats, rss_usage));
	add_number(reply, "rss_limit", stat_get(&c->stats, rss_limit));
}

/* As whoever asks has to give it, from any folder. */
static void add_path(json_object *object, const char *name, const char *path)
{
	_cleanup_free_ char *whole = path ? path_absolute(path) : NULL;
	add_text(object, name, whole ? whole : path);
}

static int begin_describe(struct request *request, struct container *c)
{
	json_object *reply = request->reply;
	struct timespec now;
	container_refresh_members(c); /* what a fork shares with children that are not known would be counted in part only */
	container_publish_figures(c);
	clock_gettime(CLOCK_REALTIME, &now);
	add_text(reply, "name", c->config->name);
	add_text(reply, "state", state_name(c));
	add_number(reply, "keeper", (uint64_t)getpid());
	add_number(reply, "program", (uint64_t)c->program);
	json_object_object_add(reply, "command", command_of(c));
	add_number(reply, "started", (uint64_t)now.tv_sec - stat_get(&c->stats, wall_us) / 1000000);
	add_usage(reply, c);
	add_path(reply, "swap_file", c->swap ? swap_path(c->swap) : NULL);
	json_object_object_add(reply, "swap_encrypted", json_object_new_boolean(c->swap && swap_is_encrypted(c->swap)));
	add_number(reply, "swap_used", stat_get(&c->stats, swap_used));
	add_number(reply, "swap_total", stat_get(&c->stats, swap_total));
	add_number(reply, "nr_processes", stat_get(&c->stats, nr_processes));
	return 0;
}

/* The figures as the statistics print them: there is one list of them. */
static json_object *figures_of(const struct stats *stats)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	int r = out ? stats_write_json(stats, out) : -ENOMEM;
	if (out && fclose(out))
		r = -ENOMEM;
	return r < 0 ? NULL : json_tokener_parse(text);
}

static json_object *member_object(const struct member *member)
{
	json_object *object = json_object_new_object();
	struct process_info info = {.name = "?"};
	int adjust = 0;
	process_info_read(member->pid, &info);
	process_oom_score_adj(member->pid, &adjust);
	add_number(object, "pid", (uint64_t)member->pid);
	add_text(object, "name", info.name);
	add_number(object, "rss", member->resident << PAGE_SHIFT);
	add_number(object, "file", member->file << PAGE_SHIFT);
	json_object_object_add(object, "oom_score_adj", json_object_new_int(adjust));
	return object;
}

static json_object *departed_of(const struct members *members)
{
	json_object *pids = json_object_new_array();
	for (uint32_t i = 0; i < members->nr_departed; i++)
		json_object_array_add(pids, json_object_new_int(members->departed[i].pid));
	return pids;
}

/* What each node holds of the members, a page that several map once for each; NULL: there is one node only, and no need to walk all pages. */
static json_object *nodes_of(const struct members *members)
{
	static uint64_t counts[NUMA_NODES_MAX];
	struct node_set online, with_memory;
	json_object *nodes;
	if (numa_read_nodes(&online, &with_memory) < 0 || node_set_next(&with_memory, (unsigned)node_set_next(&with_memory, 0) + 1) < 0)
		return NULL;
	memset(counts, 0, sizeof(counts));
	for (uint32_t i = 0; i < members->nr; i++)
		if (!members->items[i].same_memory)
			numa_count_pages(members->items[i].task, counts);
	nodes = json_object_new_array();
	for (int node = node_set_next(&with_memory, 0); node >= 0; node = node_set_next(&with_memory, (unsigned)node + 1)) {
		json_object *one = json_object_new_object();
		add_number(one, "node", (uint64_t)node);
		add_number(one, "rss", counts[node] << PAGE_SHIFT);
		json_object_array_add(nodes, one);
	}
	return nodes;
}

static int begin_stat(struct request *request, struct container *c)
{
	json_object *members = json_object_new_array(), *nodes;
	begin_describe(request, c);
	json_object_object_add(request->reply, "figures", figures_of(&c->stats));
	for (uint32_t i = 0; i < c->members.nr; i++)
		json_object_array_add(members, member_object(&c->members.items[i]));
	json_object_object_add(request->reply, "members", members);
	nodes = nodes_of(&c->members);
	if (nodes)
		json_object_object_add(request->reply, "nodes", nodes);
	json_object_object_add(request->reply, "departed", departed_of(&c->members));
	add_text(request->reply, "oom_report", container_oom_report(c));
	return 0;
}

static int step_set(struct request *request, struct container *c)
{
	if (!container_is_within_limit(c) && container_is_stopped(c))
		return refuse(request, -ENOSPC, "the limit is set, but nothing more can leave memory: the container is stopped",
			      "set a higher one, or give it a swap file with membox swapon");
	if (!container_is_within_limit(c))
		return -EINPROGRESS;
	add_usage(request->reply, c);
	return 0;
}

static int begin_set(struct request *request, struct container *c)
{
	json_object *pool;
	bool has_limit = json_object_object_get_ex(request->members, "limit", NULL);
	bool has_pool = json_object_object_get_ex(request->members, "pool", &pool);
	int r = has_limit ? container_set_limit(c, number_of(request, "limit", 0)) : 0;
	if (r < 0)
		return refuse(request, r, "the limit is too small", "the least is 1M");
	if (!has_limit && !has_pool)
		return refuse(request, -EINVAL, "nothing to change", "give limit or pool");
	if (has_pool)
		container_set_pool(c, json_object_get_int64(pool) == INT64_MAX ? POOL_AUTO : json_object_get_uint64(pool));
	return step_set(request, c);
}

static int step_reclaim(struct request *request, struct container *c)
{
	uint64_t pages;
	int r = container_squeeze_step(c, &request->squeeze, &pages);
	if (r < 0)
		return r;
	add_number(request->reply, "reclaimed", pages << PAGE_SHIFT);
	add_usage(request->reply, c);
	return 0;
}

static int begin_reclaim(struct request *request, struct container *c)
{
	int r = container_squeeze_begin(c, number_of(request, "bytes", UINT64_MAX), &request->squeeze);
	return r < 0 ? refuse(request, r, "another reclaim or park is under way", NULL) : -EINPROGRESS;
}

static int step_park(struct request *request, struct container *c)
{
	int r = container_park_step(c);
	if (r == 0)
		add_usage(request->reply, c);
	if (r == -ENOSPC)
		refuse(request, r, "the swap file is full", "see membox swapoff and swapon, or unpark something else on that disk");
	if (r == -ETIMEDOUT)
		refuse(request, r, "a process could not be held", "it may be inside vfork; try again");
	if (r == -ECANCELED)
		refuse(request, r, "it was unparked meanwhile", NULL);
	return r;
}

static int begin_park(struct request *request, struct container *c)
{
	int r = container_park_begin(c);
	if (r == -ENOENT)
		return refuse(request, r, "the container has no swap file", "membox swapon gives it one");
	return r < 0 ? refuse(request, r, "a reclaim is under way", "try again when it is done") : step_park(request, c);
}

static int begin_unpark(struct request *request, struct container *c)
{
	int r = container_unpark(c);
	return r < 0 ? refuse(request, r, "the container is not parked", NULL) : 0;
}

/* SIGKILL ends the container; another signal is for the program, or for what it has left behind. */
static int begin_kill(struct request *request, struct container *c)
{
	uint64_t signal = number_of(request, "signal", SIGKILL), signalled = 0;
	bool all = signal == SIGKILL || c->program_ended;
	if (signal < 1 || signal > (uint64_t)SIGRTMAX)
		return refuse(request, -EINVAL, "there is no such signal", NULL);
	for (uint32_t i = 0; i < c->members.nr; i++) {
		const struct member *member = &c->members.items[i];
		if ((all || member->pid == c->program) && member->pidfd >= 0)
			signalled += pidfd_kill(member->pidfd, (int)signal) == 0;
	}
	add_number(request->reply, "signalled", signalled);
	return 0;
}

static int begin_swapon(struct request *request, struct container *c)
{
	json_object *path = json_object_object_get(request->members, "path");
	struct swap_error error;
	if (json_object_get_string(path)[0] != '/')
		return refuse(request, -EINVAL, "the path is not absolute", NULL);
	int r = container_swapon(c, json_object_get_string(path), number_of(request, "size", 0), &error);
	if (r < 0) {
		snprintf(request->text, sizeof(request->text), "%s", error.text);
		refuse(request, r, request->text, r == -EBUSY && c->swap ? "membox swapoff first" : NULL);
	}
	return r;
}

static int step_swapoff(struct request *request, struct container *c)
{
	int r = container_swapoff_step(c);
	if (r == -ENOSPC)
		refuse(request, r, "the limit does not leave room for what is in the swap file", "raise it with membox set");
	return r;
}

static int begin_swapoff(struct request *request, struct container *c)
{
	int r = container_swapoff_begin(c);
	if (r == -ENOENT)
		return refuse(request, r, "the container has no swap file", NULL);
	if (r == -EBUSY)
		return refuse(request, r, "another swapoff, a park or a reclaim is under way", "try again when it is done");
	if (r == -ENOSPC)
		return refuse(request, r, "the limit does not leave room for what is in the swap file", "raise it with membox set");
	return r < 0 ? r : -EINPROGRESS;
}

static bool is_for_one(const struct request *request)
{
	return json_object_object_get_ex(request->members, "pid", NULL);
}

static int step_release(struct request *request, struct container *c)
{
	return is_for_one(request) ? container_leave_step(c) : container_release_step(c, NULL);
}

static int begin_leave(struct request *request, struct container *c)
{
	int r = container_leave_begin(c, (pid_t)MIN_OF(number_of(request, "pid", 0), INT_MAX));
	if (r == -ESRCH)
		return refuse(request, r, "the process is not a member of the container", NULL);
	if (r == -EXDEV)
		return refuse(request, r, "the container has namespaces of its own, which its processes cannot leave", NULL);
	if (r == -ENOMEM)
		return refuse(request, r, "the system has not enough memory available for what is in the swap file", NULL);
	if (r == -EBUSY)
		return refuse(request, r, "a release, park, reclaim or swapoff is under way, or the container is parked or ending",
			      "try again when it is done");
	return r < 0 ? r : -EINPROGRESS;
}

static int begin_release(struct request *request, struct container *c)
{
	if (is_for_one(request))
		return begin_leave(request, c);
	int r = container_release_start(c);
	if (r == -ENOMEM)
		return refuse(request, r, "the system has not enough memory available for what is in the swap file", NULL);
	if (r == -EBUSY)
		return refuse(request, r, "a swapoff or the release of a member is under way, or the container is ending", "try again when it is done");
	return r < 0 ? r : -EINPROGRESS;
}

static int refuse_checkpoint(struct request *request, int error, const struct checkpoint_error *why)
{
	snprintf(request->text, sizeof(request->text), "%s", why->text);
	return refuse(request, error, request->text, NULL);
}

static bool is_given(const struct request *request, const char *name)
{
	json_object *value;
	return json_object_object_get_ex(request->members, name, &value) && json_object_get_boolean(value);
}

static int step_checkpoint(struct request *request, struct container *c)
{
	struct checkpoint_error error = {0};
	struct save_result result;
	const char *path = json_object_get_string(json_object_object_get(request->members, "path"));
	bool is_round = is_given(request, "to_send") && is_given(request, "leave_running");
	int r = save_step(&request->save, &result, &error);
	if (r == -EINPROGRESS)
		return r;
	if (r < 0)
		return refuse_checkpoint(request, r, &error);
	if (request->save)
		handover_keep_last(c, steal_pointer(request->save));
	if (is_round && handover_keep_round(c, path) < 0)
		return -ENOMEM;
	add_number(request->reply, "pages", result.pages);
	add_number(request->reply, "written", result.written);
	add_number(request->reply, "frozen_us", result.frozen_us);
	return 0;
}

static int begin_checkpoint(struct request *request, struct container *c)
{
	struct checkpoint_error error = {0};
	const char *path = json_object_get_string(json_object_object_get(request->members, "path"));
	bool is_to_send = is_given(request, "to_send");
	enum save_end end = is_given(request, "leave_running") ? SAVE_LETS_GO_ON : is_to_send ? SAVE_GOES_ON_HOLDING : SAVE_KILLS;
	if (path[0] != '/')
		return refuse(request, -EINVAL, "the path is not absolute", NULL);
	int r = is_to_send ? handover_claim(c, request->owner) : 0;
	if (r == -EBUSY)
		return refuse(request, r, "the container is being sent already", NULL);
	if (r == 0)
		r = save_begin(c, path, end, &request->save, &error);
	return r < 0 ? refuse_checkpoint(request, r, &error) : -EINPROGRESS;
}

static int begin_sent(struct request *request, struct container *c)
{
	int r = is_given(request, "go_on") ? 0 : handover_finish(c, request->owner);
	if (r == 0 && is_given(request, "go_on"))
		handover_release(c, request->owner);
	if (r == -ENOENT)
		return refuse(request, r, "the container is not held to be sent by this connection", NULL);
	return r < 0 ? refuse(request, r, "the disk does not take its last checkpoint", NULL) : 0;
}

/* What is missing of a container that goes on without some of its pages. */
static int begin_resume(struct request *request, struct container *c)
{
	struct checkpoint_error error = {0};
	const char *path = json_object_get_string(json_object_object_get(request->members, "path"));
	if (path[0] != '/')
		return refuse(request, -EINVAL, "the path is not absolute", NULL);
	if (!c->arrivals)
		return refuse(request, -ENODATA, "all its pages are there", NULL);
	int r = arrivals_resume(c->arrivals, path, &error);
	return r < 0 ? refuse_checkpoint(request, r, &error) : -EINPROGRESS;
}

static int step_resume(struct request *request, struct container *c)
{
	int r = arrivals_state(c->arrivals);
	return r == -EBADMSG ? refuse(request, r, "the checkpoint is damaged: the checksum of a page is wrong", NULL) : r;
}

static void add_migrated(json_object *reply, const struct migrate_result *result)
{
	const struct migrate_figures *figures = &result->figures;
	static const char *const names[NR_MIGRATE_FAILURES] = {"busy", "shared", "refused", "other"};
	json_object *reasons = json_object_new_object();
	double seconds = (double)result->took_ns / 1e9;
	add_number(reply, "found", figures->found);
	add_number(reply, "moved", figures->moved);
	add_number(reply, "swapped", figures->swapped);
	add_number(reply, "freed", figures->freed);
	add_number(reply, "failed", migrate_figures_failed(figures));
	for (int i = 0; i < NR_MIGRATE_FAILURES; i++)
		add_number(reasons, names[i], figures->failed[i]);
	json_object_object_add(reply, "failed_by_reason", reasons);
	add_number(reply, "left", figures->left);
	add_number(reply, "undirected", result->undirected);
	json_object_object_add(reply, "seconds", json_object_new_double(seconds));
	json_object_object_add(reply, "gb_per_s", json_object_new_double((double)(figures->moved << PAGE_SHIFT) / 1e9 / seconds));
}

static int step_migrate(struct request *request, struct container *c)
{
	struct migrate_result result;
	int r = migration_step(&request->migration, &result);
	if (r == 0)
		add_migrated(request->reply, &result);
	return r;
}

static int begin_migrate(struct request *request, struct container *c)
{
	struct migrate_error error;
	struct node_set to, from;
	json_object *from_text;
	bool has_from = json_object_object_get_ex(request->members, "from", &from_text);
	int r = migration_read_nodes("--to-node", json_object_get_string(json_object_object_get(request->members, "to")), &to, &error);
	if (r == 0 && has_from)
		r = migration_read_nodes("--from-node", json_object_get_string(from_text), &from, &error);
	if (r < 0) {
		snprintf(request->text, sizeof(request->text), "%s", error.text);
		return refuse(request, r, request->text, "see /sys/devices/system/node/has_memory");
	}
	if (c->migration)
		return refuse(request, -EBUSY, "another migration is under way", "try again when it is done");
	if (c->parking != PARKING_NOT || c->swapoff)
		return refuse(request, -EBUSY, "a park or a swapoff is under way, or the container is parked", "try again when it is done");
	r = migration_begin(c, &to, has_from ? &from : NULL, &request->migration);
	return r < 0 ? r : -EINPROGRESS;
}

/* Of the migration that is under way; nothing when there is none. */
static int begin_migration(struct request *request, struct container *c)
{
	struct migrate_progress progress = {0};
	json_object_object_add(request->reply, "under_way", json_object_new_boolean(migration_progress(c, &progress)));
	add_number(request->reply, "resident", progress.resident);
	add_number(request->reply, "looked_at", progress.looked_at);
	add_number(request->reply, "moved", progress.moved);
	return 0;
}

static int step_upgrade(struct request *request, struct container *c)
{
	struct checkpoint_error error = {0};
	int r = upgrade_step(request->upgrade, request->control, &error);
	return r == -EINPROGRESS ? r : refuse_checkpoint(request, r, &error);
}

static int begin_upgrade(struct request *request, struct container *c)
{
	struct checkpoint_error error = {0};
	const char *file = json_object_get_string(json_object_object_get(request->members, "program"));
	if (file[0] != '/')
		return refuse(request, -EINVAL, "the path is not absolute", NULL);
	int r = upgrade_begin(c, file, &request->upgrade, &error);
	return r < 0 ? refuse_checkpoint(request, r, &error) : -EINPROGRESS;
}

static int begin_wait(struct request *request, struct container *c)
{
	return -EINPROGRESS;
}

bool control_answer_at_end(struct request *request, struct container *c)
{
	if (request->verb->begin != begin_wait)
		return false;
	add_number(request->reply, "exit_status", (uint64_t)c->exit_status);
	return true;
}

static const struct control_verb verbs[] = {
	{"describe", {{0}}, begin_describe, NULL, false},
	{"stat", {{0}}, begin_stat, NULL, false},
	{"set", {{"limit", json_type_int, false}, {"pool", json_type_int, false}}, begin_set, step_set, true},
	{"reclaim", {{"bytes", json_type_int, false}}, begin_reclaim, step_reclaim, true},
	{"park", {{0}}, begin_park, step_park, true},
	{"unpark", {{0}}, begin_unpark, NULL, false},
	{"kill", {{"signal", json_type_int, false}}, begin_kill, NULL, false},
	{"swapon", {{"path", json_type_string, true}, {"size", json_type_int, false}}, begin_swapon, NULL, true},
	{"swapoff", {{0}}, begin_swapoff, step_swapoff, true},
	{"release", {{"pid", json_type_int, false}}, begin_release, step_release, false},
	{"checkpoint", {{"path", json_type_string, true}, {"leave_running", json_type_boolean, false}, {"to_send", json_type_boolean, false}}, begin_checkpoint,
	 step_checkpoint, true},
	{"resume", {{"path", json_type_string, true}}, begin_resume, step_resume, false},
	{"sent", {{"go_on", json_type_boolean, false}}, begin_sent, NULL, false},
	{"migrate", {{"to", json_type_string, true}, {"from", json_type_string, false}}, begin_migrate, step_migrate, true},
	{"migration", {{0}}, begin_migration, NULL, false},
	{"upgrade", {{"program", json_type_string, true}}, begin_upgrade, step_upgrade, true},
	{"wait", {{0}}, begin_wait, NULL, false},
};

/* A migration holds members for a moment and evicts from them: whatever holds, evicts or brings back all of them has to wait. */
static bool disturbs_migration(const struct control_verb *verb)
{
	return verb->begin == begin_park || verb->begin == begin_swapon || verb->begin == begin_swapoff || verb->begin == begin_release ||
	       verb->begin == begin_checkpoint || verb->begin == begin_upgrade;
}

int control_begin(struct request *request, struct container *c)
{
	bool is_refused = container_is_releasing(c) || (c->leave && request->verb->begin != begin_set);
	if (request->verb->is_change && is_refused)
		return refuse(request, -EBUSY, "a release is under way", NULL);
	if ((request->verb->is_change || request->verb->begin == begin_release) && handover_is_holding(c))
		return refuse(request, -EBUSY, "the container is being sent to another place", NULL);
	bool is_other = request->verb->is_change || request->verb->begin == begin_release;
	if (is_other && c->is_being_saved && request->verb->begin != begin_set)
		return refuse(request, -EBUSY, "a checkpoint is under way", "try again when it is done");
	if (c->migration && disturbs_migration(request->verb))
		return refuse(request, -EBUSY, "a migration is under way", "try again when it is done");
	if (is_other)
		container_end_prefetch(c);
	return request->verb->begin(request, c);
}

const struct control_verb *control_find_verb(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}
