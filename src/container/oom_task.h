/*
 * Who is killed when a container is out of memory: the choice alone, made from figures. Pure: no system calls, no clock. Units are pages.
 */
#pragma once

#include <sys/types.h>

#include "base/types.h"

#define OOM_SCORE_ADJ_NEVER (-1000)

/* What one process holds. */
struct oom_task {
	pid_t pid;
	char name[16];
	uint64_t anon, file, shmem; /* resident */
	uint64_t swapped;           /* in the container's swap file, or on the way there */
	uint64_t tables;            /* its page tables */
	int oom_score_adj;
	bool is_spared; /* cannot be killed, or has been */
};

/* Resident memory of all kinds. */
uint64_t oom_resident(const struct oom_task *task);

/*
 * As oom_badness() in mm/oom_kill.c: anonymous and shared memory, what is in swap, and page tables, plus oom_score_adj thousandths of total_pages (what all may
 * hold together). Mapped pages of files do not count: they leave memory without a kill. Meaningless for a task that is not eligible.
 */
int64_t oom_badness(const struct oom_task *task, uint64_t total_pages);

/* False for who is never killed (-1000), is spared, or holds nothing. */
bool oom_is_eligible(const struct oom_task *task);

/* The eligible task with the highest badness, the first of equals; NULL: none is eligible. */
struct oom_task *oom_choose(struct oom_task *tasks, uint32_t nr, uint64_t total_pages);
