/*
 * Descriptors of processes. One can be made when its process is there, which is after the open files are, so each process opens its own: what processes have shared, which is
 * nothing but the flag O_NONBLOCK, they share no more.
 */
#pragma once

#include "checkpoint/process/process.h"

/* Describes the pidfd behind a descriptor, of which info is the text of its fdinfo. 0 or -errno with the reason. */
int pidfd_save(struct saved_process *p, Image__File *f, int fd, const char *info);

/* When all processes have been found: its own must be among them. */
int pidfd_complete(struct saving *saving, const Image__File *f, pid_t pid, int fd);

/* A descriptor, in the keeper, of a process that has ended and was waited for; or -errno. */
int pidfd_restore_of_dead(const Image__File *f);

/* True when a process is to open it by itself. */
bool pidfd_is_of_living(const Image__File *f);

/* Opens it in the process, which is held, at the number of the descriptor. 0 or -errno. */
long pidfd_restore(struct restored_process *p, const Image__Descriptor *d, const Image__File *f);
