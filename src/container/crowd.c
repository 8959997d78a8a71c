#include "container/crowd.h"

/*
 * A crowd begins where the keeper waits for more than this part of the time that it runs, and ends where it waits for less than that one. A single one waits only
 * now and then, for a thread of its program that it has put first to stop it.
 */
#define PART 2
#define PART_ENDING 16

static void look_at_window(struct crowd *crowd, const struct processor_share *share, uint64_t now_ns)
{
	if (now_ns - crowd->since_ns < CROWD_WINDOW_NS)
		return;
	crowd->waits = true;
	crowd->since_ns = now_ns;
	if (!share)
		return;
	uint64_t waited = share->waited_ns - crowd->share.waited_ns, ran = share->ran_ns - crowd->share.ran_ns;
	crowd->waits = waited > ran / (crowd->is_crowded ? PART_ENDING : PART);
	crowd->share = *share;
}

bool crowd_update(struct crowd *crowd, uint32_t tasks_for_each_processor, const struct processor_share *share, uint64_t now_ns)
{
	bool was = crowd->is_crowded;
	look_at_window(crowd, share, now_ns);
	crowd->tasks = crowd->waits ? MAX_OF(tasks_for_each_processor, 1) : 1;
	crowd->is_crowded = was ? crowd->tasks > CROWD_TASKS / 2 : crowd->tasks >= CROWD_TASKS;
	return crowd->is_crowded != was;
}
