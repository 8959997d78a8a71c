/*
 * Asynchronous page I/O on a swap file: one queue for each keeper thread that does I/O (io_uring; plain pread/pwrite where the kernel or a
 * seccomp filter refuses io_uring, and for a request that the ring does not take). Buffers must be page aligned (O_DIRECT). Short transfers
 * are continued inside. Where the file is not O_DIRECT, what was transferred does not stay in the page cache.
 */
#pragma once

#include "base/types.h"
#include "swap/swap.h"

struct swap_io;

struct swap_completion {
	void *token;
	int result; /* 0 or -errno */
};

/* depth: requests in flight at most. */
int swap_io_new(struct swap *swap, uint32_t depth, struct swap_io **ret_io);
void swap_io_free(struct swap_io *io); /* waits for what is in flight */

/* Pollable: readable when completions wait. A transfer may be complete when it is begun: reap between beginning one and waiting here. */
int swap_io_fd(const struct swap_io *io);

/* Begins one transfer of nr_slots contiguous slots: 0, or -EAGAIN when depth requests are in flight. What fails is told by its completion. */
int swap_io_read(struct swap_io *io, slot_t first, uint32_t nr_slots, void *buffer, void *token);
int swap_io_write(struct swap_io *io, slot_t first, uint32_t nr_slots, const void *buffer, void *token);

/* Takes up to max completions; never blocks unless wait is true (then at least one, when any is in flight). Returns the count. */
int swap_io_reap(struct swap_io *io, struct swap_completion *completions, int max, bool wait);

uint32_t swap_io_in_flight(const struct swap_io *io);
