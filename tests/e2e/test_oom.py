"""The container's OOM killer (LINEAGE A1, A6, B3): whom it kills, what it says, and what it leaves alone."""
import contextlib
import os
import re
import signal
import subprocess

import pytest

from boxes import MIB, PYTHON, ask, descendants, execute, is_alive, need_membox, need_root, victim, wait_until

# Inside the container: starts processes that hold memory and says which of them have ended, in order. What is left proves its bytes.
DRIVER = """\
import os, subprocess, sys
HOLD = sys.argv[1]
held = {}

def hold(name, mb, adjust=0):
    start = f"echo {adjust} > /proc/self/oom_score_adj && exec {HOLD} {mb}"
    held[name] = subprocess.Popen(["sh", "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    held[name].stdout.readline()

def protect(name): # where even root may not lower it, a file says so in its place (in the mount namespace of the keeper)
    path = f"/proc/{held[name].pid}/oom_score_adj"
    try:
        with open(path, "w") as file:
            file.write("-1000")
    except OSError:
        with open("minus-1000", "w") as file:
            file.write("-1000\\n")
        subprocess.run(["mount", "--bind", "minus-1000", path], check=True)

def next_to_end():
    pid, status = os.wait()
    name = next(name for name, process in held.items() if process.pid == pid)
    held.pop(name)
    print(name, "killed" if os.waitstatus_to_exitcode(status) == -9 else status)

def end():
    for name, process in sorted(held.items()):
        process.stdin.close()
        said = process.stdout.read()
        print(name, said.decode().strip(), process.wait())
"""


def program(steps):
    return [PYTHON, "-c", DRIVER + steps + "\nend()", victim("hold-memory")]


def drive(box, steps, limit, args=("--no-swap",)):
    need_membox()
    run = box.run_boxed(program(steps), limit, args=args)
    assert run.status == 0, run.stderr
    return run


def reports(stderr):
    """[(the report's lines, name of who was killed)]; everything on stderr belongs to one of them."""
    found = re.findall(r"((?:membox: .*\n)+?)membox: killed process (\d+) \((.*)\) of container .*\n", stderr)
    assert "".join(f"{report}membox: killed process {pid} ({name}) of container" for report, pid, name in found) == \
        re.sub(r"(killed process \d+ \(.*\) of container).*\n", r"\1", stderr), stderr
    return found


