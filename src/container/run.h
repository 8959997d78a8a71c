/* `membox run`: one program in a memory container, from start to its exit status. */
#pragma once

#include "base/types.h"

struct container;
struct container_service;

/* What is done when the container is over its limit and nothing can leave memory. */
enum oom_policy {
	OOM_KILL, /* the process that holds most is killed */
	OOM_STOP, /* all stand still until there is room */
};

/* What knows the other containers, for processes that are to be attached. Called in the keeper, before it has members or threads. */
struct attach_source {
	/* True when the process is in no other container, or can be taken out of the one that it is in. */
	bool (*may_leave)(void *context, pid_t pid);

	/*
	 * Takes the process, and those below it, out of the container that it is in. 0, also when it is in none; or -errno after a line on stderr. Takes as
	 * long as bringing its memory back.
	 */
	int (*take_out)(void *context, pid_t pid);

	/* It has come to nothing after the first take_out: says who was taken out. */
	void (*not_attached)(void *context);
	void *context;
};

struct swap_base;

/* What a keeper takes over from the program that was in its place before an upgrade (checkpoint/take_over.h). Called in the keeper, with one thread. 0 or -errno. */
struct handed_source {
	int (*begin)(void *context, struct container *c); /* the swap file and the container's own numbers */
	int (*fill)(void *context, struct container *c);  /* with a pager: members and address spaces */
	int (*serve)(void *context, struct container *c); /* with a reclaim thread, which a fault may need: they are served from now on */
	void *context;
};

/* What makes the processes of a container again that was checkpointed. Called in the keeper, on the container thread. */
struct restore_source {
	/* All of them, held, with their state but for the pages that come as faults: the first one's pid, or -errno with nothing left behind, after a line on stderr. */
	pid_t (*create)(void *context, struct container *c);

	/* When the container's threads run: the pages are placed, and everybody goes on. 0, or -errno with all killed, after a line on stderr. */
	int (*start)(void *context, struct container *c);

	/* Whether the pages are all there: 0; -EINPROGRESS; or -errno: some will not come by themselves. NULL: they were from the beginning. */
	int (*arrived)(void *context);
	void *context;
	const struct swap_base *base; /* the pages */
	int stream;                   /* by which they come: the keeper's; -1: none */
};

#define POOL_AUTO UINT64_MAX

struct run_config {
	const char *name;          /* container name */
	uint64_t limit_bytes;
	const char *swap_path;     /* NULL: none (--no-swap) */
	bool swap_is_default;      /* made for this run: removed at its end */
	uint64_t swap_size_bytes;  /* 0: as the file system gives */
	bool encrypt;              /* the swap file */
	uint64_t pool_bytes;       /* most that the compressed pool may take; 0: there is none; POOL_AUTO */
	enum oom_policy oom;
	const char *stats_path;    /* NULL: none; JSON written at the end */
	bool detach;               /* return when the program has been started, and its pages have come; it has a session of its own and reads /dev/null */
	bool isolate;              /* namespaces of its own, see isolate.h */
	char **argv;               /* program and arguments, NULL terminated */
	const pid_t *attach;       /* NULL: argv is started; else these processes are made members, argv is only shown, and detach is set */
	uint32_t nr_attach;
	const struct attach_source *attach_source; /* NULL: what is a member of another container is refused */
	const struct restore_source *restore;      /* NULL: argv is started; else it is only shown */
	const struct handed_source *handed;        /* NULL: the container is new */
	struct container_service *service; /* NULL: none */
};

/*
 * Runs the program; returns the exit code of `membox run`: the program's own (0 with detach), 128+N, or 125, 126, 127 with one line on stderr.
 * The calling process must be single-threaded and becomes the user's handle (front): it stays in the terminal's process group,
 * forwards signals and mirrors stops.
 */
int container_run(const struct run_config *config);

/* Below this a container cannot work: batches and windows need some room. */
#define CONTAINER_MIN_LIMIT_BYTES ((uint64_t)1 << 20)
