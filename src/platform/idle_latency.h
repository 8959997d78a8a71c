/*
 * While a program waits for one page after the other, its processor sleeps for some tens of microseconds at a time, and to wake a sleeping processor can
 * take as long as the page does: in a virtual machine that leaves the guest and comes back. A request for a low latency (PM QoS,
 * Documentation/power/pm_qos_interface.rst: /dev/cpu_dma_latency) makes idle processors wait awake instead. It holds for the whole machine and takes
 * power, so it is made only while work comes often, and taken back at rest; with its descriptor's last user it ends in any case. Without the right
 * to open the device nothing happens.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct idle_latency { /* one thread's */
	int fd;
	int32_t low_us; /* what is asked for */
	bool is_low;    /* the request is made */
	uint32_t nr_works;
	uint64_t since_ns;
};

void idle_latency_open(struct idle_latency *latency);
void idle_latency_close(struct idle_latency *latency);

/* A piece of work came, now_ns on the monotonic clock: makes the request when it was one of many. */
void idle_latency_note_work(struct idle_latency *latency, uint64_t now_ns);

/* None came for a while: takes the request back. */
void idle_latency_rest(struct idle_latency *latency);
