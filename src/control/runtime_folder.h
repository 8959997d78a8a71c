/*
 * The folder of a container that lives, RUNTIME/NAME/ (docs/control-protocol.md): control socket, lock and pid. Whoever holds the lock owns
 * the folder; the lock is a flock(2) on the file `lock`, so it ends with the last process that has its descriptor, however that process ends.
 *
 * Who else can be there: other creators and those who list (both hold a lock on RUNTIME itself while they decide what a folder is), the owner
 * that removes (needs nobody's permission: it must not wait at the end of a container). So a lock file that was opened may have been unlinked
 * by the time it is locked: it counts only when it still is the one at its path.
 */
#pragma once

#include "base/types.h"

struct runtime_folder;

struct runtime_error {
	char text[512]; /* "WHAT: WHY (hint)" for the user, without the program's name */
};

#define RUNTIME_NAME_MAX 64

/* Names become file names and parts of messages: 1 to RUNTIME_NAME_MAX printable characters, no slash or space, no dot or dash at the beginning. */
bool runtime_name_is_valid(const char *name);

/*
 * Creates RUNTIME/NAME (and RUNTIME) with mode 0700 and takes its lock; a leftover is emptied and taken over. 0, or with *error filled -EEXIST:
 * a container of that name lives; -EPERM: RUNTIME belongs to somebody else or others may write to it; else what the system said.
 */
int runtime_folder_create(const char *name, struct runtime_folder **ret, struct runtime_error *error);

/* To another program in this process, with its descriptors (an upgrade): they are the new folder's. NULL: no memory. */
struct runtime_handed {
	const char *path;
	int runtime, folder, lock;
};
struct runtime_handed runtime_folder_hand_over(const struct runtime_folder *folder);
struct runtime_folder *runtime_folder_take_over(const struct runtime_handed *handed);

const char *runtime_folder_path(const struct runtime_folder *folder); /* for messages */

/* A listening socket (close-on-exec, nonblocking) at RUNTIME/NAME/control with mode 0600; the descriptor, or -errno. */
int runtime_folder_listen(const struct runtime_folder *folder);

/* The lock's descriptor (close-on-exec): the container lives as long as somebody has it. */
int runtime_folder_lock_fd(const struct runtime_folder *folder);

/* Writes the file `pid`, in one piece. 0 or -errno. */
int runtime_folder_write_pid(const struct runtime_folder *folder, pid_t pid);

/*
 * For the owner, in whatever process of its: unlinks everything, the lock last. A second call, and one after somebody else has taken the name, do
 * nothing. The descriptors stay open and the lock held.
 */
void runtime_folder_remove(const struct runtime_folder *folder);

/* Closes the descriptors and frees; what lies in the file system stays. NULL is fine. */
void runtime_folder_release(struct runtime_folder *folder);

/*
 * Calls each() with the name of each container of this user (root: root's) that lives, in no order; without any lock held. Leftovers are
 * removed. 0, what each() returned when that was not 0 (it ends the listing), or -errno with *error filled.
 */
int runtime_folder_list(int (*each)(const char *name, void *context), void *context, struct runtime_error *error);

/*
 * Waits until no other process of this user is between looking up who is a member where and having attached it. The descriptor; the lock ends when it is
 * closed, and with the process; children do not have it. Or -errno.
 */
int runtime_folder_lock_attach(void);

/*
 * Connects to a container's socket; waits for timeout_ms at most (-1: without end) when its backlog is full. The descriptor (close-on-exec,
 * nonblocking), or with *error filled -ENOENT: no such container (or a leftover of one); -ETIMEDOUT: its keeper takes no connections; else -errno.
 */
int runtime_folder_connect(const char *name, int timeout_ms, struct runtime_error *error);
