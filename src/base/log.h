/*
 * The keeper's messages: one line each on stderr, "membox: WHAT: WHY". An error is logged once, where it is handled.
 * Debug lines appear when MEMBOX_DEBUG is set in the environment.
 */
#pragma once

#include <stdbool.h>

/* One line "membox: " + the message; never fails, safe from any thread (a single write). */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* As log_error, only when MEMBOX_DEBUG is set and not "0"; the line carries the thread id and a monotonic time stamp. */
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* For checks that take a while and only have something to say then. */
bool log_debug_is_wanted(void);
