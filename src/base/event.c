#include "base/event.h"

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#include "base/log.h"

#define TRIES 1000

void event_raise(int fd)
{
	const uint64_t one = 1;
	for (int i = 0; i < TRIES; i++)
		if (write(fd, &one, sizeof(one)) == (ssize_t)sizeof(one) || errno == EAGAIN) /* its counter is full: it is raised */
			return;
	log_error("cannot wake a thread: errno %d", errno);
}
