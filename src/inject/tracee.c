#include "inject/tracee.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "inject/interrupted.h"
#include "inject/report.h"
#include "platform/process.h"
#include "platform/scheduling.h"

#define STOP_AT_SYSCALL (SIGTRAP | 0x80) /* with PTRACE_O_TRACESYSGOOD */
#define STOP_AT_INTERRUPT (SIGTRAP | PTRACE_EVENT_STOP << 8)

#define WARD_OPTIONS                                                                                                  \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | \
	 PTRACE_O_TRACEEXEC)

#define SIGNALS_MAX 64
#define YIELD_ROUNDS 300
#define NAP_NS 50000

/* A real-time thread yields to nobody that it waits for: where there is one processor only it has to sleep. */
void poll_nap(unsigned int *rounds)
{
	static const struct timespec nap = {.tv_nsec = NAP_NS};

	if (++*rounds < YIELD_ROUNDS && scheduling_nr_processors() > 1)
		sched_yield();
	else
		nanosleep(&nap, NULL);
}

static ssize_t read_task_file(pid_t process, pid_t tid, const char *name, char *buf, size_t size)
{
	_cleanup_close_ int fd = -1;
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", process, tid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return n;
}

char thread_state(pid_t process, pid_t tid)
{
	char buf[128];
	char *paren;

	if (read_task_file(process, tid, "stat", buf, sizeof(buf)) <= 0)
		return 'X';
	paren = strrchr(buf, ')');
	return paren && paren[1] == ' ' ? paren[2] : 'X';
}

static bool is_own_child(pid_t pid)
{
	struct process_info info;

	return process_info_read(pid, &info) == 0 && info.parent == getpid();
}

void tracee_take_over(struct tracee *tracee, pid_t process, pid_t tid)
{
	*tracee = (struct tracee){.process = process, .tid = tid, .state = TRACEE_RUNNING, .ward = true};
	tracee->own_child_leader = tid == process && is_own_child(process);
	tracee_interrupt(tracee);
}

int tracee_accompany(struct tracee *tracee, pid_t process, pid_t tid)
{
	*tracee = (struct tracee){.process = process, .tid = tid, .state = TRACEE_RUNNING, .follows = true};
	if (ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_TRACESYSGOOD) < 0) {
		int error = -errno;
		char state = thread_state(process, tid);

		return state == 'Z' || state == 'X' ? -ESRCH : error;
	}
	tracee->own_child_leader = tid == process && is_own_child(process);
	return 0;
}

int tracee_seize(struct tracee *tracee, pid_t process, pid_t tid)
{
	int r = tracee_accompany(tracee, process, tid);

	if (r == 0)
		tracee_stop_following(tracee);
	return r;
}

void tracee_interrupt(struct tracee *tracee)
{
	tracee->follows = ptrace(PTRACE_INTERRUPT, tracee->tid, NULL, NULL) < 0; /* then it runs on, if it still lives, and is told once more */
}

void tracee_stop_following(struct tracee *tracee)
{
	if (tracee->follows)
		tracee_interrupt(tracee);
}

bool tracee_is_held(const struct tracee *tracee)
{
	siginfo_t info;

	return ptrace(PTRACE_GETSIGINFO, tracee->tid, NULL, &info) == 0 || errno == EINVAL;
}

/* Left to whoever takes the reports of tasks that stay traced: a child is to be looked after, or the memory is another one. */
static bool is_of_birth_or_exec(int report)
{
	return report_is_birth(report) || report_event(report) == PTRACE_EVENT_EXEC;
}

/*
 * One report about the thread, or 0 when there is none, or -ESRCH when it is dead. A report is signal | event << 8. The death of the
 * leader of our own child is only looked at: the status belongs to whoever waits for the child. Every other death must be taken,
 * so that the real parent learns of it.
 */
static int next_report(struct tracee *tracee)
{
	siginfo_t info = {.si_pid = 0};
	int options = WSTOPPED | WEXITED | WNOHANG | __WALL;
	bool died;

	if (waitid(P_PID, (id_t)tracee->tid, &info, options | WNOWAIT) < 0)
		return errno == EINTR ? 0 : -ESRCH;
	if (info.si_pid == 0)
		return 0;
	if (tracee->ward && info.si_code == CLD_TRAPPED && is_of_birth_or_exec(info.si_status)) {
		tracee->in_event = true;
		return 0;
	}
	died = info.si_code != CLD_TRAPPED && info.si_code != CLD_STOPPED;
	if (!died || !tracee->own_child_leader)
		waitid(P_PID, (id_t)tracee->tid, &info, options);
	return died ? -ESRCH : info.si_status;
}

