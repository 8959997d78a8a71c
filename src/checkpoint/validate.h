/* Whether a description makes sense: that no number in it leads out of what there is. Pure; its checksum says only that it is as somebody wrote it. */
#pragma once

#include "checkpoint/image.pb-c.h"

/* NULL, or what is wrong (a string constant). */
const char *image_find_nonsense(const Image__Image *image);
