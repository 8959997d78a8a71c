/*
 * What the verbs of the control protocol do with a container. Private to control/. Container thread.
 *
 * A verb is begun once and then stepped until it answers something else than -EINPROGRESS: 0 (the members of the reply are in `reply`) or -errno.
 */
#pragma once

#include <json-c/json.h>

#include "container/container.h"
#include "container/squeeze.h"
#include "migrate/migration.h"

struct save;
struct upgrade;
struct upgrade_control;

struct request {
	const struct control_verb *verb;
	const void *owner;    /* the connection that it came by */
	json_object *members; /* of the request, checked against the verb's list */
	json_object *reply;
	const char *error, *hint; /* for people, when it is refused; NULL: what errno says */
	char text[400];           /* room for an error that is made up */
	struct squeeze squeeze;
	struct save *save; /* of a checkpoint under way */
	struct migration *migration;
	struct upgrade *upgrade;
	const struct upgrade_control *control; /* the server, as an upgrade hands it over */
};

struct control_member {
	const char *name;
	json_type type;
	bool is_required;
};

struct control_verb {
	const char *name;
	struct control_member members[4]; /* allowed ones, ended by a NULL name */
	int (*begin)(struct request *request, struct container *c);
	int (*step)(struct request *request, struct container *c); /* NULL: there is no work, -EINPROGRESS means waiting for the end */
	bool is_change; /* of limit, usage or swap: not while a release is under way */
};

/* NULL: unknown. */
const struct control_verb *control_find_verb(const char *name);

/* Begins a request: as the verb's begin. */
int control_begin(struct request *request, struct container *c);

/* For requests that wait for the end: the reply to `wait`; false for others. */
bool control_answer_at_end(struct request *request, struct container *c);