/* A caller that waits for all children may have taken the report: then the thread itself is asked why it stands still. */
static int lost_report(const struct tracee *tracee)
{
	siginfo_t info;

	if (ptrace(PTRACE_GETSIGINFO, tracee->tid, NULL, &info) < 0)
		return errno == EINVAL ? SIGSTOP | PTRACE_EVENT_STOP << 8 : 0;
	return info.si_code >> 8 == PTRACE_EVENT_STOP ? STOP_AT_INTERRUPT : info.si_signo;
}

/*
 * Calls that report -EINTR on a mere interruption, where others ask the kernel to restart them. Nothing of them has been done yet, so
 * starting them again is what the kernel does for the others. A relative timeout starts again with them.
 */
static bool reports_interruption(long number)
{
	static const short numbers[] = {
#ifdef SYS_epoll_wait
		SYS_epoll_wait,
#endif
		SYS_epoll_pwait,    SYS_epoll_pwait2,  SYS_semop,   SYS_semtimedop, SYS_rt_sigtimedwait,
		SYS_io_getevents,   SYS_recvfrom,      SYS_recvmsg, SYS_recvmmsg,   SYS_accept,
		SYS_accept4,        SYS_sendto,        SYS_sendmsg, SYS_sendmmsg,   SYS_connect,
		SYS_io_uring_enter, SYS_io_pgetevents, SYS_read,    SYS_readv,      SYS_write,
		SYS_writev, /* of a socket with a timeout */
	};

	for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
		if (numbers[i] == number)
			return true;
	return false;
}

/*
 * Undoes an EINTR that only our stop has caused: the call asks for a restart as ppoll does. The kernel then decides, when the thread goes on
 * and takes its signals: the call reports EINTR if a handler runs in this thread, and starts again if none does (a signal that is ignored,
 * or that another thread takes). A mask that was swapped for the duration of the call (epoll_pwait) it treats accordingly.
 */
static bool undo_in_regs(struct thread_regs *regs)
{
	return regs_result(regs) == -EINTR && reports_interruption(regs_in_syscall(regs)) && regs_request_restart(regs);
}

static void undo_interruption(const struct tracee *tracee)
{
	struct thread_regs regs = {0};

	if (regs_read(tracee->tid, &regs) < 0)
		return;
	interrupted_note(tracee->tid, &regs);
	if (undo_in_regs(&regs))
		regs_write(tracee->tid, &regs);
}

enum tracee_state tracee_poll(struct tracee *tracee)
{
	int report = next_report(tracee);

	if (report == 0 && !tracee->in_event)
		report = lost_report(tracee);
	if (report == 0)
		return tracee->state;
	if (report < 0)
		tracee->state = TRACEE_GONE;
	else if (report == STOP_AT_INTERRUPT)
		tracee->state = TRACEE_STOPPED;
	else if (report_is_job_control(report))
		tracee->state = TRACEE_JOB_STOPPED;
	else { /* a signal on its way: let it take its course, the stop comes right after */
		undo_interruption(tracee);
		ptrace(PTRACE_CONT, tracee->tid, NULL, report_signal(report));
	}
	return tracee->state;
}

/*
 * Waits for the next report of a thread that was just set going; -ESRCH when it died. The death of a leader is reported only after that of
 * the last other thread, which may be one that we hold as well: a zombie is not waited for, its report is still to come.
 */
static int wait_report(struct tracee *tracee)
{
	unsigned int rounds = 0;
	int report;

	while ((report = next_report(tracee)) == 0) {
		poll_nap(&rounds);
		if (rounds % 64 == 0 && thread_state(tracee->process, tracee->tid) == 'Z')
			return -ESRCH;
	}
	if (report < 0)
		tracee->state = TRACEE_GONE;
	return report;
}

/*
 * Sets the thread going until it reports `wanted`. All signals are blocked, but SIGSTOP cannot be: it is put off until the release. Nor can one that the kernel
 * forces upon it, again and again when it has unmapped what the kernel writes to (its restartable sequence): -EFAULT.
 */
