/* Which mappings of a program are registered with userfaultfd, and which of their pages are never evicted. */
#pragma once

#include "pager/address_space.h"

/* Layout lock held: flags the pages of [start, end) as never to be evicted. 0 or -ENOMEM. */
int registration_pin(struct address_space *as, remote_addr_t start, remote_addr_t end);

/*
 * Layout lock held. Pins the pages that the kernel writes when a thread ends (clear_child_tid, robust list) for every thread there is: such a
 * write to an evicted page is lost without a message (FACTS section 3). Pins stay until the page is unmapped: glibc uses cached stacks again. 0 or -errno:
 * there may be a thread that is not known.
 */
int registration_pin_threads(struct address_space *as);

/* True when some of [start, end) is registered now: what the kernel says. */
bool registration_covers(const struct address_space *as, remote_addr_t start, remote_addr_t end);

/*
 * Layout lock held. Every mapping that is registered (also the agent's own) is so no longer: waiting threads go on, write protection is gone, no event
 * is raised any more. 0, or -EAGAIN with nothing done: an event is unread; -EBUSY: a page is evicted; or -errno.
 */
int registration_remove_all(struct address_space *as);

/*
 * Layout lock held. The extent of the registered mapping that page lies in: a hint, because a program changes its mappings without a word
 * (mprotect, in-place growth). false: nothing is known.
 */
bool registration_extent(struct address_space *as, remote_addr_t page, struct range *ret);
