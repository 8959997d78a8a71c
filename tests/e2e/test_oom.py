"""The container's OOM killer (LINEAGE A1, A6, B3): whom it kills, what it says, and what it leaves alone."""
import re
import subprocess

import pytest

from boxes import MIB, PYTHON, execute, need_membox, need_root, victim

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
    assert re.fullmatch(r"lists: anonymous \d+ KiB \(active 0, inactive \d+, unevictable 0\), files \d+ KiB", lines[2])
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


@pytest.mark.parametrize("args", [("--no-swap",), ("--swap-size", "32M")], ids=lambda args: args[0])
def test_a6_exit_status(box, args):
    """137 when the program itself is killed; its own when that befalls a child."""
    need_membox()
    run = box.run_boxed([victim("touch-pages"), 128, "rand-read"], 48 * MIB, args=args)
    assert (run.status, run.stats["exit_status"], run.stats["oom_kills"], len(reports(run.stderr))) == (137, 137, 1, 1)
    run = box.run_boxed(["sh", "-c", f"{victim('touch-pages')} 128 rand-read 2> /dev/null; echo $?; exit 5"], 48 * MIB, args=args)
    assert (run.status, run.stdout, run.stats["oom_kills"]) == (5, b"137\n", 1)


def test_a6_name_of_a_victim_speaks_to_nobody(box):
    """A program chooses its name: it must not get control characters into the terminal or the report."""
    need_membox()
    script = "open('/proc/self/comm', 'wb').write(b'\\x1b[2J\\n\\xff'); x = b'1' * (200 << 20)"
    run = box.run_boxed([PYTHON, "-c", script], 48 * MIB, args=["--no-swap"])
    assert run.status == 137 and "(?[2J??)" in run.stderr and "\x1b" not in run.stderr, run.stderr
