#include "migrate/placement.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/monotonic.h"
#include "inject/world.h"
#include "platform/process.h"

#define STEP_NS 3000000ull /* of the container thread's time */
#define STOP_TIMEOUT_US 5000u /* the next try comes soon */
#define TRIES 100
#define MAX_THREADS 8192

#define CALL(world, tid, number, ...) world_syscall_by(world, tid, number, (const uint64_t[6]){__VA_ARGS__})

static bool has_policy(const struct placement *placement, pid_t tid)
{
	for (uint32_t i = 0; i < placement->nr_done; i++)
		if (placement->done[i] == tid)
			return true;
	return false;
}

static int note_policy(struct placement *placement, pid_t tid)
{
	if (placement->nr_done == placement->capacity) {
		uint32_t capacity = placement->capacity ? placement->capacity * 2 : 16;
		pid_t *bigger = reallocarray(placement->done, capacity, sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		placement->done = bigger;
		placement->capacity = capacity;
	}
	placement->done[placement->nr_done++] = tid;
	return 0;
}

/* The mask has to lie in memory of the process: a page of its own for the moment, shared so that it does not merge with the program's. */
static int set_policy(struct world *world, pid_t tid, const struct node_set *nodes)
{
	struct numa_policy policy = numa_policy_of(nodes);
	long page = CALL(world, tid, SYS_mmap, 0, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, (uint64_t)-1, 0);
	if (page < 0)
		return (int)page;
	int r = process_write(tid, (remote_addr_t)page, policy.mask, sizeof(policy.mask));
	if (r == 0)
		r = (int)CALL(world, tid, SYS_set_mempolicy, (uint64_t)policy.mode, (uint64_t)page, policy.max_node);
	CALL(world, tid, SYS_munmap, (uint64_t)page, PAGE_BYTES);
	return r;
}

/* held: the process stands still anyway, or NULL. 0 also when the thread has ended. */
static int direct_thread(struct placement *placement, pid_t pid, pid_t tid, struct world *held, const struct node_set *nodes)
{
	struct world *world = held;
	int r = held ? 0 : world_stop_thread(pid, tid, STOP_TIMEOUT_US, &world);
	if (r == 0) {
		world_go_first(world);
		r = set_policy(world, tid, nodes);
		if (!held)
			world_resume(world);
	}
	if (r == -ESRCH)
		return 0;
	return r < 0 ? r : note_policy(placement, tid);
}

/* The first in the list behind the one that was tried last; or behind the end, where the first one is the next. */
static int first_in_turn(const struct placement *placement, const pid_t *tids, int nr)
{
	int i = 0;
	while (i < nr && tids[i] <= placement->last_tried)
		i++;
	return i;
}

/*
 * Threads take turns, so that one that cannot be held for long keeps no other waiting. 0: all that were there at the beginning had the policy, so that whoever
 * has been started since has inherited it; -EAGAIN: some have got it, or the time is up.
 */
static int direct_threads(struct placement *placement, pid_t pid, struct world *held, const struct node_set *nodes)
{
	pid_t tids[MAX_THREADS];
	uint64_t begin = monotonic_ns();
	int nr = process_threads(pid, tids, MAX_THREADS), result = nr > MAX_THREADS || (held && !world_is_complete(held)) ? -EAGAIN : 0;
	if (nr < 0)
		return nr == -ENOENT ? -ESRCH : nr;
	nr = MIN_OF(nr, MAX_THREADS);
	for (int i = 0, first = first_in_turn(placement, tids, nr); i < nr; i++) {
		pid_t tid = tids[(first + i) % nr];
		if (has_policy(placement, tid))
			continue;
		if (monotonic_ns() - begin > STEP_NS)
			return -EAGAIN;
		placement->last_tried = tid;
		int r = direct_thread(placement, pid, tid, held, nodes);
		if (r < 0 && r != -ETIMEDOUT)
			return r;
		result = -EAGAIN;
	}
	return result;
}

int placement_step(struct placement *placement, pid_t pid, const struct node_set *nodes)
{
	struct world *held = world_find(pid); /* a container that is stopped is held all the time */
	uint32_t nr_before = placement->nr_done;
	if (process_is_filtered(pid))
		return -EACCES;
	int r = direct_threads(placement, pid, held, nodes);
	if (r != -EAGAIN && r != -EBUSY)
		return r;
	placement->tries += placement->nr_done == nr_before;
	return placement->tries < TRIES ? -EAGAIN : r == -EAGAIN ? -ETIMEDOUT : r;
}

void placement_release(struct placement *placement)
{
	free(placement->done);
	*placement = (struct placement){0};
}
