"""membox attach and its way back, release: running processes that membox did not start (LINEAGE A7)."""
import collections
import json
import os
import random
import signal
import struct
import subprocess
import time

import pytest

from boxes import MEMBOX, MIB, PYTHON, ask, descendants, describe, is_alive, need_membox, need_root, processes, read, reap, victim, wait_until

SOON_S = 60  # a hang, not a measure

# Holds random data, checks it when told to by a line on stdin: prints how many of its pieces are wrong.
HOLDER = """
import hashlib, os, sys
pieces = [os.urandom(1 << 20) for _ in range(int(sys.argv[1]))]
sums = [hashlib.sha1(piece).digest() for piece in pieces]
def wrong():
    return sum(hashlib.sha1(piece).digest() != good for piece, good in zip(pieces, sums))
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
"""


class Holder:
    def __init__(self, mib):
        self.process = subprocess.Popen([PYTHON, "-c", HOLDER, str(mib)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "ready\n"

    def do(self, line):
        """One line of Python in the process; its answer."""
        self.process.stdin.write(line + "\n")
        return self.process.stdout.readline().strip()

    def wrong(self):
        return self.do("print(wrong(), flush=True)")

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(SOON_S) == 0
        self.process.stdout.close()


class Attached:
    """A container made by attach. Its keeper is a descendant of this process, as is everything that a test starts."""

    def __init__(self, box, pids, limit, *args):
        self.swap, self.errors = box.new_path("swap"), box.new_path("errors")
        with open(self.errors, "wb") as errors:
            begun = subprocess.run([MEMBOX, "attach", "--limit", str(limit), "--swap", self.swap, *map(str, args), *map(str, pids)], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=errors, timeout=SOON_S)
        self.status, self.name = begun.returncode, begun.stdout.decode().strip()
        assert self.status == 0 and self.name, self.errors.read_text()

    def check_quiet(self):
        assert self.errors.read_text() == ""

    def release(self):
        reply = ask(self.name, "release")
        assert reply and reply["ok"], reply


def own_processes():
    """Keeper and guardian."""
    return [pid for pid, _, name in descendants() if name in ("membox", "mbx-guardian")]


def keeper():
    found = [pid for pid, _, name in descendants() if name == "membox"]
    assert len(found) == 1, describe()
    return found[0]


def ended():
    return reap_orphans() or not own_processes()


def reap_orphans():
    """Orphans are this process's children; those of a Popen are left to it: nobody else here ends while it is waited for."""
    for pid, state, name in descendants(with_dead=True):
        if state == "Z" and name in ("membox", "mbx-guardian", "membox-agent"):
            try:
                os.waitpid(pid, os.WNOHANG | 0x40000000)
            except ChildProcessError:
                pass


def rss(pid):
    fields = read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * 4096 if fields else 0


def is_below(pids, limit):
    return lambda: sum(map(rss, pids)) <= limit + max(limit // 10, 4 * MIB)


# ---- attach ---------------------------------------------------------------------------------------------------------------


def test_idle_process_comes_down_to_the_limit(box):
    need_membox()
    holder = Holder(200)
    assert rss(holder.pid) > 200 * MIB
    stats = box.new_path("stats")
    attached = Attached(box, [holder.pid], 32 * MIB, "--stats", stats)
    assert wait_until(is_below([holder.pid], 32 * MIB), SOON_S), f"{rss(holder.pid) >> 20} MiB\n{describe()}"
    assert holder.wrong() == "0"
    holder.end()
    assert wait_until(ended, SOON_S), describe()
    attached.check_quiet()
    figures = json.loads(stats.read_text())
    assert figures["adoptions"] == 1 and figures["swap_out"] >= 160 * 256 and figures["swap_in"] >= 160 * 256


def test_name_and_default_swap_file_are_gone_afterwards(box, monkeypatch):
    need_membox()
    monkeypatch.setenv("XDG_CACHE_HOME", str(box.folder))
    holder = Holder(48)
    made = subprocess.run([MEMBOX, "attach", "--name", "some-name", "--limit", "16M", str(holder.pid)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, timeout=SOON_S)
    assert made.returncode == 0 and made.stdout == b"some-name\n"
    assert wait_until(is_below([holder.pid], 16 * MIB), SOON_S), describe()
    assert list(box.folder.rglob("some-name.swap"))
    assert holder.wrong() == "0"
    holder.end()
    assert wait_until(ended, SOON_S), describe()
    assert not list(box.folder.rglob("*.swap"))


def test_two_processes_share_one_limit(box):
    need_membox()
    holders = [Holder(48), Holder(48)]
    pids = [holder.pid for holder in holders]
    Attached(box, [*pids, pids[0]], 32 * MIB)
    assert wait_until(is_below(pids, 32 * MIB), SOON_S), describe()
    assert [holder.wrong() for holder in holders] == ["0", "0"]
    holders[0].end()
    assert own_processes(), "the container has ended before its last member"
    assert holders[1].wrong() == "0"
    holders[1].end()
    assert wait_until(ended, SOON_S), describe()


# ---- forks ----------------------------------------------------------------------------------------------------------------

FORK_AND_CHECK = "pid = os.fork(); print(os.waitpid(pid, 0)[1], flush=True) if pid else os._exit(min(wrong(), 100))"
# The parent of the one that checks ends at once: nobody sees that one below a member.
ORPHAN = """pid = os.fork(); os.waitpid(pid, 0) if pid else os.fork() and os._exit(0) or (open({!r}, "w").write(str(wrong())), os._exit(0)); print(flush=True)"""


def test_children_forked_afterwards_have_the_data(box):
    need_membox()
    holder = Holder(64)
    Attached(box, [holder.pid], 24 * MIB)
    assert wait_until(is_below([holder.pid], 24 * MIB), SOON_S), describe()
    for _ in range(3):
        assert holder.do(FORK_AND_CHECK) == "0"
    assert holder.wrong() == "0"
    holder.end()
    assert wait_until(ended, SOON_S), describe()


def test_orphaned_grandchild_stays_a_member(box):
    need_membox()
    holder = Holder(64)
    Attached(box, [holder.pid], 24 * MIB)
    assert wait_until(is_below([holder.pid], 24 * MIB), SOON_S), describe()
    answers = [box.new_path("answer") for _ in range(3)]
    for answer in answers:
        holder.do(ORPHAN.format(str(answer)))
    holder.end()  # the grandchildren may still be checking: they keep the container
    assert wait_until(lambda: all(read(answer) for answer in answers), SOON_S), describe()
    assert [read(answer) for answer in answers] == ["0"] * 3
    assert wait_until(lambda: reap() or ended(), SOON_S), describe()


# ---- programs that use their memory all the time --------------------------------------------------------------------------

Score = collections.namedtuple("Score", "ready checks wrong address expected found")
IS_OVER_AT = 48


def scores(path):
    data = path.read_bytes() if path.exists() else b""
    return [Score(*struct.unpack_from("<6Q", data, at)) for at in range(0, len(data) - 63, 64)]


class Checker:
    """check-memory-forever, started bare; shape (threads, children)."""

    def __init__(self, box, shape, seconds, size_mb=72):
        self.file = box.new_path("score")
        self.process = subprocess.Popen([victim("check-memory-forever"), self.file, str(size_mb), *map(str, shape), str(seconds)])
        workers = shape[0] * (shape[1] + 1)
        assert wait_until(lambda: sum(s.ready for s in scores(self.file)) == workers, SOON_S)
        self.pids = [pid for pid, _, name in descendants() if name == "check-memory-fo"]
        assert len(self.pids) == shape[1] + 1

    def checks(self):
        return min(s.checks for s in scores(self.file))

    def end(self):
        with open(self.file, "r+b") as file:
            file.seek(IS_OVER_AT)
            file.write(b"\1")
        return self.process.wait(SOON_S)

    def check_bytes(self):
        wrong = [s for s in scores(self.file) if s.wrong]
        assert not wrong, [tuple(map(hex, s[2:])) for s in wrong]


@pytest.mark.parametrize("shape", [(4, 0), (1, 3), (2, 2)])
def test_threads_and_children_go_on_under_pressure(box, shape):
    need_membox()
    checker = Checker(box, shape, 600)
    Attached(box, [checker.process.pid], 32 * MIB)
    before = checker.checks()
    assert wait_until(lambda: checker.checks() > before + 2000, SOON_S)
    assert checker.end() == 0
    checker.check_bytes()
    assert wait_until(lambda: reap() or ended(), SOON_S), describe()


@pytest.mark.parametrize("number", range(6))
def test_keeper_killed(box, number):
    """Whoever of membox's own is killed, and whenever: every member dies, and none sees a wrong byte before."""
    need_membox()
    rng = random.Random(number)
    checker = Checker(box, [(2, 0), (1, 3), (4, 0), (2, 2)][number % 4], 60)
    Attached(box, [checker.process.pid], 32 * MIB)
    time.sleep(rng.random() * 0.4)
    os.kill(keeper(), signal.SIGKILL)
    assert wait_until(lambda: checker.process.poll() is not None and not any(map(is_alive, checker.pids)), SOON_S), describe()
    assert checker.process.returncode == -signal.SIGKILL
    checker.check_bytes()
    assert wait_until(lambda: reap() or ended(), SOON_S), describe()


def test_keeper_killed_while_members_fork(box):
    need_membox()
    for number in range(5):
        holder, wrong = Holder(48), box.new_path("wrong")
        Attached(box, [holder.pid], 16 * MIB)
        assert wait_until(is_below([holder.pid], 16 * MIB), SOON_S), describe()
        holder.process.stdin.write(f"while True: os.fork() or (wrong() and open({str(wrong)!r}, 'w').write('wrong'), os._exit(0))\n")
        time.sleep(0.05 * number)
        os.kill(keeper(), signal.SIGKILL)
        assert holder.process.wait(SOON_S) == -signal.SIGKILL
        assert wait_until(lambda: reap() or not descendants(), SOON_S), describe()
        assert not wrong.exists()
        holder.process.stdin.close()
        holder.process.stdout.close()


# ---- release --------------------------------------------------------------------------------------------------------------


def traces(pid):
    """What membox could have left in a process: mappings, descriptors, children, a tracer, threads, userfaultfd flags of mappings."""
    maps = read(f"/proc/{pid}/maps").splitlines()
    flags = [word for line in read(f"/proc/{pid}/smaps").splitlines() if line.startswith("VmFlags:") for word in line.split() if word in ("um", "uw", "ui")]
    status = read(f"/proc/{pid}/status").splitlines()
    kept = [line for line in status if line.split(":")[0] in ("TracerPid", "Threads", "SigBlk", "SigPnd", "ShdPnd")]
    children = sorted(read(f"/proc/{pid}/task/{pid}/children").split())
    return {"maps": [line.split()[0] for line in maps], "fds": sorted(os.listdir(f"/proc/{pid}/fd")), "flags": flags, "status": kept, "children": children}


def test_release_leaves_no_trace(box):
    need_membox()
    holder = Holder(96)
    assert holder.wrong() == "0"
    before = traces(holder.pid)
    attached = Attached(box, [holder.pid], 24 * MIB)
    assert wait_until(is_below([holder.pid], 24 * MIB), SOON_S), describe()
    assert traces(holder.pid) != before
    attached.release()
    after = traces(holder.pid)
    assert after == before, {key: (after[key], before[key]) for key in before if after[key] != before[key]}
    assert rss(holder.pid) > 96 * MIB
    assert wait_until(ended, SOON_S), describe()
    assert holder.wrong() == "0"
    attached.check_quiet()
    Attached(box, [holder.pid], 24 * MIB)  # and once more
    assert wait_until(is_below([holder.pid], 24 * MIB), SOON_S), describe()
    assert holder.wrong() == "0"
    holder.end()
    assert wait_until(ended, SOON_S), describe()


@pytest.mark.parametrize("shape", [(4, 0), (2, 2)])
def test_release_under_load(box, shape):
    need_membox()
    checker = Checker(box, shape, 600)
    for _ in range(3):
        attached = Attached(box, [checker.process.pid], 32 * MIB)
        assert wait_until(is_below(checker.pids, 32 * MIB), SOON_S), describe()
        attached.release()
        assert wait_until(ended, SOON_S), describe()
        assert not [name for _, _, name in descendants() if name.startswith("membox")], describe()
        assert all(traces(pid)["flags"] == [] for pid in checker.pids)
    assert checker.end() == 0
    checker.check_bytes()


def test_release_of_forked_children(box):
    """Children that have no agent of their own, and one whose parent has ended."""
    need_membox()
    holder, answers = Holder(48), [box.new_path("answer") for _ in range(3)]
    attached = Attached(box, [holder.pid], 16 * MIB)
    assert wait_until(is_below([holder.pid], 16 * MIB), SOON_S), describe()
    go = box.new_path("go")
    child = f"""def child(path):
        import time
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
        open(path, "w").write(str(wrong()))
        os._exit(0)"""
    holder.do(f"exec({child!r}); print(flush=True)")
    for answer in answers:
        holder.do(f"os.fork() or child({str(answer)!r}); print(flush=True)")
    holder.do(f"pid = os.fork(); os.waitpid(pid, 0) if pid else os.fork() and os._exit(0) or child({str(answers[0])!r}); print(flush=True)")
    python = [pid for pid, _, name in descendants() if name == "python3"]
    assert len(python) == 5
    attached.release()
    assert all(traces(pid)["flags"] == [] for pid in python)
    assert wait_until(ended, SOON_S), describe()
    go.touch()
    assert wait_until(lambda: all(read(answer) for answer in answers), SOON_S), describe()
    assert [read(answer) for answer in answers] == ["0"] * 3 and holder.wrong() == "0"
    holder.do("[os.waitpid(-1, 0) for _ in range(3)]; print(flush=True)")
    holder.end()
    assert wait_until(lambda: reap() or not descendants(), SOON_S), describe()


def test_release_of_a_started_program(box):
    """Its keeper is its parent and stays until it ends, without limiting it; the exit status is the program's."""
    need_membox()
    name = f"released-{os.getpid()}"
    run = box.start([PYTHON, "-c", HOLDER, "48"], 16 * MIB, args=["--name", name])
    assert run.stdout.readline() == b"ready\n"
    pid = [p for p, _, n in descendants() if n == "python3"][0]
    assert rss(pid) < 32 * MIB
    assert ask(name, "release")["ok"]
    assert rss(pid) > 48 * MIB and traces(pid)["flags"] == []
    assert ask(name, "set", limit=16 * MIB)["ok"] and rss(pid) < 32 * MIB
    assert ask(name, "release")["ok"] and rss(pid) > 48 * MIB and traces(pid)["flags"] == []
    run.stdin.write(b"print(wrong(), flush=True)\nos._exit(7)\n")
    run.stdin.flush()
    stdout, stderr = run.communicate(timeout=SOON_S)
    assert (run.returncode, stdout, stderr) == (7, b"0\n", b"")


# ---- from one container to another (LINEAGE A7) ---------------------------------------------------------------------------


def members(name):
    return sorted(member["pid"] for member in ask(name, "stat")["members"])


def figure(name, which):
    return ask(name, "stat")[which]


def test_member_is_moved_and_recharged(box):
    """A7: it and its child leave, their pages follow; the other member of the old container goes on in it."""
    need_membox()
    holder, other = Holder(60), Holder(30)
    holder.do("child = os.fork(); child or __import__('signal').pause(); print(flush=True)")
    child = [pid for pid, _, name in descendants(holder.pid) if name == "python3"][0]
    old = Attached(box, [holder.pid, other.pid], 20 * MIB)
    assert wait_until(is_below([holder.pid, other.pid], 20 * MIB), SOON_S), describe()
    assert members(old.name) == sorted([holder.pid, child, other.pid])
    swapped = figure(old.name, "swap_used")
    new = Attached(box, [holder.pid], 24 * MIB)
    assert members(old.name) == [other.pid] and members(new.name) == sorted([holder.pid, child])
    assert figure(old.name, "rss_usage") <= 20 * MIB + 4 * MIB and figure(old.name, "program") == other.pid
    assert figure(old.name, "swap_used") <= min(swapped, 32 * MIB)
    assert wait_until(lambda: figure(new.name, "rss_usage") <= 24 * MIB, SOON_S), describe()
    assert figure(new.name, "swap_used") >= 30 * MIB
    assert holder.wrong() == "0" and other.wrong() == "0"
    holder.do(f"os.kill(child, 9); os.waitpid(child, 0); print(flush=True)")
    assert holder.do(FORK_AND_CHECK) == "0"
    holder.end()
    assert wait_until(lambda: reap_orphans() or ask(new.name, "stat") is None, SOON_S), describe()
    assert other.wrong() == "0" and members(old.name) == [other.pid]
    other.end()
    assert wait_until(ended, SOON_S), describe()
    old.check_quiet()
    new.check_quiet()


def test_started_program_is_moved(box):
    """A7: its keeper is left without members, counts and keeps nothing, and still returns the program's exit status. It can be moved on, or back to nobody."""
    need_membox()
    name = f"moved-{os.getpid()}"
    run = box.start([PYTHON, "-c", HOLDER, "60"], 20 * MIB, args=["--name", name])
    assert run.stdout.readline() == b"ready\n"
    pid = [p for p, _, n in descendants() if n == "python3"][0]
    assert figure(name, "swap_used") >= 30 * MIB
    first = Attached(box, [pid], 24 * MIB)
    assert members(name) == [] and members(first.name) == [pid]
    assert wait_until(lambda: figure(name, "swap_used") == 0, SOON_S) and figure(name, "rss_usage") == 0
    assert wait_until(is_below([pid], 24 * MIB), SOON_S), describe()
    second = Attached(box, [pid], 16 * MIB)
    assert wait_until(lambda: ask(first.name, "stat") is None, SOON_S) and members(second.name) == [pid]
    assert wait_until(is_below([pid], 16 * MIB), SOON_S), describe()
    second.release()
    assert rss(pid) > 60 * MIB and traces(pid)["flags"] == []
    third = Attached(box, [pid], 20 * MIB)
    assert wait_until(is_below([pid], 20 * MIB), SOON_S) and members(name) == [] and members(third.name) == [pid]
    run.stdin.write(b"print(wrong(), flush=True)\nos._exit(7)\n")
    run.stdin.flush()
    stdout, stderr = run.communicate(timeout=SOON_S)
    assert (run.returncode, stdout, stderr) == (7, b"0\n", b"")
    assert wait_until(ended, SOON_S), describe()


@pytest.mark.parametrize("shape", [(4, 0), (2, 2)])
def test_moved_to_and_fro_under_load(box, shape):
    """A7: a program that uses its memory all the time."""
    need_membox()
    checker = Checker(box, shape, 600)
    boxes = [Attached(box, [checker.process.pid], 32 * MIB)]
    for limit in (40, 28, 36):
        assert wait_until(is_below(checker.pids, 44 * MIB), SOON_S), describe()
        boxes.append(Attached(box, [checker.process.pid], limit * MIB))
        assert members(boxes[-1].name) == sorted(checker.pids)
        assert wait_until(lambda: ask(boxes[-2].name, "stat") is None, SOON_S), describe()
    assert checker.end() == 0
    checker.check_bytes()
    assert wait_until(lambda: reap() or ended(), SOON_S), describe()
    for each in boxes:
        each.check_quiet()


def test_moved_while_it_forks(box):
    """A7: forks, execs and exits go on all the time; children forked meanwhile have the right bytes wherever they are."""
    need_membox()
    holder, bad, stop = Holder(40), box.new_path("bad"), box.new_path("stop")
    storm = f"""
while not os.path.exists({str(stop)!r}):
    pid = os.fork()
    if not pid:
        wrong() and open({str(bad)!r}, 'w').write('wrong')
        os.execv('/bin/true', ['true'])
    if os.waitpid(pid, 0)[1]: open({str(bad)!r}, 'w').write('died')
print(flush=True)"""
    old = Attached(box, [holder.pid], 20 * MIB)
    assert wait_until(is_below([holder.pid], 20 * MIB), SOON_S), describe()
    holder.process.stdin.write(f"exec({storm!r})\n")
    for _ in range(3):
        new = Attached(box, [holder.pid], 20 * MIB)
        assert holder.pid in members(new.name) and wait_until(lambda: ask(old.name, "stat") is None, SOON_S), describe()
        old = new
    stop.touch()
    assert holder.process.stdout.readline() == "\n" and not bad.exists(), read(bad)
    assert holder.wrong() == "0"
    holder.end()
    assert wait_until(lambda: reap() or ended(), SOON_S), describe()


def test_two_attach_the_same_process(box):
    """A7: one after the other; it ends up in one of them, and in one only."""
    need_membox()
    holder = Holder(48)
    Attached(box, [holder.pid], 16 * MIB)
    assert wait_until(is_below([holder.pid], 16 * MIB), SOON_S), describe()
    both = [subprocess.Popen([MEMBOX, "attach", "--limit", "20M", "--swap", box.new_path("swap"), str(holder.pid)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             text=True) for _ in range(2)]
    names = [each.communicate(timeout=SOON_S)[0].strip() for each in both]
    assert [each.returncode for each in both] == [0, 0]
    assert wait_until(lambda: sorted(ask(name, "stat") is None for name in names) == [False, True], SOON_S), describe()
    assert holder.wrong() == "0"
    holder.end()
    assert wait_until(ended, SOON_S), describe()


def test_keeper_killed_while_a_member_leaves(box):
    """A7: whichever of the two keepers is killed in the middle, nobody sees a wrong byte; what was out of memory is killed."""
    need_membox()
    for number in range(6):
        checker = Checker(box, (2, 0), 60, 48)
        Attached(box, [checker.process.pid], 16 * MIB)
        first = keeper()
        move = subprocess.Popen([MEMBOX, "attach", "--limit", "16M", "--swap", box.new_path("swap"), str(checker.process.pid)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.01 * number)
        os.kill(first, signal.SIGKILL)
        move.communicate(timeout=SOON_S)
        checker.process.kill()  # it may have been out already
        checker.process.wait(SOON_S)
        checker.check_bytes()
        assert wait_until(lambda: reap() or not descendants(), SOON_S), describe()


def test_move_is_refused(box):
    """A7: nothing is touched when one of the processes cannot be attached, nor when the container cannot let go of one just now."""
    need_membox()
    holder = Holder(32)
    old = Attached(box, [holder.pid], 16 * MIB)
    assert "init process" in refusal(holder.pid, 1) and members(old.name) == [holder.pid]
    assert ask(old.name, "release", pid=os.getpid())["errno"] == "ESRCH"
    assert ask(old.name, "park")["ok"]
    assert f"is a member of container {old.name}" in refusal(holder.pid) and members(old.name) == [holder.pid]
    assert ask(old.name, "unpark")["ok"]
    assert holder.wrong() == "0"
    holder.end()
    assert wait_until(ended, SOON_S), describe()


# ---- refusals -------------------------------------------------------------------------------------------------------------


def refusal(*words):
    made = subprocess.run([MEMBOX, "attach", "--no-swap", *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, timeout=SOON_S, text=True)
    assert made.returncode == 125 and made.stdout == "", made
    assert made.stderr.startswith("membox: ") and made.stderr.count("\n") == 1, made.stderr
    return made.stderr


def test_refused_pids(box):
    need_membox()
    assert "no process id" in refusal()
    for word in ("abc", "0", "-5", "12x", "99999999999"):
        assert "process id" in refusal("--", word)
    assert "init process" in refusal(1)
    assert "no such process" in refusal(2**22 + 1)
    assert "membox runs below it" in refusal(os.getpid())


def test_refused_kernel_thread():
    need_membox()
    found = [pid for pid, (parent, _, _) in processes().items() if parent == 2]
    if not found:
        pytest.skip("no kernel thread is visible here")
    assert "kernel thread" in refusal(found[0])


def test_refused_thread_and_zombie(box):
    need_membox()
    with subprocess.Popen([victim("check-memory-forever"), box.new_path("score"), "8", "2", "0", "60"]) as process:
        others = wait_until(lambda: [t for t in os.listdir(f"/proc/{process.pid}/task") if int(t) != process.pid], SOON_S)
        assert f"thread of process {process.pid}" in refusal(others[0])
        process.kill()
        assert wait_until(lambda: processes()[process.pid][1] == "Z", SOON_S)
        assert "zombie" in refusal(process.pid)


def test_refused_all_when_one_is(box):
    """All are checked before anything is touched; the swap file that was just made is gone again."""
    need_membox()
    holder, swap = Holder(32), box.new_path("swap")
    made = subprocess.run([MEMBOX, "attach", "--limit", "8M", "--swap", swap, str(holder.pid), "1"], stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=SOON_S, text=True)
    assert made.returncode == 125 and made.stderr == "membox: cannot attach process 1: it is the init process\n", made
    assert not swap.exists() and wait_until(ended, SOON_S), describe()
    assert rss(holder.pid) > 32 * MIB and "TracerPid:\t0" in read(f"/proc/{holder.pid}/status")
    holder.end()


def test_refused_under_a_debugger(box):
    need_membox()
    tracer = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
assert libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0
print("traces", flush=True)
sys.stdin.read()
"""
    holder = Holder(1)
    with subprocess.Popen([PYTHON, "-c", tracer, str(holder.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"traces\n"
        assert f"traced by process {process.pid}" in refusal(holder.pid)
        process.stdin.close()
    holder.end()


def test_refused_parts_of_membox(box):
    need_membox()
    run = box.start(["sleep", "60"], 32 * MIB)
    member = wait_until(lambda: [pid for pid, _, name in descendants() if name == "sleep"], SOON_S)[0]
    for pid in own_processes():
        assert "membox" in refusal(pid)
    os.kill(member, signal.SIGKILL)
    run.communicate(timeout=SOON_S)


def test_refused_process_of_another_user(box):
    need_membox()
    need_root()
    holder = Holder(1)
    made = subprocess.run([MEMBOX, "attach", "--no-swap", str(holder.pid)], stdin=subprocess.DEVNULL, capture_output=True, timeout=SOON_S, text=True, user=65534,
                          group=65534, extra_groups=[])
    holder.end()
    if "doctor" in made.stderr:
        pytest.skip("ordinary users may not use userfaultfd here")
    assert made.returncode == 125 and "another user" in made.stderr, made
