#include "checkpoint/arrivals.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/event.h"
#include "base/fault.h"
#include "base/log.h"
#include "container/container.h"

struct arrivals {
	struct container *c;
	int pages; /* the file */
	uint64_t seed, description;
	uint32_t nr_slots;
	uint64_t *checksums;     /* those of the base */
	struct named_slots late; /* that have not come. The thread's while it runs */
	_Atomic uint64_t left;   /* of these */
	_Atomic int state;       /* see arrivals_state; only the container thread makes it -EINPROGRESS again */

	/* Where they come from: the stream, or, when there is no reader any more, a checkpoint. */
	struct pack_reader *reader;
	int fd;
	struct image rest;
};

int arrivals_new(struct image *image, struct late_pages *late, struct pack_reader *reader, int fd, struct arrivals **ret)
{
	struct arrivals *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	*a = (struct arrivals){
		.pages = image->base.fd, .seed = image->base.seed, .description = late->description, .nr_slots = image->base.nr_slots, .late = late->slots, .reader = reader, .fd = fd};
	a->checksums = (uint64_t *)(uintptr_t)image->base.checksums;
	atomic_store(&a->left, a->late.nr);
	atomic_store(&a->state, -EINPROGRESS);
	*late = (struct late_pages){0};
	*ret = a;
	return 0;
}

int arrivals_stream(const struct arrivals *a)
{
	return a->fd;
}

void arrivals_free(struct arrivals *a)
{
	if (!a)
		return;
	pack_reader_free(a->reader);
	named_slots_release(&a->late);
	free(a);
}

int arrivals_state(const struct arrivals *a)
{
	return atomic_load(&a->state);
}

uint64_t arrivals_left(const struct arrivals *a)
{
	return atomic_load(&a->left);
}

/* --- the thread --- */

static void publish(struct arrivals *a)
{
	atomic_store(&a->left, a->late.nr);
	stat_set(&a->c->stats, awaited, a->late.nr);
}

/* Neighbouring pages of which each is late, verified. */
static int put(struct arrivals *a, slot_t first, uint32_t nr, const uint64_t *checksums, const uint8_t *pages)
{
	int r = write_pages_at(a->pages, pages, nr, first);
	FAULT_POINT("arrivals.written");
	for (uint32_t i = 0; r == 0 && i < nr; i++) {
		__atomic_store_n(&a->checksums[first + i], checksums[i], __ATOMIC_RELEASE);
		named_slots_drop(&a->late, first + i);
	}
	publish(a);
	return r;
}

/* What is there already, or is not of the description, is passed over. */
static int take_pages(struct arrivals *a, const struct pack_record *record, const uint8_t *body)
{
	uint64_t checksums[PACK_PAGES_AT_ONCE];
	const uint8_t *pages = body + record->nr * sizeof(*checksums);
	int r = 0;
	if (record->first >= SLOT_OF_BASE)
		return -EBADMSG;
	for (uint32_t i = 0; i < record->nr; i++) {
		if (!unpack_check_page(record, body, i, a->seed, &checksums[i]) || !checksums[i])
			return -EBADMSG;
	}
	for (uint32_t i = 0, n; r == 0 && i < record->nr; i += MAX_OF(n, 1u)) {
		slot_t first = (slot_t)record->first + i;
		for (n = 0; i + n < record->nr && named_slots_have(&a->late, first + n); n++)
			;
		r = n ? put(a, first, n, checksums + i, pages + i * PAGE_BYTES) : 0;
	}
	return r;
}

static int take_stream(struct arrivals *a)
{
	struct checkpoint_error error = {0};
	struct pack_record record = {0};
	int r = 0;
	while (r == 0 && record.kind != PACK_END) {
		const uint8_t *body;
		r = pack_reader_next(a->reader, &record, &body, &error);
		if (r == 0 && record.kind != PACK_END)
			r = record.kind == PACK_PAGES ? take_pages(a, &record, body) : -EBADMSG;
	}
	log_debug("arrivals: the stream has ended: %d %s", r, error.text);
	pack_reader_free(a->reader);
	a->reader = NULL;
	close(a->fd);
	return r;
}

static int take_rest(struct arrivals *a)
{
	_cleanup_free_ uint8_t *buffer = malloc(PACK_PAGES_AT_ONCE * PAGE_BYTES);
	int r = buffer ? 0 : -ENOMEM;
	uint32_t nr;
	slot_t first;
	for (slot_t at = 0; r == 0 && (nr = named_slots_next_run(&a->late, at, PACK_PAGES_AT_ONCE, &first)); at = first + nr) {
		r = image_read_pages(&a->rest, first, nr, buffer);
		if (r == 0)
			r = put(a, first, nr, a->rest.base.checksums + first, buffer);
	}
	image_close(&a->rest);
	return r;
}

/* When all are there it does not matter how the stream has ended. */
static void *arrivals_main(void *argument)
{
	struct arrivals *a = argument;
	pthread_setname_np(pthread_self(), "mbx-arrivals");
	int r = a->reader ? take_stream(a) : take_rest(a);
	if (a->late.nr && r == 0)
		r = -EBADMSG;
	atomic_store(&a->state, a->late.nr ? r : 0);
	event_raise(a->c->event);
	return NULL;
}

/* --- container thread --- */

static int start_thread(struct arrivals *a)
{
	pthread_attr_t attributes;
	pthread_t thread;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	int r = -pthread_create(&thread, &attributes, arrivals_main, a);
	pthread_attr_destroy(&attributes);
	return r;
}

int arrivals_start(struct arrivals *a, struct container *c)
{
	a->c = c;
	c->arrivals = a;
	publish(a);
	return start_thread(a);
}

static int check_rest(const struct arrivals *a, const char *folder, struct checkpoint_error *error)
{
	if (a->rest.base.seed != a->seed || a->rest.base.nr_slots != a->nr_slots || unpack_description_digest(a->rest.message) != a->description)
		return checkpoint_fail(error, -ESTALE, "%.200s: it is not the checkpoint that the container goes on from", folder);
	return 0;
}

int arrivals_resume(struct arrivals *a, const char *folder, struct checkpoint_error *error)
{
	int state = arrivals_state(a);
	if (state == 0)
		return checkpoint_fail(error, -ENODATA, "all its pages are there");
	if (state == -EINPROGRESS)
		return checkpoint_fail(error, -EBUSY, "its pages are still coming");
	int r = image_open(folder, &a->rest, error);
	if (r < 0)
		return r;
	r = check_rest(a, folder, error);
	if (r == 0) {
		atomic_store(&a->state, -EINPROGRESS);
		r = start_thread(a);
		if (r < 0) {
			atomic_store(&a->state, state);
			checkpoint_fail(error, r, "no thread can be made: %s", strerror(-r));
		}
	}
	if (r < 0)
		image_close(&a->rest);
	return r;
}
