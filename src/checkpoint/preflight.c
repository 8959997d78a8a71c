#include "checkpoint/preflight.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/process/process.h"
#include "platform/requirements.h"

static int check_mappings(const Image__Process *process, struct checkpoint_error *error)
{
	for (size_t i = 0; process->memory && i < process->memory->n_mappings; i++) {
		const Image__Mapping *m = process->memory->mappings[i];
		int r = m->kind == IMAGE__MAPPING__KIND__FILE ? mapping_check_file(m) : 0;
		if (r < 0)
			return checkpoint_fail(error, r, "process %d: its file %.200s: %s", process->pid, m->path,
					       r == -ESTALE ? "it is not what it was (another length or time of change)" : strerror(-r));
	}
	return 0;
}

static int check_file(const Image__File *f, struct checkpoint_error *error)
{
	bool has_path = f->kind == IMAGE__FILE__KIND__REGULAR || f->kind == IMAGE__FILE__KIND__FOLDER || f->kind == IMAGE__FILE__KIND__DEVICE;
	int access_mode = (int)(f->flags & O_ACCMODE);
	int wanted = access_mode == O_RDONLY ? R_OK : access_mode == O_WRONLY ? W_OK : R_OK | W_OK;
	if (!has_path || f->flags & O_PATH || faccessat(AT_FDCWD, f->path, wanted, AT_EACCESS) == 0)
		return 0;
	return checkpoint_fail(error, -errno, "file %.200s, which it has open: %s", f->path, strerror(errno));
}

static int check_ids(const Image__Image *image, bool isolate, struct checkpoint_error *error)
{
	if (!isolate && !requirements_may_choose_ids())
		return checkpoint_fail(error, -EPERM, "process ids cannot be given again (that needs CAP_CHECKPOINT_RESTORE, or --isolate)");
	for (size_t i = 1; isolate && i < image->n_processes; i++)
		if (!image->processes[i]->parent)
			return checkpoint_fail(error, -ENOTSUP, "process %d: it has lost its parent: it cannot be in namespaces of its own", image->processes[i]->pid);
	return 0;
}

int preflight_check(const Image__Image *image, bool isolate, struct checkpoint_error *error)
{
	int r = check_ids(image, isolate || image->container->isolated, error);
	for (size_t i = 0; r == 0 && i < image->n_processes; i++)
		r = check_mappings(image->processes[i], error);
	for (size_t i = 0; r == 0 && i < image->n_files; i++)
		r = check_file(image->files[i], error);
	return r;
}
