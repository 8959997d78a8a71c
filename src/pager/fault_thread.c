#include "pager/fault_thread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "pager/events.h"
#include "pager/fault.h"
#include "platform/idle_latency.h"
#include "platform/scheduling.h"
#include "platform/userfaultfd.h"

#define SPIN_NS 100000ull        /* after the last piece of work, before sleeping: the program needs 40 us to wake up and fault again */
#define SPIN_GAPS 3               /* where others could use the processor: not longer than this many times what the next fault takes to come ... */
#define SPIN_LEAST_NS 20000ull
#define SHORT_GAP_NS 40000ull     /* ... and only where faults follow each other closely, as in random access */
#define SPIN_LOADS_NS 300000ull  /* the same while a read is under way: most take 40 to 80 us, and to be woken takes 30 */
#define REST_MS 5                 /* without work: idle processors may sleep deeply again */
#define RETRY_MS 1               /* while faults wait for something that no descriptor announces */
#define MESSAGES_AT_ONCE 64
#define READS_AT_ONCE 32         /* while there are more: threads that fault again and again must not keep events from being read */
#define MAX_HOT 4                /* address spaces polled while spinning */
#define LOOK_AROUND 32           /* every so many spins epoll is asked about the others */

struct fault_thread {
	struct pager *pager;
	pthread_t thread;
	int epoll, wake; /* wake: eventfd */
	_Atomic bool stop, purge;
	_Atomic bool reopen; /* fault_thread_reopen waits on reopened */
	sem_t reopened;
	int reopen_result;
	_Atomic uint32_t preference;
	struct lock lock; /* LOCK_FAULT_THREAD: the list of attached address spaces */
	struct address_space *attached;

	/* The thread's own. */
	struct fault_context context;
	struct fault *deferred; /* each holds a reference on its address space */
	uint32_t nr_deferred, deferred_capacity;
	struct address_space *hot[MAX_HOT];
	uint32_t next_hot;
	uint64_t gap_ns; /* see note_gap */
	struct idle_latency idle_latency;
};

static struct fault *find_deferred(struct fault_thread *thread, const struct fault *fault)
{
	for (uint32_t i = 0; i < thread->nr_deferred; i++)
		if (thread->deferred[i].as == fault->as && thread->deferred[i].inner_tid == fault->inner_tid)
			return &thread->deferred[i];
	return NULL;
}

/*
 * Once for each thread of the program: one to which a signal is pending, or that is asked to stop, does not sleep in a fault within a system call
 * but faults again, as fast as it can.
 */
static void defer(struct fault_thread *thread, const struct fault *fault)
{
	struct fault *before = find_deferred(thread, fault);
	if (before && before->page == fault->page) {
		before->write |= fault->write;
		return;
	}
	if (before) { /* a signal handler's */
		*before = *fault;
		return;
	}
	address_space_get(fault->as);
	if (thread->nr_deferred == thread->deferred_capacity) {
		uint32_t capacity = thread->deferred_capacity ? thread->deferred_capacity * 2 : 64;
		struct fault *bigger = reallocarray(thread->deferred, capacity, sizeof(*bigger));
		if (!bigger) { /* the thread of the program faults again when woken: nothing is lost */
			uffd_wake(fault->as->uffd, fault->page, PAGE_BYTES);
			address_space_put(fault->as);
			return;
		}
		thread->deferred = bigger;
		thread->deferred_capacity = capacity;
	}
	thread->deferred[thread->nr_deferred++] = *fault;
}

