/* Signals that wait: for a process, or for one of its threads. */
#pragma once

#include "checkpoint/process/process.h"

/* Appends to the array. 0 or -errno with the reason. */
int pending_save(struct saving *saving, pid_t tid, bool shared, ProtobufCBinaryData **array, size_t *nr);

/* t NULL: for the process, else for that thread, whose number for us is tid. The task sends them to itself: others may not send what the kernel has sent. */
int pending_restore(struct restored_process *p, const Image__Thread *t, pid_t tid, const ProtobufCBinaryData *array, size_t nr);
