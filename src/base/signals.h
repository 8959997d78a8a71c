/* Names of signals. */
#pragma once

/* "TERM", "SIGTERM" (in any case) or a number; -1: there is no such signal. */
int parse_signal(const char *text);
