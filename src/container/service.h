/*
 * Somebody above this layer who serves the container to the outside (the control socket), called by the container thread: whatever of the
 * container's functions says "container thread" may be called from here.
 */
#pragma once

#include "base/types.h"

struct container;

struct container_service {
	int fd; /* readable: there is something to do; -1: never */

	/* Does what can be done without blocking. Returns the time in nanoseconds until it has to be called again (UINT64_MAX: when fd is readable). */
	uint64_t (*serve)(struct container_service *service, struct container *c);

	/* The container is empty and its exit status known: last words. In the keeper, which closes nothing itself. */
	void (*ended)(struct container_service *service, struct container *c);
};
