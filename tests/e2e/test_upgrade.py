"""membox upgrade: another program takes the keeper's place while the container runs; nothing is lost, whether it can or not, and whoever is killed meanwhile."""
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest

from boxes import MEMBOX, MIB, ask, ask_later, load_json, need_faulty_membox, need_membox, need_root, scale, victim
from processes import descendants, describe, is_alive, read, reap, wait_until
from test_kill import reap_others, scores
from test_redis import serve

LIMIT = 24 * MIB
TIMES = scale(10, 20)
SOON_S = 30


@pytest.fixture(autouse=True)
def not_bare():
    need_membox()


@pytest.fixture
def other(box):
    """A copy of membox under another name: what a new version would be."""
    path = box.folder / "membox-of-tomorrow"
    shutil.copy(MEMBOX, path)
    return path


def named(*names):
    """Living processes of this test; as many characters of their names as the kernel keeps."""
    return [pid for pid, _, name in descendants() if name in names]


def membox(*words, timeout=SOON_S):
    return subprocess.run([MEMBOX, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)


def upgrade(name, program=None):
    done = membox("upgrade", name, *(["--program", program] if program else []))
    assert (done.returncode, done.stderr) == (0, ""), done


def figures(name):
    return ask(name, "stat")["figures"]


class Checked:
    """check-memory-forever in a container; the file of its scores says whether it ever saw a wrong byte."""

    def __init__(self, box, *options, shape=(2, 1), seconds=60, size_mb=48, limit=LIMIT):
        self.score, self.stats, self.errors = box.new_path("score"), box.new_path("stats"), box.new_path("errors")
        self.name, self.workers = f"upgraded-{os.getpid()}-{random.randrange(10**9)}", shape[0] * (shape[1] + 1)
        checker = f"{victim('check-memory-forever')} {self.score} {size_mb} {shape[0]} {shape[1]} {seconds}; exit 7"
        with open(self.errors, "wb") as errors:
            self.process = box.start(["/bin/sh", "-c", checker], limit, args=("--name", self.name, "--stats", self.stats, *options), stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, "MEMBOX_DEBUG": "1"})
        assert wait_until(lambda: sum(s.ready for s in scores(self.score)) == self.workers, 60), f"it does not start: {read(self.errors)}\n{describe()}"

    def keeper(self):
        return ask(self.name, "describe")["keeper"]

    def program_of_keeper(self):
        return os.readlink(f"/proc/{self.keeper()}/exe")

    def checks(self):
        return sum(s.checks for s in scores(self.score))

    def goes_on(self):
        before = self.checks()
        assert wait_until(lambda: self.checks() > before + 1000, SOON_S), f"it stands still: {read(self.errors)}\n{describe()}"

    def is_right(self):
        wrong = [s for s in scores(self.score) if s.wrong]
        assert not wrong, f"wrong bytes: {[tuple(map(hex, s[2:])) for s in wrong]}"

    def finish(self):
        with open(self.score, "r+b") as file:
            file.seek(48)
            file.write(struct.pack("<Q", 1))  # is_over of the first record
        if not hasattr(self, "detached"):
            assert self.process.wait(SOON_S) == 7
        self.is_right()

    def said(self):
        """Its own lines, and what the books say at the end."""
        lines = read(self.errors).splitlines()
        return [line for line in lines if line.startswith("membox: ") or "do not balance" in line or "not given back" in line]


# ---- it takes over --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--encrypt",), ("--isolate",), ("--pool", "12M"), ("--pool", "0"), ("--encrypt", "--pool", "0", "--isolate")], ids=" ".join)
def test_many_times(box, other, options):
    """Under half of its memory, one after the other: the program is right, its exit status comes back, limit and figures go on, the books balance."""
    checked = Checked(box, *options)
    assert wait_until(lambda: figures(checked.name)["rss_usage"] <= LIMIT, SOON_S)
    keeper, before = checked.keeper(), figures(checked.name)
    most = max(before["rss_max_usage"], LIMIT + 4 * MIB)  # while it filled its memory faster than the keeper got the processor
    for number in range(TIMES):
        upgrade(checked.name, MEMBOX if number % 2 else other)
        now = figures(checked.name)
        assert checked.keeper() == keeper
        assert all(now[name] >= before[name] for name in ("faults", "refaults", "swap_out", "swap_in", "adoptions", "wall_us")), (before, now)
        assert now["rss_limit"] == LIMIT and now["rss_usage"] <= LIMIT + 4 * MIB and now["nr_processes"] == before["nr_processes"], now
        before = now
        time.sleep(random.random() * 0.1)
    checked.goes_on()
    assert checked.program_of_keeper() == str(MEMBOX)
    assert now["swap_out"] > 0 and now["refaults"] > 0
    checked.finish()
    assert checked.said() == []
    stats = load_json(checked.stats)
    assert stats["exit_status"] == 7 and stats["rss_limit"] == LIMIT and stats["faults"] >= before["faults"]
    assert stats["rss_max_usage"] <= most, (most, stats)