/* Layout lock held. */
static void serve_fault(struct fault_thread *thread, struct address_space *as, const struct uffd_msg *msg)
{
	struct fault fault = {.as = as,
			      .page = page_floor(msg->arg.pagefault.address),
			      .inner_tid = (pid_t)msg->arg.pagefault.feat.ptid,
			      .write = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE};
	stat_add(thread->pager->stats, faults, 1);
	if (as->wipe_unchecked)
		events_wipe_on_fork(as, fault.inner_tid);
	shadow_entry_t entry = shadow_get(as->shadow, fault.page);
	if (entry_is_evicted(entry))
		stat_add(thread->pager->stats, refaults, 1);
	address_space_trace(as, TRACE_FAULT, fault.write ? TRACE_FLAG_WRITE : 0, fault.page,
			    entry_is_evicted(entry) ? (uint8_t)(pager_epoch(thread->pager) - entry_epoch(entry)) : TRACE_NO_DISTANCE);
	if (!events_settle(as) || fault_handle(&thread->context, &fault) == FAULT_DEFERRED)
		defer(thread, &fault);
}

/* Layout lock held. A read returns faults before older events, so all events of one read are applied before its faults are served. */
static int serve_some(struct fault_thread *thread, struct address_space *as)
{
	struct uffd_msg msgs[MESSAGES_AT_ONCE];
	int n = uffd_read(as->uffd, msgs, MESSAGES_AT_ONCE);
	for (int i = 0; i < n; i++)
		if (msgs[i].event != UFFD_EVENT_PAGEFAULT)
			events_apply(as, &msgs[i]);
	for (int i = 0; i < n; i++)
		if (msgs[i].event == UFFD_EVENT_PAGEFAULT)
			serve_fault(thread, as, &msgs[i]);
	return n;
}

/*
 * Reads what waits on one userfaultfd. Races: reading an event lets the thread of the program that raised it go on, so reading and applying
 * happen under one hold of the layout lock, and no MOVE can come between.
 */
static int serve(struct fault_thread *thread, struct address_space *as)
{
	int served = 0, n = MESSAGES_AT_ONCE;
	if (atomic_load_explicit(&as->dead, memory_order_relaxed))
		return 0;
	address_space_lock_for_fault(as);
	for (int i = 0; i < READS_AT_ONCE && n == MESSAGES_AT_ONCE; i++) {
		n = serve_some(thread, as);
		served += MAX_OF(n, 0);
	}
	events_settle(as);
	lock_drop(&as->layout);
	return served;
}

static int retry_deferred(struct fault_thread *thread)
{
	int progress = 0;
	uint32_t nr = thread->nr_deferred;
	thread->nr_deferred = 0;
	for (uint32_t i = 0; i < nr; i++) {
		struct fault fault = thread->deferred[i];
		enum fault_result result = FAULT_DONE;
		if (!atomic_load(&fault.as->dead)) {
			address_space_lock_for_fault(fault.as);
			result = events_settle(fault.as) ? fault_handle(&thread->context, &fault) : FAULT_DEFERRED;
			lock_drop(&fault.as->layout);
		}
		if (result == FAULT_DEFERRED) {
			thread->deferred[thread->nr_deferred++] = fault; /* never beyond i: in place */
			continue;
		}
		address_space_put(fault.as);
		progress++;
	}
	return progress;
}

static void make_hot(struct fault_thread *thread, struct address_space *as)
{
	for (uint32_t i = 0; i < MAX_HOT; i++)
		if (thread->hot[i] == as)
			return;
	thread->hot[thread->next_hot++ % MAX_HOT] = as;
}

/* Lets go of dead address spaces. Only this thread does, so no pointer it still uses goes away under it. */
static void purge_dead(struct fault_thread *thread)
{
	struct address_space *dead = NULL;
	lock_take(&thread->lock);
	for (struct address_space **link = &thread->attached; *link;) {
		struct address_space *as = *link;
		if (!atomic_load(&as->dead)) {
			link = &as->next_attached;
			continue;
		}
		*link = as->next_attached;
		as->next_attached = dead;
		dead = as;
	}
	lock_drop(&thread->lock);
	while (dead) {
		struct address_space *as = dead;
		dead = as->next_attached;
		for (uint32_t i = 0; i < MAX_HOT; i++)
			if (thread->hot[i] == as)
				thread->hot[i] = NULL;
		epoll_ctl(thread->epoll, EPOLL_CTL_DEL, as->uffd, NULL);
		address_space_put(as);
	}
}

