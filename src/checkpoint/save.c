#include "checkpoint/save.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/huge_memory.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "checkpoint/arrivals.h"
#include "checkpoint/look.h"
#include "checkpoint/machine.h"
#include "checkpoint/pages.h"
#include "checkpoint/process/mapping_flags.h"
#include "checkpoint/system_v.h"
#include "container/container.h"
#include "container/freeze.h"
#include "container/hold.h"
#include "container/precopy_rounds.h"
#include "container/save_point.h"
#include "platform/process.h"
#include "platform/scheduling.h"
#include "swap/cipher.h"

#define FREEZE_PATIENCE_NS 5000000000ull
#define LARGE ((64ull << 20) >> PAGE_SHIFT)

struct save {
	struct container *c;
	struct precopy *precopy;
	bool is_precopied;
	uint64_t precopied;      /* pages that it has written */
	struct arena seen_arena; /* of what was seen of the mappings of large processes before they were held */
	struct mappings_seen *seen;
	size_t nr_seen;
	bool looks_at_all; /* what was seen was not to be relied on: it is looked at in the hold, however long that takes */
	enum save_end end;
	bool is_holding;    /* complete; nobody runs */
	bool kept_before;   /* the swap file was marked as a checkpoint's before */
	bool is_syncing;
	pthread_t syncer;   /* it has draft.path and the result until it is joined */
	int sync_result;
	uint64_t holds_since_ns;
	struct image_draft draft;
	struct saving saving;
};

static void *sync_main(void *argument)
{
	struct save *save = argument;
	save->sync_result = image_sync(save->draft.path);
	return NULL;
}

/* While everybody is held and the checkpoint is being sent: nothing is final yet. */
static void begin_sync(struct save *save)
{
	save->is_syncing = pthread_create(&save->syncer, NULL, sync_main, save) == 0;
	if (!save->is_syncing)
		sync_main(save);
}

static int end_sync(struct save *save)
{
	if (save->is_syncing)
		pthread_join(save->syncer, NULL);
	save->is_syncing = false;
	return save->sync_result;
}

void save_free(struct save *save)
{
	if (!save)
		return;
	precopy_free(save->precopy);
	end_sync(save);
	save->c->is_being_saved = false;
	image_draft_end(&save->draft);
	arena_release(&save->saving.arena);
	arena_release(&save->seen_arena);
	free(save);
}

static int check_container(const struct container *c, struct checkpoint_error *error)
{
	if (!c->swap)
		return checkpoint_fail(error, -ENOENT, "the container has no swap file, which the checkpoint is to be made of (membox swapon gives it one)");
	if (c->is_being_saved)
		return checkpoint_fail(error, -EBUSY, "another checkpoint is under way");
	if (c->arrivals && arrivals_state(c->arrivals))
		return checkpoint_fail(error, -EBUSY, "not all of its pages have come yet from where it was sent from");
	if (c->swapoff || c->parking != PARKING_NOT || c->frozen)
		return checkpoint_fail(error, -EBUSY, "the container is parked or stopped, or its swap file is leaving");
	return 0;
}

int save_begin(struct container *c, const char *path, enum save_end end, struct save **ret, struct checkpoint_error *error)
{
	int r = check_container(c, error);
	if (r == 0)
		r = look_for_refusals(c, error);
	struct save *save = r == 0 ? calloc(1, sizeof(*save)) : NULL;
	if (!save)
		return r < 0 ? r : checkpoint_fail(error, -ENOMEM, "checkpoint: %s", strerror(ENOMEM));
	save->c = c;
	c->is_being_saved = true;
	save->draft.folder = -1;
	save->end = end;
	save->saving.is_isolated = c->config->isolate;
	r = image_draft_begin(path, &save->draft, error);
	if (r == 0 && end == SAVE_GOES_ON_HOLDING && save->draft.replaces)
		r = checkpoint_fail(error, -EEXIST, "%.200s: it is there already", path);
	if (r == 0 && precopy_new(c, &save->precopy) < 0)
		r = checkpoint_fail(error, -ENOMEM, "checkpoint: %s", strerror(ENOMEM));
	if (r < 0) {
		save_free(save);
		return r;
	}
	*ret = save;
	FAULT_POINT("checkpoint.begun");
	return 0;
}

/* --- describing the processes --- */

static const Image__Process *find_saved(const Image__Image *image, pid_t pid)
{
	for (size_t i = 0; i < image->n_processes; i++)
		if (image->processes[i]->pid == pid)
			return image->processes[i];
	return NULL;
}

