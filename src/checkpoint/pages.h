/* The content of a process's private pages, on its way to the swap file and back. Container thread, with the process held. */
#pragma once

#include "checkpoint/process/process.h"

struct address_space;
struct pages_writer;

/* Buffers. NULL: no memory. */
struct pages_writer *pages_writer_new(struct swap *swap);
void pages_writer_free(struct pages_writer *writer);

/*
 * Every private page that differs from what its mapping gives afresh is in a slot which is pinned, and in an extent of its mapping. as: NULL when the process is
 * not adopted. 0 or -errno with the reason (-ENOSPC: the swap file is full).
 */
int pages_save(struct saved_process *p, struct address_space *as);

/* The bytes [from, to) of an open file, pages of zeros left out, become extents of the object. As above. */
int pages_save_file(struct saved_process *p, Image__Object *object, int fd, uint64_t from, uint64_t to);

/* The first extent of a mapping that ends behind the page; they are in address order. NULL: none. */
const Image__Extent *pages_next_extent(const Image__Mapping *m, remote_addr_t page);

/* /proc/PID/mem, to be written to, or -errno. */
int pages_open_memory(pid_t pid);

/* The reason why a page cannot be made again; returns code. */
int pages_fail_restore(struct restored_process *p, remote_addr_t page, int code);

/*
 * Restore in two steps: before threads are made, what the kernel itself reads, and what cannot come as faults; then, when the process is adopted, the rest
 * is placed, to be read when it is touched.
 */
int pages_restore_now(struct restored_process *p);
struct prefetch;
int pages_place(struct restored_process *p, struct address_space *as, struct prefetch *prefetch); /* to which the working set is added; or NULL */
