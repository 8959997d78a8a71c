/* Tables for people, of what containers say about themselves. */
#pragma once

#include <json-c/json.h>

#include "base/types.h"
#include "base/units.h"

/* On stdout, at least `width` columns; what the program may have chosen (names, arguments) cannot command the terminal. NULL prints as "-". */
void print_safely(const char *text, int width);

/* The array of a command's words (NULL: none), separated by spaces. */
void print_command(json_object *command);

/* Like format_size_short; a limit that nothing can reach (a released container) is "none". */
const char *format_limit(uint64_t bytes, char buffer[SIZE_TEXT_MAX]);

#define AGE_TEXT_MAX 32

/* "17s", "5m 3s", "3h 20m", "12d 4h": since that second of the epoch. Returns buffer. */
const char *format_age(uint64_t since, char buffer[AGE_TEXT_MAX]);