static int run_until(struct tracee *tracee, int wanted)
{
	for (int nr_signals = 0;;) {
		long r = wanted == STOP_AT_SYSCALL ? ptrace(PTRACE_SYSCALL, tracee->tid, NULL, NULL)
						   : ptrace(PTRACE_CONT, tracee->tid, NULL, NULL);
		int report;

		tracee->state = TRACEE_RUNNING; /* if it is killed, the report of its death is still to come */
		if (r < 0 && tracee_is_held(tracee))
			tracee->state = TRACEE_BORROWED;
		if (r < 0)
			return -ESRCH;
		report = wait_report(tracee);
		if (report < 0)
			return report;
		tracee->state = TRACEE_BORROWED;
		if (report == wanted)
			return 0;
		if (report >> 8 == 0)
			tracee->deferred_signal = report & 0x7f;
		if (report >> 8 == 0 && ++nr_signals == SIGNALS_MAX)
			return -EFAULT;
	}
}

/*
 * A thread inside a restartable sequence (rseq) that is made to run elsewhere would forget that it was interrupted. The kernel sends an
 * interrupted sequence to its abort address; so do we. In a system call there is none.
 */
static void abort_restartable_sequence(struct tracee *tracee)
{
#ifdef PTRACE_GET_RSEQ_CONFIGURATION
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} section;
	struct __ptrace_rseq_configuration area;
	uint64_t pc = regs_pc(&tracee->saved_regs);
	uint64_t pointer; /* rseq_cs: eight bytes into the area */

	if (regs_in_syscall(&tracee->saved_regs) >= 0)
		return;
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tracee->tid, sizeof(area), &area) < 0 || !area.rseq_abi_pointer)
		return;
	if (process_read(tracee->process, area.rseq_abi_pointer + 8, &pointer, sizeof(pointer)) < 0 || !pointer)
		return;
	if (process_read(tracee->process, pointer, &section, sizeof(section)) < 0)
		return;
	if (pc - section.start < section.length)
		regs_set_pc(&tracee->saved_regs, section.abort);
#endif
}

/* A thread that has registers of ours must not run on when the keeper is killed: the kernel kills its process in that moment. */
static void set_options(const struct tracee *tracee, unsigned long more)
{
	ptrace(PTRACE_SETOPTIONS, tracee->tid, NULL, PTRACE_O_TRACESYSGOOD | more);
}

static int borrow(struct tracee *tracee)
{
	static const uint64_t all_signals = ~UINT64_C(0);
	int r = regs_read(tracee->tid, &tracee->saved_regs);

	if (r < 0)
		return r;
	if (ptrace(PTRACE_GETSIGMASK, tracee->tid, sizeof(uint64_t), &tracee->saved_mask) < 0)
		return -errno;
	abort_restartable_sequence(tracee);
	if (ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(uint64_t), &all_signals) < 0)
		return -errno;
	set_options(tracee, PTRACE_O_EXITKILL); /* so that it does not outlive us in another class either */
	if (tracee->goes_first)
		scheduling_put_first(tracee->tid, &tracee->was);
	tracee->state = TRACEE_BORROWED;
	return 0;
}

long tracee_syscall(struct tracee *tracee, remote_addr_t pc, long number, const uint64_t args[6])
{
	struct thread_regs regs;
	int r = 0;

	if (tracee->state == TRACEE_STOPPED)
		r = borrow(tracee);
	if (r < 0)
		return r;
	regs = tracee->saved_regs;
	regs_set_syscall(&regs, pc, number, args);
	r = regs_write(tracee->tid, &regs);
	if (!r)
		r = run_until(tracee, STOP_AT_SYSCALL);
	if (!r)
		r = run_until(tracee, STOP_AT_SYSCALL);
	if (!r)
		r = regs_read(tracee->tid, &regs);
	return r ? r : regs_result(&regs);
}

/*
 * Brings a borrowed thread back to the kind of stop it was found in. From the exit stop of a system call the kernel goes to user space
 * without a look at -ERESTART*; from an event stop it handles them, so the saved registers must be seen there.
 */
