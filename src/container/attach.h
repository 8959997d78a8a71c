/*
 * Members that membox has not started. The keeper is not their parent: it does not reap them, learns of their end by pidfd, and finds their descendants
 * by walking from every living member. Container thread.
 */
#pragma once

#include "base/types.h"

struct container;

/*
 * Checks all pids of the configuration, takes those that are members of other containers out of these, then makes all members. 0, or -errno after one
 * line on stderr for the first that is refused: nothing has been touched then, unless taking out fails (the source has said so).
 *
 * Who else can be there: two that attach the same process at once. Both may ask its container, which lets it go once; the source lets one after the other
 * look and take out.
 */
int container_attach(struct container *c);

/*
 * True when the keeper is needed no longer: every member has ended and no memory is left that a userfaultfd of ours stands for (it would read zeros when
 * that is closed), or all have been released. To be asked at every tick.
 */
bool container_attached_is_over(struct container *c);
