/* An array of tracees, in no order. Private to inject/. */
#pragma once

#include <stddef.h>

#include "inject/tracee.h"

struct tracees {
	struct tracee *items;
	size_t nr, room;
};

/* Makes room for nr; 0 or -ENOMEM. */
int tracees_reserve(struct tracees *tracees, size_t nr);

/* The index of a thread; nr when it is not there. */
size_t tracees_find(const struct tracees *tracees, pid_t tid);

void tracees_remove(struct tracees *tracees, size_t i);
