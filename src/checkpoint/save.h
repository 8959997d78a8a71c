/*
 * `membox checkpoint`: what is in memory is written into the swap file beside what is there already, and a folder is made of the swap file and a description of
 * the processes (image.h). Container thread.
 *
 *   write what is in memory while everybody runs, in rounds → hold everybody → write the rest, describe, commit → kill everybody, or let them go on
 *
 * Until the commit, which is the renaming of a folder, nothing has changed for the container, and an earlier checkpoint of the same name is intact.
 */
#pragma once

#include "checkpoint/error.h"
#include "base/types.h"

struct container;
struct save;

enum save_end {
	SAVE_KILLS,
	SAVE_LETS_GO_ON,
	SAVE_GOES_ON_HOLDING, /* until save_finish or save_cancel: the folder must not be there before */
};

struct save_result {
	uint64_t pages, written; /* in slots; of these: written for this checkpoint */
	uint64_t frozen_us;      /* how long nobody ran */
};

/* 0 and *ret, to be stepped until the end; or -errno with the reason. path is absolute. */
int save_begin(struct container *c, const char *path, enum save_end end, struct save **ret, struct checkpoint_error *error);

/*
 * -EINPROGRESS; or the end, when *save is freed: 0, or -errno with the reason and everybody going on. With SAVE_GOES_ON_HOLDING 0 means that the checkpoint is complete and
 * nobody runs; *save is not freed.
 */
int save_step(struct save **save, struct save_result *result, struct checkpoint_error *error);

/* One that holds everybody, and is made durable meanwhile. The last two end it, and free it. */
int save_finish(struct save *save);  /* they are killed, and save_forget is to follow when they are dead; or -errno: the disk does not take the checkpoint, and they are held as before */
void save_cancel(struct save *save); /* they go on, nothing is left of the checkpoint */
void save_forget(struct save *save); /* they are dead; the checkpoint stays */

/* When no checkpoint is linked to the swap file any more it is an ordinary one again, and nothing in it is pinned. 0 or -errno. */
int save_release_pins(struct container *c);

/* Gives one up that has not ended: nothing is left of it. NULL is allowed. */
void save_free(struct save *save);
