"""stress-ng, which checks its own results, under a quarter of the memory that it takes without a limit. clone makes tasks with all kinds of flags, CLONE_PTRACE too."""
import pytest
from boxes import MIB, need_membox, need_program, scale

LEAST = 24 * MIB  # what is smaller than this has little to evict
# Now and then it fills all of a new mapping inside one system call: that has to fit below the backstop.
OPTIONS = {"vm": ["--vm-bytes", "64M"]}

FEW = ["vm", "mmap", "mremap", "madvise", "brk", "malloc", "pipe", "fork", "clone"]
MORE = ["vm-rw", "vm-splice", "mmapfork", "mmapfixed", "mmapmany", "stack", "memfd", "mlock", "mincore", "msync", "shm", "shm-sysv", "remap",
        "bigheap", "vfork", "exec", "zombie", "futex", "sem", "mutex", "io-uring", "aio", "userfaultfd", "numa"]


@pytest.mark.parametrize("stressor", scale(FEW, FEW + MORE))
def test_right_under_a_quarter(box, stressor):
    need_membox()
    command = [need_program("stress-ng"), "--" + stressor, "1", *OPTIONS.get(stressor, []), "--verify", "--timeout", str(scale(2, 20)), "--oomable", "--temp-path", box.folder]
    bare = box.run_bare(command)
    if bare.status:
        pytest.skip(f"it fails without membox: {bare.stderr[-300:]}")
    run = box.run_boxed(command, max(bare.sample["peak"] // 4, LEAST))
    assert run.status == 0, f"{run.status} {run.stdout[-1000:]!r} {run.stderr[-3000:]}"
