"""Checkpoints: a program that is stopped at a random moment, killed, and made again goes on to the same result (LINEAGE B8, C)."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

from boxes import MEMBOX, MIB, need_membox, need_program, need_root, scale, shell_status, victim
from processes import is_alive, wait_until

pytestmark = [pytest.mark.usefixtures("root_only")]
PYTHON = "/usr/bin/python3"


@pytest.fixture
def root_only():
    need_membox()
    need_root("to give process ids again")


def membox(*words, check=True, timeout=120):
    done = subprocess.run([MEMBOX, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"{words}: {done.returncode} {done.stdout} {done.stderr}"
    return done


class Saved:
    """A program that runs in a container, is checkpointed, restored, and so on; its output goes to a file."""

    def __init__(self, folder, program, limit=64 * MIB, options=(), cwd=None):
        self.folder, self.image = pathlib.Path(folder), pathlib.Path(folder) / "image"
        self.output, self.name, self.cwd = self.folder / "output", f"saved-{os.getpid()}-{random.randrange(10**9)}", cwd
        self.swap = self.folder / "swap"
        self.start("run", ["--limit", limit, *options, "--", *program])

    def start(self, verb, words):
        with open(self.output, "ab") as out, open(self.folder / "errors", "ab") as errors:
            self.process = subprocess.Popen([MEMBOX, verb, "--name", self.name, "--swap", str(self.swap), *map(str, words)], stdin=subprocess.DEVNULL, stdout=out,
                                            stderr=errors, cwd=self.cwd)

    def is_there(self):
        return wait_until(lambda: self.process.poll() is not None or membox("stat", self.name, check=False).returncode == 0, 20)

    def checkpoint(self, *options, folder=None, check=True):
        self.is_there()
        return membox("checkpoint", self.name, folder or self.image, *options, check=check)

    def restore(self, *options, folder=None):
        self.start("restore", [*options, folder or self.image])

    def status(self, timeout=120):
        return shell_status(self.process.wait(timeout))

    def errors(self):
        return (self.folder / "errors").read_text(errors="replace")


@pytest.fixture
def saved(shared_folder):
    made = []

    def make(program, **options):
        folder = pathlib.Path(shared_folder) / f"saved-{len(made)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        made.append(Saved(folder, program, **options))
        return made[-1]
    yield make
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        shutil.rmtree(one.folder, ignore_errors=True)


def bare(program, cwd=None):
    done = subprocess.run([str(word) for word in program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=cwd, timeout=120)
    return done.stdout, shell_status(done.returncode)


def go_through(saved, program, times, longest, **options):
    """Runs it with checkpoints at random moments, each followed by the end and a restore; returns how many there were."""
    one, done = saved(program, **options), 0
    chance = random.Random(int(os.environ.get("MEMBOX_SEED", "1")) + times)
    for _ in range(times):
        one.is_there()
        time.sleep(chance.uniform(0.05, longest))
        if one.process.poll() is not None:
            break
        answer = one.checkpoint(check=False)
        if answer.returncode:
            assert one.process.poll() is not None or "it may be inside vfork" in answer.stderr, answer.stderr
            continue
        assert one.status() == 128 + signal.SIGKILL
        done += 1
        one.restore()
    return one, one.status(), done


COUNT = """
import sys
data, t = [i * i for i in range(600000)], 0
log = open(sys.argv[1], "a")
for i in range(int(sys.argv[2])):
    t = (t * 31 + sum(data[i * 1000 % 500000:][:60000])) % 1000000007
    log.write(f"{i} {t}\\n"); log.flush()
print("result", t)
"""


def test_python_with_a_log(saved, shared_folder):
    """LINEAGE B8, C1, C5, C6."""
    log, expected = pathlib.Path(shared_folder) / "log", pathlib.Path(shared_folder) / "log.bare"
    program = [PYTHON, "-c", COUNT, log, 600]
    output, status = bare([PYTHON, "-c", COUNT, expected, 600])
    one, boxed, times = go_through(saved, program, scale(5, 20), 0.5, limit=32 * MIB)
    assert boxed == status == 0, one.errors()
    assert times >= 2, "it ended before it was saved"
    assert one.output.read_bytes() == output
    assert log.read_bytes() == expected.read_bytes()


def test_threads_timers_signals(saved):
    """LINEAGE C5: registers with vectors, threads, timers, signals, alternate stacks."""
    program = [victim("keep-state"), 600]
    output, status = bare(program)
    one, boxed, times = go_through(saved, program, scale(5, 20), 0.3, limit=16 * MIB)
    assert boxed == status == 0, one.errors()
    assert times >= 2
    assert one.output.read_bytes() == output


def test_pipeline(saved):
    """LINEAGE C5: a tree of processes, pipes with what is in them."""
    script = "i=0; while [ $i -lt 60000 ]; do echo $((i * 7919 % 60013)); i=$((i+1)); done | sort -n | tee /dev/null | cksum"
    output, status = bare(["bash", "-c", script])
    one, boxed, times = go_through(saved, ["bash", "-c", script], scale(4, 20), 0.25)
    assert boxed == status == 0, one.errors()
    assert times >= 1
    assert one.output.read_bytes() == output


def test_already_swapped_is_not_copied(saved):
    """LINEAGE B8: what is in the swap file needs no second copy; the file itself becomes part of the checkpoint."""
    one = saved([PYTHON, "-c", "import os, time; held = os.urandom(128 << 20); time.sleep(100)"], limit=32 * MIB)
    one.is_there()
    wait_until(lambda: json.loads(membox("stat", one.name, "--json").stdout)["swap_used"] > 90 * MIB, 60)
    inode = one.swap.stat().st_ino
    answer = one.checkpoint()
    assert one.status() == 137
    what = json.loads(membox("inspect", one.image, "--json").stdout)
    assert what["bytes"] > 120 * MIB
    assert what["written"] < 8 * MIB, answer.stdout
    assert (one.image / "pages").stat().st_ino == inode
    assert not one.swap.exists()
