"""Checkpoints: a program that is stopped at a random moment, killed, and made again goes on to the same result (LINEAGE B8, C)."""
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import time

import pytest

from boxes import MEMBOX, MIB, need_membox, need_program, need_root, scale, shell_status, victim
from processes import named, read, wait_until

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

    def __init__(self, folder, program, limit=64 * MIB, options=(), cwd=None, prefix=()):
        self.prefix = prefix  # of the command: who is to run it
        self.folder, self.image = pathlib.Path(folder), pathlib.Path(folder) / "image"
        self.output, self.name, self.cwd = self.folder / "output", f"saved-{os.getpid()}-{random.randrange(10**9)}", cwd
        self.swap = self.folder / "swap"
        self.start("run", ["--limit", limit, *options, "--", *program])

    def start(self, verb, words):
        with open(self.output, "ab") as out, open(self.folder / "errors", "ab") as errors:
            self.process = subprocess.Popen([*self.prefix, MEMBOX, verb, "--name", self.name, "--swap", str(self.swap), *map(str, words)], stdin=subprocess.DEVNULL, stdout=out,
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
        if "no such container" in answer.stderr or "the container ended" in answer.stderr or "has ended" in answer.stderr:
            break  # it was faster
        if answer.returncode:
            assert "could not be held" in answer.stderr, answer.stderr
            continue
        assert one.status() == 128 + signal.SIGKILL
        done += 1
        one.restore()
    status = one.status()
    print(f"{done} checkpoints, each restored; ended with {status}")  # pytest -rP shows it
    return one, status, done


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
    assert what["written"] < 44 * MIB, answer.stdout  # what was in memory
    assert (one.image / "pages").stat().st_ino == inode
    assert not one.swap.exists()


REDIS = "".join(f"SET key:{i} {f'v{i}' * 20}\r\n" for i in range(60000)).encode()


def test_redis(saved, shared_folder):
    """A server: sockets that listen, epoll, several threads; what it holds is the same after the restore."""
    need_program("redis-server")
    socket = pathlib.Path(shared_folder) / "redis.sock"

    def ask(*words, stdin=b""):
        return subprocess.run([need_program("redis-cli"), "-s", socket, *words], input=stdin, stdout=subprocess.PIPE, timeout=60).stdout
    one = saved([need_program("redis-server"), "--save", "", "--port", "0", "--unixsocket", socket, "--enable-debug-command", "yes"], limit=24 * MIB)
    assert wait_until(lambda: ask("PING") == b"PONG\n", 20), one.errors()
    ask("--pipe", stdin=REDIS)
    digest = ask("DEBUG", "DIGEST")
    for _ in range(scale(2, 20)):
        one.checkpoint()
        assert one.status() == 137
        one.restore()
        assert wait_until(lambda: ask("GET", "key:777") == b"v777" * 20 + b"\n", 20), one.errors()
        assert ask("DEBUG", "DIGEST") == digest
    ask("SHUTDOWN", "NOSAVE")
    assert one.status() == 0, one.errors()


SHARED = """
import mmap, os, sys, time
shared = mmap.mmap(-1, 1 << 20)
own = bytearray(os.urandom(1 << 20) * 8)
check = sum(own[::4096])
rounds, children = int(sys.argv[1]), []
for n in range(3):
    pid = os.fork()
    if pid == 0:
        for i in range(rounds):
            shared[n * 8:n * 8 + 8] = (int.from_bytes(shared[n * 8:n * 8 + 8], "little") + 1).to_bytes(8, "little")
            assert sum(own[::4096]) == check
            time.sleep(0.001)
        os._exit(n + 5)
    children.append(pid)
states = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(states, [int.from_bytes(shared[n * 8:n * 8 + 8], "little") for n in range(3)])
"""


def test_shared_memory_and_forks(saved):
    """LINEAGE C4: shared anonymous memory is saved once, and is shared again."""
    program = [PYTHON, "-c", SHARED, 400]
    one, boxed, times = go_through(saved, program, scale(3, 10), 0.5, limit=48 * MIB)
    assert boxed == 0, one.errors()
    assert times >= 1
    assert one.output.read_text() == "[5, 6, 7] [400, 400, 400]\n"


def test_what_fork_left_shared_is_stored_once(saved, shared_folder):
    """LINEAGE C4, C2: three processes over the same memory; and memory that was never touched is not saved."""
    program = "import mmap, os, sys, time; sparse = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000); held = os.urandom(64 << 20); " \
              "print('ready', flush=True); os.fork(); os.fork() if os.getppid() else 0; os.write(1, b'set\\n');\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\n" \
              "os.write(1, b'%d\\n' % len(set(held[::997])))"
    go_on = pathlib.Path(shared_folder) / "go-on-shared"
    one = saved([PYTHON, "-c", program, go_on], limit=512 * MIB)
    assert wait_until(lambda: one.output.read_bytes().count(b"set\n") == 4, 20)
    one.checkpoint("--leave-running")
    go_on.touch()
    what = json.loads(membox("inspect", one.image, "--json").stdout)
    stored = (one.image / "pages").stat().st_blocks * 512
    assert what["bytes"] > 180 * MIB and what["written"] < 90 * MIB and stored < 100 * MIB, (what["bytes"], what["written"], stored)
    assert one.status() == 0
    before = one.output.read_bytes()
    one.restore()
    assert one.status() == 0, one.errors()
    assert one.output.read_bytes()[len(before):] == before[before.rindex(b"set\n") + 4:]


KIN = """
import ctypes, hashlib, mmap, os, sys, time
libc, size = ctypes.CDLL(None), 32 << 20
held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.write(os.urandom(size))
def report(what): os.write(1, f"{what} {os.getpid()} {hashlib.sha1(held).hexdigest()}\\n".encode())
def live(change):
    change()
    report("set")
    while not os.path.exists(sys.argv[1]): time.sleep(0.01)
    report("read")
    while not os.path.exists(sys.argv[1] + "-end"): time.sleep(0.01)
def write_some():
    for at in range(0, size // 4, 16 << 12): held[at] ^= 255
def drop_some(): held.madvise(mmap.MADV_DONTNEED, size // 4, size // 4)
def cut():
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    libc.mprotect(ctypes.c_void_p(address + size // 2), ctypes.c_size_t(size // 8), 1)
def fork(change, *below):
    child = os.fork()
    if child == 0:
        children = [fork(*one) for one in below]
        live(change)
        [os.waitpid(one, 0) for one in children]
        os._exit(0)
    return child
children = [fork(write_some, (drop_some,)), fork(cut)]
live(lambda: None)
[os.waitpid(one, 0) for one in children]
"""


def pss_mib(pids):
    return sum(int(line.split()[1]) for pid in pids for line in read(f"/proc/{pid}/smaps_rollup").splitlines() if line.startswith("Pss:")) >> 10


@pytest.mark.parametrize("limit", [256, 32], ids=["all", "what-fits"])
def test_what_fork_left_shared_is_shared_again(saved, shared_folder, limit):
    """LINEAGE C4: four processes, of which some have changed a part; after the restore there is one copy of what they share, as far as the limit has room."""
    go_on = pathlib.Path(shared_folder) / f"go-on-kin-{limit}"
    one = saved([PYTHON, "-c", KIN, go_on], limit=256 * MIB)

    def told(what):
        return dict(line.split()[1:] for line in one.output.read_text(errors="replace").replace("\0", "").splitlines() if line.startswith(what))
    assert wait_until(lambda: len(told("set")) == 4 or one.process.poll() is not None, 60) and one.process.poll() is None, one.errors()
    before = pss_mib(told("set"))
    for n in range(2):
        one.checkpoint(folder=one.folder / f"image-{n}")
        assert one.status() == 137
        one.restore("--limit", limit * MIB, folder=one.folder / f"image-{n}")
        assert one.is_there(), one.errors()
        if limit == 256:
            assert pss_mib(told("set")) < before * 1.2 + 4
    go_on.touch()
    assert wait_until(lambda: len(told("read")) == 4 or one.process.poll() is not None, 60) and one.process.poll() is None, one.errors()
    assert told("read") == told("set")
    if limit == 256:
        assert pss_mib(told("set")) < before * 1.2 + 4
    go_on.with_name(go_on.name + "-end").touch()
    assert one.status() == 0, one.errors()


HUGE = """
import ctypes, hashlib, mmap, os, struct, sys, time
libc, size = ctypes.CDLL(None), 8 << 20
held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(14)
held.write(os.urandom(size))
head = ctypes.addressof(ctypes.c_char.from_buffer(held)) + size // 2
held[size // 2:size // 2 + 24] = struct.pack("<QQQ", head, 0, 0)
assert libc.syscall(273, ctypes.c_void_p(head), ctypes.c_size_t(24)) == 0
before = hashlib.sha1(held).digest()
print("ready", flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
libc.syscall(273, None, ctypes.c_size_t(24))
os.write(1, b"right\\n" if hashlib.sha1(held).digest() == before and not libc.prctl(42, 0, 0, 0, 0) else b"wrong\\n")
"""


def test_a_huge_page_does_not_cover_what_is_to_come(saved, shared_folder):
    """A page that must be there from the beginning (that of a thread record) in memory that may have huge pages."""
    go_on = pathlib.Path(shared_folder) / "go-on-huge"
    one = saved([PYTHON, "-c", HUGE, go_on])
    assert wait_until(lambda: b"ready" in one.output.read_bytes() or one.process.poll() is not None, 20) and one.process.poll() is None, one.errors()
    one.checkpoint()
    assert one.status() == 137
    one.restore()
    assert one.is_there(), one.errors()
    go_on.touch()
    assert one.status() == 0, one.errors()
    assert one.output.read_bytes().endswith(b"right\n")


TERMINALS = """
import fcntl, os, pty, select, signal, struct, sys, termios, time
def settings(fd): return termios.tcgetattr(fd)
def set_flags(fd, lines=True, echo=False):
    new = settings(fd)
    new[3] = (new[3] | termios.ICANON if lines else new[3] & ~termios.ICANON) & ~termios.ECHO if not echo else new[3]
    termios.tcsetattr(fd, termios.TCSANOW, new)
def read_all(fd):
    data = []
    while True:
        try: data.append(os.read(fd, 1000))
        except BlockingIOError: return data
        except OSError as error: return data + [error.errno]
def size(fd): return struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
def hung_up(fd):
    poll = select.poll(); poll.register(fd, select.POLLIN)
    return bool(poll.poll(0)) and bool(poll.poll(0)[0][1] & select.POLLHUP)
lines, lines_end = pty.openpty(); set_flags(lines_end)
fcntl.ioctl(lines, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 5, 6))
os.write(lines, b"first\\nsecond\\n\\x04pushed\\x04\\xff\\x00half")
os.write(lines_end, b"out 1\\nout\\x03 2")
plain, plain_end = pty.openpty(); set_flags(plain_end, lines=False)
os.write(plain, bytes(range(1, 3)) + b"raw\\nchars\\x04")
gone, gone_end = pty.openpty(); os.write(gone_end, b"last words"); os.close(gone_end)
never = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
for fd in (lines, lines_end, plain, plain_end, gone, never): os.set_blocking(fd, False)
idle, idle_end = pty.openpty()
full, full_end = pty.openpty()
os.set_blocking(full, False); os.set_blocking(full_end, False)
filled = 0
for _ in range(100):
    try:
        while True: filled += os.write(full_end, b"%07d" % (filled // 7 % 10**7))
    except BlockingIOError: time.sleep(0.01)
names, before = [os.ttyname(fd) for fd in (lines_end, plain_end, idle_end)], [settings(fd) for fd in (lines_end, plain_end, idle_end)]
shell, terminal = pty.fork()
if shell == 0:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        count = [0]
        signal.signal(signal.SIGINT, lambda *a: os.write(2, b"interrupted\\n") and os._exit(5))
        while os.tcgetpgrp(0) != os.getpid(): time.sleep(0.01)
        own = open("/dev/tty", "r+b", buffering=0)
        own.write(b"job\\n")
        while True: time.sleep(0.05)  # see test_signals_reach_the_program
    os.setpgid(job, job); os.tcsetpgrp(0, job)
    status = os.waitpid(job, 0)[1]
    os.tcsetpgrp(0, os.getpgrp())
    os.write(1, b"status %d\\n" % os.waitstatus_to_exitcode(status))
    os.write(1, b"line " + os.read(0, 100))
    os._exit(7)
seen = b""
while b"job" not in seen: seen += os.read(terminal, 100)
print("ready", flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
os.write(terminal, b"\\x03")
while b"status 5" not in seen: seen += os.read(terminal, 100)
os.write(terminal, b"typed\\n")
while b"line typed" not in seen: seen += os.read(terminal, 100)
assert os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]) == 7
assert b"interrupted" in seen, seen
assert [settings(fd) for fd in (lines_end, plain_end, idle_end)] == before and size(lines_end) == (33, 99, 5, 6)
now = [os.ttyname(fd) for fd in (lines_end, plain_end, idle_end)]
assert now == names, (now, names)
got = read_all(lines)
assert b"".join(got) == b"out 1\\r\\nout\\x03 2", got
got = read_all(lines_end)
assert got == [b"first\\n", b"second\\n", b"", b"pushed"], got
os.write(lines, b" a line\\n")
time.sleep(0.1)
got = read_all(lines_end)
assert got == [b"\\xff\\x00half a line\\n"], got
got = read_all(plain_end)
assert b"".join(got) == bytes(range(1, 3)) + b"raw\\nchars\\x04", got
got = b"".join(read_all(full))
assert len(got) == filled and filled > 16000 and got[:700] == b"".join(b"%07d" % n for n in range(100)), (len(got), filled)
assert hung_up(gone) and read_all(gone) == [b"last words", 5]
assert not hung_up(never) and not hung_up(idle)
os.write(1, b"right\\n")
"""


@pytest.mark.parametrize("options", [(), ("--isolate",)], ids=["same-namespaces", "isolated"])
def test_terminals_of_its_own(saved, shared_folder, options):
    """Pseudo terminals: settings, size, what waits in them in both directions, the session and the group in the foreground. Where nobody else makes any the numbers are the same."""
    go_on = pathlib.Path(shared_folder) / f"go-on-terminals-{len(options)}"
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && exec "$@"', "sh"]
    one = saved([PYTHON, "-c", TERMINALS, go_on], options=options, prefix=alone)
    assert wait_until(lambda: b"ready" in one.output.read_bytes() or one.process.poll() is not None, 20) and one.process.poll() is None, one.errors()
    for n in range(2):
        one.checkpoint("--leave-running", folder=one.folder / f"kept-{n}")
        one.checkpoint(folder=one.folder / f"image-{n}")
        assert one.status() == 137
        one.restore(folder=one.folder / f"image-{n}")
        assert one.is_there(), one.errors()
    go_on.touch()
    assert one.status() == 0, one.errors()
    assert one.output.read_bytes().endswith(b"right\n")


def test_script(saved):
    """A program on a pseudo terminal that another one of the container makes and reads."""
    loop = f"i=0; while [ $i -lt {scale(100000, 500000)} ]; do echo $i $(( i * 7919 % 60013 )); i=$((i+1)); done; read line < /dev/tty || tty | cut -c 1-5; exit 3"
    program = [need_program("script"), "-qec", f"bash -c '{loop}'", "/dev/null"]
    output, status = bare(program)
    one, boxed, times = go_through(saved, program, scale(4, 20), 0.3)
    assert (boxed, one.output.read_bytes()) == (status, output), one.errors()
    assert times >= 1


WAITS = """
import ctypes, os, sys, threading, time
libc, seconds = ctypes.CDLL(None, use_errno=True), float(sys.argv[1])
class Time(ctypes.Structure): _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]
def span(): return ctypes.byref(Time(int(seconds), int(seconds % 1 * 1e9)))
word, ends = ctypes.c_int(7), os.pipe()
calls = {"poll": lambda: libc.poll(None, 0, int(seconds * 1000)), "nanosleep": lambda: libc.syscall(35, span(), None), "clock_nanosleep": lambda: libc.syscall(230, 1, 0, span(), None),
         "futex": lambda: libc.syscall(202, ctypes.byref(word), 128, 7, span(), None, 0), "select": lambda: libc.select(0, None, None, None, span()),
         "epoll_wait": lambda: libc.epoll_wait(libc.epoll_create1(0), ctypes.create_string_buffer(12), 1, int(seconds * 1000)), "read": lambda: len(os.read(ends[0], 9))}
results, begin = {}, time.time()
def wait(name): results[name] = (calls[name](), ctypes.get_errno(), time.time() - begin)
threads = [threading.Thread(target=wait, args=(name,)) for name in calls]
[t.start() for t in threads]
print("ready", flush=True)
[t.join() for t in threads[:-1]]
os.write(ends[1], b"xyz")
threads[-1].join()
for name, (result, error, took) in results.items():
    assert took >= seconds and (result, error) == {"futex": (-1, 110), "read": (3, 0)}.get(name, (0, 0)), (name, result, error, took)
os.write(1, b"right\\n")
"""


def test_waits_begin_again(saved):
    """Whoever waits for a time when it is held, again and again, and saved, waits for it afterwards: no call says that it was interrupted."""
    one = saved([PYTHON, "-c", WAITS, 4])
    assert wait_until(lambda: b"ready" in one.output.read_bytes(), 20)
    for n in range(3):
        one.checkpoint("--leave-running", folder=one.folder / f"kept-{n}")
    one.checkpoint()
    assert one.status() == 137
    one.restore()
    assert one.status() == 0, one.errors()
    assert one.output.read_bytes().endswith(b"right\n")


LEFT = """
import os, select, signal, sys, time
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
full, alone = os.pipe(), os.pipe()
assert os.write(full[1], b"rest" * 1000) == 4000
os.close(full[1]); os.close(alone[0])
os.dup2(full[0], 0); os.close(full[0])
print("ready", flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
data = b""
while piece := os.read(0, 1000): data += piece
assert data == b"rest" * 1000, len(data)
try: os.write(alone[1], b"x"); raise AssertionError
except BrokenPipeError: os.write(1, b"right\\n")
"""


def test_pipes_of_which_one_end_is_gone(saved, shared_folder):
    """What the one that has ended wrote is still to be read."""
    go_on = pathlib.Path(shared_folder) / "go-on-left"
    one = saved([PYTHON, "-c", LEFT, go_on])
    assert wait_until(lambda: b"ready" in one.output.read_bytes(), 20)
    for _ in range(2):
        one.checkpoint()
        assert one.status() == 137
        one.restore()
        assert one.is_there(), one.errors()
    go_on.touch()
    assert one.status() == 0, one.errors()
    assert one.output.read_bytes().endswith(b"right\n")


SYSTEM_V = """
import ctypes, mmap, os, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype, libc.shmat.argtypes, libc.shmdt.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p, ctypes.c_int), (ctypes.c_void_p,)
size, CREATE = (1 << 20) + 100, 0o3000
def ok(result):
    assert result not in (-1, 2**64 - 1), os.strerror(ctypes.get_errno())
    return result
def segment(key, bytes, mode=0o600): return ok(libc.shmget(key, ctypes.c_size_t(bytes), CREATE | mode))
def stat(id):
    ds = ctypes.create_string_buffer(200)
    ok(libc.shmctl(id, 2, ds))
    return struct.unpack_from("iIIIII", ds), struct.unpack_from("Q", ds, 48)[0], struct.unpack_from("Q", ds, 88)[0]
def memory(at, bytes): return (ctypes.c_char * bytes).from_address(at)
for n in range(5): ok(libc.shmctl(segment(0, 4096), 0, None))  # later ids are no small numbers
main, gone, alone, read_only = segment(0x4d42, size), segment(0, 8192), segment(0x4d43, 40 << 20), segment(0x4d44, 12288, 0o640)
at, at_gone, at_read = ok(libc.shmat(main, None, 0)), ok(libc.shmat(gone, None, 0)), ok(libc.shmat(read_only, None, 0))
ok(libc.shmctl(gone, 0, None))
memory(at_read, 12288)[:4] = b"text"; ok(libc.shmdt(at_read)); at_read = ok(libc.shmat(read_only, None, 0o10000))
libc.mprotect(ctypes.c_void_p(at + 8192), ctypes.c_size_t(4096), 1)
memory(at, size)[:5], memory(at, size)[size - 4:] = b"first", b"last"
memory(at_gone, 8192)[4096:4100] = b"gone"
there = ok(libc.shmat(alone, None, 0)); memory(there, 40 << 20)[20 << 20:(20 << 20) + 5] = b"alone"; ok(libc.shmdt(there))
semaphores = ok(libc.semget(0x4d45, 3, CREATE | 0o600))
ok(libc.semctl(semaphores, 0, 17, (ctypes.c_ushort * 3)(5, 0, 7)))
queue = ok(libc.msgget(0x4d46, CREATE | 0o600))
for kind, text in ((3, b"three"), (1, b""), (3, b"x" * 5000)): ok(libc.msgsnd(queue, struct.pack("l", kind) + text, ctypes.c_size_t(len(text)), 0))
child = os.fork()
if child == 0:
    ok(libc.semop(semaphores, struct.pack("Hhh", 1, -1, 0), ctypes.c_size_t(1)))  # waits
    assert memory(at, size)[:6] == b"firsts" and memory(at_gone, 8192)[4096:4100] == b"gone"
    ok(libc.shmdt(at_gone))
    memory(at, size)[5:6] = b"c"
    os._exit(4)
before = [stat(id) for id in (main, gone, alone, read_only)]
assert [nr for _, _, nr in before] == [6, 2, 0, 2], before
print("ready", flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
after = [stat(id) for id in (main, gone, alone, read_only)]
assert after == before, (before, after)
assert (libc.shmget(0x4d42, ctypes.c_size_t(0), 0), libc.shmget(0x4d43, ctypes.c_size_t(0), 0), libc.semget(0x4d45, 3, 0), libc.msgget(0x4d46, 0)) == (main, alone, semaphores, queue)
assert memory(at, size)[:5] == b"first" and memory(at, size)[size - 4:] == b"last" and memory(at_read, 4)[:] == b"text"
memory(at, size)[5:6] = b"s"
assert [libc.semctl(semaphores, n, 12) for n in range(3)] == [5, 0, 7]
ok(libc.semop(semaphores, struct.pack("Hhh", 1, 1, 0), ctypes.c_size_t(1)))
ended = os.waitpid(child, 0)[1]
assert ended == 4 << 8 and memory(at, size)[5:6] == b"c", (ended, memory(at, size)[:8])
end = time.time() + 10
while (left := [nr for _, _, nr in map(stat, (main, gone, read_only))]) != [3, 1, 1]: assert time.time() < end, left
there = ok(libc.shmat(alone, None, 0)); assert memory(there, 40 << 20)[20 << 20:(20 << 20) + 6] == b"alone\\0"
ok(libc.shmdt(at)); ok(libc.shmdt(at_gone)); ok(libc.shmdt(at_read))
assert libc.shmctl(gone, 2, ctypes.create_string_buffer(200)) == -1
text = ctypes.create_string_buffer(8 + 8000)
assert [(ok(libc.msgrcv(queue, text, ctypes.c_size_t(8000), ctypes.c_long(kind), 0o4000)), struct.unpack_from("l", text)[0]) for kind in (0, 3, 1)] == [(5, 3), (5000, 3), (0, 1)]
os.write(1, b"right\\n")
"""


def test_system_v(saved, shared_folder):
    """Shared memory, semaphores and message queues of a container with an IPC namespace of its own: same ids and keys, attached where they were."""
    go_on = pathlib.Path(shared_folder) / "go-on-system-v"
    one = saved([PYTHON, "-c", SYSTEM_V, go_on], options=["--isolate"])
    assert wait_until(lambda: b"ready" in one.output.read_bytes() or one.process.poll() is not None, 20) and one.process.poll() is None, one.errors()
    for n in range(2):
        one.checkpoint("--leave-running", folder=one.folder / f"kept-{n}")
        one.checkpoint(folder=one.folder / f"image-{n}")
        assert one.status() == 137
        what = json.loads(membox("inspect", one.folder / f"image-{n}", "--json").stdout)
        assert what["bytes"] < 24 * MIB, what
        one.restore(folder=one.folder / f"image-{n}")
        assert one.is_there(), one.errors()
    go_on.touch()
    assert one.status() == 0, one.errors()
    assert one.output.read_bytes().endswith(b"right\n")


def program_of(one, name):
    """The process id of the program in a container that runs one."""
    keeper = json.loads(membox("stat", one.name, "--json").stdout)["keeper"]
    return wait_until(lambda: named(keeper, name), 20)[0]


def page_tables(pid):
    return next(int(line.split()[1]) for line in read(f"/proc/{pid}/status").splitlines() if line.startswith("VmPTE")) << 10


def walk_ms(pid):
    """What one walk over all page tables of a process takes, in time of the processor."""
    begin = time.thread_time()
    read(f"/proc/{pid}/smaps_rollup")
    return (time.thread_time() - begin) * 1000


@pytest.mark.parametrize("run_pages", [1, 32])
def test_sparse_memory_stays_sparse(saved, shared_folder, monkeypatch, run_pages):
    """LINEAGE C2: of 1 TiB the 100 MiB that were touched are saved, in a short hold, and neither saving nor restoring makes page tables for the rest."""
    go_on = pathlib.Path(shared_folder) / f"go-on-sparse-{run_pages}"
    monkeypatch.setenv("MEMBOX_DEBUG", "1")
    one = saved([victim("touch-sparse"), 1024, 100, run_pages, go_on], limit=512 * MIB)
    assert wait_until(lambda: b"ready" in one.output.read_bytes() or one.process.poll() is not None, 60) and one.process.poll() is None, one.errors()
    pid = program_of(one, "touch-sparse")
    before = page_tables(pid)
    for n in range(3):
        one.checkpoint("--leave-running", folder=one.folder / f"image-{n}")
    held = [int(us) / 1000 for us in re.findall(r"checkpoint: stopped for \d+ us, (\d+) of them at work", one.errors())]
    assert len(held) == 3
    assert abs(page_tables(pid) - before) < before * 3 // 100 + MIB // 4
    walk = min(walk_ms(pid) for _ in range(3))
    assert min(held) < 6 * walk + 10, (held, walk)  # the hold takes the processor for a few walks; a look at each hole by itself for ten and more
    one.checkpoint()
    assert one.status() == 137
    what = json.loads(membox("inspect", one.image, "--json").stdout)
    assert 100 * MIB <= what["bytes"] < 102 * MIB, what["bytes"]
    one.restore()
    assert one.is_there(), one.errors()
    pid = program_of(one, "touch-sparse")
    assert page_tables(pid) < before * 103 // 100 + MIB // 4
    go_on.touch()
    assert wait_until(lambda: b"right" in one.output.read_bytes() or one.process.poll() is not None, 60) and one.process.poll() is None, one.errors()
    assert abs(page_tables(pid) - before) < before * 3 // 100 + MIB // 4
    go_on.with_name(go_on.name + "2").touch()
    assert one.status() == 0, one.errors()


OBSERVER = """
import ctypes, os, select, struct, sys
libc, folder, go_on = ctypes.CDLL(None, use_errno=True), sys.argv[1].encode(), sys.argv[2]
def events(fd):
    data, found = os.read(fd, 65536), []
    while data:
        number, mask, _, length = struct.unpack_from("iIII", data)
        found.append((number, mask, data[16:16 + length].rstrip(b"\\0")))
        data = data[16 + length:]
    return found
watching = libc.inotify_init1(0o4000)
numbers = [libc.inotify_add_watch(watching, path, mask) for path, mask in ((folder, 0x100 | 0x200), (folder + b"/a", 0x2), (folder, 0x100 | 0x200), (b"/etc", 0x4000000 | 0x100), (folder + b"/b", 0x4))]
libc.inotify_rm_watch(watching, 2)
assert numbers == [1, 2, 1, 3, 4] and events(watching) == [(2, 0x8000, b"")]
ended = os.fork() or os._exit(0)
living = os.fork()
if living == 0:
    while not os.path.exists(go_on + "-child"): select.select([], [], [], 0.01)
    os._exit(0)
of_ended, of_living, of_self, of_zombie = os.pidfd_open(ended), os.pidfd_open(living), os.pidfd_open(os.getpid()), None
os.waitpid(ended, 0)
zombie = os.fork() or os._exit(9)
of_zombie = os.pidfd_open(zombie)
os.set_inheritable(of_living, True)
poll = select.epoll(); poll.register(of_living, select.EPOLLIN); poll.register(watching, select.EPOLLIN)
def ready(fd): return bool(select.select([fd], [], [], 0)[0])
while not ready(of_zombie): pass
print("ready", flush=True)
while not os.path.exists(go_on): select.select([], [], [], 0.01)
assert ready(of_ended) and not ready(of_living) and not ready(of_self) and ready(of_zombie) and os.get_inheritable(of_living) and not os.get_inheritable(of_self)
try: libc.pidfd = os.read(watching, 100); raise AssertionError(libc.pidfd)
except BlockingIOError: pass
open(folder + b"/new", "w").close(); os.chmod(folder + b"/b", 0o600); open(folder + b"/a", "w").write("x")
assert poll.poll(5) == [(watching, select.EPOLLIN)] and events(watching) == [(1, 0x100, b"new"), (4, 0x4, b"")]
assert libc.inotify_add_watch(watching, folder + b"/a", 0x2) == 5
assert os.waitid(os.P_PIDFD, of_zombie, os.WEXITED).si_status == 9
open(go_on + "-child", "w").close()
assert poll.poll(20) == [(of_living, select.EPOLLIN)] and os.waitid(os.P_PIDFD, of_living, os.WEXITED).si_pid == living
os.write(1, b"right\\n")
"""


@pytest.mark.parametrize("options", [(), ("--isolate",)], ids=["same-numbers", "isolated"])
def test_inotify_and_pidfds(saved, shared_folder, options):
    """LINEAGE C5: what is watched keeps its numbers, and says nothing of what happened in between; a pidfd leads to its process, or to one that has ended."""
    folder = pathlib.Path(shared_folder) / f"watched-{len(options)}"
    folder.mkdir()
    (folder / "a").touch()
    (folder / "b").touch()
    go_on = pathlib.Path(shared_folder) / f"go-on-watched-{len(options)}"
    one = saved([PYTHON, "-c", OBSERVER, folder, go_on])
    assert wait_until(lambda: b"ready" in one.output.read_bytes() or one.process.poll() is not None, 20), one.errors()
    for _ in range(2):
        one.checkpoint()
        assert one.status() == 137
        one.restore(*options)
        assert one.is_there() and one.process.poll() is None, one.errors()
    go_on.touch()
    assert one.status() == 0, one.errors()
    assert one.output.read_text() == "ready\nright\n"


LOCKS = """
import fcntl, os, sys, time, tempfile, select, signal
a, b, c = open(sys.argv[1], "w+"), open(sys.argv[1] + "2", "w+"), tempfile.TemporaryFile()
fcntl.flock(a, fcntl.LOCK_EX)
fcntl.lockf(b, fcntl.LOCK_EX, 10, 20)
c.write(b"without a name" * 1000); c.flush(); c.seek(100)
r, w = os.pipe(); os.write(w, b"x" * 30000)
poll = select.epoll(); poll.register(r, select.EPOLLIN, )
masked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2)
os.umask(0o27); os.nice(3); os.chdir("/usr")
print("ready", flush=True)
while not os.path.exists(sys.argv[1] + "3"): time.sleep(0.01)
assert poll.poll(0) == [(r, select.EPOLLIN)] and os.read(r, 40000) == b"x" * 30000
assert c.read(14) == (b"without a name" * 10)[100:114] and c.tell() == 114
assert signal.sigpending() == {signal.SIGUSR2}
assert os.umask(0) == 0o27 and os.nice(0) == 3 and os.getcwd() == "/usr"
pid = os.fork()
if not pid:
    for lock in (lambda: fcntl.flock(open(sys.argv[1]), fcntl.LOCK_SH | fcntl.LOCK_NB), lambda: fcntl.lockf(open(sys.argv[1] + "2", "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 25)):
        try:
            lock()
            os._exit(1)
        except BlockingIOError:
            pass
    os._exit(0)
print("right", os.waitpid(pid, 0)[1])
"""


def test_files_and_attributes(saved, shared_folder):
    """LINEAGE C5: locks, files without a name, pipes, epoll, blocked signals, the small things; once restored, and once again."""
    path = pathlib.Path(shared_folder) / "locked"
    one = saved([PYTHON, "-c", LOCKS, path])
    assert wait_until(lambda: one.output.exists() and b"ready" in one.output.read_bytes(), 20)
    for _ in range(2):
        one.checkpoint()
        assert one.status() == 137
        one.restore()
        one.is_there()
    path.with_name("locked3").touch()
    assert one.status() == 0, one.errors()
    assert one.output.read_text() == "ready\nright 0\n"


CHANGING = """
import os, sys, time
pages, n = bytearray(os.urandom(1 << 20) * 48), 0
print("ready", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.002)
for i in range(0, len(pages) // 100, 4096):
    pages[i] = (pages[i] + 1) % 256
print("changed", flush=True)
while not os.path.exists(sys.argv[1] + "2"):
    time.sleep(0.002)
print(sum(pages[::4096]) - sum(pages[::4096]), flush=True)
"""


def test_left_running(saved, shared_folder):
    """LINEAGE C6: a second checkpoint writes what has changed; either can be restored, and again; the container goes on meanwhile."""
    go_on = pathlib.Path(shared_folder) / "go-on"
    one = saved([PYTHON, "-c", CHANGING, go_on], limit=256 * MIB)
    assert wait_until(lambda: one.output.exists() and b"ready" in one.output.read_bytes(), 20)
    one.checkpoint("--leave-running", folder=one.folder / "first")
    assert one.process.poll() is None
    go_on.touch()
    assert wait_until(lambda: b"changed" in one.output.read_bytes(), 20)
    one.checkpoint("--leave-running", folder=one.folder / "second")
    first, second = (json.loads(membox("inspect", one.folder / name, "--json").stdout) for name in ("first", "second"))
    assert second["bytes"] > 45 * MIB and second["written"] < 4 * MIB, (first["written"], second["written"])
    go_on.with_name("go-on2").touch()
    assert one.status() == 0, one.errors()
    for folder in ("first", "second", "first"):
        before = one.output.read_bytes()
        one.restore(folder=one.folder / folder)
        assert one.status() == 0, one.errors()
        assert one.output.read_bytes()[len(before):] == (b"changed\n0\n" if folder == "first" else b"0\n")


REFUSED = """
import ctypes, os, pty, signal
refused = [os.open("/", os.O_PATH), ctypes.CDLL(None).fanotify_init(0, 0), ctypes.CDLL(None).syscall(323, 1)]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("ready", refused, flush=True)
for fd in refused:
    signal.sigwait([signal.SIGUSR1])
    os.close(fd)
    print("closed", flush=True)
signal.sigwait([signal.SIGUSR1])
print("went on", flush=True)
"""


def test_refused_by_name(saved):
    """What cannot be restored is said, with process and descriptor; the program goes on and nothing is left behind."""
    one = saved([PYTHON, "-c", REFUSED])
    assert wait_until(lambda: one.output.exists() and b"ready" in one.output.read_bytes(), 20)
    written = int(one.swap.stat().st_blocks)
    for descriptor, reason in ((3, "opened with O_PATH"), (4, "fanotify"), (5, "userfaultfd")):
        answer = one.checkpoint(check=False)
        assert answer.returncode == 1
        assert f"descriptor {descriptor} " in answer.stderr and reason in answer.stderr, answer.stderr
        assert one.swap.stat().st_blocks == written, "something was written for it"
        os.kill(program_of(one, "python3"), signal.SIGUSR1)
        assert wait_until(lambda: one.output.read_bytes().count(b"closed") == descriptor - 2, 20)
    one.checkpoint("--leave-running")
    shutil.rmtree(one.image)
    os.kill(program_of(one, "python3"), signal.SIGUSR1)
    assert one.status() == 0
    assert one.output.read_text().endswith("went on\n")
    assert {path.name for path in one.folder.iterdir()} <= {"errors", "output", "swap"}


def damage(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_damaged_checkpoints_are_refused(saved):
    one = saved([PYTHON, "-c", "import os, time; held = os.urandom(24 << 20); print('ready', flush=True); time.sleep(0.5); print(len(set(held)))"], limit=16 * MIB)
    wait_until(lambda: b"ready" in one.output.read_bytes(), 20)
    one.checkpoint()
    one.status()
    for name, cut in (("image.pb", 1000), ("image.pb", None), ("checksums", 64), ("pages", 4096)):
        copy = one.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(one.image, copy)
        if cut is None:
            damage(copy / name, 500)
        else:
            os.truncate(copy / name, cut)
        answer = membox("restore", copy, check=False)
        assert answer.returncode == 125 and str(copy) in answer.stderr and answer.stderr.count("\n") == 1, answer.stderr
    shutil.rmtree(copy)
    shutil.copytree(one.image, copy)
    for offset in range(1 << 20, (copy / "pages").stat().st_size, 1 << 16):
        damage(copy / "pages", offset)
    answer = membox("restore", copy, check=False)
    assert answer.returncode in (125, 137) and "damaged" in answer.stderr, (answer.returncode, answer.stderr)
    one.restore()
    assert one.status() == 0
    assert one.output.read_text().endswith("256\n")


def test_killed_while_it_saves(saved):
    """kill -9 of the keeper at any moment of a checkpoint: an older checkpoint of that name is intact, and half of one is never there."""
    chance = random.Random(5)
    one = saved([PYTHON, "-c", COUNT, "/dev/null", 3000], limit=32 * MIB)
    one.checkpoint()
    one.status()
    for _ in range(scale(10, 100)):
        one.restore()
        assert one.is_there() and one.process.poll() is None, one.errors()
        keeper = json.loads(membox("stat", one.name, "--json").stdout)["keeper"]
        time.sleep(0.05)
        asking = subprocess.Popen([MEMBOX, "checkpoint", one.name, one.image], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0, 0.12))
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(keeper, signal.SIGKILL)
        asking.wait(20)
        assert one.status(20) in (125, 137)
        assert membox("inspect", one.image, "--json").returncode == 0
        for left in one.folder.glob("image.*"):
            shutil.rmtree(left)
    one.restore()
    time.sleep(0.3)
    assert one.process.poll() is None, one.errors()


FAMILY = """
import os, sys, threading, time
held = os.urandom(8 << 20); check = len(set(held)); me = os.getpid(); ids = []
def work():
    mine = threading.get_native_id(); ids.append(mine)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.005)
        assert threading.get_native_id() == mine
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
child = os.fork()
if not child:
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.005)
        assert os.getppid() == me
    os._exit(7)
print("ready", flush=True)
[t.join() for t in threads]
assert os.waitpid(child, 0) == (child, 7 << 8) and os.getpid() == me and len(set(held)) == check
os.write(1, b"right %d\\n" % len(set(ids)))
"""


def test_in_namespaces_of_its_own(saved, shared_folder):
    """One checkpoint restored several times at once (LINEAGE C6), of a container that was isolated and of one that was not; and a checkpoint of these."""
    for number, options in enumerate(((), ("--isolate",))):
        go_on = pathlib.Path(shared_folder) / f"go-on-isolated-{number}"
        one = saved([PYTHON, "-c", FAMILY, go_on], options=options)
        assert wait_until(lambda: one.output.exists() and b"ready" in one.output.read_bytes(), 20)
        one.checkpoint()
        assert one.status() == 137
        processes = []
        for i in range(3):
            one.name, one.swap = f"{one.name}-{i}", one.folder / f"swap-{i}"
            one.restore("--isolate", folder=one.image)
            processes.append(one.process)
        assert one.is_there(), one.errors()
        one.checkpoint(folder=one.folder / "again")
        assert one.status() == 137
        one.restore(folder=one.folder / "again")
        assert one.is_there(), one.errors()
        go_on.touch()
        assert [shell_status(process.wait(30)) for process in (*processes[:2], one.process)] == [0, 0, 0], one.errors()
        assert one.output.read_bytes().count(b"right 4\n") == 3


def records(path):
    """(is ready, checks, wrong words) of each worker of check-memory-forever."""
    data = path.read_bytes()
    return [struct.unpack_from("<3Q", data, at) for at in range(0, len(data), 64)]


@pytest.mark.parametrize("limit", [256, 24], ids=["in-memory", "mostly-out"])
def test_written_while_it_changes(saved, shared_folder, limit):
    """What is written while the program runs counts only if it stayed the same until everything stood still: each page has a version, which is kept elsewhere."""
    score = pathlib.Path(shared_folder) / f"score-{limit}"
    one, times = saved([victim("check-memory-forever"), score, 40, 2, 1, 600], limit=limit * MIB), scale(2, 20)
    assert wait_until(lambda: score.exists() and len(records(score)) == 4 and all(ready for ready, _, _ in records(score)), 60)
    for n in range(times):
        one.checkpoint("--leave-running", folder=one.folder / f"image-{n}")
    membox("kill", one.name)
    assert one.status() == 137
    for n in range(times):
        enough = sum(checks for _, checks, _ in records(score)) + scale(8000, 25000)
        one.restore(folder=one.folder / f"image-{n}")
        assert wait_until(lambda: sum(checks for _, checks, _ in records(score)) > enough or one.process.poll() is not None, 60), one.errors()
        assert one.process.poll() is None, one.errors()
        assert not any(wrong for _, _, wrong in records(score)), n
        membox("kill", one.name)
        assert one.status() == 137


def test_written_while_the_layout_changes(saved):
    """Mappings come, go, move and are discarded while pages are written; the program checks itself."""
    program = [victim("random-memory-ops"), 7, scale(4, 60), 24, 4]
    one, boxed, times = go_through(saved, program, scale(3, 20), 0.3, limit=32 * MIB)
    assert boxed == 0 and times >= 1, one.errors()


def test_children_that_come_and_go(saved, shared_folder):
    """Two thirds of what two programs do are forks: processes are born, and end, at every moment of a checkpoint. Nobody waits for it, and what is restored has all pages."""
    scores = [pathlib.Path(shared_folder) / name for name in ("score-1", "score-2")]
    for score in scores:
        score.unlink(missing_ok=True)
    one = saved(["/bin/sh", "-c", '"$0" "$1" 8 42 & "$0" "$2" 8 42 && wait', victim("churn-memory"), *scores], limit=9 * MIB, options=["--pool", MIB])

    def get(score, which):
        return struct.unpack_from("<8Q", score.read_bytes().ljust(64, b"\0"))[which] if score.exists() else 0

    def goes_on():
        rounds = [get(score, 1) for score in scores]
        return wait_until(lambda: one.process.poll() is not None or all(get(score, 1) > before + 5 for score, before in zip(scores, rounds)), 60) and one.process.poll() is None

    assert wait_until(lambda: all(get(score, 0) for score in scores), 20)
    for _ in range(scale(5, 300)):
        assert goes_on(), one.errors()
        one.checkpoint("--leave-running")
    one.checkpoint()
    assert one.status() == 137
    one.restore()
    assert goes_on(), one.errors()
    for score in scores:
        with open(score, "r+b") as file:
            file.seek(48)
            file.write(struct.pack("<Q", 1))
    assert one.status() == 0 and not any(get(score, 2) for score in scores), one.errors()


def flags_of_open_file(pid, path):
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if os.path.exists(fd) and os.path.samefile(fd, path):
            return int(pathlib.Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0], 8)
    return None


