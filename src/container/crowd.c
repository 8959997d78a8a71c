#include "container/crowd.h"

#define SHARE 4         /* of a window that the keeper waits at least when a crowd begins ... */
#define SHARE_ENDING 32 /* ... and when it ends */

static void look_at_window(struct crowd *crowd, uint64_t waited_ns, uint64_t now_ns)
{
	uint64_t window = now_ns - crowd->since_ns, waited = waited_ns - crowd->waited_ns;
	if (window < CROWD_WINDOW_NS)
		return;
	crowd->waits = !waited_ns || waited * (crowd->is_crowded ? SHARE_ENDING : SHARE) > window;
	crowd->waited_ns = waited_ns;
	crowd->since_ns = now_ns;
}

bool crowd_update(struct crowd *crowd, uint32_t tasks_for_each_processor, uint64_t waited_ns, uint64_t now_ns)
{
	bool was = crowd->is_crowded;
	look_at_window(crowd, waited_ns, now_ns);
	crowd->tasks = crowd->waits ? MAX_OF(tasks_for_each_processor, 1) : 1;
	crowd->is_crowded = was ? crowd->tasks > CROWD_TASKS / 2 : crowd->tasks >= CROWD_TASKS;
	return crowd->is_crowded != was;
}
