/*
 * A container that is being sent to another place (control/send.h): what has been made for that belongs to the connection of whoever sends it, and goes when that
 * connection does, so that a sender that is killed leaves the container as it was. Container thread.
 *
 *   checkpoints of rounds, one in the place of the other    everybody runs; the folder is only there so that the pages in it stay as they are
 *   the last checkpoint, complete                           nobody runs; it is written to the disk meanwhile
 *     handover_finish: when it is on the disk everybody is killed; the checkpoint stays. Only that: the receiver waits, and what else is to be done can wait for handover_end
 *     handover_release: everybody goes on; nothing stays
 *
 * A keeper that is killed while nobody runs takes the processes with it, as always; their checkpoint stays.
 */
#pragma once

#include "base/types.h"

struct container;
struct save;

/* owner: a connection. 0, also when it is the owner already; -EBUSY: another one is; -ENOMEM. */
int handover_claim(struct container *c, const void *owner);

/* A round has been saved into that folder. 0 or -ENOMEM. */
int handover_keep_round(struct container *c, const char *path);

/* Takes the last one over, which holds everybody. */
void handover_keep_last(struct container *c, struct save *last);

bool handover_is_holding(const struct container *c);

/* 0; -ENOENT: this owner holds nobody; or another -errno: the disk does not take the checkpoint, and all is as before. */
int handover_finish(struct container *c, const void *owner);

/* Does nothing for another owner. */
void handover_release(struct container *c, const void *owner);

/* All processes have ended meanwhile. The last checkpoint, if there is one, is all that is left of them. */
void handover_end(struct container *c);
