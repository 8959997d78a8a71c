/*
 * The agent's code as bytes: position independent, without relocations, data or libc. At its entry is a syscall instruction at
 * which world_syscall_at() makes the first clone; the new task goes on right behind it with the boot page's address in the sixth argument register.
 */
#pragma once

#include "base/types.h"

extern const uint8_t __start_membox_agent[], __stop_membox_agent[], agent_blob_entry[];
