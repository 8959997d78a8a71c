#include "inject/late.h"

#include "inject/tracees.h"

static struct tracees late;

int late_reserve(size_t nr_more)
{
	return tracees_reserve(&late, late.nr + nr_more);
}

void late_add(const struct tracee *tracee)
{
	late.items[late.nr++] = *tracee;
}

bool late_has(pid_t tid)
{
	return tracees_find(&late, tid) < late.nr;
}

bool late_take(pid_t tid, struct tracee *ret)
{
	size_t i = tracees_find(&late, tid);

	if (i == late.nr)
		return false;
	*ret = late.items[i];
	tracees_remove(&late, i);
	return true;
}

bool late_has_leader(pid_t process)
{
	size_t i = tracees_find(&late, process);

	return i < late.nr && late.items[i].state != TRACEE_GONE && !late.items[i].dead_leader;
}

bool late_has_process(pid_t process)
{
	for (size_t i = 0; i < late.nr; i++)
		if (late.items[i].process == process)
			return true;
	return false;
}

/* Leaders first: those whose leader is still late go on traced, and are stopped once more when it is not. */
static void let_go(struct tracee *tracee)
{
	bool leader_is_late = tracee->tid != tracee->process && late_has_leader(tracee->process);

	if (tracee->state == TRACEE_RUNNING && !leader_is_late)
		tracee_stop_following(tracee);
	else if (!leader_is_late || !tracee_follow(tracee))
		tracee_release(tracee);
}

size_t late_collect(void)
{
	size_t kept = 0;

	for (size_t i = 0; i < late.nr; i++) {
		tracee_poll(&late.items[i]);
		tracee_prepare_release(&late.items[i]);
		if (late.items[i].tid == late.items[i].process)
			tracee_release(&late.items[i]);
	}
	for (size_t i = 0; i < late.nr; i++)
		let_go(&late.items[i]);
	for (size_t i = 0; i < late.nr; i++)
		if (late.items[i].state != TRACEE_GONE)
			late.items[kept++] = late.items[i];
	late.nr = kept;
	return kept;
}

void late_follow(pid_t process)
{
	for (size_t i = 0; i < late.nr; i++) {
		struct tracee *tracee = &late.items[i];

		if (tracee->process != process || tracee_poll(tracee) != TRACEE_STOPPED)
			continue;
		tracee_prepare_release(tracee);
		tracee_follow(tracee);
	}
}
