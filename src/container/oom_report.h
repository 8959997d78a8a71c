/* What the OOM killer found, as text for people. Container thread. */
#pragma once

#include "container/container.h"
#include "container/oom_task.h"

/*
 * Makes the report of the container's last OOM: why, the sums, and what each task held, the largest first (the order of tasks is changed). An earlier one is
 * replaced. Out of memory for it: there is none.
 */
void oom_report_make(struct container *c, const char *why, struct oom_task *tasks, uint32_t nr, uint64_t total_pages);

/* Writes it to stderr, line by line. */
void oom_report_log(const struct container *c);
