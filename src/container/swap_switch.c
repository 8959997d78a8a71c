#include "container/swap_switch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "container/bring_back.h"
#include "container/container.h"
#include "container/reclaimer.h"
#include "container/traced.h"

/* The reclaim thread is the only one that takes slots and writes: it stands still while the file changes. */
static int switch_to(struct container *c, struct swap *swap)
{
	reclaimer_pause(c->reclaimer);
	int r = pager_set_swap(&c->pager, swap);
	c->swap = c->pager.swap;
	atomic_store(&c->exhaustion, EXHAUSTED_NOT);
	reclaimer_resume(c->reclaimer);
	return r;
}

int container_swapon(struct container *c, const char *path, uint64_t size_bytes, struct swap_error *error)
{
	struct swap_options options = {.path = path, .container = c->config->name, .size_bytes = size_bytes};
	struct swap *swap;
	if (c->swap) {
		snprintf(error->text, sizeof(error->text), "the container has a swap file, %.150s%s", swap_path(c->swap),
			 c->swapoff ? ", which is leaving" : "");
		return -EBUSY;
	}
	int r = swap_open(&options, &swap, error);
	if (r < 0)
		return r;
	r = c->config->encrypt ? swap_encrypt(swap) : 0;
	if (r == 0)
		r = switch_to(c, swap);
	if (r < 0) {
		snprintf(error->text, sizeof(error->text), "%.150s: %s", path, strerror(-r));
		swap_close(swap, swap_was_created(swap));
		return r;
	}
	c->swap_is_default = false;
	FAULT_POINT("swapon.done");
	return 0;
}

/* The pool empties as its pages come back. */
static uint64_t usage_without_pool(struct container *c)
{
	uint64_t usage = charge_usage(&c->charge);
	return usage - MIN_OF(charge_held(&c->charge, CHARGE_POOL), usage);
}

int container_swapoff_begin(struct container *c)
{
	struct bring_back *b;
	uint64_t left;
	if (!c->swap)
		return -ENOENT;
	if (c->swapoff || c->leave || c->parking != PARKING_NOT || atomic_load(&c->squeeze_to) != NO_SQUEEZE)
		return -EBUSY;
	int r = bring_back_new(c, false, &b);
	if (r < 0)
		return r;
	left = bring_back_left(c, false);
	if (usage_without_pool(c) + left > charge_limit(&c->charge)) {
		bring_back_free(b);
		return -ENOSPC;
	}
	c->swapoff = b;
	atomic_store(&c->swap_leaves, true);
	FAULT_POINT("swapoff.begun");
	return 0;
}

static void give_up(struct container *c)
{
	bring_back_free(c->swapoff);
	c->swapoff = NULL;
	atomic_store(&c->swap_leaves, false);
	reclaimer_kick(c->reclaimer);
}

/*
 * No entry refers to a slot. What is left are references of batches whose writes the reclaim thread has still to collect, and of loads: the
 * allocator's count tells. After that nobody finds a way to the file: slots come only from the reclaim thread, which does not evict.
 */
static int finish(struct container *c)
{
	for (struct address_space *as = c->spaces; as; as = as->next)
		address_space_drop_clean_slots(as);
	uint64_t pinned = swap_pinned_slots(c->swap);
	if (swap_used_slots(c->swap) > pinned && c->pager.forkless)
		container_barrier(c);
	if (swap_used_slots(c->swap) > pinned) {
		reclaimer_kick(c->reclaimer);
		return -EINPROGRESS;
	}
	struct swap *swap = c->swap;
	FAULT_POINT("swapoff.empty");
	bring_back_free(c->swapoff);
	c->swapoff = NULL;
	int r = switch_to(c, NULL);
	FAULT_POINT("swapoff.switched");
	swap_close(swap, c->swap_is_default);
	atomic_store(&c->swap_leaves, false);
	return r;
}

int container_swapoff_step(struct container *c)
{
	uint64_t left;
	if (!c->swapoff)
		return -ECANCELED;
	int r = bring_back_step(c->swapoff, &left);
	if (r == 0)
		return finish(c);
	if (r == -ENOSPC || usage_without_pool(c) + left > charge_limit(&c->charge)) {
		give_up(c);
		return -ENOSPC;
	}
	return r;
}
