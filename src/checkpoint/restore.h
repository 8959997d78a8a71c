/*
 * `membox restore`: the processes of a checkpoint are made again, stopped, and go on at once; their pages come from the checkpoint's file as they touch them.
 * In the keeper, on its container thread.
 */
#pragma once

#include "checkpoint/arrivals.h"
#include "checkpoint/image.h"
#include "container/run.h"

struct restore;

/* 0 and *ret, or -errno with the reason: the machine is not one on which the checkpoint can go on, or there is no memory. The image is the caller's.
 * arrivals: what of its pages is still to come; NULL: nothing. */
int restore_new(const struct image *image, struct arrivals *arrivals, struct restore **ret, struct checkpoint_error *error);
void restore_free(struct restore *restore);

/* What struct run_config wants. */
const struct restore_source *restore_as_source(struct restore *restore);
