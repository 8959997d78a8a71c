/*
 * Finding, creating and locking the file that shall hold a container's swap, and every way in which that can fail, said so that the user
 * understands it. Nothing is written here except a new directory entry.
 */
#pragma once

#include "base/types.h"
#include "swap/swap.h"

struct swap_claim {
	int fd;          /* O_RDWR | O_CLOEXEC, locked with flock; not yet O_DIRECT */
	int directory;   /* O_PATH, so that a relative path survives chdir */
	const char *name; /* of the file in its directory: points into the caller's path */
	bool created;    /* the file was not there before */
	bool was_empty;  /* it was there, with no bytes */
};

/* The path must outlive the claim. Errors as swap_open. */
int swap_claim_open(const char *path, struct swap_claim *ret_claim, struct swap_error *error);

/* Removes the directory entry, if it still leads to the claimed file. */
void swap_claim_unlink(const struct swap_claim *claim);

/* Unlocks at once, even if the kernel still holds a reference to the open file (a ring that is being torn down does). */
void swap_claim_release(struct swap_claim *claim);

/* Fills error (if not NULL) with `cannot use swap file PATH: WHY` and returns code. */
int swap_error_set(struct swap_error *error, const char *path, int code, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* As swap_error_set, with the plain words for what the system said (a negative errno). */
int swap_error_system(struct swap_error *error, const char *path, int code);
