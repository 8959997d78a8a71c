/*
 * A held process that executes system calls for us, with a few pages of its own memory for their arguments. Container thread.
 */
#pragma once

#include "base/types.h"
#include "inject/world.h"

#define REMOTE_SCRATCH_BYTES (16 * PAGE_BYTES)

struct remote {
	struct world *world;
	pid_t tid;             /* executes; 0: any thread of the world */
	remote_addr_t scratch; /* REMOTE_SCRATCH_BYTES, read and write */
};

/* at: where the scratch pages go, nothing else being there; 0: anywhere. 0 or -errno. */
int remote_open(struct remote *remote, struct world *world, remote_addr_t at);
void remote_close(struct remote *remote);

/* What the call returned: -errno when it failed, -ESRCH when the process is gone. */
long remote_call(const struct remote *remote, long number, const uint64_t args[6]);
#define REMOTE_CALL(remote, number, ...) remote_call(remote, number, (const uint64_t[6]){__VA_ARGS__})

/* Into the scratch pages at an offset, or out of them. The address, or 0 when it cannot be written; 0 or -errno. */
remote_addr_t remote_put(const struct remote *remote, size_t offset, const void *data, size_t len);
int remote_get(const struct remote *remote, size_t offset, void *data, size_t len);
