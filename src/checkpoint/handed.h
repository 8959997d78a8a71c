/*
 * A whole keeper as a message (upgrade.proto) in a sealed memfd, on its way from one program to the next one that runs in the same process. What is written is believed only after
 * it was looked at: the next program may be of another version, and the numbers in it are descriptors and addresses.
 *
 *   | "MBXHAND\n" | format (u32) | 0 (u32) | bytes (u64) | XXH3-64 of the message (u64) | message |        little endian
 */
#pragma once

#include "base/arena.h"
#include "checkpoint/error.h"
#include "checkpoint/upgrade.pb-c.h"

/*
 * Raised by every change of upgrade.proto, of a shadow entry (pager/shadow.h), of the agent's ring (inject/ring.h) or of what is said on the link to the first guardian
 * (container/guardian.c): between programs of different numbers nothing is handed over.
 */
#define HANDED_FORMAT 1u

struct container;

/* Describes the container: all its layout locks are held. Everything is in the arena; every descriptor that has to stay open is in `fds`. */
struct handed {
	struct arena arena;
	Upgrade__Keeper *keeper;
	int *fds;
	size_t nr_fds;
	uint64_t stopped_ns; /* when page faults began to wait */
};

/* 0 or -ENOMEM. control: NULL or in the arena. */
int handed_describe(struct container *c, Upgrade__Control *control, struct handed *handed);

/* A descriptor that has to stay open: the number as the message has it. */
int handed_fd(struct handed *handed, int fd);

/* The memfd, or -errno. */
int handed_write(const struct handed *handed);

/* Reads and checks all of it. 0, with *ret to be given back by upgrade__keeper__free_unpacked(*ret, NULL); or -errno. */
int handed_read(int fd, Upgrade__Keeper **ret, struct checkpoint_error *error);
