/*
 * Saving and restoring one process, a file for each kind of state. Container thread, with every thread of the process held.
 *
 * Each save function fills its part of the message, in memory of the dump's arena; each restore function makes the process so. 0 or -errno, with the reason in
 * the error that they share. What a process has that could not be restored is refused when it is saved.
 */
#pragma once

#include "checkpoint/image.h"
#include "checkpoint/remote.h"

/* One checkpoint. */
struct saving {
	struct arena arena;
	struct checkpoint_error error;
	Image__Image *image;
	const struct mappings_seen *seen; /* of large processes, looked at before they were held */
	size_t nr_seen;
	bool is_isolated;          /* the processes have namespaces of their own: pid, IPC */
	const char *ipc_namespace; /* if so, as /proc/PID/ns/ipc says; NULL: not known yet */
	bool is_look;              /* for what would be refused: nothing is written, content does not matter (look.h) */
	struct saved_file *files;  /* what the files of the image were found as, in the same order */
	struct pages_writer *writer;
	struct {
		uint64_t pages;   /* that are in a slot */
		uint64_t written; /* of these: written now */
	} count;
};

struct saved_process {
	struct saving *saving;
	struct remote remote;
	pid_t pid;
	Image__Process *message;
	const Image__Process *parent; /* NULL: none that is saved */
	struct range_of_ours { remote_addr_t start, end; } ours[2]; /* what membox has put into it: not to be saved */
	bool is_adopted; /* a userfaultfd of ours is expected */
};

struct family;

/* A pseudo terminal that was made again: both ends, or -1. */
struct restored_terminal {
	int maker, end;
};

/* One restore. */
struct restoring {
	const struct image *image;
	struct checkpoint_error error;
	int *files;     /* for each file of the image, by index: our descriptor, above all that a process will have */
	int *objects;   /* the same for each object */
	struct restored_terminal *terminals; /* and for each pseudo terminal */
	int first_file; /* the lowest of all */
	const char *cgroup; /* the folder of the container's own; NULL: it has none */
	bool has_user_namespace; /* in which the processes have rights until they go on */
	struct family *family; /* pages that several processes share (family.h); NULL: there are none */
};

struct restored_process {
	struct restoring *restoring;
	struct remote remote;
	pid_t pid;
	const Image__Process *message;
	bool has_inherited;      /* the pages of restoring->family, until its layout is restored; then its own part of them */
	remote_addr_t leftover;  /* scratch pages of the process that it is a clone of; 0: it is not */
	pid_t *tids; /* of the message's threads, as we see them; memory of the restore */
};

/*
 * Numbers of processes and threads are saved as these see them themselves; in namespaces of their own that is not what we see. 0: it is gone, or neither in ours nor
 * in the container's.
 */
pid_t saved_id(const struct saving *saving, pid_t pid);

/* What was seen of a process's mappings before it was held; NULL: it is to be looked at now. */
const struct mappings_seen *saved_mappings_seen(const struct saving *saving, pid_t pid);

/* A new process of the image, with its number. NULL: no memory. */
Image__Process *saved_process_new(struct saving *saving, pid_t pid);

/* -ENOMEM with the reason, for an arena that gave nothing. */
int saved_no_memory(struct saving *saving);

/* --- layout.c: mappings and what the kernel knows of the address space; not the content of pages --- */
int layout_save(struct saved_process *p);
/*
 * Whatever the process has mapped is gone but for what the kernel makes, which is where the image has it, and scratch pages out of the way. The first
 * thing that is restored.
 */
int layout_clear(struct restored_process *p);
int layout_restore(struct restored_process *p);
/* Whether the file of a mapping is there as it was. 0, -ESTALE or -errno. */
int mapping_check_file(const Image__Mapping *m);

/* --- threads.c --- */
int threads_save(struct saved_process *p);
int threads_create(struct restored_process *p);  /* the other threads exist */
int threads_restore(struct restored_process *p); /* the last thing that is restored: what they go on with */
/* Calls visit with addresses of the process that the kernel itself reads or writes when a thread is made or ends. */
int threads_for_each_record(const Image__Process *message, int (*visit)(remote_addr_t addr, void *context), void *context);

/* --- signals.c --- */
int signals_save(struct saved_process *p);
int signals_restore(struct restored_process *p);

/* --- timers.c --- */
int timers_save(struct saved_process *p);
int timers_restore(struct restored_process *p);

/* --- attributes.c --- */
int attributes_save(struct saved_process *p);
int attributes_restore(struct restored_process *p);
/* When all its pages are there or come as faults: until then (layout_clear) a huge page would bring zeros with it where others are to come. */
int attributes_allow_huge_pages(struct restored_process *p);

/* --- descriptors.c: which descriptor is which file --- */
int descriptors_save(struct saved_process *p);
int descriptors_restore(struct restored_process *p);

/* --- files.c: the open files themselves --- */
/* The index of the file behind a descriptor, saved when it is seen for the first time; or -errno. */
int files_find(struct saved_process *p, int fd);
/* All have been found: what depends on others (both ends of a pipe). */
int files_complete(struct saving *saving);
/* Opens all, in this process, above `above`. The objects are there already. */
int files_restore(struct restoring *restoring, int above);
void files_close(struct restoring *restoring);

/* --- small helpers --- */
/* Reads /proc/PID/NAME, or a task's. NUL-terminated text in memory of the arena, or NULL (see errno). */
char *proc_text(struct arena *arena, pid_t pid, const char *name, size_t *ret_len);
/* Where the value of a "KEY:\tVALUE" line begins in such a text: it ends where its line does. NULL: there is none. */
const char *proc_value(const char *text, const char *key);
/* The same as a number, in the base that is usual for the key (proc(5)); 0: there is none. */
uint64_t proc_number(const char *text, const char *key, int base);
char *proc_link(struct arena *arena, pid_t pid, const char *name);
