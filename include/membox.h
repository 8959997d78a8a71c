/*
 * libmembox: to talk to memory containers from a program, as `membox stat`, `membox set` and the rest do. The protocol below it is described
 * in control-protocol.md. A container is used by its owner or by root.
 *
 * All functions but membox_new return 0 or a negative errno. An object belongs to one thread at a time. The library keeps no global state,
 * starts no thread, raises no SIGPIPE, and its descriptors are close-on-exec.
 *
 *	struct membox *m = membox_new();
 *	uint64_t reclaimed;
 *
 *	if (membox_connect(m, "job") || membox_reclaim(m, 512 << 20, &reclaimed))
 *		fprintf(stderr, "%s\n", membox_error(m));
 *	membox_free(m);
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A connection to one container, or none yet. */
struct membox;

/* NULL: out of memory. */
struct membox *membox_new(void);

/* Closes the connection and frees. What a request has begun goes on. NULL is allowed, as it is for membox_connect and membox_error. */
void membox_free(struct membox *m);

/*
 * How long each later call may take, in milliseconds; -1: without end (at first). The death of a container's keeper is noticed in any case.
 */
void membox_set_timeout(struct membox *m, int timeout_ms);

/* One line for people about the last call that failed: "WHAT: WHY (hint)". Valid until the next call. Never NULL. */
const char *membox_error(const struct membox *m);

/* True when the last call failed because the container, which is well, has refused it. */
bool membox_was_refused(const struct membox *m);

/*
 * Connects to the container of that name, in the place of an earlier connection. -ENOENT: there is none; -EPERM: the folder of the sockets belongs to
 * somebody else; -ETIMEDOUT: its keeper takes no connections; else what the system said.
 */
int membox_connect(struct membox *m, const char *name);

/*
 * One request: a verb of the protocol and its members as the text of a JSON object (NULL: none). *ret_reply, which the caller frees, is the whole
 * reply as the text of a JSON object; NULL as argument when it does not matter.
 *
 * What the container refuses has the errno that it gave (EINVAL, EBUSY, ENOENT, ENOSPC, ...). -ETIMEDOUT: no answer in time; -ECONNRESET: the container
 * ended, or its keeper was killed; -EPROTO: it answered nonsense: after these three the connection is closed. -EINVAL and -EMSGSIZE are also what a
 * `members` gets that is no JSON object or longer than the protocol allows; -ENOTCONN: there is no connection.
 */
int membox_request(struct membox *m, const char *verb, const char *members, char **ret_reply);

#define MEMBOX_POOL_AUTO UINT64_MAX

/* The common requests. Bytes; pointers for results may be NULL. Those marked (waits) answer when the work is done or cannot be done. */
int membox_set_limit(struct membox *m, uint64_t bytes);                        /* (waits) until usage is below the limit */
int membox_set_pool(struct membox *m, uint64_t bytes); /* the most that the compressed pool takes; 0: none; MEMBOX_POOL_AUTO */
int membox_reclaim(struct membox *m, uint64_t bytes, uint64_t *ret_reclaimed); /* (waits) UINT64_MAX: all that can leave */
int membox_park(struct membox *m);                                             /* (waits) */
int membox_unpark(struct membox *m);
int membox_kill(struct membox *m, int signal, uint64_t *ret_signalled);
int membox_wait(struct membox *m, int *ret_exit_status);                  /* (waits) for the end of the container */
int membox_upgrade(struct membox *m, const char *program);                 /* (waits) absolute path: takes the place of the keeper's program */
int membox_swapon(struct membox *m, const char *path, uint64_t size);     /* size 0: as the file system gives */
int membox_swapoff(struct membox *m);                                     /* (waits) */
int membox_release(struct membox *m);                                     /* (waits) */

/* What a checkpoint took: pages in the folder's swap file, those written for it, and how long nobody ran. */
struct membox_checkpoint_result {
	uint64_t pages, written, frozen_us;
};

/* (waits) path is absolute. The container ends unless it is left running. */
int membox_checkpoint(struct membox *m, const char *path, bool leave_running, struct membox_checkpoint_result *ret);

/*
 * Calls each() with the name of each container of this user that lives, in no order. Leftovers of containers whose keeper was killed are
 * removed. 0, or what each() returned when that was not 0 (it ends the listing), or as membox_connect. Does not touch the connection.
 */
int membox_list(struct membox *m, int (*each)(const char *name, void *context), void *context);

#ifdef __cplusplus
}
#endif
