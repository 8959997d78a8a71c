/*
 * Faults made on purpose, for the tests (docs/reliability.md says how they are asked for). Only in builds with -Dfaults=true: in all others nothing of this is
 * compiled. Faults happen in the keeper alone, and after it has armed them.
 */
#pragma once

#ifdef MEMBOX_FAULTS

#include "base/types.h"

/* A system call, or a point in the code, that faults can happen at. */
struct fault_site {
	const char *name;
	_Atomic uint64_t passes;
	struct fault_site *next; /* of those that have been passed */
};

enum fault_kind {
	FAULT_NONE,
	FAULT_ERROR,
	FAULT_SHORT,
	FAULT_FLIP
};

/* What happens at this pass; *ret_error (an errno) for FAULT_ERROR. A fault that kills is done here: the keeper, or the process named by pid (0: none). */
enum fault_kind fault_pass(struct fault_site *site, pid_t pid, int *ret_error);

/* The result of a transfer of n bytes, or -errno, as a fault makes it. */
ssize_t fault_transfer(struct fault_site *site, void *buffer, ssize_t n);

/* In the process that is to meet faults; and at its end: how often each site was passed. */
void fault_arm(void);
void fault_report(void);

#define FAULT_SITE(text)                                           \
	(__extension__({                                           \
		static struct fault_site site_ = {.name = (text)}; \
		&site_;                                            \
	}))
#define FAULT_ARM() fault_arm()
#define FAULT_REPORT() fault_report()
#define FAULT_POINT(name) FAULT_POINT_OF(name, 0)
#define FAULT_POINT_OF(name, pid) ((void)fault_pass(FAULT_SITE(name), (pid), &(int){0}))
#define FAULT_TRANSFER(name, buffer, n) fault_transfer(FAULT_SITE(name), (buffer), (n))

#else

#define FAULT_ARM() ((void)0)
#define FAULT_REPORT() ((void)0)
#define FAULT_POINT(name) ((void)0)
#define FAULT_POINT_OF(name, pid) ((void)0)
#define FAULT_TRANSFER(name, buffer, n) (n)

#endif
