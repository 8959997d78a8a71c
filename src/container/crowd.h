/*
 * Is the machine so full that the keeper had better stand in line? With many runnable tasks for each processor, as with a hundred containers, the programs
 * go slowly, so looking at them less often sees as much; and to go first would only keep the processors from those that are waited for. Tasks alone
 * are no crowd: those of low priority take only what is left. One is where the keeper itself waits for a processor, which it does for other keepers alone where it
 * goes before all else. Pure.
 */
#pragma once

#include "base/types.h"
#include "platform/scheduling.h"

#define CROWD_TASKS 6 /* runnable ones for each processor */
#define CROWD_WINDOW_NS 20000000ull

struct crowd {
	uint32_t tasks;  /* for each processor, at least 1: how much slower programs are for it */
	bool is_crowded; /* stand in line */
	bool waits;      /* in the last whole window */
	struct processor_share share; /* at its beginning, at since_ns */
	uint64_t since_ns;
};

/*
 * share: of the keeper's thread; NULL: not known (then tasks alone count). now_ns: of the same clock each time. True when is_crowded has changed.
 */
bool crowd_update(struct crowd *crowd, uint32_t tasks_for_each_processor, const struct processor_share *share, uint64_t now_ns);
