#include "checkpoint/look.h"

#include <errno.h>

#include "checkpoint/process/process.h"
#include "container/container.h"
#include "container/hold.h"
#include "platform/process.h"

/* Files of one member. Whatever cannot be seen (it is just ending) is no refusal. */
static int look_at_member(struct saving *saving, const struct member *member)
{
	struct saved_process p = {.saving = saving, .pid = member->pid, .message = saved_process_new(saving, member->pid)};
	if (!p.message)
		return -ENOMEM;
	int r = descriptors_save(&p);
	return r == -ENOTSUP ? r : 0;
}

static int look(struct container *c, struct checkpoint_error *error)
{
	struct saving saving = {.is_isolated = c->config->isolate, .is_look = true};
	saving.image = arena_alloc(&saving.arena, sizeof(*saving.image));
	int r = saving.image ? 0 : -ENOMEM;
	if (r == 0)
		image__image__init(saving.image);
	for (uint32_t i = 0; r == 0 && i < c->members.nr; i++)
		r = look_at_member(&saving, &c->members.items[i]);
	if (r == 0)
		r = files_complete(&saving);
	if (r == -ENOTSUP)
		*error = saving.error;
	arena_release(&saving.arena);
	return r == -ENOTSUP ? r : 0;
}

int look_for_refusals(struct container *c, struct checkpoint_error *error)
{
	struct hold hold;
	container_refresh_members(c);
	if (look(c, error) == 0)
		return 0;
	hold_members(c, &hold);
	int r = hold.complete ? look(c, error) : 0;
	hold_release(&hold);
	return r;
}