static pid_t if_member(struct save *save, pid_t pid)
{
	return members_find(&save->c->members, pid) ? saved_id(&save->saving, pid) : 0;
}

static void find_ranges_of_ours(struct saved_process *p, const struct address_space *as)
{
	if (!as)
		return;
	if (as->agent)
		p->ours[0] = (struct range_of_ours){as->agent->base, as->agent->base + as->agent->size};
	if (as->sentinel)
		p->ours[1] = (struct range_of_ours){as->sentinel, as->sentinel + PAGE_BYTES};
	p->is_adopted = true;
}

static int save_state(struct saved_process *p, struct address_space *as)
{
	int r = p->saving->is_isolated ? system_v_check_namespace(p) : 0;
	if (r == 0)
		r = layout_save(p);
	if (r == 0)
		r = threads_save(p);
	if (r == 0)
		r = signals_save(p);
	if (r == 0)
		r = timers_save(p);
	if (r == 0)
		r = descriptors_save(p);
	if (r == 0)
		r = attributes_save(p);
	return r < 0 ? r : pages_save(p, as); /* the last, because it takes longest and anything may be refused before */
}

/* One that has ended and waits for its parent. -EBUSY: it is just ending. */
static int save_zombie(struct saving *saving, Image__Process *message, pid_t pid)
{
	struct process_info info;
	char *stat = proc_text(&saving->arena, pid, "stat", NULL), *last = stat ? strrchr(stat, ' ') : NULL;
	if (process_info_read(pid, &info) < 0 || info.state != 'Z' || !last)
		return checkpoint_fail(&saving->error, -EBUSY, "process %d: it cannot be held", pid);
	message->is_zombie = true;
	message->zombie_status = atoi(last + 1); /* the last field of proc(5) that there is */
	return 0;
}

static int save_process(struct save *save, struct member *member, pid_t parent)
{
	struct saving *saving = &save->saving;
	Image__Process *message = saved_process_new(saving, member->pid);
	if (!message)
		return saved_no_memory(saving);
	message->parent = parent;
	message->group = if_member(save, getpgid(member->pid));
	message->session = if_member(save, getsid(member->pid));
	if (!message->pid)
		return checkpoint_fail(&saving->error, -ENOTSUP, "process %d: it is in a pid namespace of its own", member->pid);
	struct world *world = world_find(member->pid);
	if (!world)
		return save_zombie(saving, message, member->pid);
	if (member->same_memory)
		return checkpoint_fail(&saving->error, -ENOTSUP, "process %d: it shares the memory of another one (vfork, or clone with CLONE_VM)", member->pid);
	struct address_space *as = container_space_of(save->c, member);
	if (!as && address_space_is_inherited(member->pid)) /* what is out of its memory is not known yet, and would be saved as zeros */
		return checkpoint_fail(&saving->error, -EBUSY, "process %d: it was just forked", member->pid);
	struct saved_process p = {.saving = saving, .pid = member->pid, .message = message, .parent = find_saved(saving->image, parent)};
	find_ranges_of_ours(&p, as);
	int r = remote_open(&p.remote, world, 0);
	if (r < 0)
		return checkpoint_fail(&saving->error, r, "process %d: no system call can be made in it: %s", member->pid, strerror(-r));
	r = save_state(&p, as);
	remote_close(&p.remote);
	return r;
}

/* What belongs to no process, asked for in any of them. */
static int save_namespace(struct save *save)
{
	struct saved_process p = {.saving = &save->saving};
	struct world *world = NULL;
	for (uint32_t i = 0; !world && i < save->c->members.nr; i++) {
		p.pid = save->c->members.items[i].pid;
		world = world_find(p.pid);
	}
	int r = world ? remote_open(&p.remote, world, 0) : -ESRCH;
	if (r < 0)
		return checkpoint_fail(&save->saving.error, r, "process %d: no system call can be made in it: %s", p.pid, strerror(-r));
	r = system_v_save(&p);
	remote_close(&p.remote);
	return r;
}

