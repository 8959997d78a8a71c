#include "migrate/placement.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/monotonic.h"
#include "inject/world.h"
#include "platform/process.h"

#define HOLD_NS 3000000ull /* for the calls; to stop all threads comes on top */
#define TRIES 100
#define MAX_THREADS 8192

#define CALL(world, number, ...) world_syscall(world, number, (const uint64_t[6]){__VA_ARGS__})

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

/* 0: all threads of the held world have the policy; -EAGAIN: the time is up, or one does not stand still; or -errno. */
static int set_policies(struct placement *placement, struct world *world, remote_addr_t mask, const struct numa_policy *policy)
{
	pid_t tids[MAX_THREADS];
	uint64_t begin = monotonic_ns();
	size_t nr = world_threads(world, tids, MAX_THREADS);
	for (size_t i = 0; i < nr && i < MAX_THREADS; i++) {
		if (has_policy(placement, tids[i]))
			continue;
		if (monotonic_ns() - begin > HOLD_NS)
			return -EAGAIN;
		long r = world_syscall_by(world, tids[i], SYS_set_mempolicy, (const uint64_t[6]){(uint64_t)policy->mode, mask, policy->max_node});
		if (r == 0)
			r = note_policy(placement, tids[i]);
		if (r < 0 && r != -ESRCH) /* that one has ended, or runs on: then the world is not complete */
			return (int)r;
	}
	return world_is_complete(world) && nr <= MAX_THREADS ? 0 : -EAGAIN;
}

/* The mask has to lie in memory of the process: a page of its own for the moment, shared so that it does not merge with the program's. */
static int direct(struct placement *placement, struct world *world, const struct node_set *nodes)
{
	struct numa_policy policy = numa_policy_of(nodes);
	pid_t tid = world_thread(world);
	if (tid < 0)
		return -EAGAIN;
	long page = CALL(world, SYS_mmap, 0, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, (uint64_t)-1, 0);
	if (page < 0)
		return (int)page;
	int r = process_write(tid, (remote_addr_t)page, policy.mask, sizeof(policy.mask));
	if (r == 0)
		r = set_policies(placement, world, (remote_addr_t)page, &policy);
	CALL(world, SYS_munmap, (uint64_t)page, PAGE_BYTES);
	return r;
}

int placement_step(struct placement *placement, pid_t pid, const struct node_set *nodes)
{
	struct world *held = world_find(pid), *world = held; /* a container that is stopped is held all the time */
	uint32_t nr_before = placement->nr_done;
	if (process_is_filtered(pid))
		return -EACCES;
	int r = held ? 0 : world_stop(pid, WORLD_STOP_TIMEOUT_US, &world);
	if (r == 0) {
		r = direct(placement, world, nodes);
		if (!held)
			world_resume(world);
	}
	if (r != -EAGAIN && r != -ETIMEDOUT && r != -EBUSY)
		return r;
	placement->tries += placement->nr_done == nr_before;
	return placement->tries < TRIES ? -EAGAIN : r == -EAGAIN ? -ETIMEDOUT : r;
}

void placement_release(struct placement *placement)
{
	free(placement->done);
	*placement = (struct placement){0};
}
