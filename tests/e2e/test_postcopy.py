"""A container that goes on elsewhere before all of its pages are there (issue 7, point 3): whoever touches one that has not come waits for it, and when the stream breaks, for the rest."""
import contextlib
import json
import os
import random
import subprocess
import threading
import time

import pytest

from boxes import MEMBOX, MIB, PYTHON, load_json, need_membox, need_root, scale, scratch_folder, shell_status, wait_until
from test_checkpoint import membox
from test_send import Sent

# Changes memory faster than a slow stream carries it, and knows at the end what each page has to hold; so does a child of it, which sees nothing of the changes.
CHANGES = """
import os, sys, time, zlib
PAGES, AT_ONCE = 2048, int(sys.argv[3])
held = bytearray(4096 * PAGES); last = [0] * PAGES; n = 0
for i in range(PAGES):
    held[i * 4096:i * 4096 + 4096] = os.urandom(4088) + bytes(8)
sums = [zlib.crc32(held[i * 4096:i * 4096 + 4088]) for i in range(PAGES)]
child = os.fork()
if not child:
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
    os._exit(0 if all(held[i * 4096 + 4088:i * 4096 + 4096] == bytes(8) and zlib.crc32(held[i * 4096:i * 4096 + 4088]) == sums[i] for i in range(PAGES)) else 3)
out = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
while not os.path.exists(sys.argv[2]):
    n += 1
    for k in range(AT_ONCE):
        i = (n * AT_ONCE + k) * 2477 % PAGES; held[i * 4096 + 4088:i * 4096 + 4096] = n.to_bytes(8, "little"); last[i] = n
    os.write(out, b"%d\\n" % n); time.sleep(0.001)
right = all(int.from_bytes(held[i * 4096 + 4088:i * 4096 + 4096], "little") == last[i] and zlib.crc32(held[i * 4096:i * 4096 + 4088]) == sums[i] for i in range(PAGES))
sys.exit(0 if right and os.waitpid(child, 0)[1] == 0 else 3)
"""
RATE, RATE_BEHIND_THE_SWITCH = 16 * MIB, 4 * MIB


class Slow(threading.Thread):
    """Carries RATE bytes a second from one end of a pipe to the other, less when the sender's program has ended, until it is told to cut."""

    def __init__(self, source, target, program):
        super().__init__(daemon=True)
        self.source, self.target, self.program, self.cuts, self.spoils = source, target, program, False, False
        self.start()

    def run(self):
        with contextlib.suppress(BrokenPipeError):
            while not self.cuts and (data := self.source.read1(65536)):
                self.target.write(bytes(byte ^ 1 for byte in data) if self.spoils else data)
                self.target.flush()
                time.sleep(len(data) / (RATE if self.program.poll() is None else RATE_BEHIND_THE_SWITCH))
        with contextlib.suppress(BrokenPipeError):
            self.target.close()
        self.source.close()

    def cut(self):
        self.cuts = True
        self.join()


