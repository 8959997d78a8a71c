#include "platform/idle_latency.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/first_line.h"
#include "base/log.h"

#define OFTEN 16u             /* works ... */
#define OFTEN_NS 10000000ull  /* ... within this */
#define SHALLOW_US 10         /* forbids the deep states, which take 100 us and more to leave, not the shallow ones */
#define AWAKE_PROCESSORS 16  /* of a guest: more would take from the host what one program does not give back */
#define NO_REQUEST (-1)       /* PM_QOS_DEFAULT_VALUE */

/* A guest has but one state to sleep in, and whatever is asked for but 0 allows it. */
static int32_t low_latency_us(void)
{
	char driver[32];
	int r = first_line_read("/sys/devices/system/cpu/cpuidle/current_driver", driver, sizeof(driver));
	bool is_guest = r == 0 && !strcmp(driver, "haltpoll");
	return is_guest && sysconf(_SC_NPROCESSORS_ONLN) <= AWAKE_PROCESSORS ? 0 : SHALLOW_US;
}

void idle_latency_open(struct idle_latency *latency)
{
	*latency = (struct idle_latency){.fd = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC)};
	if (latency->fd >= 0)
		latency->low_us = low_latency_us();
}

void idle_latency_close(struct idle_latency *latency)
{
	if (latency->fd >= 0)
		close(latency->fd);
	latency->fd = -1;
}

static void request(struct idle_latency *latency, int32_t microseconds)
{
	if (write(latency->fd, &microseconds, sizeof(microseconds)) < 0)
		log_debug("latency of idle processors: errno %d", errno);
	latency->is_low = microseconds != NO_REQUEST;
}

void idle_latency_note_work(struct idle_latency *latency, uint64_t now_ns)
{
	if (latency->fd < 0 || latency->is_low)
		return;
	if (now_ns - latency->since_ns > OFTEN_NS) {
		latency->since_ns = now_ns;
		latency->nr_works = 0;
	}
	if (++latency->nr_works == OFTEN)
		request(latency, latency->low_us);
}

void idle_latency_rest(struct idle_latency *latency)
{
	if (latency->is_low)
		request(latency, NO_REQUEST);
	latency->nr_works = 0;
}