/* Asks epoll; serves what is ready. Returns how many messages and wake-ups there were. */
static int look_around(struct fault_thread *thread, int timeout_ms)
{
	struct epoll_event events[32];
	int served = 0;
	int n = epoll_wait(thread->epoll, events, ARRAY_LEN(events), timeout_ms);
	for (int i = 0; i < n; i++) {
		struct address_space *as = events[i].data.ptr;
		uint64_t count;
		if (as == (void *)thread) {
			if (read(thread->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
				log_debug("fault thread: eventfd: errno %d", errno);
			served++; /* whoever rang may have set a flag: it is looked at before the next sleep */
			continue;
		}
		if (!as) /* the I/O queue: reaped by the loop */
			continue;
		if (events[i].events & (EPOLLERR | EPOLLHUP)) {
			epoll_ctl(thread->epoll, EPOLL_CTL_DEL, as->uffd, NULL);
			continue;
		}
		served += serve(thread, as);
		make_hot(thread, as);
	}
	return served;
}

static int work_once(struct fault_thread *thread)
{
	int work = loads_reap(&thread->context);
	for (uint32_t i = 0; i < MAX_HOT; i++)
		if (thread->hot[i])
			work += serve(thread, thread->hot[i]);
	if (thread->nr_deferred)
		work += retry_deferred(thread);
	return work;
}

static int watch_io(struct fault_thread *thread)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	if (!thread->context.io)
		return 0;
	return epoll_ctl(thread->epoll, EPOLL_CTL_ADD, swap_io_fd(thread->context.io), &event) < 0 ? -errno : 0;
}

/* The old queue's descriptor leaves epoll by being closed. A load still in flight belongs to a dead address space: it is waited for. */
static void reopen_io(struct fault_thread *thread)
{
	if (loads_exist(&thread->context))
		return;
	int r = fault_context_reopen(&thread->context);
	thread->reopen_result = r < 0 ? r : watch_io(thread);
	atomic_store(&thread->reopen, false);
	sem_post(&thread->reopened);
}

/* Somebody could use the processor: the program, or those who make room for it. */
static bool is_in_the_way(const struct fault_thread *thread)
{
	return scheduling_nr_processors() <= 1 + atomic_load_explicit(&thread->pager->busy, memory_order_relaxed);
}

static uint64_t spin_ns(const struct fault_thread *thread, bool loading)
{
	if (loading)
		return SPIN_LOADS_NS;
	if (!is_in_the_way(thread))
		return SPIN_NS;
	return thread->gap_ns < SHORT_GAP_NS ? MAX_OF(thread->gap_ns * SPIN_GAPS, SPIN_LEAST_NS) : 0;
}

/* How long after the last work the next came: a moving average of what is not longer than a spin. */
static void note_gap(struct fault_thread *thread, uint64_t ns)
{
	thread->gap_ns = thread->gap_ns - thread->gap_ns / 8 + MIN_OF(ns, SPIN_NS) / 8;
}

static void note_work(struct fault_thread *thread, uint64_t last_work, uint64_t now)
{
	note_gap(thread, now - last_work);
	idle_latency_note_work(&thread->idle_latency, now);
}

/* Returns true when there is work again. */
static bool sleep_for_work(struct fault_thread *thread, bool waiting)
{
	int timeout = waiting ? RETRY_MS : thread->idle_latency.is_low ? REST_MS : -1;
	if (look_around(thread, timeout))
		return true;
	if (!waiting)
		idle_latency_rest(&thread->idle_latency);
	return false;
}

static void *fault_thread_main(void *argument)
{
	struct fault_thread *thread = argument;
	uint64_t last_work = monotonic_ns();
	uint32_t spins = 0;
	pthread_setname_np(pthread_self(), "mbx-fault");
	scheduling_prefer_latency();
	while (!atomic_load(&thread->stop)) {
		if (atomic_exchange(&thread->purge, false))
			purge_dead(thread);
		if (atomic_load(&thread->reopen))
			reopen_io(thread);
		atomic_store_explicit(&thread->preference, preference_follow(&thread->pager->preference), memory_order_relaxed);
		int work = work_once(thread);
		if (++spins % LOOK_AROUND == 0)
			work += look_around(thread, 0);
		uint64_t now = monotonic_ns();
		if (work) {
			note_work(thread, last_work, now);
			last_work = now;
			continue;
		}
		if (now - last_work > spin_ns(thread, loads_are_read(&thread->context))) {
			if (sleep_for_work(thread, thread->nr_deferred || loads_exist(&thread->context))) {
				now = monotonic_ns();
				note_work(thread, last_work, now);
				last_work = now;
			}
		}
	}
	return NULL;
}

static int start(struct fault_thread *thread)
{
	thread->epoll = epoll_create1(EPOLL_CLOEXEC);
	thread->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (thread->epoll < 0 || thread->wake < 0)
		return -errno;
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = thread};
	if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, thread->wake, &event) < 0)
		return -errno;
	int r = fault_context_init(&thread->context, thread->pager);
	if (r < 0)
		return r;
	r = watch_io(thread);
	idle_latency_open(&thread->idle_latency);
	if (r == 0)
		r = -pthread_create(&thread->thread, NULL, fault_thread_main, thread);
	if (r < 0)
		fault_context_release(&thread->context);
	return r;
}

