#include "container/oom_task.h"

uint64_t oom_resident(const struct oom_task *task)
{
	return task->anon + task->file + task->shmem;
}

int64_t oom_badness(const struct oom_task *task, uint64_t total_pages)
{
	return (int64_t)(task->anon + task->shmem + task->swapped + task->tables) +
	       (int64_t)(total_pages / 1000) * task->oom_score_adj;
}

bool oom_is_eligible(const struct oom_task *task)
{
	return !task->is_spared && task->oom_score_adj != OOM_SCORE_ADJ_NEVER && oom_resident(task) + task->swapped > 0;
}

struct oom_task *oom_choose(struct oom_task *tasks, uint32_t nr, uint64_t total_pages)
{
	struct oom_task *worst = NULL;
	for (uint32_t i = 0; i < nr; i++) {
		if (!oom_is_eligible(&tasks[i]))
			continue;
		if (!worst || oom_badness(&tasks[i], total_pages) > oom_badness(worst, total_pages))
			worst = &tasks[i];
	}
	return worst;
}
