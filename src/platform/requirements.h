/*
 * What this machine and this user must allow before `membox run` can work. Where it is possible a thing is checked by doing it: filters and
 * security modules forbid what the kernel offers.
 */
#pragma once

#include "base/types.h"

enum requirement_state {
	REQUIREMENT_OK,
	REQUIREMENT_WARNING, /* works, but slower or with less */
	REQUIREMENT_MISSING, /* `membox run` refuses */
};

struct requirement {
	const char *name;
	enum requirement_state state;
	char found[192];  /* what is there */
	char advice[320]; /* what to change; "" when ok */
};

#define REQUIREMENTS_MAX 16

/* Checks everything; swap_dir is where default swap files go (NULL: unknown). Returns the number filled in. */
uint32_t requirements_examine(const char *swap_dir, struct requirement ret[REQUIREMENTS_MAX]);

/* True when the kernel reports forks to this process. Without that adopted processes have to stay traced. */
bool requirements_have_fork_events(void);

/* True when processes may be given the ids that they had. */
bool requirements_may_choose_ids(void);

struct requirement_failure {
	char text[256]; /* "WHAT: WHY", without the program's name */
};

/*
 * Only what can be MISSING; less than a millisecond. 0, or -EOPNOTSUPP with *ret saying what is missing first. Forks a child for a moment, so
 * call it before there are threads or other children to wait for.
 */
int requirements_check(struct requirement_failure *ret);
