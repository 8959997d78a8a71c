/* Mapped pages of files: the program lets go of them, the page cache keeps them for as long as the system has room. */
#pragma once

#include "pager/address_space.h"
#include "platform/pagemap.h"

/* True for a mapping of a file, false for memory of the kernel's own making, devices and shared memory: to unmap that would free nothing, or do harm. */
bool file_pages_are_in(const struct mapping *m);

/*
 * Unmaps all pages of files that the process has mapped and not changed. Its threads are held: a page of a private mapping that is written to
 * between the look and the discard would lose the write. Changes made through shared mappings are the file's and stay with it. Returns
 * the number of pages, or -errno. Takes the agent lock.
 */
int64_t file_pages_drop(struct address_space *as);
