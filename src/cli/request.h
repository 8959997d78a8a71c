/* What the verbs share that ask a container for something: NAME and options, the connection, exit codes. */
#pragma once

#include <getopt.h>
#include <json-c/json.h>
#include <membox.h>

#include "base/types.h"

#define EXIT_REFUSED 1 /* by the container, or there is none of that name (as docker and systemctl do) */

/* A keeper answers in milliseconds what does not wait for work. */
#define ANSWER_TIMEOUT_MS 10000
#define WAIT_FOR_WORK (-1)

/* Values of `val` in the verbs' tables of options; 'h' is --help. */
enum request_option {
	REQUEST_JSON = 256,
	REQUEST_LIMIT,
	REQUEST_POOL,
	REQUEST_SIZE,
	REQUEST_SIGNAL,
	REQUEST_WATCH,
	REQUEST_LEAVE_RUNNING,
	REQUEST_TO_NODE,
	REQUEST_FROM_NODE,
	REQUEST_PROGRAM,
	REQUEST_END,
};

/* How a verb's command line looks. */
struct request_syntax {
	const char *usage;
	const struct option *options; /* with --help */
	int min_words, max_words;     /* that are no options; the first one is NAME */
	const char *missing;          /* what to say when there are fewer */
};

struct request_line {
	const char *words[2];
	int nr_words;
	const char *values[REQUEST_END - REQUEST_JSON]; /* NULL: not given; without value: "" */
	bool help;                                      /* usage has been printed */
};

/* Options may stand before and after NAME. 0, or the exit code after one line on stderr. */
int request_parse(int argc, char **argv, const struct request_syntax *syntax, struct request_line *ret);

/* The keeper has a working directory of its own. The caller frees; NULL after one line on stderr. */
char *request_absolute_path(const char *verb, const char *path);

/* The path of the container's swap file with a suffix; without a swap file why says what is missing for it. As above. */
char *request_beside_swap(struct membox *m, const char *name, const char *suffix, const char *why);

const char *request_value(const struct request_line *line, enum request_option option);

/* 0 with *ret, or the exit code after one line on stderr. Later requests take timeout_ms at most. */
int request_connect(const char *name, int timeout_ms, struct membox **ret);

/* The exit code for what a function of the library returned: 0, or after one line on stderr EXIT_REFUSED or EXIT_MEMBOX_FAILED. */
int request_result(const struct membox *m, int r);

/* A reply as an object without what only the protocol needs; NULL (out of memory, or `describe` refused): r and membox_error say more. */
json_object *request_object(struct membox *m, const char *verb, int *ret_r);

/* Numbers and texts of replies; 0 and NULL when they are not there. */
uint64_t object_number(json_object *object, const char *name);
const char *object_text(json_object *object, const char *name);

/* An array of a reply; NULL, which has no elements, when it is not there or something else. */
json_object *object_array(json_object *object, const char *name);
size_t array_length(json_object *array);

/* The object on stdout, on many lines or on one. */
void print_object(json_object *object, bool on_one_line);

static inline void cleanup_object(json_object **object)
{
	json_object_put(*object);
}

static inline void cleanup_membox(struct membox **m)
{
	membox_free(*m);
}

#define _cleanup_object_ __attribute__((cleanup(cleanup_object)))
#define _cleanup_membox_ __attribute__((cleanup(cleanup_membox)))
