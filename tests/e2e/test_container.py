"""A container is watched and changed while it runs, over its control socket. Rows of the lineage: A1, A4 (the limit changes in both directions), B3, B4, B5."""
import contextlib
import json
import os
import signal
import subprocess
import time

import pytest

from boxes import BARE, MEMBOX, MIB, ask, ask_later, runtime_folder, scale, victim, wait_until

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")

SLACK = 16 * MIB


@contextlib.contextmanager
def running(box, name, program, limit, args=(), **options):
    """A container in the background; ends with the program's success, or is killed when the test has failed."""
    process = box.start(program, limit, args=("--name", name, *args), **options)
    try:
        assert wait_until(lambda: ask(name, "describe"), 5), process.stderr.read()
        yield process
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, (process.returncode, stdout[-500:], stderr[-2000:])
    finally:
        if process.poll() is None:
            ask(name, "kill", signal=signal.SIGKILL)
            process.communicate(timeout=20)


def done(reply):
    assert reply and reply["ok"], reply
    return reply


def refused(reply, errno):
    assert reply and not reply["ok"] and reply["errno"] == errno, reply
    return reply


def unique(name):
    return f"{name}-{os.getpid()}"


def rss(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def work(seconds, megabytes, threads=2):
    return [victim("random-memory-ops"), 7, seconds, megabytes, threads]


def test_limit_up_and_down_under_load(box):
    """A4: down to a tenth and back, again and again; usage follows, nothing is lost."""
    name = unique("limits")
    with running(box, name, work(5, 160), 400 * MIB):
        wait_until(lambda: done(ask(name, "describe"))["rss_usage"] > 100 * MIB, 5)
        for _ in range(5):
            down = done(ask(name, "set", limit=40 * MIB))
            assert down["rss_limit"] == 40 * MIB and down["rss_usage"] <= 40 * MIB + SLACK, down
            up = done(ask(name, "set", limit=400 * MIB))
            assert up["rss_limit"] == 400 * MIB


def test_limit_that_cannot_work(box):
    name = unique("least")
    with running(box, name, ["sleep", 1], 64 * MIB):
        refused(ask(name, "set", limit=1000), "EINVAL")
        assert done(ask(name, "describe"))["rss_limit"] == 64 * MIB


def test_reclaim(box):
    """A1: memory is freed although there is room; the program goes on with what it had."""
    name = unique("reclaim")
    with running(box, name, work(3, 120, 1), 400 * MIB):
        wait_until(lambda: done(ask(name, "describe"))["rss_usage"] > 60 * MIB, 5)
        some = done(ask(name, "reclaim", bytes=20 * MIB))
        assert 20 * MIB <= some["reclaimed"] <= 60 * MIB, some
        everything = done(ask(name, "reclaim"))
        assert everything["reclaimed"] > 20 * MIB, everything


def test_park_and_unpark(box):
    """The parked program stands still with next to nothing in memory, and goes on as if nothing had happened."""
    name = unique("park")
    with running(box, name, work(3, 120), 400 * MIB):
        wait_until(lambda: done(ask(name, "describe"))["rss_usage"] > 60 * MIB, 5)
        parked = done(ask(name, "park"))
        assert parked["rss_usage"] < 8 * MIB, parked
        figures = done(ask(name, "stat"))
        assert figures["state"] == "parked"
        program = figures["program"]
        assert rss(program) < 8 * MIB
        os.kill(program, signal.SIGWINCH)
        os.kill(program, signal.SIGCONT)
        before = figures["figures"]["faults"]
        done(ask(name, "park"))
        assert done(ask(name, "stat"))["figures"]["faults"] == before, "a parked program has run"
        done(ask(name, "unpark"))
        refused(ask(name, "unpark"), "EINVAL")
        assert done(ask(name, "describe"))["state"] == "running"


def test_kill_of_a_parked_container(box):
    name = unique("park-kill")
    process = box.start(work(60, 60), 200 * MIB, args=("--name", name))
    assert wait_until(lambda: ask(name, "describe"), 5)
    done(ask(name, "park"))
    assert done(ask(name, "kill", signal=signal.SIGKILL))["signalled"] == 1
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL


def test_park_needs_a_swap_file(box):
    """B3: without a swap file anonymous memory cannot leave."""
    name = unique("no-swap")
    process = box.start(["sleep", "60"], 64 * MIB, args=("--name", name, "--no-swap"))
    assert wait_until(lambda: ask(name, "describe"), 5)
    refused(ask(name, "park"), "ENOENT")
    assert done(ask(name, "describe"))["swap_file"] is None
    done(ask(name, "kill", signal=signal.SIGTERM))
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


def test_wait_tells_the_exit_status(box):
    name = unique("wait")
    process = box.start(["sh", "-c", "read line; exit 7"], 64 * MIB, args=("--name", name))
    assert wait_until(lambda: ask(name, "describe"), 5)
    waiting = [ask_later(name, "wait") for _ in range(3)]
    gone = ask_later(name, "wait")
    gone.close()
    process.communicate(b"go\n", timeout=20)
    assert process.returncode == 7
    assert [done(one.answer())["exit_status"] for one in waiting] == [7, 7, 7]


def test_detached(box):
    """The command returns with the container's name; the program reads nothing, and is not in the session of who started it."""
    name, out = unique("detached"), box.new_path("out")
    script = f"cat; echo $(cut -d' ' -f6 /proc/self/stat) > {out}; sleep 0.3; exit 5"
    process = box.start(["sh", "-c", script], 64 * MIB, args=("--name", name, "--detach"))
    stdout, _ = process.communicate(timeout=10)
    assert (process.returncode, stdout) == (0, name.encode() + b"\n")
    assert done(ask(name, "wait"))["exit_status"] == 5
    assert int(out.read_text()) not in (os.getsid(0), process.pid)
    assert wait_until(lambda: not os.path.exists(f"{runtime_folder()}/{name}"), 5)


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b'{"version": 1, "verb": 3}\n', b'{"version": 2, "verb": "stat"}\n',
                                  b'{"version": 1, "verb": "stat", "more": 1}\n', b'{"version": 1, "verb": "set"}\n',
                                  b'{"version": 1, "verb": "set", "limit": "1G"}\n', b'{"version": 1, "verb": "set", "limit": -1}\n',
                                  b'{"version": 1, "verb": "kill", "signal": 0}\n', b'{"a":' * 5000 + b"\n", b"\0\0\n", b"x" * 70000])
