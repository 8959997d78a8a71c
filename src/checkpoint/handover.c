#include "checkpoint/handover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "checkpoint/image.h"
#include "checkpoint/save.h"
#include "container/container.h"
#include "swap/swap.h"

struct handover {
	const void *owner;
	char *round;       /* folder; NULL: none yet */
	struct save *last; /* NULL: not yet */
	bool is_finished;  /* everybody is dead or about to be */
};

int handover_claim(struct container *c, const void *owner)
{
	if (!c->handover)
		c->handover = calloc(1, sizeof(*c->handover));
	if (!c->handover)
		return -ENOMEM;
	if (!c->handover->owner)
		c->handover->owner = owner;
	return c->handover->owner == owner ? 0 : -EBUSY;
}

int handover_keep_round(struct container *c, const char *path)
{
	char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	free(c->handover->round);
	c->handover->round = copy;
	return 0;
}

void handover_keep_last(struct container *c, struct save *last)
{
	c->handover->last = last;
}

bool handover_is_holding(const struct container *c)
{
	return c->handover && c->handover->last;
}

/* The rounds' folder, and the pins that held its pages when no other checkpoint needs them. */
static void forget(struct container *c)
{
	struct handover *handover = steal_pointer(c->handover);
	if (handover->round)
		image_remove(handover->round);
	if (handover->round && c->swap && save_release_pins(c) < 0)
		log_error("swap file %s: the mark of a checkpoint cannot be taken away again", swap_path(c->swap));
	free(handover->round);
	free(handover);
}

int handover_finish(struct container *c, const void *owner)
{
	if (!handover_is_holding(c) || c->handover->owner != owner)
		return -ENOENT;
	int r = save_finish(c->handover->last);
	c->handover->is_finished = r == 0;
	return r;
}

void handover_release(struct container *c, const void *owner)
{
	if (!c->handover || c->handover->owner != owner || c->handover->is_finished)
		return;
	if (c->handover->last)
		save_cancel(c->handover->last);
	forget(c);
}

void handover_end(struct container *c)
{
	if (!c->handover)
		return;
	if (c->handover->last)
		save_forget(c->handover->last);
	forget(c);
}
