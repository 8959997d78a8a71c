#include "container/oom_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"

#define MAX_LINES 40 /* tasks listed; the others are summed up */

static uint64_t kib(uint64_t pages)
{
	return pages << (PAGE_SHIFT - 10);
}

/* The figures are those of the decision: what was published last. */
static void write_sums(const struct container *c, FILE *out)
{
	const struct stats *s = &c->stats;
	char usage[SIZE_TEXT_MAX], most[SIZE_TEXT_MAX], limit[SIZE_TEXT_MAX];
	fprintf(out, "memory: usage %s, highest %s, limit %s, failcnt %llu, reclaimed %llu pages\n", format_size(stat_get(s, rss_usage), usage),
		format_size(stat_get(s, rss_max_usage), most), format_size(stat_get(s, rss_limit), limit),
		(unsigned long long)stat_get(s, rss_failcnt), (unsigned long long)stat_get(s, rss_reclaimed));
	fprintf(out, "lists: active %llu KiB, inactive %llu KiB, unevictable %llu KiB; anonymous %llu KiB, files %llu KiB\n",
		(unsigned long long)stat_get(s, active) / 1024, (unsigned long long)stat_get(s, inactive) / 1024,
		(unsigned long long)stat_get(s, unevictable) / 1024, (unsigned long long)stat_get(s, anon) / 1024,
		(unsigned long long)stat_get(s, file) / 1024);
	if (!c->swap)
		fprintf(out, "swap: none\n");
	else
		fprintf(out, "swap: used %s of %s\n", format_size(stat_get(s, swap_used), usage),
			format_size(stat_get(s, swap_total), limit));
}

static uint64_t total_for_sorting; /* qsort has no context; container thread only */

static int by_badness(const void *a, const void *b)
{
	int64_t badness_a = oom_badness(a, total_for_sorting), badness_b = oom_badness(b, total_for_sorting);
	return badness_a > badness_b ? -1 : badness_a < badness_b;
}

static void write_tasks(FILE *out, const struct oom_task *tasks, uint32_t nr)
{
	uint64_t rest = 0;
	fprintf(out, "%8s %12s %12s %10s %10s %10s %13s  name\n", "pid", "resident KiB", "anonymous", "files",
		"swapped", "tables", "oom_score_adj");
	for (uint32_t i = 0; i < nr; i++) {
		const struct oom_task *t = &tasks[i];
		if (i >= MAX_LINES) {
			rest += oom_resident(t) + t->swapped;
			continue;
		}
		fprintf(out, "%8d %12llu %12llu %10llu %10llu %10llu %13d  %s\n", t->pid,
			(unsigned long long)kib(oom_resident(t)), (unsigned long long)kib(t->anon),
			(unsigned long long)kib(t->file + t->shmem), (unsigned long long)kib(t->swapped),
			(unsigned long long)kib(t->tables), t->oom_score_adj, t->name);
	}
	if (nr > MAX_LINES)
		fprintf(out, "and %u more tasks, with %llu KiB resident or swapped\n", nr - MAX_LINES,
			(unsigned long long)kib(rest));
}

void oom_report_make(struct container *c, const char *why, struct oom_task *tasks, uint32_t nr, uint64_t total_pages)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);
	free(c->oom_report);
	c->oom_report = NULL;
	if (!out)
		return;
	total_for_sorting = total_pages;
	qsort(tasks, nr, sizeof(*tasks), by_badness);
	fprintf(out, "out of memory in container %s: %s\n", c->config->name, why);
	write_sums(c, out);
	write_tasks(out, tasks, nr);
	if (fclose(out) == 0)
		c->oom_report = text;
	else
		free(text);
}

void oom_report_log(const struct container *c)
{
	for (const char *line = c->oom_report, *end; line && *line; line = end + 1) {
		end = strchrnul(line, '\n');
		log_error("%.*s", (int)(end - line), line);
		if (!*end)
			break;
	}
}

const char *container_oom_report(const struct container *c)
{
	return c->oom_report;
}
