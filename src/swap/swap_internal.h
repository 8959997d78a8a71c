/* Private to swap/: what the I/O queues need of the file. */
#pragma once

#include "swap/swap.h"

int swap_fd(const struct swap *swap);
