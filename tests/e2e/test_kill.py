"""kill -9 of membox's own processes at random moments: the program never sees a wrong byte, is dead within a second where its keeper is gone, and
nothing is left over. MEMBOX_KILL_ROUNDS (default 8) is the number of rounds of the first test."""
import collections
import os
import random
import signal
import struct
import time

import pytest

from boxes import MIB, descendants, describe, is_alive, need_membox, reap, scale, victim, wait_until

ROUNDS = int(os.environ.get("MEMBOX_KILL_ROUNDS", scale(8, 200)))
VICTIM = "check-memory-forever"

Score = collections.namedtuple("Score", "ready checks wrong address expected found")


def scores(path):
    data = path.read_bytes() if path.exists() else b""
    return [Score(*struct.unpack_from("<6Q", data, at)) for at in range(0, len(data) - 63, 64)]


class Round:
    """One program that checks its memory in a box; shape (threads, children)."""

    def __init__(self, box, shape, seconds=60, size_mb=72, limit=32 * MIB):
        self.file = box.new_path("score")
        self.process = box.start([victim(VICTIM), self.file, size_mb, *shape, seconds], limit, swap=box.new_path("swap"))
        self.workers = shape[0] * (shape[1] + 1)
        self.members = []

    def wait_ready(self):
        found = wait_until(lambda: sum(s.ready for s in scores(self.file)) == self.workers, 60)
        assert found, f"the program does not start\n{describe()}"

    def look(self):
        """The pids now: (membox's own, agents, the program's)."""
        found = descendants()
        self.members = [pid for pid, _, name in found if name == VICTIM[:15]]
        agents = [pid for pid, _, name in found if name == "membox-agent"]
        own = [pid for pid, _, name in found if pid not in self.members and pid not in agents and name.startswith(("membox", "mbx-"))]
        return own, agents, self.members

    def check_dead_in_time(self, since, what):
        gone = wait_until(lambda: reap_others(self.process) or not any(map(is_alive, self.members)), 1 - (time.monotonic() - since), 0.002)
        assert gone, f"alive one second after kill -9 of {what}\n{describe()}"
        self.check_bytes(what)

    def check_bytes(self, what):
        wrong = [s for s in scores(self.file) if s.wrong]
        assert not wrong, f"wrong bytes after kill -9 of {what}: {[tuple(map(hex, s[2:])) for s in wrong]}"

    def end(self):
        stderr = self.process.communicate(timeout=10)[1].decode()
        assert wait_until(lambda: reap() or not descendants(), 2, 0.01), f"left over:\n{describe()}"
        return self.process.returncode, stderr


def reap_others(process):
    """Orphans become this process's children; the box itself is waited for by its Popen."""
    for pid, state, _ in descendants(with_dead=True):
        if state == "Z" and pid != process.pid:
            try:
                os.waitpid(pid, os.WNOHANG | 0x40000000)
            except ChildProcessError:
                pass


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


SHAPES = [(2, 0), (1, 3), (4, 0), (2, 2)]


@pytest.mark.parametrize("target", ["all-named-membox", "front", "keeper"])
def test_keeper(box, target):
    """The processes named membox: all of them, the one that was started, and the ones below it."""
    need_membox()
    rng = random.Random(f"{target} {ROUNDS}")
    for number in range(ROUNDS if target != "front" else max(ROUNDS // 4, 3)):
        run = Round(box, SHAPES[number % len(SHAPES)])
        if number % 4:
            run.wait_ready()
        time.sleep(rng.random() * 0.4)
        if not wait_until(lambda: run.look()[2], 5):
            pytest.fail(f"the program does not start\n{describe()}")
        mine = [pid for pid, _, name in descendants() if name == "membox"]
        chosen = {"front": [run.process.pid], "all-named-membox": mine, "keeper": [p for p in mine if p != run.process.pid]}[target]
        assert chosen
        since = time.monotonic()
        kill(chosen)
        run.check_dead_in_time(since, f"{target} in round {number}")
        run.end()


@pytest.mark.parametrize("rounds", [max(ROUNDS // 2, 5)])
def test_any_one_of_its_processes(box, rounds):
    """Whichever single process of membox goes: the program ends soon or goes on, and is right as long as it lives."""
    need_membox()
    rng = random.Random(11)
    for number in range(rounds):
        run = Round(box, SHAPES[number % len(SHAPES)], seconds=4)
        run.wait_ready()
        time.sleep(rng.random() * 0.3)
        own = run.look()[0]
        kill([own[number % len(own)]])
        wait_until(lambda: reap_others(run.process) or not any(map(is_alive, run.members)), 15)
        run.check_bytes(f"process {number % len(own)} of membox in round {number}")
        run.end()


def test_agent(box):
    need_membox()
    rng = random.Random(12)
    for number in range(max(ROUNDS // 2, 5)):
        run = Round(box, SHAPES[number % len(SHAPES)])
        run.wait_ready()
        time.sleep(rng.random() * 0.3)
        agents = wait_until(lambda: run.look()[1], 5)
        assert agents, f"no agent under pressure (ended: {run.process.poll()})\n{describe()}"
        kill([rng.choice(agents)])
        status, stderr = run.process.wait(timeout=30), run.process.stderr.read().decode()
        run.check_bytes(f"an agent in round {number}")
        assert status == 0 or "membox: " in stderr, f"ended with {status} without a reason: {stderr!r}"
        run.end()


def test_program(box):
    """kill -9 of the program itself: the box ends with 137 and leaves nothing."""
    for shape in SHAPES:
        run = Round(box, shape)
        run.wait_ready()
        run.look()
        kill(run.members)
        assert run.end()[0] in (137, -9)