class Switched(Sent):
    """What changes so much that it is sent with pages left over."""

    def __init__(self, folder, **options):
        super().__init__(folder, limit=200 * MIB, program=(CHANGES, 32), **options)

    def slow_pipe(self, *options, receive=()):
        sender = self.send(*options, stdout=subprocess.PIPE)
        self.there, receiver = self.start("receive", "--isolate", *receive, stdin=subprocess.PIPE)
        return sender, receiver, Slow(sender.stdout, receiver.stdin, self.process)

    def await_switch(self):
        """It has ended here and goes on there, with pages that have not come."""
        assert wait_until(lambda: self.process.poll() is not None, 60), self.errors()
        assert wait_until(lambda: membox("stat", self.there, check=False).returncode == 0 and self.awaited(), 20), self.errors()

    def awaited(self):
        return json.loads(membox("stat", self.there, "--json").stdout)["awaited"]

    def resume(self, image):
        with subprocess.Popen([MEMBOX, "pack", image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as pack:
            return subprocess.run([MEMBOX, "resume", self.there], stdin=pack.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


    def finish_detached(self):
        self.end.touch()
        assert wait_until((self.folder / "figures").exists, 30) and load_json(self.folder / "figures")["exit_status"] == 0, self.errors()


@pytest.fixture
def switched():
    need_membox()
    need_root("to give process ids again")
    made = []

    def make(**options):
        made.append(Switched(scratch_folder(), **options))
        return made[-1]
    yield make
    for one in made:
        one.close()


def test_goes_on_before_all_is_there(switched):
    one = switched()
    sender, receiver, pipe = one.slow_pipe()
    one.await_switch()
    assert sender.poll() is None and one.awaited() > 0, one.errors()
    refused = membox("checkpoint", one.there, one.folder / "other", check=False)
    assert refused.returncode == 1 and "not all of its pages have come" in refused.stderr
    refused = one.resume(one.image)
    assert refused.returncode == 1 and "still coming" in refused.stderr, refused.stderr
    assert sender.wait(60) == 0, one.errors()
    assert "afterwards; stopped for" in one.said() and one.said().count("\n") == 1, one.said()
    assert wait_until(lambda: one.awaited() == 0, 10)
    refused = one.resume(one.image)
    assert refused.returncode == 1 and "all its pages are there" in refused.stderr, refused.stderr
    membox("checkpoint", one.there, one.folder / "other", "--leave-running")
    one.finish(receiver)
    assert "pages have come" not in one.errors()


def test_everything_before(switched):
    """--no-post-copy, and an older membox could read it."""
    one = switched()
    sender, receiver, _ = one.slow_pipe("--no-post-copy")
    assert sender.wait(60) == 0 and "afterwards" not in one.said(), one.errors()
    one.finish(receiver)


def test_detached_when_all_is_there(switched):
    one = switched()
    sender, receiver, _ = one.slow_pipe(receive=["--detach", "--stats", one.folder / "figures"])
    one.await_switch()
    assert receiver.poll() is None, "it would take the pipe's end with it"
    assert sender.wait(60) == 0 and receiver.wait(20) == 0, one.errors()
    assert one.awaited() == 0
    one.finish_detached()


def cut_behind_the_switch(one, **options):
    sender, receiver, pipe = one.slow_pipe(**options)
    one.await_switch()
    pipe.cut()
    assert sender.wait(60) == 125 and "may go on there without all of its pages" in one.said() and one.said().count("\n") == 1, one.errors()
    assert wait_until(lambda: "not all of its pages have come: the stream was cut off" in one.errors(), 20), one.errors()
    return receiver


def test_breaks_and_is_resumed(switched):
    one = switched()
    receiver = cut_behind_the_switch(one)
    left = one.awaited()
    assert left > 0 and receiver.poll() is None
    # Neither a stream that breaks again, nor another checkpoint, changes anything.
    stream = subprocess.run([MEMBOX, "pack", one.image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    broken = subprocess.run([MEMBOX, "resume", one.there], input=stream[:-1], stderr=subprocess.PIPE, timeout=60)
    assert broken.returncode == 125 and b"cut off" in broken.stderr, broken.stderr
    name, process = one.start("run", "--limit", 64 * MIB, "--", PYTHON, "-c", "import time; print(flush=True); time.sleep(1000)", stdout=subprocess.PIPE)
    process.stdout.readline()
    membox("checkpoint", name, one.folder / "other")
    refused = one.resume(one.folder / "other")
    assert refused.returncode == 1 and "not the checkpoint" in refused.stderr, refused.stderr
    assert one.awaited() == left
    done = one.resume(one.image)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert one.awaited() == 0
    assert not list(one.folder.glob("*.rest*")), "what was only for the way is left"
    one.finish(receiver)


def test_breaks_detached(switched):
    one = switched()
    receiver = cut_behind_the_switch(one, receive=["--detach", "--stats", one.folder / "figures"])
    assert receiver.wait(20) == 0, "it runs, and can be resumed"
    assert one.resume(one.image).returncode == 0
    one.finish_detached()


def test_breaks_and_is_given_up(switched):
    """Its image is at the sender's, as it was at the switch."""
    one = switched()
    receiver = cut_behind_the_switch(one)
    assert membox("kill", one.there).returncode == 0
    assert shell_status(receiver.wait(30)) == 137, one.errors()
    one.finish(one.start("restore", "--isolate", one.image)[1], may_go_back=1)


def test_damaged_behind_the_switch(switched):
    """No more of it is read, which the sender sees; what came before it stays."""
    one = switched()
    sender, receiver, pipe = one.slow_pipe()
    one.await_switch()
    pipe.spoils = True
    assert sender.wait(60) == 125 and "may go on there without all of its pages" in one.said(), one.errors()
    assert wait_until(lambda: "not all of its pages have come: the stream is damaged" in one.errors(), 20), one.errors()
    assert one.awaited() > 0 and one.resume(one.image).returncode == 0
    one.finish(receiver)


def test_a_damaged_rest_is_seen(switched):
    """What comes behind the switch is verified like everything else."""
    one = switched()
    sender, receiver, pipe = one.slow_pipe()
    one.await_switch()
    pipe.cut()
    assert sender.wait(60) == 125
    assert wait_until(lambda: "not all of its pages have come" in one.errors(), 20), one.errors()
    left = one.awaited()
    with open(one.image / "pages", "r+b") as pages:
        size = os.fstat(pages.fileno()).st_size
        for at in range(4096, size, 4096):
            pages.seek(at + 100)
            pages.write(b"changed")
    refused = one.resume(one.image)
    assert refused.returncode == 125 and one.awaited() == left, refused.stderr
    membox("kill", one.there)
    receiver.wait(30)


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_kill_behind_the_switch(switched, victim):
    """Never two, never none: the one there waits, or is dead and its image is here."""
    chance = random.Random(victim)
    for _ in range(scale(1, 30)):
        one = switched()
        sender, receiver, _ = one.slow_pipe()
        assert wait_until(lambda: one.process.poll() is not None, 60), one.errors()
        time.sleep(chance.uniform(0, 0.3))
        (sender if victim == "sender" else receiver).kill()
        sender.wait(60)
        assert one.image.exists()
        if victim == "sender" and wait_until(lambda: receiver.poll() is not None, 0.5):
            assert shell_status(receiver.returncode) == 125  # the switch had not been written yet
        elif victim == "sender" and one.awaited():
            assert one.resume(one.image).returncode == 0
        if receiver.poll() is None and victim == "sender":
            one.finish(receiver)
        else:
            receiver.wait(20)
            one.finish(one.start("restore", "--isolate", one.image)[1], may_go_back=1)
        one.close()
