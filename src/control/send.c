#include "control/send.h"

#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/monotonic.h"

#define MAX_ROUNDS 30
#define SMALL_NS 30000000ull /* what takes so long may be left for when nobody runs */
#define SMALL_PAGES 256

struct sending {
	struct membox *m;
	const struct send_options *options;
	struct send_result *result;
	struct checkpoint_error *error;
	struct pack_writer *writer;
	char *round_folder;
	uint64_t *had; /* checksums of the slots that the stream has had and that the round before named */
	uint32_t nr_had;
	uint64_t seed;
	uint64_t last_pages, last_ns; /* of the round before: new ones, and how long they took */
	uint64_t all_ns;              /* of all rounds */
};

static int fail_stream(struct sending *s, int code)
{
	return checkpoint_fail(s->error, code, "%.200s: %s", s->options->stream, strerror(-code));
}

/* The keeper's number of that name; 0: it does not say. */
static uint64_t number_in(const char *reply, const char *name)
{
	json_object *object = json_tokener_parse(reply), *value;
	uint64_t number = object && json_object_object_get_ex(object, name, &value) ? json_object_get_uint64(value) : 0;
	json_object_put(object);
	return number;
}

/* As membox_request. *ret_frozen_us may be NULL. */
static int ask_keeper(struct sending *s, const char *verb, json_object *members, uint64_t *ret_frozen_us)
{
	_cleanup_free_ char *reply = NULL;
	int r = members ? membox_request(s->m, verb, json_object_to_json_string(members), &reply) : -ENOMEM;
	if (r == 0 && ret_frozen_us)
		*ret_frozen_us = number_in(reply, "frozen_us");
	if (r < 0) {
		s->result->was_refused = members && membox_was_refused(s->m);
		checkpoint_fail(s->error, r, "%s", members ? membox_error(s->m) : strerror(ENOMEM));
	}
	json_object_put(members);
	return r;
}

static int ask_checkpoint(struct sending *s, const char *folder, bool leave_running, uint64_t *ret_frozen_us)
{
	json_object *members = json_object_new_object();
	json_object_object_add(members, "path", json_object_new_string(folder));
	json_object_object_add(members, "to_send", json_object_new_boolean(true));
	json_object_object_add(members, "leave_running", json_object_new_boolean(leave_running));
	return ask_keeper(s, "checkpoint", members, ret_frozen_us);
}

static int ask_end(struct sending *s, bool go_on)
{
	json_object *members = json_object_new_object();
	json_object_object_add(members, "go_on", json_object_new_boolean(go_on));
	int r = ask_keeper(s, "sent", members, NULL);
	s->result->goes_on = r == 0 && go_on;
	return r;
}

/* --- the pages of one checkpoint --- */

/*
 * A slot that two checkpoints in a row name with the same checksum has had the same content all the time: the second one was made while the first one's pins
 * kept it.
 */
static void drop_what_it_has(struct sending *s, const struct image *image, struct named_slots *slots)
{
	for (slot_t slot = 1; slot < MIN_OF(s->nr_had, slots->end); slot++)
		if (s->had[slot] && s->had[slot] == image->base.checksums[slot])
			named_slots_drop(slots, slot);
}

static int remember(struct sending *s, const struct image *image)
{
	uint64_t *had = malloc((image->base.nr_slots + 1) * sizeof(*had));
	if (!had)
		return fail_stream(s, -ENOMEM);
	if (image->base.nr_slots)
		memcpy(had, image->base.checksums, image->base.nr_slots * sizeof(*had)); /* 0 where nothing is named */
	free(s->had);
	s->had = had;
	s->nr_had = image->base.nr_slots;
	return 0;
}

static int begin_stream(struct sending *s, const struct image *image, uint64_t nr_pages)
{
	struct pack_options options = s->options->pack;
	options.may_switch = !s->options->sends_all_before;
	int r = pack_writer_new(s->options->fd, &options, &s->writer);
	s->seed = image->base.seed;
	if (r == 0)
		r = pack_writer_head(s->writer, image->message->machine, s->seed, nr_pages);
	return r < 0 ? fail_stream(s, r) : 0;
}

