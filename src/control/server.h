/*
 * The keeper's side of the control socket (docs/control-protocol.md). Made before the keeper is forked, so that a name in use shows at once; served by
 * the container thread, without blocking: work that takes time is begun by a verb and asked after each tick.
 */
#pragma once

#include "checkpoint/upgrade.pb-c.h"
#include "container/service.h"
#include "control/runtime_folder.h"

struct control_server;

/*
 * A server that listens in the container's folder, which has to outlive it. The keeper writes its pid there when it first serves, and removes the folder
 * when the container has ended. 0 or -errno.
 */
int control_server_new(const struct runtime_folder *folder, struct control_server **ret_server);

/* The one of the program that was in this keeper's place before an upgrade, with its connections. 0 or -errno. */
int control_server_take_over(const struct runtime_folder *folder, const Upgrade__Control *handed, struct control_server **ret_server);

/* For struct run_config. */
struct container_service *control_server_service(struct control_server *server);

/* Frees; the folder and its socket stay. NULL is allowed. */
void control_server_free(struct control_server *server);