def test_nonsense_is_refused_and_harms_nobody(box, line):
    name = unique("nonsense")
    with running(box, name, ["sleep", "0.5"], 64 * MIB):
        talk = ask_later(name, raw=line)
        assert not talk.answer()["ok"]
        talk.close()
        done(ask(name, "describe"))


def test_many_clients(box):
    """Half of them ask and hang up; requests on one connection are answered in order."""
    name = unique("clients")
    with running(box, name, work(2, 60, 1), 40 * MIB):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for _ in range(20):
                ask_later(name, "stat").close()
            both = ask_later(name, raw=b'{"version":1,"verb":"describe"}\n{"version":1,"verb":"stat"}\n')
            assert "figures" not in done(both.answer())
            assert "figures" in done(both.answer())
            both.close()


def test_swapoff_and_swapon_under_load(box):
    """B4: everything comes back, the file is given up, another one takes its place; again and again, nothing is lost."""
    name, files = unique("switch"), [box.new_path("swap") for _ in range(2)]
    with running(box, name, work(4, 120), 60 * MIB, swap=files[0]):
        wait_until(lambda: done(ask(name, "describe"))["swap_used"] > 20 * MIB, 5)
        refused(ask(name, "swapoff"), "ENOSPC")
        for turn in range(1, 5):
            done(ask(name, "set", limit=400 * MIB))
            done(ask(name, "swapoff"))
            free = done(ask(name, "describe"))
            assert (free["swap_file"], free["swap_used"], free["swap_total"]) == (None, 0, 0)
            refused(ask(name, "swapoff"), "ENOENT")
            done(ask(name, "swapon", path=str(files[turn % 2])))
            assert done(ask(name, "set", limit=60 * MIB))["rss_usage"] <= 60 * MIB + SLACK
            assert done(ask(name, "describe"))["swap_file"] == str(files[turn % 2])


