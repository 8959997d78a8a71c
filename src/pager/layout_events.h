/*
 * The order of layout changes whose userfaultfd events were read out of order. Pure: no system calls.
 *
 * The kernel changes the layout under its own lock and sends the event after it has dropped that lock, so what two threads do one after the
 * other may be read the other way round. That matters where a mapping is moved to a place that another one has just left:
 *
 *      thread 1: mremap A → T                       thread 2: mremap B → A (the place is free now)
 *      events read:  moved B → A,  moved A → T      or   moved A → T,  moved B → A,  unmapped A (the end of thread 1's call)
 *
 * To apply these as they were read would carry B's entries to T, or delete them. So from the first move on events are collected here until no
 * event is pending (the kernel puts nothing in and moves nothing out until then), and applied in the order in which they can have happened:
 *
 *   - What a move leaves behind it also unmaps: that event says nothing new and is dropped. A move without one was MREMAP_DONTUNMAP.
 *   - At one place mappings arrive and leave in turn. When a leave was read after an arrival, their numbers tell which was first, or, where
 *     they are equal, whether something is there now.
 *   - All else stays as it was read.
 *
 * What cannot be told: a thread is kept from sending its event for so long that another one takes the place, has both events of that read, and
 * leaves it again. Then the first leave read is taken for the first thread's.
 */
#pragma once

#include "base/types.h"

#define LAYOUT_EVENTS_MAX 128

enum layout_event_kind {
	LAYOUT_MOVED,
	LAYOUT_UNMAPPED,
	LAYOUT_DISCARDED
};

struct layout_event {
	enum layout_event_kind kind;
	bool is_unmapped; /* MOVED: the unmapping of its old place was read */
	bool is_applied;  /* MOVED: kept for the unmapping of its old place only */
	remote_addr_t start, end;
	remote_addr_t to; /* MOVED */
};

struct layout_events {
	struct layout_event *items; /* in the order in which they were read; room for LAYOUT_EVENTS_MAX */
	uint32_t nr;
};

/* True when an address is in a registered mapping now. */
typedef bool (*layout_is_registered_t)(void *context, remote_addr_t addr);

/* Adds an event, or drops it where it says nothing new. False: no room, or no memory. */
bool layout_events_add(struct layout_events *events, const struct layout_event *event);

/*
 * Writes the indices of the events that are to be applied, in order; returns how many. is_final: no event is pending, so a move whose old place
 * was not unmapped has left it mapped.
 */
uint32_t layout_events_order(const struct layout_events *events, bool is_final, layout_is_registered_t is_registered,
			     void *context, uint32_t order[LAYOUT_EVENTS_MAX]);

/* All were applied. is_final: nothing is pending. Otherwise moves stay whose old place may still be unmapped, as far as half of the room. */
void layout_events_applied(struct layout_events *events, bool is_final);

void layout_events_release(struct layout_events *events);
