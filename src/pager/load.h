/* Reads of evicted pages from the swap file, of which each thread that serves faults has some under way (fault.h). */
#pragma once

#include "pager/address_space.h"

#define LOAD_MAX_PAGES 128
#define NR_LOADS 16

struct fault_context;

/*
 * A read of contiguous slots for contiguous pages, in flight or waiting to be put in. It holds one reference on each slot, so that a slot
 * number found again in the table later means the same content, and a reservation of nr_pages.
 */
struct load {
	struct address_space *as; /* NULL: free */
	remote_addr_t start;
	uint32_t nr_pages;
	uint32_t fault_page; /* index of the page that somebody waits for; the others are readahead */
	slot_t first_slot;
	uint8_t *buffer;
	bool down;    /* the window extends downwards */
	bool sequential; /* the window is one of an established stream: its pages count as asked for */
	bool write;   /* the fault was one: that the page was written to says nothing more */
	bool is_read; /* the content is here and verified; putting it in has to be tried again, or, at a gate, is put off */
	bool is_gate;       /* see read_ahead */
	uint32_t nr_behind; /* it: pages */
	uint64_t begun_ns;  /* it */
};

/* Takes no lock. Collects finished reads and puts them in. Returns how many loads made progress. */
int loads_reap(struct fault_context *context);

/* Reads in flight or waiting to be put in. */
bool loads_exist(const struct fault_context *context);

/* Those in flight. */
bool loads_are_read(const struct fault_context *context);
