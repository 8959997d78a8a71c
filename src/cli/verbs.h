/* The verbs of the command line: a file each (those that only ask a container for one thing share cmd_requests.c), one line each in the table of main.c. */
#pragma once

/* What `membox` returns when membox itself failed (as env, timeout and docker do). */
#define EXIT_MEMBOX_FAILED 125

/* argv[0] is the verb. Returns the exit code. */
int cmd_run(int argc, char **argv);
int cmd_attach(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_set(int argc, char **argv);
int cmd_reclaim(int argc, char **argv);
int cmd_park(int argc, char **argv);
int cmd_unpark(int argc, char **argv);
int cmd_kill(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_swapon(int argc, char **argv);
int cmd_swapoff(int argc, char **argv);
int cmd_release(int argc, char **argv);
int cmd_migrate(int argc, char **argv);
int cmd_checkpoint(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_pack(int argc, char **argv);
int cmd_unpack(int argc, char **argv);
int cmd_send(int argc, char **argv);
int cmd_receive(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_upgrade(int argc, char **argv);
int cmd_take_over(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_version(int argc, char **argv);
