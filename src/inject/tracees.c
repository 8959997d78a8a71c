#include "inject/tracees.h"

#include <errno.h>
#include <stdlib.h>

int tracees_reserve(struct tracees *tracees, size_t nr)
{
	size_t wanted = MAX_OF(nr, MAX_OF(tracees->room * 2, (size_t)64));
	struct tracee *grown;

	if (nr <= tracees->room)
		return 0;
	grown = reallocarray(tracees->items, wanted, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	tracees->items = grown;
	tracees->room = wanted;
	return 0;
}

size_t tracees_find(const struct tracees *tracees, pid_t tid)
{
	size_t i;

	for (i = 0; i < tracees->nr && tracees->items[i].tid != tid; i++)
		;
	return i;
}

void tracees_remove(struct tracees *tracees, size_t i)
{
	tracees->items[i] = tracees->items[--tracees->nr];
}
