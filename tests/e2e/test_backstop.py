"""The memory cgroup behind a container (v1, v2), where one may be created: what outruns even the keeper is stopped by the kernel. LINEAGE A1, A7."""
import os
import signal
import subprocess

import pytest

from boxes import BARE, MEMBOX, MIB, PYTHON, ask, read, victim, wait_until

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")


def cgroup_of(pid):
    """The folder of a process's memory cgroup, as far as it is one of membox; None: it has none."""
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if "/membox-" in path and ("memory" in controllers.split(",") or not controllers):
            return ("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup") + path
    return None


def limit_of(folder):
    return int(read(f"{folder}/memory.limit_in_bytes") or read(f"{folder}/memory.max"))


@pytest.fixture
def start(box):
    """Starts a container in the background; it is left with a folder of its cgroup. Without rights for one the test is skipped."""
    begun = []

    def begin(name, *program, limit=48 * MIB, **options):
        name = f"{name}-{os.getpid()}"
        process = box.start(program, limit, args=("--name", name), **options)
        begun.append((name, process))
        assert wait_until(lambda: ask(name, "describe"), 5), process.stderr.read()
        about = ask(name, "describe")
        folder = cgroup_of(about["program"])
        if not folder:
            pytest.skip("no memory cgroup may be created here")
        return name, process, about, folder

    yield begin
    for name, process in begun:
        if process.poll() is None:
            ask(name, "kill", signal=signal.SIGKILL)
            process.communicate(timeout=20)


def test_keeper_that_comes_too_late(start):
    """A1: the keeper stands still, the program takes many times its limit: it dies alone, and the reason is given."""
    name, process, about, folder = start("late", PYTHON, "-c", "input(); data = bytearray(600 << 20); input()")
    os.kill(about["keeper"], signal.SIGSTOP)
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert wait_until(lambda: read(f"/proc/{about['program']}/stat").split(") ")[-1][:1] in ("Z", ""), 20)
    os.kill(about["keeper"], signal.SIGCONT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 137 and b"the kernel has killed 1 processes of container " in stderr, stderr
    assert not os.path.exists(folder)


def test_follows_the_limit(start):
    name, _, _, folder = start("follows", victim("random-memory-ops"), "5", "4", "160", "2")
    first = limit_of(folder)
    assert 48 * MIB < first < 160 * MIB
    assert ask(name, "set", limit=400 * MIB)["ok"]
    assert limit_of(folder) > 400 * MIB
    assert wait_until(lambda: ask(name, "describe")["rss_usage"] > 100 * MIB, 10)
    assert ask(name, "set", limit=48 * MIB)["ok"]
    assert wait_until(lambda: limit_of(folder) == first, 5)


def test_nothing_of_it_goes_to_the_systems_swap(start):
    """B1."""
    _, _, _, folder = start("swap", "sleep", "60")
    assert (read(f"{folder}/memory.swappiness") or read(f"{folder}/memory.swap.max")).strip() == "0"


def test_who_leaves_the_container_leaves_the_cgroup(start):
    """A7: with what it has forked; and what is released altogether has no limit."""
    name, _, about, folder = start("leaves", "sh", "-c", "sh -c 'sleep 60 & wait' & wait")
    tree = lambda: {int(pid) for pid in read(f"{folder}/cgroup.procs").split()}
    assert wait_until(lambda: len(tree()) == 3, 5)
    child = next(pid for pid in tree() if int(read(f"/proc/{pid}/stat").split(") ")[1].split()[1]) == about["program"])
    assert ask(name, "release", pid=child)["ok"]
    assert tree() == {about["program"]}
    assert ask(name, "release")["ok"]
    assert limit_of(folder) > 1 << 50
    for pid in (int(pid) for pid in read(f"/proc/{child}/task/{child}/children").split()):
        os.kill(pid, signal.SIGKILL)


def test_leftover_is_removed_by_the_next(start):
    """Keeper and guardian are killed: the folder stays until the next container is started beside it."""
    _, process, about, folder = start("first", "sleep", "60")
    guardian = int(read(f"/proc/{about['keeper']}/stat").split(") ")[1].split()[1])
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in (guardian, about["keeper"], about["program"]):
            os.kill(pid, number)
    process.communicate(timeout=20)
    assert wait_until(lambda: not read(f"{folder}/cgroup.procs").split(), 5) and os.path.exists(folder)
    # Its number is free once its parent has waited for it, which the front has.
    subprocess.run([MEMBOX, "run", "--no-swap", "--", "true"], check=True)
    assert not os.path.exists(folder)
