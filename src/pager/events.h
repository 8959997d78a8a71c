/* What the program does to its mappings, told by userfaultfd events, and its effect on the table (Documentation/admin-guide/mm/userfaultfd.rst). */
#pragma once

#include "pager/address_space.h"

struct uffd_msg;

/* Applies one event that is not a page fault. Layout lock held since before the message was read. */
void events_apply(struct address_space *as, const struct uffd_msg *msg);

/*
 * Layout lock held. The first fault of a fork's child names its process: ranges under MADV_WIPEONFORK are empty in the child and their
 * entries, copied from the parent, are forgotten.
 */
void events_wipe_on_fork(struct address_space *child, pid_t inner_tid);
