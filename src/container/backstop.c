#include "container/backstop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "platform/memory_cgroup.h"
#include "platform/process.h"

#define NAME_BEGIN "membox-"
#define MARGIN_BYTES ((uint64_t)64 << 20)
#define MAX_CHILDREN 4096

static uint64_t with_margin(uint64_t limit_bytes)
{
	return limit_bytes + limit_bytes / 4 + MARGIN_BYTES;
}

/* Names end with the guardian's number. One that is made at this moment has a guardian; one that is not empty is not removed. */
static void remove_leftover(const char *folder, const char *name, void *context)
{
	const char *number = strrchr(name, '-');
	pid_t guardian = strncmp(name, NAME_BEGIN, strlen(NAME_BEGIN)) || !number ? 0 : atoi(number + 1);

	if (guardian > 0 && process_has_ended(guardian) && rmdir(folder) == 0)
		log_debug("removed the leftover %s", folder);
}

void backstop_create(struct backstop *b, const char *name, uint64_t limit_bytes)
{
	_cleanup_free_ char *own = NULL;
	int r;

	*b = (struct backstop){.limit_bytes = with_margin(limit_bytes)};
	memory_cgroup_children(remove_leftover, NULL);
	if (asprintf(&own, NAME_BEGIN "%s-%d", name, (int)getpid()) < 0) {
		own = NULL;
		return;
	}
	r = memory_cgroup_create(own, &b->folder, &b->v2);
	if (r == 0)
		r = memory_cgroup_set_limit(b->folder, b->v2, b->limit_bytes);
	if (r < 0) {
		log_debug("no cgroup for container %s: %s", name, strerror(-r));
		backstop_remove(b);
	}
}

void backstop_enter(const struct backstop *b)
{
	if (b->folder)
		memory_cgroup_enter(b->folder, b->v2);
}

/* v2 would kill for a limit that is below what is taken. */
static bool fits(const struct backstop *b, uint64_t bytes)
{
	return !b->v2 || memory_cgroup_unevictable(b->folder, true) < bytes - bytes / 16;
}

void backstop_follow(struct backstop *b, uint64_t limit_bytes)
{
	uint64_t bytes = with_margin(limit_bytes);

	if (!b->folder || bytes == b->limit_bytes)
		return;
	if ((bytes > b->limit_bytes || fits(b, bytes)) && memory_cgroup_set_limit(b->folder, b->v2, bytes) == 0)
		b->limit_bytes = bytes;
}

/* The parent first: what it forks from then on is born outside. */
void backstop_leave(const struct backstop *b, pid_t pid)
{
	_cleanup_free_ pid_t *children = b->folder ? malloc(MAX_CHILDREN * sizeof(*children)) : NULL;

	if (!children)
		return;
	memory_cgroup_leave(b->folder, pid);
	int n = process_children(pid, children, MAX_CHILDREN);
	for (int i = 0; i < n && i < MAX_CHILDREN; i++)
		backstop_leave(b, children[i]);
}

uint64_t backstop_remove(struct backstop *b)
{
	uint64_t killed;

	if (!b->folder)
		return 0;
	killed = memory_cgroup_oom_kills(b->folder, b->v2);
	int r = memory_cgroup_remove(b->folder);
	if (r < 0)
		log_debug("cannot remove %s: %s", b->folder, strerror(-r));
	free(steal_pointer(b->folder));
	return killed;
}
