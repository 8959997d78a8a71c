/* The verbs of the command line: one file each, one line each in the table of main.c. */
#pragma once

/* What `membox` returns when membox itself failed (as env, timeout and docker do). */
#define EXIT_MEMBOX_FAILED 125

/* argv[0] is the verb. Returns the exit code. */
int cmd_run(int argc, char **argv);
int cmd_attach(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_version(int argc, char **argv);
