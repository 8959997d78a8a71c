/* Whether a checkpoint could go on here, as far as can be seen without doing it: for who still has time to leave it where it is. */
#pragma once

#include "checkpoint/error.h"
#include "checkpoint/image.pb-c.h"
#include "base/types.h"

/* 0, or -errno with the first reason against it. isolate: in namespaces of its own. The machine is not looked at (machine.h). */
int preflight_check(const Image__Image *image, bool isolate, struct checkpoint_error *error);
