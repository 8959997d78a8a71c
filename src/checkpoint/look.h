/* What would be refused is looked for before anything of a checkpoint is written. Container thread. */
#pragma once

#include "checkpoint/error.h"

struct container;

/*
 * 0, or -ENOTSUP with the reason: a member has a descriptor that cannot be restored. While the members run a look can be wrong, so what it finds is looked at again with all held. What
 * they open later is found when the checkpoint itself looks at them.
 */
int look_for_refusals(struct container *c, struct checkpoint_error *error);
