/* Time that only goes forward, in nanoseconds (clock_gettime(2)). */
#pragma once

#include "base/types.h"

uint64_t monotonic_ns(void);

/* Processor time that the calling thread has used. */
uint64_t thread_time_ns(void);
