#include "inject/agent.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "inject/raw_syscall.h"
#include "inject/ring.h"
#include "inject/tracee.h"
#include "platform/process.h"
#include "platform/scheduling.h"

#define SPIN_NS 50000
#define SPIN_PROCESSORS 4 /* with fewer the agent may need the one that spins */
#define SPIN_PAUSES 32 /* between two looks at the clock */
#define NAP_MIN_NS 1000000
#define NAP_MAX_NS 20000000
#define NAPS_BEFORE_CONTINUE 8
#define PATIENCE 3000 /* naps of one that runs: a minute */
#define IDLE_COST 6
#define DISMISS_NS 1000000000

int agent_map_ring(struct agent *agent)
{
	size_t bytes = page_ceil(sizeof(*agent->ring));
	struct stat st;
	if (fstat(agent->ring_fd, &st) < 0)
		return -errno;
	if (st.st_size != (off_t)bytes) /* beyond the end of the file an access is fatal */
		return -EBADMSG;
	void *ring = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, agent->ring_fd, 0);
	if (ring == MAP_FAILED)
		return -errno;
	agent->ring = ring;
	return 0;
}

static bool is_done(const struct agent *agent)
{
	return __atomic_load_n(&agent->ring->done, __ATOMIC_SEQ_CST) == agent->requests;
}

static void ring_doorbell(const struct agent *agent)
{
	send(agent->doorbell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool spin_until_done(const struct agent *agent)
{
	uint64_t deadline = monotonic_ns() + (scheduling_nr_processors() >= SPIN_PROCESSORS ? SPIN_NS : 0);

	do {
		for (int i = 0; i < SPIN_PAUSES; i++) {
			if (is_done(agent))
				return true;
			cpu_pause();
		}
	} while (monotonic_ns() < deadline);
	return false;
}

/*
 * What one more nap takes of the patience. Most for an agent that is not at work: asleep, because the program has written over the request or the answer;
 * stopped; or traced by somebody. Nothing for one that waits in the kernel, for a lock or a page.
 */
static unsigned int cost_of_nap(const struct agent *agent)
{
	struct process_info info;

	if (process_info_read(agent->pid, &info) < 0 || info.state == 'D')
		return 0;
	return info.state == 'R' ? 1 : IDLE_COST;
}

/* From here on it is as if somebody had killed it, which is known to end the container. */
static int give_up(const struct agent *agent)
{
	log_error("agent %d does not answer: its program has stopped it, traces it, or has written over its memory", agent->pid);
	pidfd_kill(agent->pidfd, SIGKILL);
	return -EPIPE;
}

/*
 * Sleeps until the request is done or the agent dead. Since the program can write to the ring and send signals to the agent, a wake-up may
 * be missing and the agent may be stopped: each nap ends by itself, rings again, and now and then the agent is told to continue. What does not help within
 * ten seconds will not: it is given up. Naps are counted, so that it does not matter when nobody runs for a while.
 */
static int sleep_until_done(const struct agent *agent)
{
	struct timespec nap = {.tv_nsec = NAP_MIN_NS};
	unsigned int spent = 0;
	int r = 0;

	__atomic_store_n(&agent->ring->keeper_sleeping, 1, __ATOMIC_SEQ_CST);
	for (unsigned int naps = 1;; naps++) {
		uint32_t seen = __atomic_load_n(&agent->ring->done, __ATOMIC_SEQ_CST);

		if (seen == agent->requests)
			break;
		if (syscall(SYS_futex, &agent->ring->done, FUTEX_WAIT, seen, &nap, NULL, 0) == 0)
			continue;
		if (errno != ETIMEDOUT)
			continue;
		if (pidfd_has_exited(agent->pidfd)) {
			r = is_done(agent) ? 0 : -EPIPE;
			break;
		}
		spent += cost_of_nap(agent);
		if (spent >= PATIENCE) {
			r = give_up(agent);
			break;
		}
		ring_doorbell(agent);
		if (naps % NAPS_BEFORE_CONTINUE == 0)
			pidfd_kill(agent->pidfd, SIGCONT);
		nap.tv_nsec = MIN_OF(nap.tv_nsec * 2, NAP_MAX_NS);
	}
	__atomic_store_n(&agent->ring->keeper_sleeping, 0, __ATOMIC_SEQ_CST);
	return r;
}

int agent_post(struct agent *agent, const struct agent_op *ops, uint32_t nr)
{
	struct agent_ring *ring = agent->ring;

	if (nr > AGENT_MAX_OPS)
		return -EINVAL;
	memcpy(ring->ops, ops, nr * sizeof(*ops));
	ring->nr_ops = nr;
	__atomic_store_n(&ring->request, ++agent->requests, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&ring->agent_sleeping, __ATOMIC_SEQ_CST))
		ring_doorbell(agent);
	FAULT_POINT_OF("agent.asked", agent->pid);
	return 0;
}

int agent_wait(struct agent *agent, struct agent_op *ops, uint32_t nr)
{
	int r = spin_until_done(agent) ? 0 : sleep_until_done(agent);

	for (uint32_t i = 0; r == 0 && i < nr; i++)
		ops[i].result = agent->ring->ops[i].result;
	FAULT_POINT_OF("agent.answered", agent->pid);
	return r;
}

int agent_execute(struct agent *agent, struct agent_op *ops, uint32_t nr)
{
	int r = nr ? agent_post(agent, ops, nr) : 0;

	return r < 0 || !nr ? r : agent_wait(agent, ops, nr);
}

void agent_hold(struct agent *agent, bool hold)
{
	__atomic_store_n(&agent->ring->hold, hold, __ATOMIC_SEQ_CST);
}

static void ask_to_exit(const struct agent *agent)
{
	__atomic_store_n(&agent->ring->exit, 1, __ATOMIC_SEQ_CST);
	ring_doorbell(agent);
}

static bool wait_for_exit(const struct agent *agent)
{
	uint64_t deadline = monotonic_ns() + DISMISS_NS;
	unsigned int rounds = 0;

	while (!pidfd_has_exited(agent->pidfd)) {
		if (monotonic_ns() > deadline)
			return false;
		if (rounds % NAPS_BEFORE_CONTINUE == 0) /* the program can stop it, see sleep_until_done */
			pidfd_kill(agent->pidfd, SIGCONT);
		poll_nap(&rounds);
	}
	return true;
}

/* A child of the program (its exit signal is 0, so the program does not ask for it) would stay a zombie for as long as the program lives. */
static void reap_in_world(const struct agent *agent, struct world *world)
{
	const uint64_t args[6] = {(uint64_t)process_innermost_pid(agent->pid), 0, WNOHANG | __WALL, 0};
	struct process_info info;

	if (args[0] && process_info_read(agent->pid, &info) == 0 && info.parent == world_pid(world))
		world_syscall(world, SYS_wait4, args);
}

int agent_dismiss(struct agent *agent, struct world *world)
{
	const uint64_t region[6] = {agent->base, agent->size};
	long r;

	ask_to_exit(agent);
	if (!wait_for_exit(agent))
		return -ETIMEDOUT;
	reap_in_world(agent, world);
	r = world_syscall(world, SYS_munmap, region);
	if (r < 0)
		return (int)r;
	agent_release(agent);
	return 0;
}

void agent_release(struct agent *agent)
{
	if (!agent)
		return;
	ask_to_exit(agent);
	close(agent->doorbell);
	close(agent->pidfd);
	close(agent->stage_uffd);
	close(agent->ring_fd);
	munmap(agent->ring, page_ceil(sizeof(*agent->ring)));
	free(agent);
}
