#include "container/freeze.h"

#include <errno.h>
#include <stdlib.h>

#include "container/container.h"
#include "container/hold.h"

static int hold_all(struct container *c)
{
	struct hold *hold = calloc(1, sizeof(*hold));
	if (!hold)
		return -ENOMEM;
	container_refresh_members(c);
	hold_members(c, hold);
	/* A child that was forked between the walk and the hold runs on: it is seen by another walk now that nobody can fork. */
	uint32_t known = c->members.nr;
	if (hold->complete && container_refresh_members(c) > (int)known)
		hold->complete = false;
	if (!hold->complete) {
		hold_release(hold);
		free(hold);
		return -EBUSY;
	}
	c->frozen = hold;
	hold_expire_removed(c, hold);
	return 0;
}

int container_freeze(struct container *c, enum freezer who)
{
	int r = c->frozen ? 0 : hold_all(c);
	if (r == 0)
		c->frozen_by |= (unsigned)who;
	return r;
}

void container_thaw(struct container *c, enum freezer who)
{
	c->frozen_by &= ~(unsigned)who;
	if (!c->frozen || c->frozen_by)
		return;
	hold_release(c->frozen);
	free(c->frozen);
	c->frozen = NULL;
}

void container_thaw_all(struct container *c)
{
	container_thaw(c, FREEZER_PARK);
	container_thaw(c, FREEZER_OOM);
	container_thaw(c, FREEZER_CHECKPOINT);
}

bool container_is_frozen_by(const struct container *c, enum freezer who)
{
	return c->frozen_by & (unsigned)who;
}
