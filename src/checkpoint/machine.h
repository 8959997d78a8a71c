/* What a checkpoint and the machine on which it is restored must have in common. */
#pragma once

#include "checkpoint/image.h"

/* Of this machine. 0 or -ENOMEM. */
int machine_describe(struct arena *arena, Image__Machine **ret);

/* 0 or -ENOTSUP with what differs. */
int machine_check(const Image__Machine *saved, struct checkpoint_error *error);
