/*
 * System V shared memory, semaphores and message queues of a container with an IPC namespace of its own (--isolate). They are read and made by system calls in a held process: the
 * keeper is in another namespace. In a container without one, memory that is attached is saved as any shared memory, and its id means nothing afterwards.
 *
 * Not visible, so not saved: what SEM_UNDO would undo, who used them last and when.
 */
#pragma once

#include "checkpoint/process/process.h"

/* Whether the mapping is an attached segment, to be saved as such: then its id and content are. 0, 1 (it is) or -errno with the reason. */
int system_v_save_mapping(struct saved_process *p, Image__Mapping *m, uint64_t inode);

/* All processes are in the same. 0 or -errno with the reason. */
int system_v_check_namespace(struct saved_process *p);

/* When all processes have been described: what there is in the namespace of one of them, attached or not. 0 or -errno with the reason. */
int system_v_save(struct saved_process *p);

/* Made by the first process, which has the rights that this needs, before the others are there. 0 or -errno with the reason. */
int system_v_restore(struct restored_process *first);

/* Attaches the segment of a mapping, with its first piece; the others get their protection. What the call returned. */
long system_v_attach(struct restored_process *p, const Image__Mapping *m);

/* When all have attached them: those that were removed are so again. 0 or -errno with the reason. */
int system_v_remove(struct restored_process *first);
