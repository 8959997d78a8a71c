#include "base/monotonic.h"

#include <time.h>

static uint64_t read_clock(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

uint64_t monotonic_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t thread_time_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}
