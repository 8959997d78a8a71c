/* What the verbs share that let a checkpoint go on. */
#pragma once

#include "checkpoint/arrivals.h"
#include "checkpoint/image.h"
#include "cli/container_options.h"

/* Runs it in a container of its own until its end, or until it runs (--detach); the image is the caller's. verb: for messages. arrivals: pages that are
 * still to come, or NULL. The exit code of the verb. */
int restoring_run(const char *verb, const struct container_options *given, const struct image *image, struct arrivals *arrivals);
