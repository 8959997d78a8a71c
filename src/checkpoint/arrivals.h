/*
 * The pages of a container that goes on here before all of them have come (SWITCH in pack/format.h). They are below its swap file, as those of any restored one, in slots of which some
 * have no content yet; who touches one waits as for a read that is under way (swap_has_arrived), whoever does not goes on.
 *
 *   coming ──▶ all are there
 *     └─ the stream breaks ──▶ missing ── a checkpoint with the same description brings them ──▶ coming
 *
 * A page is written into the file, then its checksum is set, which the fault threads look at: no content is seen before it is all there. The thread of this object is the only one
 * that does either. In the keeper it is never freed: the thread may wait for the stream until the keeper ends.
 */
#pragma once

#include "checkpoint/image.h"
#include "checkpoint/pack/unpack.h"

struct container;
struct arrivals;

/*
 * Before the container is made. The image's file is open for writing. The reader stands behind the switch and is taken over, as are its descriptor and the slots.
 * 0 or -ENOMEM.
 */
int arrivals_new(struct image *image, struct late_pages *late, struct pack_reader *reader, int fd, struct arrivals **ret);

/* By which they come at first. */
int arrivals_stream(const struct arrivals *arrivals);

/* In a process that has only made it and will not start it. */
void arrivals_free(struct arrivals *arrivals);

/* Container thread, when the pager is there. 0 or -errno. */
int arrivals_start(struct arrivals *arrivals, struct container *c);

/* Any thread. -EINPROGRESS; 0: all are there; or -errno: what has not come is missing. */
int arrivals_state(const struct arrivals *arrivals);

/* Pages that have not come. Any thread. */
uint64_t arrivals_left(const struct arrivals *arrivals);

/*
 * Container thread. From now on the missing pages come from the checkpoint in that folder, which may lose its name meanwhile. 0, or -errno with the reason: none are missing, or it is not
 * the checkpoint that the container was made of.
 */
int arrivals_resume(struct arrivals *arrivals, const char *folder, struct checkpoint_error *error);
