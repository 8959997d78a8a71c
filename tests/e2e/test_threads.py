"""What the kernel does with memory of a program behind its back, on pages that have been evicted. The victims check themselves."""
import contextlib
import os
import signal
import threading

import pytest

from boxes import MIB, describe, named, scale, victim


def evicted_pages(run):
    return sum(int(line.split("=")[1]) for line in run.stderr.splitlines() if line.startswith("evicted_pages="))


def check(box, name, *arguments, least=1, **options):
    run = box.run_victim(name, *arguments, **options)
    if run.stats:
        assert evicted_pages(run) >= least, f"the victim met no evicted page: {run.stderr}"


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("name", ["start-join-threads", "start-join-threads-static", "start-join-threads-musl"])
def test_starting_and_joining_threads(box, name, batch):
    """The page that holds clear_child_tid must not be evicted."""
    count = 10000 // batch * batch
    run = box.run_victim(name, count, batch, scale(32, 64), limit=scale(16, 32) * MIB)
    assert run.stdout == b"%d threads\n" % count


@pytest.mark.parametrize("call", ["file", "pipe", "socket", "epoll", "futex", "mutex", "signals", "small"])
def test_system_calls_on_evicted_buffers(box, call):
    check(box, "calls-on-evicted", call)


def test_layout_changes_of_evicted_mappings(box):
    check(box, "remap-evicted", least=1000)


@pytest.mark.parametrize("threads", [2, 4, 16])
def test_mappings_that_take_the_place_of_moved_ones(box, threads):
    """The events of the two moves may be read in the wrong order."""
    run = box.run_victim("trade-places", scale(64, 128), threads, scale(1200, 16000), limit=scale(20, 40) * MIB)
    assert run.stdout == b"right\n"


def test_fork_with_evicted_pages(box):
    check(box, "fork-evicted", least=500)


def test_exec_from_an_adopted_process(box):
    check(box, "exec-evicted", least=50)


@pytest.mark.parametrize("how", ["exit", "exec"])
def test_memory_outlives_its_process(box, how):
    """Another process, no thread of it, has the same memory: nothing of it is lost, and the limit goes on to hold."""
    run = box.run_victim("outlive-sharer", how, scale(48, 96), limit=scale(16, 32) * MIB)
    assert run.stdout == b"right\n"
    assert not run.stats or (run.stats["adoptions"] >= 2 and run.stats["rss_max_usage"] < scale(32, 64) * MIB), run.stats


@pytest.mark.parametrize("what", ["mlock", "direct", "vmsplice"])
def test_memory_that_the_kernel_holds(box, what):
    check(box, "pin-evicted", what)


def test_deep_recursion(box):
    box.run_victim("deep-recursion", 64)


def test_the_program_sees_no_trace(box):
    check(box, "see-no-trace")


@contextlib.contextmanager
def ignored_signals(name):
    """From outside, so that they also arrive while membox holds the program's threads; SIGWINCH is ignored by default."""
    done = threading.Event()

    def send():
        pids = []
        while not done.wait(0.0005 if pids else 0.02):
            pids = pids or named(os.getpid(), name)
            for pid in pids[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGWINCH)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("main", ["read", "epoll", "epoll-timeout", "nanosleep", "futex", "sigwait", "wait"] +
                         scale([], ["recv-timeout", "poll", "poll-timeout", "select", "clock-nanosleep", "futex-timeout", "accept", "semaphore", "message", "flock"]))
def test_threads_blocked_in_calls(box, main):
    with ignored_signals("blocked-in-calls"):
        check(box, "blocked-in-calls", main)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("seed", range(scale(3, 20)))
def test_random_operations(box, seed, threads):
    run = box.run_victim("random-memory-ops", 1000 + seed, scale(3, 30), 96, threads, limit=32 * MIB)
    assert run.stdout == b"right\n"
