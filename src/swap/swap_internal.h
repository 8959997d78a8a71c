/* Private to swap/: what the file and its I/O queues need of each other. */
#pragma once

#include "swap/swap.h"

int swap_fd(const struct swap *swap);
int swap_fd_of(const struct swap *swap, slot_t slot); /* the base's, for a slot of the base */
bool swap_is_direct(const struct swap *swap); /* O_DIRECT */

/*
 * MEMBOX_IO names ways that tests and comparisons ask for: "sync" (no ring), "buffered" (no O_DIRECT), or both with a comma.
 */
bool swap_io_is_forced(const char *way);
