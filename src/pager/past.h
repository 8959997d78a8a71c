/*
 * What missing pages held before they came back: needed where the kernel does not announce forks (docs/architecture.md, "Without fork events"). The
 * child of a fork lacks what was missing when the kernel copied the page tables; when its process is seen the parent's table may no longer say what
 * that was. Time is counted in stamps: a number that stands in the memory of the program, so that a child shows by its copy when it was made.
 *
 *   page:     missing (slot 7)        resident    missing (slot 9)    resident
 *            ├───────────────────────┤           ├───────────────────┤
 *   stamp:    3                   until = 4       5               until = 6
 *
 * Before anything is evicted the stamp rises, so two periods of one page never have a stamp in common. A child with stamp s that lacks the page
 * was made in the first period whose `until` is s or more; when there is none, in the present one, which the table describes.
 *
 * Pure, not thread-safe: the layout lock of the address space guards it.
 */
#pragma once

#include "base/types.h"

enum past_kind {
	PAST_ZEROS,   /* nothing was stored for these pages */
	PAST_SLOT,    /* in slots that follow each other; each item holds a reference on them */
	PAST_UNKNOWN, /* cannot be told: whoever looks at such a page must not go on */
};

struct past_item {
	remote_addr_t start;
	uint32_t nr_pages;
	enum past_kind kind;
	slot_t first_slot; /* PAST_SLOT */
	uint64_t until;    /* stamp at which the pages were there again */
};

struct past {
	struct past_item *items; /* in the order of time */
	uint32_t nr, capacity;
	uint64_t slots; /* references held */
	uint64_t floor; /* children with a smaller stamp cannot be told what they lack */
	void (*put)(void *context, slot_t slot); /* gives a reference back */
	void *context;
};

void past_init(struct past *past, void (*put)(void *context, slot_t slot), void *context);
void past_release(struct past *past);

/* Adds pages that are there again; the reference on each slot is the callee's now. Without memory the floor rises. */
void past_add(struct past *past, const struct past_item *item);

/* The addresses mean something else now. True when a slot was among what was forgotten. */
bool past_cut(struct past *past, remote_addr_t start, remote_addr_t end);

/* No child with a stamp below this one is still to come. */
void past_forget(struct past *past, uint64_t stamp);

/* What the pages of a child with this stamp may have held, latest first: what is visited later overrides. -ESTALE: it cannot be told. */
int past_visit(const struct past *past, uint64_t stamp, void (*visit)(const struct past_item *item, void *context), void *context);
