/*
 * Pseudo terminals of which the container has the end that makes one. What waits in them is taken out and put back: the kernel shows it in no other way. Nobody runs meanwhile.
 *
 *      maker (/dev/ptmx)  ── input ──▶  terminal (/dev/pts/N)        input:  lines, or characters, that wait to be read from the terminal
 *                         ◀─ output ──                               output: what the maker has not read yet
 */
#pragma once

#include <sys/stat.h>

#include "checkpoint/process/process.h"

/* Descriptions of the two ends. 0 or -errno with the reason. Whether a terminal is one of the container's is known when all files have been found. */
int terminal_save_maker(struct saved_process *p, Image__File *f, int fd);
int terminal_save(struct saved_process *p, Image__File *f, int fd, const struct stat *st);

/* When all files have been found. A terminal that is not the container's is taken from whoever restores. 0 or -errno with the reason. */
int terminal_complete(struct saving *saving, Image__File *f, pid_t pid, int fd);

/* Makes all of the image, in this process, with descriptors above `above`. 0 or -errno with the reason. */
int terminals_restore(struct restoring *r, int above);
void terminals_close(struct restoring *r);

/* One of their ends: a descriptor or -errno. */
int terminal_open(const struct restoring *r, const Image__File *f);

/* The leader of a session gets its terminal, which its children inherit; and when all groups are made the group in its foreground. 0 or -errno with the reason. */
int terminal_control(struct restored_process *p);
int terminal_set_foreground(struct restored_process *p);
