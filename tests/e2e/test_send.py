"""A running container through a pipe to another membox (issue 7, point 3; LINEAGE D6): it goes on there, and whatever breaks when: never two run, never is there none
without a checkpoint."""
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import pytest

import boxes
from boxes import MEMBOX, MIB, PYTHON, execute, need_faulty_membox, need_membox, need_program, need_root, scale, scratch_folder, shell_status, wait_until
from test_checkpoint import membox
from test_ordinary_user import allowed, user  # noqa: F401 (fixtures)

# Each beat once, by whoever runs it: two that run at once, or one that runs again, show in the file.
BEATS = """
import os, sys, time
held = bytearray(os.urandom(1 << 20) * 24); out = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT); n = 0
while not os.path.exists(sys.argv[2]):
    n += 1; held[n * 4096 % len(held)] = n % 256
    os.write(out, b"%d\\n" % n); time.sleep(0.001)
sys.exit(0 if all(held[i * 4096 % len(held)] == i % 256 for i in range(max(1, n - 6143), n + 1)) else 3)
"""


class Sent:
    """A program that beats, here first and then elsewhere."""

    def __init__(self, folder, limit=64 * MIB, command=lambda *words: words, options=(), program=(BEATS,)):
        self.folder, self.command = pathlib.Path(folder), command
        self.beats, self.end = self.folder / "open/beats", self.folder / "end"
        self.beats.parent.mkdir(mode=0o777)
        self.beats.parent.chmod(0o777)
        self.image, self.count, self.started = self.folder / "swap-0.sent", 0, []
        self.name, self.process = self.start("run", "--limit", limit, *options, "--", PYTHON, "-c", program[0], self.beats, self.end, *program[1:])
        assert wait_until(lambda: len(self.numbers()) > 3, 30), self.errors()

    def start(self, verb, *words, **streams):
        name = f"sent-{os.getpid()}-{random.randrange(10**9)}"
        return self.start_command(self.command(MEMBOX, verb, "--name", name, "--swap", self.folder / f"swap-{self.count}", *words), name, **streams)

    def start_command(self, line, name=None, **streams):
        with open(self.folder / "errors", "ab") as errors:
            process = subprocess.Popen([str(word) for word in line], **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": errors, "cwd": "/", **streams})
        self.count += 1
        self.started.append(process)
        return name, process

    def send(self, *options, **streams):
        with open(self.folder / "sender", "wb") as errors:
            line = self.command(MEMBOX, "send", *options, self.name)
            process = subprocess.Popen([str(word) for word in line], stdin=subprocess.DEVNULL, stderr=errors, **streams)
        self.started.append(process)
        return process

    def pipe(self, *options):
        """(sender, receiver), connected."""
        sender = self.send(stdout=subprocess.PIPE)
        _, receiver = self.start("receive", "--isolate", *options, stdin=sender.stdout)
        sender.stdout.close()
        return sender, receiver

    def numbers(self):
        return [int(line) for line in self.beats.read_text().split("\n")[:-1]] if self.beats.exists() else []

    def beats_on(self):
        before = len(self.numbers())
        return wait_until(lambda: len(self.numbers()) > before + 2, 20)

    def errors(self):
        return (self.folder / "errors").read_text(errors="replace") + self.said()

    def said(self):
        return (self.folder / "sender").read_text() if (self.folder / "sender").exists() else ""

    def names(self):
        """What lies there of checkpoints and what is on its way to be one."""
        return sorted(path.name for path in self.folder.iterdir() if ".sent" in path.name or path.name.count(".") and path.name.startswith("swap"))

    def finish(self, process, may_go_back=0):
        """The one that runs has all that it ever knew, and no beat was lost or came twice; unless one that had gone on was killed, and its image before that is restored."""
        assert self.beats_on(), self.errors()
        self.end.touch()
        assert shell_status(process.wait(30)) == 0, self.errors()
        numbers = self.numbers()
        breaks = [(a, b) for a, b in zip(numbers, numbers[1:]) if b != a + 1]
        assert numbers[0] == 1 and len(breaks) <= may_go_back and all(b <= a for a, b in breaks), f"somebody ran twice, or went back: {breaks}"

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def sent():
    need_membox()
    need_root("to give process ids again")
    made = []

    def make(**options):
        made.append(Sent(scratch_folder(), **options))
        return made[-1]
    yield make
    for one in made:
        one.close()


def test_goes_on_there(sent):
    one = sent()
    sender, receiver = one.pipe()
    assert sender.wait(60) == 0, one.errors()
    assert one.process.wait(30) == 137
    assert str(one.image) in one.said() and one.said().count("\n") == 1, one.said()
    assert json.loads(membox("inspect", one.image, "--json").stdout)["name"] == one.name
    assert one.names() == [one.image.name], "something half-made is left"
    one.finish(receiver)


def test_detached_and_back(sent):
    """Through a file as well, as a stream that waits; and what came can be sent on, with what it has not touched yet."""
    one = sent(options=["--isolate"])
    sender, receiver = one.pipe("--detach")
    assert sender.wait(60) == 0 and receiver.wait(60) == 0, one.errors()
    assert one.process.wait(30) == 137
    shutil.rmtree(one.image)
    names = [word for word in os.listdir(boxes.runtime_folder()) if word.startswith(f"sent-{os.getpid()}-")]
    assert len(names) == 1
    one.name, one.image = names[0], one.folder / "image"
    with open(one.folder / "stream", "wb") as stream:
        assert one.send("--image", one.image, "-3", stdout=stream).wait(60) == 0, one.errors()
    assert wait_until(lambda: membox("stat", one.name, check=False).returncode == 1, 20)
    membox("unpack", one.folder / "stream", one.folder / "unpacked")
    with open(one.folder / "stream", "rb") as stream:
        _, receiver = one.start("receive", stdin=stream)
    one.finish(receiver)


def test_a_swap_file_of_a_relative_path(sent):
    """Its checkpoint is beside it, from wherever it is sent."""
    one = sent()
    name = f"{one.name}-relative"
    _, process = one.start_command([MEMBOX, "run", "--limit", 64 * MIB, "--name", name, "--swap", "relative", "--", "sleep", 1000], cwd=one.folder)
    assert wait_until(lambda: membox("stat", name, check=False).returncode == 0, 20)
    assert json.loads(membox("stat", name, "--json").stdout)["swap_file"] == str(one.folder / "relative")
    done = subprocess.run([MEMBOX, "send", name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/", timeout=60)
    assert done.returncode == 0 and (one.folder / "relative.sent").exists(), done.stderr
    assert process.wait(20) == 137
    one.finish(one.process)


def cut_after(one, total, withhold):
    """A pipe that breaks after so many bytes, or, with withhold, loses the last ones."""
    sender = one.send(stdout=subprocess.PIPE)
    _, receiver = one.start("receive", "--isolate", stdin=subprocess.PIPE)
    kept = b""
    with contextlib.suppress(BrokenPipeError):
        while total > 0 or withhold:
            data = sender.stdout.read1(65536 if withhold else min(total, 65536))
            if not data:
                break
            kept += data
            total -= len(data)
            receiver.stdin.write(kept[:len(kept) - withhold] if len(kept) > withhold else b"")
            receiver.stdin.flush()
            kept = kept[len(kept) - withhold:] if withhold else b""
    with contextlib.suppress(BrokenPipeError):
        receiver.stdin.close()
    sender.stdout.close()
    return sender, receiver


def goes_on_somewhere(one, sender, receiver, receiver_dies=False):
    """When all is settled exactly one runs, or none, and then the checkpoint goes on."""
    sender.wait(60)
    settled = wait_until(lambda: one.process.poll() is not None or one.names() == [], 30)  # a keeper whose sender was killed may be in the middle of a checkpoint
    assert settled, (one.names(), one.errors())
    if one.process.poll() is not None and one.image.exists():
        assert shell_status(one.process.returncode) in (125, 137)
        assert [name for name in one.names() if ".round" in name] == [] and one.image.name in one.names(), one.errors()
    else:
        assert shell_status(receiver.wait(60)) in (125, 137), one.errors()
        assert [name for name in one.names() if ".round" in name] == [], one.errors()
    if one.process.poll() is None:
        one.finish(one.process)
    elif one.image.exists() and not (wait_until(lambda: receiver.poll() is not None, 1) or not one.beats_on()):
        one.finish(receiver)
    elif one.image.exists():
        receiver.kill()
        receiver.wait(20)
        one.finish(one.start("restore", "--isolate", one.image)[1], may_go_back=receiver_dies)
    else:
        return "none"
    return "one"


@pytest.mark.parametrize("where", ["begin", "middle", "end"])
def test_the_pipe_breaks(sent, where):
    chance = random.Random(where)
    for _ in range(scale(2, 20)):
        one = sent()
        total = {"begin": chance.randrange(100), "middle": chance.randrange(24 * MIB), "end": 0}[where]
        sender, receiver = cut_after(one, total, chance.choice([1, 31, 33, 1000]) if where == "end" else 0)
        status = sender.wait(60)
        assert receiver.wait(60) == 125, one.errors()
        if where == "end":
            assert status == 0 and one.image.exists(), one.errors()
        elif status:
            assert "Broken pipe" in one.said() and one.said().count("\n") == 1, one.said()
        assert goes_on_somewhere(one, sender, receiver) == "one"


@pytest.mark.parametrize("victim", ["sender", "receiver", "keeper"])
def test_kill_at_any_moment(sent, victim):
    chance = random.Random(victim)
    for i in range(scale(3, 60)):
        one = sent()
        keeper = json.loads(membox("stat", one.name, "--json").stdout)["keeper"]
        sender, receiver = one.pipe()
        time.sleep(chance.uniform(0, 0.5))
        with contextlib.suppress(ProcessLookupError):
            os.kill({"sender": sender.pid, "receiver": receiver.pid, "keeper": keeper}[victim], signal.SIGKILL)
        if victim == "keeper":
            assert shell_status(one.process.wait(60)) in (125, 137)
        outcome = goes_on_somewhere(one, sender, receiver, receiver_dies=victim == "receiver")
        assert outcome == "one" or victim == "keeper", one.errors()  # the death of a keeper takes its processes with it, as always
        one.close()


def test_what_is_refused(sent):
    """By the container, by the folder, and by the receiver while there is still time."""
    one = sent()
    assert membox("send", "no-such-container", check=False).stderr.count("no such container") == 1
    one.image.mkdir()
    sender = one.send(stdout=subprocess.DEVNULL)
    assert sender.wait(20) == 125 and str(one.image) in one.said()
    one.image.rmdir()
    # What it has open is not there for the receiver: seen after the first round.
    need_program("unshare")
    sender = one.send(stdout=subprocess.PIPE)
    hide = f"mount -t tmpfs none {one.beats.parent} && exec {MEMBOX} receive --isolate --swap {one.folder}/swap-1"
    _, receiver = one.start_command(["unshare", "-m", "sh", "-c", hide], stdin=sender.stdout)
    sender.stdout.close()
    assert receiver.wait(60) == 125 and "which it has open: No such file" in one.errors(), one.errors()
    assert goes_on_somewhere(one, sender, receiver) == "one"


def test_the_disk_does_not_take_the_last_checkpoint(sent):
    """It is being sent meanwhile: nobody is killed for it, and the receiver has no use for what it has."""
    faulty, said, nr = need_faulty_membox(), "", 2
    while "the disk does not take its last checkpoint" not in said:  # before that, of a round: each writes five files and folders
        assert nr < 50, said
        one = sent(command=lambda program, verb, *words, nr=nr: ["env", f"MEMBOX_FAULT=fsync:EIO:{nr}", faulty, verb, *words] if verb == "run" else [program, verb, *words])
        sender, receiver = one.pipe()
        assert sender.wait(60) == 1 and receiver.wait(60) == 125, one.errors()
        said = one.said()
        assert "goes on here" in said and one.names() == [], said
        sender, receiver = one.pipe()
        assert sender.wait(60) == 0, one.errors()
        one.finish(receiver)
        nr += 5


def test_nobody_else_meanwhile(sent):
    """While one sends, another cannot; when the sender is stopped by a signal everything is as before, also the swap file at the end."""
    one = sent()
    reading, writing = os.pipe()
    sender = one.send(stdout=writing)
    os.close(writing)
    assert wait_until(lambda: one.names() == ["swap-0.sent.round"], 20), one.errors()  # its first checkpoint, whose pages do not fit into the pipe
    other = subprocess.run(
        [MEMBOX, "send", "--image", one.folder / "other", one.name], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert other.returncode == 1 and b"being sent already" in other.stderr, other.stderr
    sender.send_signal(signal.SIGTERM)
    assert shell_status(sender.wait(20)) == 128 + signal.SIGTERM
    os.close(reading)
    assert wait_until(lambda: one.names() == [], 20), "what was made stays"
    one.finish(one.process)
    swap = one.folder / "swap-0"
    assert swap.stat().st_size == 4096 and swap.stat().st_nlink == 1


def test_as_an_ordinary_user(user):  # noqa: F811
    need_program("setpriv")
    one = Sent(user.folder, command=user.command)
    try:
        os.chmod(user.folder / "errors", 0o666)
        sender, receiver = one.pipe()
        assert sender.wait(60) == 0, one.errors()
        one.finish(receiver)
    finally:
        one.close()
