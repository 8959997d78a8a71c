/*
 * A running container as a stream from which another membox lets it go on (checkpoint/pack/format.h). In the process of whoever sends it; the keeper does what it is asked for
 * by the control protocol.
 *
 *   rounds, while it runs:  a checkpoint beside its swap file → the pages that the stream has not had, and the description
 *   then:                   a checkpoint after which nobody runs → the rest → the keeper kills everybody → the end of the stream
 *   or, when the rest would take long:                           → the description, and what the processes are made of → the keeper kills everybody → the switch,
 *                           with which they go on at the other end → the rest → the end of the stream
 *
 * Until everybody is killed any failure, also the death of this process, leaves the container running and nothing of what was made. From then on there is the last
 * checkpoint, and whoever reads the stream takes it up only if it gets the end, or the switch: so never two run, and never is there nothing. If the stream breaks between the two, who
 * reads it is in need of pages that the last checkpoint has (arrivals.h).
 */
#pragma once

#include <membox.h>

#include "checkpoint/error.h"
#include "checkpoint/pack/pack.h"

struct send_options {
	const char *name;   /* of the container, to which the connection leads */
	const char *folder; /* where the last checkpoint will be: absolute, not there yet, on the file system of the swap file */
	int fd;
	const char *stream; /* its name, for messages */
	struct pack_options pack;
	bool sends_all_before; /* nothing is left for behind the switch, however long it takes */
	const struct pack_progress *progress;
};

struct send_result {
	uint32_t rounds;      /* while it ran */
	uint64_t pages, sent; /* that it has; that were written into the stream, some of them more than once */
	uint64_t packed;      /* bytes of the stream */
	uint64_t held_us;     /* from the moment in which nobody ran any more until the other end can go on */
	uint64_t late;        /* pages that were left for behind the switch */
	bool is_switched;     /* they may run at the other end already: also after a failure */
	bool is_gone;         /* nobody runs here any more: there is the last checkpoint. Also after a failure */
	bool was_refused;     /* by the container, which is well */
	bool goes_on;         /* the keeper says so */
};

/* 0 or -errno with the reason; *ret is filled in any case. The connection has no time limit. */
int send_container(struct membox *m, const struct send_options *options, struct send_result *ret, struct checkpoint_error *error);