static void close_and_free(struct fault_thread *thread)
{
	if (thread->epoll >= 0)
		close(thread->epoll);
	if (thread->wake >= 0)
		close(thread->wake);
	idle_latency_close(&thread->idle_latency);
	sem_destroy(&thread->reopened);
	lock_destroy(&thread->lock);
	free(thread->deferred);
	free(thread);
}

int fault_thread_new(struct pager *pager, struct fault_thread **ret_thread)
{
	struct fault_thread *thread = calloc(1, sizeof(*thread));
	if (!thread)
		return -ENOMEM;
	thread->pager = pager;
	thread->idle_latency.fd = -1;
	lock_init(&thread->lock, LOCK_FAULT_THREAD);
	sem_init(&thread->reopened, 0, 0);
	int r = start(thread);
	if (r < 0) {
		close_and_free(thread);
		return r;
	}
	*ret_thread = thread;
	return 0;
}

void fault_thread_free(struct fault_thread *thread)
{
	atomic_store(&thread->stop, true);
	fault_thread_wake(thread);
	pthread_join(thread->thread, NULL);
	fault_context_release(&thread->context);
	for (uint32_t i = 0; i < thread->nr_deferred; i++)
		address_space_put(thread->deferred[i].as);
	while (thread->attached) {
		struct address_space *as = thread->attached;
		thread->attached = as->next_attached;
		address_space_put(as);
	}
	close_and_free(thread);
}

int fault_thread_attach(struct fault_thread *thread, struct address_space *as)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = as};
	as->thread = thread;
	lock_take(&thread->lock);
	as->next_attached = thread->attached;
	thread->attached = address_space_get(as);
	lock_drop(&thread->lock);
	return epoll_ctl(thread->epoll, EPOLL_CTL_ADD, as->uffd, &event) < 0 ? -errno : 0;
}

void fault_thread_wake(struct fault_thread *thread)
{
	atomic_store(&thread->purge, true);
	event_raise(thread->wake);
}

uint32_t fault_thread_preference(const struct fault_thread *thread)
{
	return atomic_load(&thread->preference);
}

int fault_thread_reopen(struct fault_thread *thread)
{
	atomic_store(&thread->reopen, true);
	fault_thread_wake(thread);
	while (sem_wait(&thread->reopened) < 0 && errno == EINTR)
		;
	return thread->reopen_result;
}
