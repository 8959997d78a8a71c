/* What the verbs share that write or read a packed checkpoint. */
#pragma once

#include <getopt.h>

#include "checkpoint/pack/pack.h"

/*
 * Calls undo(what), which must be async-signal-safe, when a signal that asks for the end (INT, TERM, HUP, QUIT) comes before packing_end_undo; then the signal does what
 * it always does. No such signal comes between packing_block_signals and either of them.
 */
void packing_block_signals(void);
void packing_begin_undo(void (*undo)(const void *what), const void *what);
void packing_end_undo(void);

/* On a terminal only. The text stands before the sizes; "" in the end removes the line. */
struct packing_display {
	const char *text;
	uint64_t last_ns;
	bool is_shown;
};

struct pack_progress packing_progress(struct packing_display *display);
void packing_clear(struct packing_display *display);

/* -1 to -19 as short options, -T, --threads, --long: of the verbs that compress. */
#define PACKING_SHORT_OPTIONS "0123456789T:"
#define PACKING_LONG_OPTIONS {"threads", required_argument, NULL, 'T'}, {"long", no_argument, NULL, PACKING_LONG}
#define PACKING_LONG 300

struct packing_options {
	struct pack_options pack; /* as given, or the default */
	int level_word;           /* the word of the command line that the digits so far stood in */
};

void packing_options_init(struct packing_options *options);

/* One option that getopt_long has found; word: optind before. 0; 1: it is none of these; or the exit code after one line on stderr. */
int packing_take_option(struct packing_options *options, int option, int word);
int packing_check_options(const struct packing_options *options); /* at the end; 0, or as above */
