/* What a ptrace stop reports, as waitid(2) tells it in si_status: signal | event << 8 (ptrace(2)). */
#pragma once

#include <signal.h>
#include <stdbool.h>
#include <sys/ptrace.h>

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

static inline int report_event(int report)
{
	return report >> 8;
}

/* To be delivered when the task goes on; with an event there is none. */
static inline int report_signal(int report)
{
	return report_event(report) ? 0 : report & 0x7f;
}

static inline bool report_is_job_control(int report)
{
	int signal = report & 0xff;

	return report_event(report) == PTRACE_EVENT_STOP &&
	       (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU);
}

static inline bool report_is_birth(int report)
{
	int event = report_event(report);

	return event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE;
}
