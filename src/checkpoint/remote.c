#include "checkpoint/remote.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "platform/process.h"

int remote_open(struct remote *remote, struct world *world, remote_addr_t at)
{
	*remote = (struct remote){.world = world};
	/* Shared: a private mapping would become one with those of the program beside it. */
	uint64_t flags = MAP_SHARED | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0);
	long r = REMOTE_CALL(remote, SYS_mmap, at, REMOTE_SCRATCH_BYTES, PROT_READ | PROT_WRITE, flags, (uint64_t)-1, 0);
	if (r < 0)
		return (int)r;
	remote->scratch = (remote_addr_t)r;
	return 0;
}

void remote_close(struct remote *remote)
{
	if (remote->scratch)
		REMOTE_CALL(remote, SYS_munmap, remote->scratch, REMOTE_SCRATCH_BYTES);
	remote->scratch = 0;
}

long remote_call(const struct remote *remote, long number, const uint64_t args[6])
{
	return remote->tid ? world_syscall_by(remote->world, remote->tid, number, args) : world_syscall(remote->world, number, args);
}

remote_addr_t remote_put(const struct remote *remote, size_t offset, const void *data, size_t len)
{
	remote_addr_t at = remote->scratch + offset;
	pid_t tid = world_thread(remote->world);
	if (!remote->scratch || offset + len > REMOTE_SCRATCH_BYTES || tid < 0 || process_write(tid, at, data, len) < 0)
		return 0;
	return at;
}

int remote_get(const struct remote *remote, size_t offset, void *data, size_t len)
{
	pid_t tid = world_thread(remote->world);
	if (offset + len > REMOTE_SCRATCH_BYTES)
		return -EINVAL;
	return tid < 0 ? tid : process_read(tid, remote->scratch + offset, data, len);
}