/* Parents before their children. A parent that is no member is the keeper, or stands above an attached process. */
static int save_processes(struct save *save)
{
	struct container *c = save->c;
	uint32_t nr_saved = 0, before;
	do {
		before = nr_saved;
		for (uint32_t i = 0; i < c->members.nr; i++) {
			struct member *member = &c->members.items[i];
			struct process_info info;
			if (find_saved(save->saving.image, saved_id(&save->saving, member->pid)) || process_info_read(member->pid, &info) < 0)
				continue;
			pid_t parent = if_member(save, info.parent);
			if (parent && !find_saved(save->saving.image, parent))
				continue;
			int r = save_process(save, member, parent);
			if (r < 0)
				return r;
			nr_saved++;
			FAULT_POINT("checkpoint.process");
		}
	} while (nr_saved > before);
	if (!nr_saved)
		return checkpoint_fail(&save->saving.error, -ESRCH, "the container is empty");
	int r = files_complete(&save->saving);
	return r == 0 && save->saving.is_isolated ? save_namespace(save) : r;
}

static int describe_container(struct save *save)
{
	struct container *c = save->c;
	struct arena *arena = &save->saving.arena;
	Image__Container *message = arena_alloc(arena, sizeof(*message));
	Image__Pages *pages = arena_alloc(arena, sizeof(*pages));
	if (!message || !pages)
		return -ENOMEM;
	image__container__init(message);
	image__pages__init(pages);
	message->name = arena_strdup(arena, c->config->name);
	message->limit_bytes = charge_limit(&c->charge) << PAGE_SHIFT;
	message->taken_at = (uint64_t)time(NULL);
	for (char **word = c->config->argv; *word; word++) {
		char **slot = arena_grow(arena, &message->command, message->n_command, sizeof(*slot));
		if (!slot || !(*slot = arena_strdup(arena, *word)))
			return -ENOMEM;
		message->n_command++;
	}
	message->isolated = c->config->isolate;
	save->saving.image->container = message;
	save->saving.image->pages = pages;
	return message->name ? machine_describe(arena, &save->saving.image->machine) : -ENOMEM;
}

static int describe_all(struct save *save)
{
	struct saving *saving = &save->saving;
	saving->image = arena_alloc(&saving->arena, sizeof(*saving->image));
	saving->writer = pages_writer_new(save->c->swap);
	int r = saving->image && saving->writer ? 0 : saved_no_memory(saving);
	if (r == 0) {
		image__image__init(saving->image);
		r = describe_container(save) < 0 ? saved_no_memory(saving) : save_processes(save);
	}
	pages_writer_free(saving->writer);
	if (r == 0 && saving->arena.is_exhausted)
		r = saved_no_memory(saving);
	return r;
}

/* --- the end --- */

static int commit(struct save *save, uint32_t nr_slots)
{
	struct checkpoint_error *error = &save->saving.error;
	bool waits = save->end != SAVE_GOES_ON_HOLDING || save->draft.replaces;
	size_t bytes = nr_slots * sizeof(uint64_t);
	uint64_t *checksums = huge_memory_zeroed(bytes + 1);
	if (!checksums)
		return saved_no_memory(&save->saving);
	swap_pins_checksums(save->c->swap, checksums);
	int r = (waits ? image_draft_commit : image_draft_commit_unsynced)(&save->draft, save->saving.image, checksums, nr_slots, error);
	huge_memory_free(checksums, bytes + 1);
	if (r == 0 && !waits)
		begin_sync(save);
	return r;
}

static int store_folder(struct save *save)
{
	struct swap *swap = save->c->swap;
	struct checkpoint_error *error = &save->saving.error;
	Image__Pages *pages = save->saving.image->pages;
	pages->nr_slots = swap_pins_end(swap);
	pages->checksum_seed = swap_seed(swap);
	if (swap_is_encrypted(swap))
		pages->key = (ProtobufCBinaryData){CIPHER_KEY_BYTES, (uint8_t *)(uintptr_t)swap_key(swap)};
	pages->nr_pages = save->saving.count.pages;
	pages->written = save->saving.count.written + save->precopied;
	int r = swap_link(swap, save->draft.folder, "pages");
	if (r == -EXDEV)
		return checkpoint_fail(error, r, "%.150s is on another file system than the swap file %.150s, which becomes part of the checkpoint",
				       save->draft.path, swap_path(swap));
	if (r < 0)
		return checkpoint_fail(error, r, "cannot link the swap file %.150s into %.150s: %s", swap_path(swap), save->draft.path, strerror(-r));
	FAULT_POINT("checkpoint.linked");
	r = swap_keep(swap, true);
	FAULT_POINT("checkpoint.kept");
	if (r < 0)
		return checkpoint_fail(error, r, "swap file %.200s: %s", swap_path(swap), strerror(-r));
	return commit(save, pages->nr_slots);
}

