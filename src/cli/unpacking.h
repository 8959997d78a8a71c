/* What the verbs share that make a checkpoint's folder of a stream. */
#pragma once

#include "base/types.h"

/*
 * The stream in a file ("-": standard input) becomes the checkpoint in that folder, all of it or nothing, also when a signal ends this process. text: for the display.
 * 0 or -errno after one line on stderr.
 */
int unpacking_run(const char *text, const char *file, const char *folder, uint64_t *ret_pages);
