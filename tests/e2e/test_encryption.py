"""An encrypted swap file: what a program held in memory is not in it, and everything that is done with a swap file works as it does without."""
import json
import os
import pathlib
import re
import signal
import struct
import subprocess

import pytest

from boxes import MEMBOX, MIB, ask, named, need_membox, victim, wait_until
from test_checkpoint import PYTHON, membox, root_only, saved  # noqa: F401, the last two are fixtures

SIZE_MB, LIMIT = 48, 16 * MIB
WORDS = 2**64 - 1


@pytest.fixture(autouse=True)
def not_bare():
    need_membox()


def mix(x):
    """As in victim.h."""
    x = (x + 0x9e3779b97f4a7c15) & WORDS
    x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & WORDS
    x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & WORDS
    return x ^ (x >> 31)


def pages_found(path):
    """How many pages of hold-memory's are in the file, as far as their first 16 bytes tell."""
    held = {struct.pack("<2Q", *(mix(((42 + n) * 1000003 + i) & WORDS) | 1 for i in range(2))) for n in range(SIZE_MB * MIB // 4096)}
    data = pathlib.Path(path).read_bytes()
    return sum(data[at:at + 16] in held for at in range(0, len(data), 4096))


class Held:
    """hold-memory in a container whose evicted pages all go to the file."""

    def __init__(self, box, *options):
        self.name, self.swap = f"encrypted-{os.getpid()}-{box.count}", box.new_path("swap")
        self.process = box.start([victim("hold-memory"), SIZE_MB], LIMIT, swap=self.swap, args=("--name", self.name, "--pool", "0", *options))
        assert self.process.stdout.readline() == b"ready\n"
        assert wait_until(lambda: self.stat()["swap_used"] > 24 * MIB, 20), self.stat()

    def stat(self):
        return ask(self.name, "describe")

    def end(self):
        stdout, stderr = self.process.communicate(timeout=60)
        assert (self.process.returncode, stdout) == (0, b"right\n"), stderr


@pytest.mark.parametrize("option", ["--encrypt", "--no-encrypt"])
def test_what_was_in_memory_is_not_in_the_file(box, option):
    """While it runs, and when everything was killed; without encryption it is there, so the test would see it."""
    held = Held(box, option)
    assert held.stat()["swap_encrypted"] is (option == "--encrypt")
    assert (", encrypted" in membox("stat", held.name).stdout) is (option == "--encrypt")
    running = pages_found(held.swap)
    os.kill(held.stat()["keeper"], signal.SIGKILL)
    held.process.communicate(timeout=20)
    killed = pages_found(held.swap)
    if option == "--encrypt":
        assert (running, killed) == (0, 0)
    else:
        assert min(running, killed) > 4000


def test_the_key_is_in_locked_memory_of_the_keeper_alone(box):
    """A page of its own in no dump (dd), empty in children (wf), locked (lo); no other process has such a mapping."""
    held = Held(box, "--encrypt")

    def key_pages(pid):
        flags = re.findall(r"VmFlags:(.*)", pathlib.Path(f"/proc/{pid}/smaps").read_text())
        return sum({"dd", "wf", "lo"} <= set(line.split()) for line in flags)

    keeper = held.stat()["keeper"]
    others = [held.process.pid, *named(held.process.pid, "mbx-guardian"), *named(held.process.pid, "hold-memory")]
    assert key_pages(keeper) == 1 and [key_pages(pid) for pid in others] == [0] * len(others) and len(others) == 3
    held.end()


def test_swapoff_swapon_and_park(box):
    held, second = Held(box, "--encrypt"), box.new_path("swap")
    membox("set", held.name, "--limit", 128 * MIB)
    membox("swapoff", held.name)
    assert held.stat()["swap_file"] is None and held.stat()["swap_encrypted"] is False
    membox("swapon", held.name, second)
    membox("set", held.name, "--limit", LIMIT)
    assert held.stat()["swap_encrypted"] is True
    membox("park", held.name)
    assert held.stat()["swap_used"] > 40 * MIB and pages_found(second) == 0
    membox("unpark", held.name)
    held.end()


def test_options_that_contradict(box):
    done = subprocess.run([MEMBOX, "run", "--encrypt", "--no-encrypt", "true"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (125, "membox: --encrypt: contradicts --no-encrypt\n")


HELD = """
import hashlib, os, sys, time
held = os.urandom(48 << 20)
print(hashlib.sha256(held).hexdigest(), flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.005)
print(hashlib.sha256(held).hexdigest(), flush=True)
"""


def test_checkpoints(saved, root_only, shared_folder):  # noqa: F811
    """One checkpoint is restored twice, once without encryption of what is new; one that is made of a restored container has the pages of both files;
    a packed one is plain."""
    go_on = pathlib.Path(shared_folder) / "decrypt"
    one = saved([PYTHON, "-c", HELD, go_on], limit=24 * MIB, options=["--encrypt", "--pool", "0"])
    assert wait_until(lambda: one.output.exists() and one.output.stat().st_size == 65, 20)
    one.checkpoint()
    assert one.status() == 137
    assert json.loads(membox("inspect", one.image, "--json").stdout)["encrypted"] is True
    assert (one.image / "image.pb").stat().st_mode & 0o777 == 0o600
    one.restore("--encrypt")
    one.checkpoint("--leave-running", folder=one.folder / "second")
    go_on.touch()
    assert one.status() == 0, one.errors()
    membox("pack", one.image, one.folder / "packed")
    membox("unpack", one.folder / "packed", one.folder / "unpacked")
    assert json.loads(membox("inspect", one.folder / "unpacked", "--json").stdout)["encrypted"] is False
    for folder in (one.image, one.folder / "second", one.folder / "unpacked"):
        one.restore("--no-encrypt", folder=folder)
        assert one.status() == 0, one.errors()
    assert len(set(one.output.read_text().split())) == 1 and one.output.stat().st_size == 5 * 65
