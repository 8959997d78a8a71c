/* What the program does to its mappings, told by userfaultfd events, and its effect on the table (Documentation/admin-guide/mm/userfaultfd.rst). */
#pragma once

#include "pager/address_space.h"

struct uffd_msg;

/* Takes one event that is not a page fault. Layout lock held since before the message was read. Afterwards the table may wait for events_settle. */
void events_apply(struct address_space *as, const struct uffd_msg *msg);

/*
 * True when all events that were read are in the table. Whoever fills a page or lets one leave asks first, under the layout lock that he acts
 * under. False: an event is still unread, to which the order of what was read may depend; the kernel would refuse anyway.
 */
bool events_settle(struct address_space *as);

/* Layout lock held. The same although an event is unread: a fork copies the table now, or there is no room to wait. */
void events_settle_now(struct address_space *as);

/*
 * Layout lock held. The first fault of a fork's child names its process: ranges under MADV_WIPEONFORK are empty in the child and their
 * entries, copied from the parent, are forgotten.
 */
void events_wipe_on_fork(struct address_space *child, pid_t inner_tid);
