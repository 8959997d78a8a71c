#include "inject/ward.h"

#include <errno.h>

#include "inject/tracees.h"

static struct tracees ward; /* only who they are; JOB_STOPPED: somebody has been told so */

bool ward_has(pid_t tid)
{
	return tracees_find(&ward, tid) < ward.nr;
}

bool ward_has_process(pid_t pid)
{
	for (size_t i = 0; i < ward.nr; i++)
		if (ward.items[i].process == pid)
			return true;
	return false;
}

int ward_add(pid_t process, pid_t tid)
{
	size_t i = tracees_find(&ward, tid);

	if (i < ward.nr) {
		ward.items[i].process = process;
		return 0;
	}
	if (tracees_reserve(&ward, i + 1) < 0)
		return -ENOMEM;
	ward.items[ward.nr++] = (struct tracee){.process = process, .tid = tid};
	return 0;
}

void ward_forget(pid_t tid)
{
	size_t i = tracees_find(&ward, tid);

	if (i < ward.nr)
		tracees_remove(&ward, i);
}

void ward_forget_process(pid_t pid)
{
	for (size_t i = 0; i < ward.nr;)
		if (ward.items[i].process == pid)
			tracees_remove(&ward, i);
		else
			i++;
}

pid_t ward_any_process(void)
{
	return ward.nr ? ward.items[0].process : 0;
}

void ward_goes_on(pid_t tid)
{
	size_t i = tracees_find(&ward, tid);

	if (i < ward.nr)
		ward.items[i].state = TRACEE_RUNNING;
}

void ward_continue(pid_t tid, int signal)
{
	struct tracee tracee = {.tid = tid, .state = TRACEE_STOPPED, .ward = true, .signal = signal};

	ward_goes_on(tid);
	tracee_prepare_release(&tracee);
	tracee_release(&tracee);
}

bool ward_listen(pid_t tid)
{
	size_t i = tracees_find(&ward, tid);
	bool is_news = i < ward.nr && ward.items[i].state != TRACEE_JOB_STOPPED;

	if (is_news)
		ward.items[i].state = TRACEE_JOB_STOPPED;
	ptrace(PTRACE_LISTEN, tid, NULL, NULL);
	return is_news;
}

void ward_detach(pid_t tid)
{
	ward_forget(tid);
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
}