/* Names of the swap file beside the container's own, if it still has that. */
static uint64_t linked_checkpoints(const struct container *c)
{
	return swap_links(c->swap) - (access(swap_path(c->swap), F_OK) == 0);
}

/* What was collected counts, or is given back. */
static void settle_pins(struct save *save, int r)
{
	struct swap *swap = save->c->swap;
	if (r == 0 && swap_pins_commit(swap, linked_checkpoints(save->c) <= 1) < 0)
		container_kill(save->c, "there is no memory to keep what its checkpoint refers to");
	if (r == 0)
		return;
	swap_pins_cancel(swap);
	if (!save->kept_before)
		swap_keep(swap, false);
}

/* Nobody goes on for a moment: what the program did then would be done again after the restore. */
static void kill_held(struct save *save)
{
	char reason[256];
	for (uint32_t i = 0; i < save->c->members.nr; i++) {
		member_kill(&save->c->members.items[i], SIGKILL);
		FAULT_POINT("checkpoint.killing");
	}
	snprintf(reason, sizeof(reason), "it was checkpointed into %.200s", save->draft.path);
	container_kill(save->c, reason);
}

/* Somebody was just ending: all is looked at anew. */
static void forget_description(struct save *save)
{
	arena_release(&save->saving.arena);
	save->saving = (struct saving){.is_isolated = save->saving.is_isolated};
}

/* Before the hold, because it takes long for large processes. One that cannot be looked at now is looked at then. */
static void look_at_mappings(struct save *save)
{
	const struct members *members = &save->c->members;
	arena_release(&save->seen_arena);
	save->seen_arena = (struct arena){0};
	save->seen = NULL;
	save->nr_seen = 0;
	for (uint32_t i = 0; i < members->nr && !save->looks_at_all; i++) {
		if (members->items[i].resident < LARGE)
			continue;
		struct mappings_seen *seen = arena_grow(&save->seen_arena, &save->seen, save->nr_seen, sizeof(*seen));
		if (seen && mappings_look(&save->seen_arena, members->items[i].pid, seen) == 0)
			save->nr_seen++;
	}
	save->saving.seen = save->seen;
	save->saving.nr_seen = save->nr_seen;
}

/*
 * After the hold. A flag that changed between the look and the hold shows now, unless it has changed back within these milliseconds. False: what was seen is not to be
 * relied on.
 */
static bool mappings_are_as_seen(const struct save *save)
{
	bool agrees = true;
	for (size_t i = 0; agrees && i < save->nr_seen; i++) {
		struct arena arena = {0};
		struct mappings_seen now;
		agrees = mappings_look(&arena, save->seen[i].pid, &now) == 0 && mappings_agree(&save->seen[i], &now);
		arena_release(&arena);
	}
	return agrees;
}

struct second_look {
	const struct save *save;
	bool agrees;
};

static void *second_look_main(void *argument)
{
	struct second_look *look = argument;
	scheduling_preempt(); /* it is waited for */
	look->agrees = mappings_are_as_seen(look->save);
	return NULL;
}

/*
 * Both at once, where nobody goes on afterwards: the kernel goes through all pages for the look, and the stop would be longer by as much. The thread reads what was written
 * before it began and is not written to until it has ended.
 */
static int describe_and_look(struct save *save, bool *ret_as_seen)
{
	struct second_look look = {.save = save};
	pthread_t thread;
	bool is_meanwhile = pthread_create(&thread, NULL, second_look_main, &look) == 0;
	int r = describe_all(save);
	if (is_meanwhile)
		pthread_join(thread, NULL);
	*ret_as_seen = is_meanwhile ? look.agrees : mappings_are_as_seen(save);
	return r;
}

static int fail_hold(struct checkpoint_error *error)
{
	return checkpoint_fail(error, -ETIMEDOUT, "a process could not be held (it may be inside vfork; try again)");
}

