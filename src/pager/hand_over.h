/*
 * An address space that goes over to another keeper (docs/architecture.md, "Upgrade"): this process, after exec. With every layout lock held no message is read, nothing is filled in
 * and nothing leaves, so the tables say what is true until another keeper reads the next message. What was read and not answered yet is asked again by whoever waits: they are woken.
 */
#pragma once

#include "pager/address_space.h"

/* Layout lock held. -EAGAIN: some event is not in the table yet, which will be over soon; -EBUSY: a page is on its way to the file. */
int hand_over_check(struct address_space *as);

/* Layout lock held. Calls visit for each entry as the other one is to have it, in address order. */
void hand_over_entries(struct address_space *as, void (*visit)(remote_addr_t page, shadow_entry_t entry, void *context), void *context);

/* True: an entry of a table that somebody has handed over may be believed. */
bool hand_over_entry_is_valid(remote_addr_t page, shadow_entry_t entry);

/* Into one made by address_space_like; nobody else knows it yet. 0, -ENOMEM, or -EBADMSG: it refers to a slot that there is not. */
int take_over_entries(struct address_space *as, remote_addr_t start, uint64_t nr, const uint64_t *entries);
int take_over_range(struct address_space *as, remote_addr_t start, remote_addr_t end);

/* From now on its faults are served. 0 or -errno. */
int take_over_serve(struct address_space *as);
