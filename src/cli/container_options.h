/* The options of the verbs that make a container: run, attach, restore, receive. */
#pragma once

#include "container/run.h"
#include "control/runtime_folder.h"

struct container_options {
	const char *text[16]; /* as given, indexed by option; NULL: not given */
	char **rest;          /* what follows the options */
	bool help;
};

/* What a configuration points to. */
struct container_storage {
	char name[RUNTIME_NAME_MAX + 1];
	char *swap_path;
};

/* 0, or the exit code after one line on stderr. */
int container_options_parse(const char *verb, int argc, char **argv, struct container_options *ret);

/*
 * Fills in all but the program. base: path or name of a program, for the default name. 0, or the exit code after one line on stderr. The storage
 * (zero at first) is the caller's, to be released when the configuration is not used any more.
 */
int container_options_apply(const struct container_options *options, const char *base, struct run_config *config, struct container_storage *storage);
void container_storage_release(struct container_storage *storage);

bool container_options_have_limit(const struct container_options *options);

/*
 * container_run with a control socket; prints the name of a detached container. A name in use is an error; where no folder can be made the
 * container runs, only nobody can manage it. Returns the exit code.
 */
int container_run_controlled(struct run_config *config);