def test_the_page_cache_is_left_alone(saved):
    """The file of the checkpoint is read as the swap file is: past the page cache, where that is possible."""
    one = saved([PYTHON, "-c", "import os, time; held = os.urandom(96 << 20); print('ready', flush=True); time.sleep(600)"], limit=256 * MIB)
    assert wait_until(lambda: b"ready" in one.output.read_bytes(), 20)
    one.checkpoint()
    assert one.status() == 137
    one.restore()
    assert one.is_there()
    keeper = json.loads(membox("stat", one.name, "--json").stdout)["keeper"]
    own, base = (flags_of_open_file(keeper, path) for path in (one.swap, one.image / "pages"))
    assert own is not None and base is not None and base & os.O_DIRECT == own & os.O_DIRECT
    membox("kill", one.name)
    assert one.status() == 137


def test_working_set_comes_back_by_itself(saved):
    """LINEAGE C6: what was in memory when it was saved is there again before the program asks, as far as the limit has room."""
    def usage():
        return json.loads(membox("stat", one.name, "--json").stdout)["rss_usage"]
    one = saved([PYTHON, "-c", "import os, time; held = os.urandom(96 << 20); print('ready', flush=True); time.sleep(600)"], limit=256 * MIB)
    assert wait_until(lambda: b"ready" in one.output.read_bytes(), 20)
    one.checkpoint()
    assert one.status() == 137
    for limit in (256, 64):
        one.restore("--limit", limit * MIB)
        assert one.is_there()
        assert wait_until(lambda: usage() > min(96, limit // 2) * MIB, 20), (limit, usage())
        assert usage() < limit * MIB
        membox("kill", one.name)
        assert one.status() == 137


def test_held_threads_that_fault_while_nothing_is_evicted(saved, shared_folder):
    """A held thread that is made to run touches its restartable sequence; when that page is out and the container full, nobody makes room."""
    score = pathlib.Path(shared_folder) / "score"
    score.unlink(missing_ok=True)
    one = saved([victim("rseq-on-evicted"), score, 512, scale(24, 48)], limit=scale(12, 16) * MIB, options=["--pool", 0])

    def rounds():
        return struct.unpack_from("<Q", score.read_bytes().ljust(8, b"\0"))[0] if score.exists() else 0

    for _ in range(3):
        seen = rounds()
        assert wait_until(lambda: rounds() >= seen + 2 or one.process.poll() is not None, 60) and one.process.poll() is None, one.errors()
        one.checkpoint("--leave-running")
    with open(score, "r+b") as file:
        file.seek(8)
        file.write(struct.pack("<Q", 1))
    assert one.status() == 0, one.errors()
    assert one.output.read_bytes() == b"right\n"


def test_given_up_when_the_container_ends(saved, shared_folder):
    """A checkpoint under way leaves nothing behind when everything ends meanwhile."""
    one = saved([victim("check-memory-forever"), pathlib.Path(shared_folder) / "score-given-up", 64, 1, 0, 600], limit=256 * MIB)
    folder = one.folder / "given-up"
    assert wait_until(lambda: (score := pathlib.Path(shared_folder) / "score-given-up").exists() and records(score)[0][0], 30)
    asking = subprocess.Popen([MEMBOX, "checkpoint", one.name, folder], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert wait_until(lambda: list(one.folder.glob("given-up.*")) or asking.poll() is not None, 20)
    membox("kill", one.name, check=False)
    asking.communicate(timeout=60)
    assert one.status() == 137
    assert not list(one.folder.glob("given-up.*"))