def test_without_swap_file(box, other):
    checked = Checked(box, "--no-swap", limit=96 * MIB)
    for _ in range(5):
        upgrade(checked.name, other)
    checked.goes_on()
    checked.finish()
    assert checked.said() == []


def test_redis(box, other):
    """A server with its client outside: saves in the background (forks) while its keeper is upgraded again and again."""
    name, stop = f"redis-{os.getpid()}", threading.Event()

    def upgrade_all_the_time():
        while not stop.is_set():
            membox("upgrade", name, "--program", other)
            time.sleep(0.05)

    thread = threading.Thread(target=upgrade_all_the_time)

    def wrap(command):
        thread.start()
        return box.command(command, 16 * MIB, args=("--name", name))

    try:
        serve(box, wrap, scale(6000, 20000))
    finally:
        stop.set()
        thread.join()


def test_forks_all_the_time(box, other):
    """Address spaces come and go, with and without an agent, mappings move and vanish, at every moment of an upgrade."""
    name, score = f"forks-{os.getpid()}", box.new_path("score")
    errors = box.new_path("errors")
    with open(errors, "wb") as out:
        process = box.start([victim("churn-memory"), score, 32], 16 * MIB, args=("--name", name), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=out,
                            env={**os.environ, "MEMBOX_DEBUG": "1"})
    assert wait_until(lambda: score.exists() and score.stat().st_size >= 64 and churned(score)[0], SOON_S)
    for _ in range(2 * TIMES):
        upgrade(name, other)
    with open(score, "r+b") as file:
        file.seek(48)
        file.write(struct.pack("<Q", 1))
    assert process.wait(SOON_S) == 0, read(errors)[-3000:]
    _, rounds, wrong, *_, forks = churned(score)
    assert rounds and forks and not wrong, churned(score)
    assert "do not balance" not in read(errors) and "not given back" not in read(errors), read(errors)[-2000:]


def churned(score):
    return struct.unpack_from("<8Q", score.read_bytes())


def test_settings_stay(box, other):
    """What was set while it ran: limit and pool; and what was asked before is answered after."""
    checked = Checked(box)
    waits, idle = ask_later(checked.name, "wait"), ask_later(checked.name, "describe")
    assert idle.answer()["ok"]
    assert membox("set", checked.name, "--limit", "20M", "--pool", "4M").returncode == 0
    upgrade(checked.name, other)
    upgrade(checked.name, other)
    now = figures(checked.name)
    assert now["rss_limit"] == 20 * MIB and now["pool"] <= 5 * MIB, now
    idle.send(json.dumps({"version": 1, "verb": "describe"}).encode() + b"\n")
    assert idle.answer()["keeper"] == checked.keeper()
    idle.close()
    assert membox("swapoff", checked.name).returncode == 1  # no room for it
    assert membox("park", checked.name).returncode == 0 and membox("unpark", checked.name).returncode == 0
    checked.goes_on()
    checked.finish()
    assert waits.answer()["exit_status"] == 7
    waits.close()


def test_swapoff_and_release_after_it(box, other):
    checked = Checked(box, "--encrypt")
    upgrade(checked.name, other)
    assert membox("set", checked.name, "--limit", "200M").returncode == 0
    assert membox("swapoff", checked.name).returncode == 0
    upgrade(checked.name, other)
    assert membox("swapon", checked.name, box.new_path("swap")).returncode == 0
    assert membox("set", checked.name, "--limit", "24M").returncode == 0
    upgrade(checked.name, other)
    checked.goes_on()
    assert membox("release", checked.name).returncode == 0
    checked.goes_on()
    checked.finish()
    assert checked.said() == []


