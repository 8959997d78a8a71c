#include "inject/ward.h"

#include <errno.h>
#include <stdlib.h>

#include "inject/tracee.h"

static struct {
	struct {
		pid_t process, tid;
	} *tasks;
	size_t nr, room;
} ward;

static size_t find(pid_t tid)
{
	size_t i;

	for (i = 0; i < ward.nr && ward.tasks[i].tid != tid; i++)
		;
	return i;
}

bool ward_has(pid_t tid)
{
	return find(tid) < ward.nr;
}

bool ward_has_process(pid_t pid)
{
	for (size_t i = 0; i < ward.nr; i++)
		if (ward.tasks[i].process == pid)
			return true;
	return false;
}

int ward_add(pid_t process, pid_t tid)
{
	size_t i = find(tid);

	if (i == ward.room) {
		size_t room = MAX_OF(ward.room * 2, (size_t)64);
		void *grown = reallocarray(ward.tasks, room, sizeof(*ward.tasks));

		if (!grown)
			return -ENOMEM;
		ward.tasks = grown;
		ward.room = room;
	}
	ward.tasks[i].process = process;
	ward.tasks[i].tid = tid;
	ward.nr = MAX_OF(ward.nr, i + 1);
	return 0;
}

void ward_forget(pid_t tid)
{
	size_t i = find(tid);

	if (i < ward.nr)
		ward.tasks[i] = ward.tasks[--ward.nr];
}

void ward_forget_process(pid_t pid)
{
	for (size_t i = 0; i < ward.nr;)
		if (ward.tasks[i].process == pid)
			ward.tasks[i] = ward.tasks[--ward.nr];
		else
			i++;
}

pid_t ward_any_process(void)
{
	return ward.nr ? ward.tasks[0].process : 0;
}

void ward_continue(pid_t tid, int signal)
{
	struct tracee tracee = {.tid = tid, .state = TRACEE_STOPPED, .ward = true, .signal = signal};

	tracee_prepare_release(&tracee);
	tracee_release(&tracee);
}

void ward_listen(pid_t tid)
{
	struct tracee tracee = {.tid = tid, .state = TRACEE_JOB_STOPPED, .ward = true};

	tracee_release(&tracee);
}

void ward_detach(pid_t tid)
{
	ward_forget(tid);
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
}
