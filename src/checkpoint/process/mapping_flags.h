/*
 * What only /proc/PID/smaps tells of a process's mappings. The kernel counts all its pages for that, 13 ms for each GiB: too much while a large process is held. It is
 * looked at shortly before, and once more after the hold. Where both agree about the mappings that were there in between, their flags were that. Container thread.
 */
#pragma once

#include "base/arena.h"
#include "base/types.h"

struct mapping_seen {
	remote_addr_t start, end;
	uint64_t inode;
	char modes[5];
	const char *flags; /* as the line VmFlags has them */
};

struct mappings_seen {
	pid_t pid;
	struct mapping_seen *items; /* in address order */
	size_t nr;
};

/* In memory of the arena. 0 or -errno. */
int mappings_look(struct arena *arena, pid_t pid, struct mappings_seen *ret);

/*
 * The flags of a mapping that a line of /proc/PID/maps shows now: those of what was seen in its place, of the same kind; it may have grown, or become one with its
 * neighbour, which the kernel allows if the flags are the same. NULL: nothing like it was seen.
 */
const char *mapping_flags_of(const struct mappings_seen *seen, const char *line);

/* True unless some mapping has other flags the second time. */
bool mappings_agree(const struct mappings_seen *before, const struct mappings_seen *after);

/* True when the flags, separated by blanks, hold this one (two letters). */
bool mapping_has_flag(const char *flags, const char *flag);
