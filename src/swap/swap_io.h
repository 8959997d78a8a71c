/*
 * Asynchronous page I/O on a swap file: one queue for each keeper thread that does I/O (io_uring; plain pread/pwrite where the kernel or a
 * seccomp filter refuses io_uring). Buffers must be page aligned (O_DIRECT). Short transfers are continued inside.
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

/* Pollable: readable when completions wait. */
int swap_io_fd(const struct swap_io *io);

/* Queue and submit one transfer of nr_slots contiguous slots. -EAGAIN when depth requests are in flight. */
int swap_io_read(struct swap_io *io, slot_t first, uint32_t nr_slots, void *buffer, void *token);
int swap_io_write(struct swap_io *io, slot_t first, uint32_t nr_slots, const void *buffer, void *token);

/* Takes up to max completions; never blocks unless wait is true (then at least one, when any is in flight). Returns the count. */
int swap_io_reap(struct swap_io *io, struct swap_completion *completions, int max, bool wait);

uint32_t swap_io_in_flight(const struct swap_io *io);