def test_a6_largest_is_killed_then_the_next_and_nothing_outside(box):
    """A1, A6, B3: the container behaves like a machine of its size."""
    need_membox()
    outside = subprocess.Popen([victim("hold-memory"), "128"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    outside.stdout.readline()
    run = drive(box, "hold('a', 30); hold('b', 50); hold('c', 70); hold('d', 40); next_to_end(); hold('e', 42); hold('f', 42); next_to_end()", 190 * MIB)
    assert run.stdout.decode().split("\n") == ["c killed", "b killed", "a right 0", "d right 0", "e right 0", "f right 0", ""]
    assert run.stats["oom_kills"] == 2 and run.stats["exit_status"] == 0
    assert outside.communicate()[0] == b"right\n" and outside.returncode == 0


def test_a6_report(box):
    """What each task held, the lists, the swap, and why; the largest first."""
    run = drive(box, "hold('a', 30); hold('b', 50); hold('c', 70, 7); hold('d', 40); next_to_end()", 180 * MIB, ("--no-swap", "--name", "who"))
    (text, pid, name), = reports(run.stderr)
    lines = [line.removeprefix("membox: ") for line in text.splitlines()]
    assert lines[0] == "out of memory in container who: limit 180 MiB is reached and there is no swap file"
    assert re.fullmatch(r"memory: usage 1[89]\d(\.\d)? MiB, highest 1[89]\d(\.\d)? MiB, limit 180 MiB, failcnt \d+, reclaimed \d+ pages", lines[1])
    assert re.fullmatch(r"lists: active 0 KiB, inactive \d+ KiB, unevictable 0 KiB; anonymous \d+ KiB, files \d+ KiB", lines[2])
    assert lines[3] == "swap: none"
    assert lines[4].split() == ["pid", "resident", "KiB", "anonymous", "files", "swapped", "tables", "oom_score_adj", "name"]
    rows = [line.split() for line in lines[5:]]
    assert [row[-1] for row in rows].count("hold-memory") == 4 and name == "hold-memory" and rows[0][0] == pid
    held = [int(row[1]) // 1024 for row in rows]
    assert 70 <= held[0] <= 73 and 50 <= held[1] <= 53 and 30 <= held[2] <= 43 and 10 <= held[3] <= 33, held
    assert [row[6] for row in rows] == ["7"] + ["0"] * (len(rows) - 1)
    assert all(int(row[1]) == int(row[2]) + int(row[3]) and row[4] == "0" for row in rows)
    assert "which held most: 7" in run.stderr and "oom_score_adj 7" in run.stderr


def test_a6_oom_score_adj(box):
    """Thousandths of what the container may hold are added: the smallest is killed."""
    run = drive(box, "hold('a', 30, 500); hold('b', 50); hold('c', 70); hold('d', 40); next_to_end()", 170 * MIB)
    assert run.stdout.decode().split("\n") == ["a killed", "b right 0", "c right 0", "d right 0", ""]


def test_a6_minus_1000_is_never_killed(box):
    need_root("to protect a process")
    steps = "hold('a', 30); hold('b', 50); hold('c', 70); protect('c'); hold('d', 30); next_to_end(); hold('e', 60); next_to_end()"
    command = box.command(program(steps), 180 * MIB, args=["--no-swap"])
    status, stdout, stderr, _ = execute(["unshare", "--mount", "--propagation", "private", *command], cwd=box.folder)
    assert (status, stdout.decode().split("\n")) == (0, ["b killed", "e killed", "a right 0", "c right 0", "d right 0", ""]), stderr
    assert all(" -1000 " in text for text, _, _ in reports(stderr))


def test_b1_what_is_in_swap_counts(box):
    """The one that holds most is mostly in the swap file, which is full: to kill another one would not help for long."""
    run = drive(box, "hold('a', 80); hold('b', 50); hold('c', 60); next_to_end()", 64 * MIB, ("--swap-size", "96M"))
    assert run.stdout.decode().split("\n") == ["a killed", "b right 0", "c right 0", ""]
    (text, _, _), = reports(run.stderr)
    row = next(line.split() for line in text.splitlines() if line.endswith("hold-memory"))
    assert "the swap file is full" in text and "swap: used 96 MiB of 96 MiB" in text
    assert int(row[2]) < int(row[5]), row


@pytest.mark.parametrize("args", [("--no-swap",), ("--swap-size", "16M")], ids=lambda args: args[0])
def test_a6_those_who_share_memory_go_together(box, args):
    need_membox()
    run = box.run_boxed([victim("share-memory"), 256], 64 * MIB, args=args)
    assert run.status == 137 and "WRONG" not in run.stderr, run.stderr
    assert run.stats["oom_kills"] == 2 and len(reports(run.stderr)) == 1


@pytest.mark.parametrize("args", [("--no-swap",), ()], ids=["no-swap", "swap"])
def test_a1_shared_memory_cannot_leave(box, args):
    """It counts as mapped pages of a file do, but nobody can give it back."""
    need_membox()
    script = "import mmap, time\nm = mmap.mmap(-1, 160 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\ntime.sleep(100)"
    run = box.run_boxed([PYTHON, "-c", script], 64 * MIB, args=args)
    assert (run.status, run.stats["oom_kills"], len(reports(run.stderr))) == (137, 1, 1)


@pytest.mark.parametrize("args", [("--no-swap",), ("--swap-size", "32M")], ids=lambda args: args[0])
def test_a6_exit_status(box, args):
    """137 when the program itself is killed; its own when that befalls a child."""
    need_membox()
    hog = [PYTHON, "-c", "import time; x = b'1' * (128 << 20); time.sleep(100)"]
    run = box.run_boxed(hog, 48 * MIB, args=args)
    assert (run.status, run.stats["exit_status"], run.stats["oom_kills"], len(reports(run.stderr))) == (137, 137, 1, 1)
    run = box.run_boxed(["sh", "-c", '"$@"; echo $?; exit 5', "sh", *hog], 48 * MIB, args=args)
    assert (run.status, run.stdout, run.stats["oom_kills"]) == (5, b"137\n", 1)


def test_a6_name_of_a_victim_speaks_to_nobody(box):
    """A program chooses its name: it must not get control characters into the terminal or the report."""
    need_membox()
    script = "open('/proc/self/comm', 'wb').write(b'\\x1b[2J\\n\\xff'); x = b'1' * (200 << 20)\nimport time; time.sleep(100)"
    run = box.run_boxed([PYTHON, "-c", script], 48 * MIB, args=["--no-swap"])
    assert run.status == 137 and "(?[2J??)" in run.stderr and "\x1b" not in run.stderr, run.stderr


# ---- --oom stop -----------------------------------------------------------------------------------------------------------


class Stopping:
    """A container with --oom stop in the background."""

    def __init__(self, box, program, limit, args=("--no-swap", "--oom", "stop"), prefix=()):
        need_membox()
        self.name = f"oom-{os.getpid()}-{box.new_path('n').name}"
        command = box.command(program, limit, args=("--name", self.name, *args))
        self.process = subprocess.Popen([*prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=box.folder)

    def ask(self, verb, **members):
        reply = ask(self.name, verb, **members)
        assert reply and reply["ok"], reply
        return reply

    def wait_for_stop(self):
        assert wait_until(lambda: (ask(self.name, "describe") or {}).get("state") == "stopped", 60), self.process.poll()

    def end(self):
        """(status, stdout, stderr as lines); who waits for the end of its input goes on."""
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout, stderr.decode().splitlines()


@contextlib.contextmanager
def stopping(*arguments, **options):
    one = Stopping(*arguments, **options)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            ask(one.name, "kill", signal=signal.SIGKILL)
            one.process.communicate(timeout=20)


def stop_line(one, limit_mb, why):
    return (f"membox: container {one.name} is stopped: out of memory: limit {limit_mb} MiB is reached and {why} (make room with `membox set {one.name} --limit "
            f"SIZE` or `membox swapon {one.name} FILE`, or end it with `membox kill {one.name}`)")


def goes_on_line(one):
    return f"membox: container {one.name} goes on: it has room again"


def members_states(one):
    return {state for _, state, name in descendants(one.process.pid) if not name.startswith(("membox", "mbx-"))}


def test_a6_stop_until_the_limit_is_raised(box):
    """Nobody is killed; said once each time; the report is there for who asks; the right result in the end."""
    with stopping(box, [victim("hold-memory"), 128], 64 * MIB) as one:
        one.wait_for_stop()
        stat = one.ask("stat")
        assert stat["oom_report"].startswith(f"out of memory in container {one.name}: limit 64 MiB is reached and there is no swap file\n")
        assert stat["oom_report"].splitlines()[-1].endswith("hold-memory") and stat["figures"]["oom_kills"] == 0
        assert members_states(one) == {"t"} and stat["rss_usage"] < 80 * MIB
        one.ask("set", limit=96 * MIB)
        one.wait_for_stop()
        assert one.ask("stat")["oom_report"].startswith(f"out of memory in container {one.name}: limit 96 MiB")
        one.ask("set", limit=256 * MIB)
        status, _, lines = one.end()
        assert status == 0 and lines == [stop_line(one, 64, "there is no swap file"), goes_on_line(one), stop_line(one, 96, "there is no swap file"),
                                         goes_on_line(one)]


def test_b3_stop_until_there_is_swap(box):
    """The members were never reached before: they are put under control while they stand still."""
    with stopping(box, [victim("hold-memory"), 160], 64 * MIB) as one:
        one.wait_for_stop()
        one.ask("swapon", path=str(box.folder / "late-swap"))
        status, _, lines = one.end()
        assert status == 0 and lines == [stop_line(one, 64, "there is no swap file"), goes_on_line(one)]


def test_a6_stop_with_a_full_swap_file(box):
    """Park and unpark do not set it going; a higher limit does."""
    with stopping(box, [victim("hold-memory"), 160], 64 * MIB, ("--swap-size", "32M", "--oom", "stop")) as one:
        one.wait_for_stop()
        assert "the swap file is full" in one.ask("stat")["oom_report"]
        assert ask(one.name, "park")["errno"] == "ENOSPC"
        assert one.ask("describe")["state"] == "stopped" and members_states(one) == {"t"}
        one.ask("set", limit=256 * MIB)
        status, _, lines = one.end()
        assert status == 0 and lines == [stop_line(one, 64, "the swap file is full"), goes_on_line(one)]


def test_a6_stop_until_a_process_is_ended(box):
    """The owner kills one by hand: the others go on."""
    with stopping(box, program("hold('a', 30); hold('b', 50); hold('c', 70); next_to_end()"), 130 * MIB) as one:
        one.wait_for_stop()
        largest = max(one.ask("stat")["members"], key=lambda member: member["rss"])
        os.kill(largest["pid"], signal.SIGKILL)
        status, stdout, lines = one.end()
        assert (status, len(lines)) == (0, 2) and stdout.count(b"killed") == 1 and stdout.count(b"right 0") == 2, stdout


def test_a6_stopped_container_is_killed(box):
    with stopping(box, [victim("hold-memory"), 128], 64 * MIB) as one:
        one.wait_for_stop()
        pids = [member["pid"] for member in one.ask("stat")["members"]]
        one.ask("kill")
        status, _, lines = one.end()
        assert status in (137, -9) and lines == [stop_line(one, 64, "there is no swap file")] and not any(map(is_alive, pids))


@pytest.fixture
def protected(box):
    """A container whose only process has -1000, and is over the limit."""
    need_root("to protect a process")
    (box.folder / "minus-1000").write_text("-1000\n")
    script = f"mount --bind minus-1000 /proc/$$/oom_score_adj && exec {victim('hold-memory')} 128"
    with stopping(box, ["sh", "-c", script], 64 * MIB, ("--no-swap",), ("unshare", "--mount", "--propagation", "private")) as one:
        one.wait_for_stop()
        assert " -1000 " in one.ask("stat")["oom_report"]
        yield one


WHY_PROTECTED = "there is no swap file, and no process is left that may be killed"


def test_a6_only_the_protected_are_left(protected):
    """-1000 is never killed, and the limit holds: the container stops, without being told to."""
    protected.ask("set", limit=256 * MIB)
    status, _, lines = protected.end()
    assert status == 0 and lines == [stop_line(protected, 64, WHY_PROTECTED), goes_on_line(protected)]


def test_a6_the_last_protection_is_lifted(protected):
    """Then the choice is made as always."""
    found = protected.ask("describe")
    subprocess.run(["nsenter", f"--mount=/proc/{found['keeper']}/ns/mnt", "umount", "--lazy", f"/proc/{found['program']}/oom_score_adj"], check=True)
    status, _, lines = protected.end()
    assert status == 137 and lines[0] == stop_line(protected, 64, WHY_PROTECTED)
    assert lines[1] == f"membox: container {protected.name} goes on: there is a process again that may be killed" and len(reports("\n".join(lines[2:]) + "\n")) == 1
