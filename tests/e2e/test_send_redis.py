"""A redis-server through a pipe to another membox, and the sender, the receiver or both killed at every stage of the stream (issue 7, acceptance D): never two run, never is there none and no image; what
goes on, or is restored, has every value."""
import contextlib
import os
import pathlib
import random
import shutil
import subprocess
import threading

import pytest

from boxes import MEMBOX, MIB, need_membox, need_program, need_root, scale, scratch_folder, shell_status, wait_until
from test_checkpoint import membox

SIZE_MB = scale(24, 2048)
# So many keys of 1000 bytes that shrink to the half.
FILL = ("for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do local t = {}; for k = 1, 25 do t[k] = redis.sha1hex(i * 25 + k) end; redis.call('SET', 'key' .. i, table.concat(t)) end "
        "return redis.call('DBSIZE')")


class Relay(threading.Thread):
    """Carries the stream, and calls somebody when so many bytes have been carried; None: when the sender has ended."""

    def __init__(self, source, target, after, call):
        super().__init__(daemon=True)
        self.source, self.target, self.after, self.call, self.carried = source, target, after, call, 0
        self.start()

    def reached(self):
        call, self.call = self.call, None
        if call:
            call()

    def run(self):
        with contextlib.suppress(BrokenPipeError):
            while True:
                if self.after is not None and self.carried >= self.after:
                    self.reached()
                left = self.after - self.carried if self.call and self.after is not None else 65536
                data = self.source.read1(min(65536, left))
                if not data:
                    break
                self.target.write(data)
                self.target.flush()
                self.carried += len(data)
        self.reached()
        with contextlib.suppress(BrokenPipeError):
            self.target.close()
        self.source.close()


class Redis:
    """The server here; its socket is in a folder that is another one in the namespace of whoever receives it."""

    def __init__(self, folder):
        self.folder, self.started, self.name, self.count = pathlib.Path(folder), [], f"redis-{os.getpid()}-{random.randrange(10**9)}", 0
        for name in ("socket", "there"):
            (self.folder / name).mkdir()
        self.image = self.folder / "swap-0.sent"
        self.here = self.start(["run", "--limit", f"{SIZE_MB * 2 + 64}M"],
                               ["--", need_program("redis-server"), "--save", "", "--port", "0", "--unixsocket", f"{self.folder}/socket/redis", "--enable-debug-command", "yes"], name=self.name)
        assert wait_until(lambda: self.lives("socket"), 30), self.errors()
        for first in range(0, SIZE_MB * 1000, 10000):
            assert self.ask("socket", "EVAL", FILL, 0, first, first + 9999).isdigit()
        self.digest = self.ask("socket", "DEBUG", "DIGEST")
        assert len(self.digest) == 40

    def popen(self, line, **streams):
        with open(self.folder / "errors", "ab") as errors:
            self.started.append(subprocess.Popen([str(word) for word in line], **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": errors, **streams}))
        return self.started[-1]

    def start(self, verb, words=(), name=None, elsewhere=False, **streams):
        line = [MEMBOX, verb[0], "--name", name or f"{self.name}-{self.count}", "--swap", self.folder / f"swap-{self.count}", *verb[1:], *words]
        self.count += 1
        if elsewhere:
            line = [need_program("unshare"), "-m", "sh", "-c", f"mount --bind {self.folder}/there {self.folder}/socket && exec \"$@\"", "sh", *line]
        return self.popen(line, **streams)

    def ask(self, where, *words):
        return subprocess.run(["redis-cli", "-s", self.folder / where / "redis", *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=120, text=True).stdout.strip()

    def lives(self, where):
        return self.ask(where, "PING") == "PONG"

    def send(self, after, call):
        sender = self.popen([MEMBOX, "send", self.name], stdout=subprocess.PIPE)
        there = self.start(["receive", "--isolate"], elsewhere=True, stdin=subprocess.PIPE)
        return sender, there, Relay(sender.stdout, there.stdin, after, lambda: call(sender, there))

    def check(self, where, process):
        """Everything is there; and it ends."""
        assert self.ask(where, "DEBUG", "DIGEST") == self.digest, self.errors()
        self.ask(where, "SHUTDOWN", "NOSAVE")
        assert shell_status(process.wait(60)) == 0, self.errors()

    def errors(self):
        return (self.folder / "errors").read_text(errors="replace")

    def forget(self):
        """What a round has left, but for the server here."""
        for process in self.started:
            if process is not self.here and process.poll() is None:
                process.kill()
                process.wait()
        for path in self.folder.iterdir():
            if path.name.startswith("swap-") and path.name != "swap-0":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restore_here(self):
        self.here = self.start(["restore"], [self.image], name=self.name)
        assert wait_until(lambda: self.lives("socket"), 60), self.errors()


@pytest.fixture
def redis():
    need_membox()
    need_root("to give process ids again")
    need_program("redis-cli")
    one = Redis(scratch_folder())
    yield one
    one.close()


def settle(one, there):
    """Who runs when nothing happens any more: "socket" (here), "there" or None, and then there is an image. Never both."""
    assert wait_until(lambda: one.here.poll() is not None or not list(one.folder.glob("swap-0.*")), 60), one.errors()
    if one.here.poll() is None:
        assert wait_until(lambda: there.poll() is not None, 60), "two of them"
        assert one.lives("socket") and not one.lives("there")
        return "socket"
    assert one.image.exists(), f"none, and no image\n{one.errors()}"
    assert not one.lives("socket")
    return "there" if wait_until(lambda: there.poll() is not None or one.lives("there"), 60) and there.poll() is None else None


@pytest.mark.parametrize("victim", ["sender", "receiver", "both"])
def test_killed_at_every_stage(redis, victim):
    one, chance = redis, random.Random(victim)
    whole = []
    stages = [0.0, 0.5, 0.99, 0.999, 1.0, None]
    stages += [chance.choice([chance.uniform(0, 1), chance.uniform(0.98, 1)]) for _ in range(scale(2, 20))]

    def kill(sender, there):
        for process in {"sender": [sender], "receiver": [there], "both": [sender, there], "nobody": []}[victim_now]:
            process.kill()
    for stage in [None, *stages]:
        victim_now = victim if whole else "nobody"  # the first one tells how long the stream is
        sender, there, relay = one.send(None if stage is None else int(stage * whole[0]), kill)
        sender.wait(120)
        relay.join(120)
        where = settle(one, there)
        if not whole:
            whole.append(relay.carried)
            assert where == "there" and sender.returncode == 0, one.errors()
        if where == "there":
            one.check("there", there)
        if where != "socket":  # its image has everything in any case
            saved = one.folder / "saved"
            one.image.rename(saved)
            one.forget()
            (one.folder / "swap-0").unlink(missing_ok=True)
            one.count, one.image = 0, saved
            one.restore_here()
            one.image = one.folder / "swap-0.sent"
            assert one.ask("socket", "DEBUG", "DIGEST") == one.digest, one.errors()
            shutil.rmtree(saved)
        one.forget()
    one.check("socket", one.here)
