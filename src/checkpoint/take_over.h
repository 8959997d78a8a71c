/*
 * The other side of an upgrade (upgrade.h): the program that a keeper has called exec on becomes the keeper, in the same process. Before it has threads.
 */
#pragma once

#include "checkpoint/error.h"
#include "checkpoint/upgrade.pb-c.h"

struct taken_over;
struct container_service;

/*
 * Reads what was handed over, makes every descriptor close-on-exec again and another guardian. state: the memfd, which is closed. key: a pipe with the key of the swap file's encryption;
 * -1: there is none. 0 or -errno.
 */
int take_over_begin(int state, int key, struct taken_over **ret, struct checkpoint_error *error);

/* What the control socket was; NULL: there is none. */
const Upgrade__Control *take_over_control(const struct taken_over *taken);

const char *take_over_name(const struct taken_over *taken);

/* The rest of the keeper's life. Does not return when it cannot take over: the guardian sees that this process has failed and ends the container. */
void take_over_go_on(struct taken_over *taken, struct container_service *service);