static void settle(struct tracee *tracee)
{
	int r = regs_write(tracee->tid, &tracee->saved_regs);

	if (r < 0 && r != -ESRCH) /* it would go on with ours */
		r = regs_write(tracee->tid, &tracee->saved_regs);
	if (r < 0)
		return;
	tracee_interrupt(tracee);
	if (tracee->follows) /* it could not be told: it would never stop */
		tracee_interrupt(tracee);
	if (tracee->follows)
		return;
	if (run_until(tracee, STOP_AT_INTERRUPT) < 0 && (tracee->state != TRACEE_BORROWED || run_until(tracee, STOP_AT_INTERRUPT) < 0))
		return;
	ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(tracee->saved_mask), &tracee->saved_mask);
	if (tracee->goes_first)
		scheduling_put_back(tracee->tid, &tracee->was);
	set_options(tracee, 0);
	tracee->state = TRACEE_STOPPED;
}

/* How far it had come only this task knows, and another one is to go on. */
static void begin_again(pid_t tid, struct thread_regs *regs)
{
	long number = regs_in_syscall(regs) == SYS_restart_syscall ? interrupted_call(tid, regs) : -1;

	if (number >= 0)
		regs_set_in_syscall(regs, number);
	regs_request_restart(regs);
}

int tracee_read(struct tracee *tracee, struct thread_regs *ret_regs, uint64_t *ret_mask)
{
	if (tracee->state != TRACEE_STOPPED && tracee->state != TRACEE_BORROWED)
		return -ESRCH;
	if (tracee->state == TRACEE_STOPPED) {
		int r = regs_read(tracee->tid, &tracee->saved_regs);

		if (r < 0)
			return r;
		if (ptrace(PTRACE_GETSIGMASK, tracee->tid, sizeof(tracee->saved_mask), &tracee->saved_mask) < 0)
			return -errno;
	}
	*ret_regs = tracee->saved_regs;
	*ret_mask = tracee->saved_mask;
	undo_in_regs(ret_regs);
	if (regs_wants_rest(ret_regs))
		begin_again(tracee->tid, ret_regs);
	return 0;
}

int tracee_write(struct tracee *tracee, const struct thread_regs *regs, uint64_t mask)
{
	if (tracee->state != TRACEE_STOPPED && tracee->state != TRACEE_BORROWED)
		return -ESRCH;
	tracee->saved_regs = *regs;
	tracee->saved_mask = mask;
	if (tracee->state == TRACEE_BORROWED)
		return 0;
	if (ptrace(PTRACE_SETSIGMASK, tracee->tid, sizeof(mask), &mask) < 0)
		return -errno;
	return regs_write(tracee->tid, regs);
}

void tracee_prepare_release(struct tracee *tracee)
{
	if (tracee->state == TRACEE_BORROWED)
		settle(tracee);
	if (tracee->state == TRACEE_STOPPED)
		undo_interruption(tracee);
}

/* One that runs, or is dying, is left to whoever takes the reports of those that stay traced; a stop by job control, which only we have heard of, is reported to it again. */
static void release_ward(struct tracee *tracee)
{
	if (tracee->state == TRACEE_JOB_STOPPED) {
		ptrace(PTRACE_LISTEN, tracee->tid, NULL, NULL);
		ptrace(PTRACE_INTERRUPT, tracee->tid, NULL, NULL);
	} else if (tracee->state != TRACEE_RUNNING) {
		ptrace(PTRACE_SETOPTIONS, tracee->tid, NULL, WARD_OPTIONS);
		ptrace(PTRACE_CONT, tracee->tid, NULL, tracee->signal);
	}
	tracee->state = TRACEE_GONE;
}

bool tracee_follow(struct tracee *tracee)
{
	if (tracee->state != TRACEE_STOPPED || tracee->ward || tracee->deferred_signal ||
	    ptrace(PTRACE_CONT, tracee->tid, NULL, NULL) < 0)
		return false;
	tracee->state = TRACEE_RUNNING;
	tracee->follows = true;
	return true;
}

bool tracee_release(struct tracee *tracee)
{
	if (tracee->state == TRACEE_GONE)
		return true;
	if (tracee->state != TRACEE_RUNNING && tracee->deferred_signal)
		syscall(SYS_tgkill, tracee->process, tracee->tid, tracee->deferred_signal);
	if (tracee->ward) {
		release_ward(tracee);
		return true;
	}
	if (tracee->state != TRACEE_RUNNING && ptrace(PTRACE_DETACH, tracee->tid, NULL, NULL) == 0) {
		tracee->state = TRACEE_GONE;
		return true;
	}
	tracee->state = TRACEE_RUNNING;
	return false;
}