static int send_pages(struct sending *s, const struct image *image, const struct named_slots *slots)
{
	int r = pack_pages(image, slots, s->writer, s->options->stream, s->options->progress, s->error);
	s->result->sent += slots->nr;
	return r;
}

static int send_slots(struct sending *s, const struct image *image, const struct named_slots *slots)
{
	int r = send_pages(s, image, slots);
	if (r == 0)
		r = pack_description(s->writer, image->message);
	return r < 0 ? fail_stream(s, r) : 0;
}

/* Of an image that is open: the slots that the stream has not had. 0, or -errno with the reason; what has been made is released by the caller. */
static int find_slots(struct sending *s, const struct image *image, struct named_slots *ret)
{
	int r = named_slots_of(image->message, ret);
	if (r < 0)
		return fail_stream(s, r);
	s->result->pages = ret->nr;
	drop_what_it_has(s, image, ret);
	s->last_pages = ret->nr;
	if (!s->writer)
		r = begin_stream(s, image, ret->nr);
	if (r == 0 && image->base.seed != s->seed)
		r = checkpoint_fail(s->error, -EBUSY, "%.100s: its swap file was changed for another one meanwhile", s->options->name);
	return r;
}

/* The first reason for a failure is kept. */
static int send_round(struct sending *s)
{
	struct image image;
	struct named_slots slots = {0};
	uint64_t begin = monotonic_ns();
	int r = image_open(s->round_folder, &image, s->error);
	if (r < 0)
		return r;
	r = find_slots(s, &image, &slots);
	if (r == 0)
		r = send_slots(s, &image, &slots);
	if (r == 0)
		r = remember(s, &image);
	named_slots_release(&slots);
	image_close(&image);
	if (r == 0)
		r = pack_writer_round(s->writer);
	s->last_ns = monotonic_ns() - begin;
	s->all_ns += s->last_ns;
	return r < 0 ? fail_stream(s, r) : 0;
}

/* --- the transaction --- */

/* Another round would leave less for the end: what is new is worth it, and becomes less. */
static bool is_worth_a_round(const struct sending *s, uint64_t pages_before)
{
	bool is_small = s->last_pages <= SMALL_PAGES || s->last_ns <= SMALL_NS;
	return s->result->rounds < MAX_ROUNDS && !is_small && s->last_pages < pages_before - pages_before / 4;
}

static int send_rounds(struct sending *s)
{
	uint64_t before;
	int r;
	s->last_pages = UINT64_MAX;
	do {
		before = s->last_pages;
		r = ask_checkpoint(s, s->round_folder, true, NULL);
		if (r == 0)
			r = send_round(s);
		s->result->rounds++;
	} while (r == 0 && is_worth_a_round(s, before));
	return r;
}

/* What the keeper's death leaves: the processes die with it, the checkpoint stays if it was complete. */
static void see_what_is_left(struct sending *s, int r)
{
	_cleanup_free_ char *image = NULL;
	image_remove(s->round_folder);
	if (r < 0 && !s->result->was_refused) /* nobody is there any more who would do it */
		image_remove_drafts(s->round_folder);
	if (s->result->was_refused || (r != -ECONNRESET && r != -EPROTO && r != -ENOTCONN))
		return;
	if (asprintf(&image, "%s/image.pb", s->options->folder) < 0)
		image = NULL;
	s->result->is_gone = image && access(image, F_OK) == 0;
}

/* From here on it is said how it ended: signals that would end this process wait. */
static int end_here(struct sending *s)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	int r = ask_end(s, false);
	if (r < 0) /* refused: the disk does not take the checkpoint */
		see_what_is_left(s, s->result->was_refused ? ask_end(s, true) : r);
	s->result->is_gone |= r == 0;
	return r;
}

