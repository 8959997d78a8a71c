/*
 * `membox upgrade`: another program takes the place of the keeper's, in the same process, while the members run (docs/architecture.md, "Upgrade"). Container thread.
 */
#pragma once

#include <stdbool.h>

#include "checkpoint/error.h"
#include "checkpoint/upgrade.pb-c.h"

struct container;
struct handed;
struct upgrade;

/* The control socket. */
struct upgrade_control {
	bool (*works)(void *context); /* for somebody else, who would not be answered */

	/* What it hands over, in the arena; its descriptors by handed_fd(). NULL: no memory. */
	Upgrade__Control *(*describe)(void *context, struct handed *handed);
	void *context;
};

/* Begins to ask the file whether it is a membox that can take over. 0 or -errno. */
int upgrade_begin(struct container *c, const char *file, struct upgrade **ret, struct checkpoint_error *error);

/*
 * To be called again while it returns -EINPROGRESS. -errno: the upgrade is off, everything is as before. It does not return when the other program has taken over: that one
 * answers whoever has asked.
 */
int upgrade_step(struct upgrade *upgrade, const struct upgrade_control *control, struct checkpoint_error *error);

/* At any time; NULL: nothing. */
void upgrade_free(struct upgrade *upgrade);

/* What the program that is asked says: on its standard output. */
#define UPGRADE_TAKES "takes over "
#define UPGRADE_YES "ok"
#define UPGRADE_NO "no "
