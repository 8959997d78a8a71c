/* Why a checkpoint or a restore cannot be: one line for the user. */
#pragma once

struct checkpoint_error {
	char text[400]; /* "WHAT: WHY", without the program's name; "" for none */
};

/* The first reason is kept. Returns code. */
int checkpoint_fail(struct checkpoint_error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