static int step_hold(struct save *save, struct save_result *result)
{
	struct checkpoint_error *error = &save->saving.error;
	look_at_mappings(save);
	uint64_t begin = monotonic_ns(), begin_cpu = thread_time_ns();
	int r = container_save_point_begin(save->c, save->end == SAVE_LETS_GO_ON);
	uint64_t held = monotonic_ns();
	if (r == -EBUSY && begin - save->holds_since_ns < FREEZE_PATIENCE_NS)
		return -EINPROGRESS;
	if (r == -EBUSY)
		return fail_hold(error);
	if (r < 0)
		return checkpoint_fail(error, r, "the compressed pool cannot be written to the swap file %.200s", swap_path(save->c->swap));
	FAULT_POINT("checkpoint.held");
	save->kept_before = swap_pinned_slots(save->c->swap) > 0;
	bool goes_on = save->end == SAVE_LETS_GO_ON, as_seen = false;
	r = goes_on ? describe_all(save) : describe_and_look(save, &as_seen);
	FAULT_POINT("checkpoint.described");
	if (r == -EBUSY && begin - save->holds_since_ns < FREEZE_PATIENCE_NS) {
		settle_pins(save, r);
		container_save_point_end(save->c);
		forget_description(save);
		return -EINPROGRESS;
	}
	bool go_on = r < 0 || goes_on; /* what is pinned stays as it is: the rest can be done while they run */
	if (go_on)
		container_save_point_end(save->c);
	uint64_t frozen_ns = monotonic_ns() - begin;
	log_debug("checkpoint: stopped for %llu us, %llu of them at work; %llu to hold", (unsigned long long)frozen_ns / 1000,
		  (unsigned long long)(thread_time_ns() - begin_cpu) / 1000, (unsigned long long)(held - begin) / 1000);
	if (r == 0 && goes_on)
		as_seen = mappings_are_as_seen(save);
	if (r == 0 && !as_seen) {
		settle_pins(save, -EAGAIN);
		if (!go_on)
			container_save_point_end(save->c);
		forget_description(save);
		save->looks_at_all = true;
		return -EINPROGRESS;
	}
	if (r == 0)
		r = store_folder(save);
	FAULT_POINT("checkpoint.stored");
	if (save->end == SAVE_GOES_ON_HOLDING)
		frozen_ns = monotonic_ns() - begin;
	*result = (struct save_result){save->saving.count.pages, save->saving.count.written + save->precopied, frozen_ns / 1000};
	save->is_holding = r == 0 && save->end == SAVE_GOES_ON_HOLDING;
	if (save->is_holding)
		return 0;
	settle_pins(save, r);
	FAULT_POINT("checkpoint.settled");
	if (r == 0 && !go_on)
		kill_held(save);
	else if (!go_on)
		container_save_point_end(save->c);
	return r;
}

/* What is written now need not be written while nobody runs. */
static int step_precopy(struct save *save)
{
	struct checkpoint_error *error = &save->saving.error;
	int r = precopy_step(save->precopy);
	if (r == -EINPROGRESS)
		return r;
	save->precopied = precopy_written(save->precopy);
	save->holds_since_ns = monotonic_ns();
	if (r == -EBUSY)
		return checkpoint_fail(error, r, "the container was parked or stopped meanwhile");
	if (r == -ETIMEDOUT)
		return fail_hold(error);
	if (r == -ENOSPC)
		return checkpoint_fail(error, r, "the swap file %.200s is full: it has no room for what is still in memory", swap_path(save->c->swap));
	if (r < 0)
		return checkpoint_fail(error, r, "swap file %.200s: %s", swap_path(save->c->swap), strerror(-r));
	save->is_precopied = true;
	FAULT_POINT("checkpoint.precopied");
	return 0;
}

int save_finish(struct save *save)
{
	int r = end_sync(save);
	if (r < 0)
		return r;
	save->c->was_sent = true;
	for (struct address_space *as = save->c->spaces; as; as = as->next)
		address_space_outlive(as);
	kill_held(save);
	return 0;
}

void save_cancel(struct save *save)
{
	end_sync(save);
	image_remove(save->draft.path);
	settle_pins(save, -ECANCELED);
	container_save_point_end(save->c);
	save_free(save);
}

void save_forget(struct save *save)
{
	settle_pins(save, 0);
	save_free(save);
}

int save_release_pins(struct container *c)
{
	if (linked_checkpoints(c) || !swap_pinned_slots(c->swap))
		return 0;
	int r = swap_pins_commit(c->swap, true);
	return r < 0 ? r : swap_keep(c->swap, false);
}

int save_step(struct save **save, struct save_result *result, struct checkpoint_error *error)
{
	struct save *s = *save;
	int r = s->is_precopied ? 0 : step_precopy(s);
	if (r == 0)
		r = step_hold(s, result);
	if (r == -EINPROGRESS)
		return r;
	if (s->is_holding)
		return r;
	*error = s->saving.error;
	save_free(s);
	*save = NULL;
	return r;
}