def test_detached(box, other):
    checked = Checked(box, "--detach")
    checked.detached = True
    assert checked.process.wait(SOON_S) == 0
    for _ in range(3):
        upgrade(checked.name, other)
    checked.goes_on()
    waits = subprocess.Popen([MEMBOX, "wait", checked.name], stdin=subprocess.DEVNULL)
    time.sleep(0.2)
    upgrade(checked.name, other)
    checked.finish()
    assert waits.wait(SOON_S) == 7
    assert wait_until(lambda: reap() or not descendants(), 5), describe()
    assert checked.said() == []


def test_attached(box, other):
    """The keeper is not the processes' ancestor; a release leaves them as they were."""
    holder = subprocess.Popen([victim("hold-memory"), "48", "5"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "ready\n"
    made = membox("attach", "--limit", "16M", "--swap", box.new_path("swap"), holder.pid)
    name = made.stdout.strip()
    assert made.returncode == 0, made
    assert wait_until(lambda: figures(name)["swap_used"] + figures(name)["pool_stored"] > 20 * MIB, SOON_S), figures(name)
    for _ in range(5):
        upgrade(name, other)
    assert figures(name)["nr_processes"] == 1 and figures(name)["rss_usage"] <= 18 * MIB, figures(name)
    assert membox("release", name).returncode == 0
    assert wait_until(lambda: reap_others(holder) or not named("membox", "mbx-guardian"), 5), describe()
    stdout, _ = holder.communicate(timeout=SOON_S)
    assert (holder.returncode, stdout) == (5, "right\n")


def test_restored(box, other):
    """Its memory lies in the checkpoint, in a file of its own."""
    need_root("to give process ids again")
    checked, image = Checked(box, "--encrypt", "--pool", "0"), box.folder / "image"
    upgrade(checked.name, other)
    assert membox("checkpoint", checked.name, image).returncode == 0
    assert checked.process.wait(SOON_S) == 137
    with open(checked.errors, "ab") as errors:
        checked.process = subprocess.Popen([MEMBOX, "restore", "--name", checked.name, "--limit", str(LIMIT), "--swap", box.new_path("swap"), "--encrypt", image],
                                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
    assert wait_until(lambda: ask(checked.name, "describe"), SOON_S), read(checked.errors)
    for _ in range(4):
        upgrade(checked.name, other)
    checked.goes_on()
    checked.finish()


# ---- it cannot, or may not -----------------------------------------------------------------------------------------------


def format_of_membox():
    return subprocess.run([MEMBOX, "take-over", "--check"], capture_output=True, text=True, timeout=SOON_S).stdout.split()[-1]


def refused(checked, program):
    done = membox("upgrade", checked.name, "--program", program)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    return done.stderr


def test_programs_that_cannot(box):
    checked, number, folder = Checked(box), format_of_membox(), box.folder
    keeper = checked.keeper()
    pretender = victim("pretend-membox")

    def pretend(what, claimed=number):
        return shutil.copy(pretender, folder / f"{what}-{claimed}")

    assert "No such file" in refused(checked, folder / "missing")
    assert "no membox that can take over" in refused(checked, "/bin/true")
    assert "no membox that can take over" in refused(checked, "/bin/echo")
    assert "Permission denied" in refused(checked, checked.score)
    assert "no membox that can take over" in refused(checked, pretend("ends"))
    assert "no membox that can take over" in refused(checked, pretend("babbles"))
    assert f"format 99, and this one is of format {number}" in refused(checked, pretend("says", 99))
    assert "it ended, or hung" in refused(checked, pretend("crashes"))
    assert "it ended, or hung" in refused(checked, pretend("hangs"))
    assert "it does not like it" in refused(checked, pretend("refuses"))
    assert checked.keeper() == keeper and checked.program_of_keeper() == str(MEMBOX)
    checked.goes_on()
    upgrade(checked.name)
    checked.goes_on()
    checked.finish()
    assert checked.said() == []


def test_one_that_says_yes_and_dies(box):
    """After exec there is nobody to go on: it is as if the keeper were killed."""
    checked = Checked(box)
    program = shutil.copy(victim("pretend-membox"), box.folder / f"dies-{format_of_membox()}")
    assert membox("upgrade", checked.name, "--program", program).returncode == 125
    assert checked.process.wait(SOON_S) == 125
    checked.is_right()
    assert len(checked.said()) == 1 and "was killed: the container was ended, no page was lost" in checked.said()[0]


def test_moments_that_do_not_suit(box, other):
    checked = Checked(box)
    assert membox("park", checked.name).returncode == 0
    assert "parked" in refused(checked, other)
    assert membox("unpark", checked.name).returncode == 0
    sends = ask_later(checked.name, "checkpoint", path=str(box.folder / "round"), leave_running=True, to_send=True)
    assert sends.answer()["ok"]
    assert "it is being sent" in refused(checked, other)
    sends.close()
    assert wait_until(lambda: membox("upgrade", checked.name, "--program", other).returncode == 0, SOON_S, 0.1)
    checked.goes_on()
    checked.finish()


def test_what_the_command_line_says():
    done = membox("upgrade", "nobody-of-this-name")
    assert done.returncode == 1 and "no such container" in done.stderr
    assert membox("upgrade").returncode == 125
    assert "--program FILE" in membox("upgrade", "--help").stdout
    assert membox("take-over").returncode == 125


# ---- somebody is killed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["keeper", "guardians"])
def test_killed_meanwhile(box, other, target):
    """The keeper at any moment of an upgrade: everybody is dead within a second and has never seen a wrong byte. The guardians: the keeper goes on."""
    rng = random.Random(target)
    for number in range(scale(6, 200)):
        checked = Checked(box, "--isolate" if number % 3 == 2 else "--no-encrypt", shape=[(2, 0), (1, 2)][number % 2], seconds=20)
        for _ in range(number % 3):
            upgrade(checked.name, other)
        keeper, members = checked.keeper(), named("check-memory-fo")
        guardians = named("mbx-guardian")
        upgrading = ask_later(checked.name, "upgrade", program=str(other))
        time.sleep(rng.random() * 0.25)
        since = time.monotonic()
        for pid in [keeper] if target == "keeper" else guardians[:1]:
            os.kill(pid, signal.SIGKILL)
        if target == "keeper":
            gone = wait_until(lambda: reap_others(checked.process) or not any(map(is_alive, members)), 1 - (time.monotonic() - since), 0.002)
            assert gone, f"alive one second after the kill in round {number}\n{describe()}"
            assert checked.process.wait(SOON_S) == 125
        else:
            wait_until(lambda: reap_others(checked.process) or not any(map(is_alive, members)) or checked.checks() > 10**9, 1, 0.01)
            checked.is_right()
            for pid in named("membox") + members:
                if pid != checked.process.pid and is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
            checked.process.wait(SOON_S)
        checked.is_right()
        upgrading.close()
        assert wait_until(lambda: reap() or not descendants(), 3, 0.01), f"left over in round {number}:\n{describe()}"


POINTS = ["begun", "settled", "locked", "described", "checked", "exec", "succeeded", "taken_over"]


def run_faulty(box, program, fault):
    """(how the upgrade ended, how the container did, what was said)"""
    score, errors, name = box.new_path("score"), box.new_path("errors"), f"faulty-{os.getpid()}-{random.randrange(10**9)}"
    with open(errors, "wb") as out:
        process = subprocess.Popen([program, "run", "--name", name, "--limit", "24M", "--swap", box.new_path("swap"), "--encrypt", "--", victim("check-memory-forever"),
                                    score, "40", "2", "0", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=out,
                                   env={**os.environ, "MEMBOX_FAULT": fault})
    assert wait_until(lambda: process.poll() is not None or sum(s.ready for s in scores(score)) == 2, 60), describe()
    done = membox("upgrade", name, "--program", program)
    if done.returncode != 125:
        before = sum(s.checks for s in scores(score))
        assert wait_until(lambda: process.poll() is not None or sum(s.checks for s in scores(score)) > before + 1000, SOON_S), f"{fault}: it stands still\n{describe()}"
        with open(score, "r+b") as file:
            file.seek(48)
            file.write(struct.pack("<Q", 1))
    status = process.wait(SOON_S)
    assert not [s for s in scores(score) if s.wrong], fault
    assert wait_until(lambda: reap() or not descendants(), 3), f"{fault}: left over\n{describe()}"
    return done.returncode, status, read(errors)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(box, point):
    """Each step of the transaction (docs/architecture.md)."""
    upgraded, status, said = run_faulty(box, need_faulty_membox(), f"upgrade.{point}:kill")
    assert (upgraded, status) == (125, 125) and "was killed: the container was ended, no page was lost" in said, (upgraded, status, said)


@pytest.mark.parametrize("fault", ["memfd_create:EMFILE:2", "execveat:ENOMEM"])
def test_a_call_fails(box, fault):
    """Before exec: it is refused, and the keeper goes on."""
    upgraded, status, said = run_faulty(box, need_faulty_membox(), fault)
    assert (upgraded, status, said) == (1, 0, ""), (upgraded, status, said)