/* Nobody runs, until the end. 0, or -errno: *ret_is_over when nothing can be taken back any more. */
static int finish_whole(struct sending *s, const struct image *image, const struct named_slots *slots, bool *ret_is_over)
{
	int r = send_slots(s, image, slots);
	if (r == 0)
		r = pack_writer_flush(s->writer);
	if (r < 0)
		return r;
	*ret_is_over = true;
	r = end_here(s);
	return r < 0 ? r : pack_writer_end(s->writer, s->result->pages);
}

/* Of the slots those without which the processes cannot be made go to *ret_first. */
static int part_slots(const struct image *image, struct named_slots *slots, struct named_slots *ret_first)
{
	int r = named_slots_of_first_pages(image->message, ret_first);
	for (slot_t slot = 1; r == 0 && slot < ret_first->end; slot++)
		if (!named_slots_have(slots, slot))
			named_slots_drop(ret_first, slot); /* the stream has had it */
		else if (named_slots_have(ret_first, slot))
			named_slots_drop(slots, slot);
	return r;
}

/* Nobody runs, until the switch. As above. */
static int finish_late(struct sending *s, const struct image *image, struct named_slots *slots, uint64_t *ret_switched_ns, bool *ret_is_over)
{
	struct named_slots first = {0};
	int r = part_slots(image, slots, &first);
	if (r == 0)
		r = send_slots(s, image, &first);
	named_slots_release(&first);
	if (r == 0)
		r = pack_writer_late(s->writer, slots);
	if (r < 0)
		return r;
	*ret_is_over = true;
	r = end_here(s);
	if (r < 0)
		return r;
	s->result->is_switched = true;
	s->result->late = slots->nr;
	r = pack_writer_switch(s->writer);
	*ret_switched_ns = monotonic_ns();
	if (r == 0)
		r = send_pages(s, image, slots);
	return r < 0 ? r : pack_writer_end(s->writer, s->result->pages);
}

/* To judge by the rounds. */
static bool takes_long(const struct sending *s, uint64_t pages)
{
	double rounds_pages = (double)MAX_OF(s->result->sent, 1u);
	return !s->options->sends_all_before && (double)pages / rounds_pages * (double)s->all_ns > (double)SMALL_NS;
}

/* Nobody runs. Either the keeper lets them go on, or they are dead and the stream gets its end. */
static int send_last(struct sending *s, uint64_t frozen_us)
{
	struct image image = {.base.fd = -1};
	struct named_slots slots = {0};
	uint64_t begin = monotonic_ns(), switched_ns = 0;
	sigset_t before;
	bool is_over = false;
	sigprocmask(SIG_BLOCK, NULL, &before);
	int r = image_open(s->options->folder, &image, s->error);
	if (r == 0)
		r = find_slots(s, &image, &slots);
	if (r == 0)
		r = takes_long(s, slots.nr) ? finish_late(s, &image, &slots, &switched_ns, &is_over) : finish_whole(s, &image, &slots, &is_over);
	s->result->held_us = frozen_us + ((switched_ns ? switched_ns : monotonic_ns()) - begin) / 1000;
	if (r < 0)
		fail_stream(s, r);
	if (!is_over)
		see_what_is_left(s, ask_end(s, true));
	sigprocmask(SIG_SETMASK, &before, NULL);
	named_slots_release(&slots);
	image_close(&image);
	return r;
}

int send_container(struct membox *m, const struct send_options *options, struct send_result *ret, struct checkpoint_error *error)
{
	struct sending s = {.m = m, .options = options, .result = ret, .error = error};
	uint64_t frozen_us = 0;
	*ret = (struct send_result){0};
	if (asprintf(&s.round_folder, "%s.round", options->folder) < 0)
		return checkpoint_fail(error, -ENOMEM, "%.200s: %s", options->name, strerror(ENOMEM));
	int r = send_rounds(&s);
	if (r == 0)
		r = ask_checkpoint(&s, options->folder, false, &frozen_us);
	if (r == 0)
		r = send_last(&s, frozen_us);
	else
		see_what_is_left(&s, ask_end(&s, true));
	if (s.writer)
		ret->packed = pack_writer_bytes(s.writer);
	pack_writer_free(s.writer);
	free(s.round_folder);
	free(s.had);
	return r;
}
