/* Sockets: those that listen, those that are not connected, and UNIX sockets whose other end is in the container or gone. */
#pragma once

#include "checkpoint/process/process.h"

/* Describes the socket behind a descriptor. 0 or -errno with the reason: a connection to somebody outside, ... */
int socket_save(struct saved_process *p, Image__File *f, int fd);

bool socket_has_its_peer(const Image__Image *image, const Image__File *f);

/* When all files have been found: the other end of each connected one must be among them, or gone. */
int socket_complete(struct saving *saving, const Image__File *f, pid_t pid, int fd);

/* A descriptor, or -errno. The other end of a pair, when it is among the files, goes to *ret_other; else that is -1. */
int socket_restore(const Image__Image *image, const Image__File *f, size_t *ret_other_index, int *ret_other);