def test_swapon_while_there_is_a_swap_file(box):
    """B4: one active file; a swapon that races a swapoff is refused, not undefined."""
    name = unique("race")
    with running(box, name, work(3, 120, 1), 60 * MIB):
        wait_until(lambda: done(ask(name, "describe"))["swap_used"] > 20 * MIB, 5)
        other = str(box.new_path("swap"))
        refused(ask(name, "swapon", path=other), "EBUSY")
        assert not os.path.exists(other)
        done(ask(name, "set", limit=400 * MIB))
        off = ask_later(name, raw=b'{"version":1,"verb":"swapoff"}\n')
        on = ask(name, "swapon", path=other)
        done(off.answer())
        assert on["ok"] or on["errno"] == "EBUSY", on
        if not on["ok"]:
            assert not os.path.exists(other)


def test_swapoff_by_two(box):
    name = unique("two")
    with running(box, name, work(3, 120, 1), 60 * MIB):
        wait_until(lambda: done(ask(name, "describe"))["swap_used"] > 20 * MIB, 5)
        done(ask(name, "set", limit=400 * MIB))
        answers = [one.answer() for one in [ask_later(name, "swapoff") for _ in range(2)]]
        assert sorted(a["ok"] for a in answers) == [False, True], answers
        assert [a["errno"] for a in answers if not a["ok"]][0] in ("EBUSY", "ENOENT")


def test_one_file_for_two_containers(box):
    """B1, B2: the second use is refused, by a lock, at run and at swapon; the file is free again when it was switched off."""
    one, two, file = unique("one"), unique("two"), box.new_path("swap")
    with running(box, one, ["sleep", "1.5"], 64 * MIB, swap=file), running(box, two, ["sleep", "1.5"], 64 * MIB, args=("--no-swap",)):
        refused(ask(two, "swapon", path=str(file)), "EBUSY")
        done(ask(one, "swapoff"))
        done(ask(two, "swapon", path=str(file)))
        refused(ask(one, "swapon", path=str(file)), "EBUSY")


@pytest.mark.parametrize("path,errno", [("relative", "EINVAL"), ("/no/such/folder/file", "ENOENT"), ("/etc/passwd", "EEXIST"), ("/", "EISDIR")])
def test_swapon_of_what_cannot_be(box, path, errno):
    name = unique("bad-file")
    with running(box, name, ["sleep", "0.3"], 64 * MIB, args=("--no-swap",)):
        refused(ask(name, "swapon", path=path), errno)


def test_a_container_gets_its_first_swap_file(box):
    """B3: a container that began without one goes beyond its limit's memory when it has been given one."""
    name = unique("first")
    with running(box, name, work(3, 100, 1), 400 * MIB, args=("--no-swap",)):
        wait_until(lambda: done(ask(name, "describe"))["rss_usage"] > 60 * MIB, 5)
        done(ask(name, "swapon", path=str(box.new_path("swap"))))
        assert done(ask(name, "set", limit=40 * MIB))["rss_usage"] <= 40 * MIB + SLACK


def test_many_containers_at_once(box):
    """B6: each has a swap file of its own, all are listed, all end with the right result."""
    names = [unique(f"many-{i}") for i in range(scale(20, 100))]
    boxes = [box.start([victim("hold-memory"), 8], 4 * MIB, args=("--name", name), bufsize=0) for name in names]
    for process in boxes:
        assert process.stdout.readline() == b"ready\n", process.stderr.read()
    listed = {one["name"]: one for one in json.loads(subprocess.run([MEMBOX, "ps", "--json"], stdout=subprocess.PIPE, check=True).stdout)}
    assert set(names) <= set(listed)
    assert len({listed[name]["swap_file"] for name in names}) == len(names)
    assert all(listed[name]["swap_used"] > 0 for name in names)
    for process in boxes:
        process.stdin.close()
    for process in boxes:
        assert process.stdout.read() == b"right\n" and process.wait(60) == 0, process.stderr.read()
        process.stdout.close()
        process.stderr.close()
