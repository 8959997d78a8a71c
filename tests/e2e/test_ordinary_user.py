"""The user nobody, without any capability: forks are not announced, adopted processes stay traced (docs/architecture.md, Without fork events)."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

import boxes
from boxes import MIB, PYTHON, execute, named, need_membox, need_program, need_root, scale, victim, wait_until

NOBODY = 65534
SYSCTL = pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd")


@pytest.fixture(scope="module")
def allowed():
    """userfaultfd for everybody; as it was afterwards."""
    need_membox()
    need_root("to become the user nobody")
    need_program("setpriv")
    if not SYSCTL.exists():
        pytest.skip("the kernel has no vm.unprivileged_userfaultfd")
    before = SYSCTL.read_text()
    try:
        SYSCTL.write_text("1")
    except OSError as error:
        pytest.skip(f"vm.unprivileged_userfaultfd: {error}")
    yield
    SYSCTL.write_text(before)


@pytest.fixture
def user(allowed):
    folder = pathlib.Path(boxes.scratch_folder())
    os.chown(folder, NOBODY, NOBODY)
    yield User(folder)
    shutil.rmtree(folder, ignore_errors=True)


class User:
    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    def command(self, *words):
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "env",
                f"HOME={self.folder}", f"MEMBOX_RUNTIME_DIR={self.folder}/run", *[str(word) for word in words]]

    def box(self, program, limit, *options):
        self.count += 1
        self.stats = self.folder / f"stats-{self.count}"
        return self.command(boxes.MEMBOX, "run", "--limit", limit, "--swap", self.folder / f"swap-{self.count}", "--stats", self.stats, *options, "--", *program)

    def run(self, program, limit=scale(20, 48) * MIB, press_mb=scale(32, 80), **options):
        status, stdout, stderr, _ = execute(self.box(program, limit), env={"VICTIM_PRESS_MB": str(press_mb)}, cwd=self.folder, **options)
        if status == 77:
            pytest.skip(stderr.strip())
        return status, stdout, stderr

    def right(self, program, limit=scale(20, 48) * MIB, **options):
        status, stdout, stderr = self.run(program, limit, **options)
        assert status == 0, f"status {status}\nstdout {stdout[-500:]!r}\nstderr {stderr[-3000:]}"
        stats = boxes.load_json(self.stats)
        assert boxes.was_under_pressure(stats), stats
        return stdout, stats


def test_can_be_used_and_doctor_says_at_what_price(user):
    status, stdout, stderr, _ = execute(user.command(boxes.MEMBOX, "doctor"))
    assert status == 0, stdout + stderr.encode()
    assert b"stay traced" in stdout
    user.right([PYTHON, "-c", "b = bytearray(96 << 20); b[::4096] = b'x' * (96 << 8); print(sum(b[::4096]))"])


@pytest.mark.parametrize("round", range(scale(1, 10)))
def test_children_of_forks_have_what_is_evicted(user, round):
    stdout, stats = user.right([victim("fork-evicted")])
    assert stats["adoptions"] > 1


def test_random_operations(user):
    user.right([victim("random-memory-ops"), 101, scale(5, 60), 96, 1])


@pytest.mark.parametrize("threads", [2, 4])
def test_random_operations_of_threads(user, threads):
    """A child that may lack what another thread of its parent was unmapping is killed before it can read a wrong byte (docs/architecture.md); nothing else may go wrong."""
    status, stdout, stderr = user.run([victim("random-memory-ops"), 100 + threads, scale(5, 60), 96, threads])
    wrong = [line for line in stderr.splitlines() if "WRONG" in line and "child ended with 0x9 " not in line]
    assert not wrong and (status == 0 or "what it held is not known" in stderr), f"status {status}\n{stderr[-3000:]}"


@pytest.mark.parametrize("name, arguments", [("exec-evicted", []), ("shared-by-fork", [scale(32, 64), 3, scale(20, 40)]), ("outlive-sharer", ["exit", scale(32, 80)]), ("outlive-sharer", ["exec", scale(32, 80)])])
def test_victims_that_make_processes(user, name, arguments):
    user.right([victim(name), *arguments])


# Grows beyond its limit, then ends as it is told.
ENDS = """
import os, signal, sys
block = bytearray(96 << 20)
block[::4096] = b'x' * (96 << 8)
assert sum(block[::4096]) == 120 * (96 << 8)
kind, number = sys.argv[1], int(sys.argv[2])
if kind == 'exit':
    os._exit(number)
os.kill(os.getpid(), number)
"""


@pytest.mark.parametrize("kind, number, status", [("exit", 0, 0), ("exit", 3, 3), ("signal", signal.SIGTERM, 128 + 15), ("signal", signal.SIGKILL, 128 + 9)])
def test_exit_codes(user, kind, number, status):
    assert user.run([PYTHON, "-c", ENDS, kind, int(number)])[0] == status


SIGNALS = """
import os, signal, time
got = []
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGALRM):
    signal.signal(number, lambda n, frame: got.append(n))
block = bytearray(96 << 20)
block[::4096] = b'x' * (96 << 8)
for i in range(200):
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
end = time.monotonic() + 1
while time.monotonic() < end:
    time.sleep(0.005)
signal.setitimer(signal.ITIMER_REAL, 0)
assert got.count(signal.SIGUSR1) == 200 and got.count(signal.SIGUSR2) == 200, len(got)
assert got.count(signal.SIGALRM) > 40, got.count(signal.SIGALRM)
print('signals', sum(block[::4096]) == 120 * (96 << 8))
"""


def test_signals_reach_the_program(user):
    assert user.right([PYTHON, "-c", SIGNALS])[0] == b"signals True\n"


STOPS = """
import sys, time
block = bytearray(96 << 20)
block[::4096] = b'x' * (96 << 8)
print('ready', flush=True)
while True:
    block[::4096] = b'y' * (96 << 8)
    print('on', flush=True)
    time.sleep(0.02)
"""


def state(pid):
    text = boxes.read(f"/proc/{pid}/stat")
    return text[text.rindex(")") + 2] if ")" in text else "X"


def test_a_stopped_program_stands_still_and_goes_on(user):
    process = subprocess.Popen(user.box([PYTHON, "-c", STOPS], 48 * MIB), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, cwd=user.folder)
    assert process.stdout.readline() == b"ready\n"
    program = named(process.pid, "python3")[0]
    assert wait_until(lambda: boxes.read(f"/proc/{program}/status").split("TracerPid:")[1].split()[0] != "0", 10), "is not adopted"
    for _ in range(5):
        assert process.stdout.readline() == b"on\n"
        os.kill(program, signal.SIGSTOP)  # its process group is orphaned: SIGTSTP does nothing there
        assert wait_until(lambda: state(process.pid) == "T", 10), "membox does not stop with its program"
        assert wait_until(lambda: state(program) in "tT", 10), "membox stops, its program does not"  # its signal may still be on its way
        os.killpg(process.pid, signal.SIGCONT)
        assert wait_until(lambda: state(process.pid) != "T" and state(program) not in "tT", 10)
        time.sleep(0.05)
        assert state(process.pid) != "T"
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + 15


def test_a_pipeline_in_one_box(user):
    need_program("sort")
    script = "seq 1 600000 | sort -R --random-source=/dev/zero -S 64M | sort -n -S 64M | tail -n 1"
    assert user.right(["sh", "-c", script], 32 * MIB)[0] == b"600000\n"


POOL = """
import multiprocessing, sys
data = [list(range(i, i + 1000)) for i in range(int(sys.argv[2]))]
def work(i):
    own = bytearray(4 << 20)
    own[::4096] = b'z' * 1024
    return sum(data[i]) + sum(own[::4096]) - 1024 * ord('z')
if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    for _ in range(int(sys.argv[1])):
        with multiprocessing.Pool(4) as pool:
            assert pool.map(work, range(len(data))) == [sum(l) for l in data]
    print('right')
"""


def test_python_multiprocessing(user):
    assert user.right([PYTHON, "-c", POOL, scale(1, 3), scale(500, 1500)], 32 * MIB)[0] == b"right\n"


def test_many_containers_at_once(user):
    nr = scale(6, 100)
    program = "b = bytearray(24 << 20)\nfor r in range(3):\n  b[::4096] = bytes([65 + r]) * (24 << 8)\nprint(sum(b[::4096]) == 67 * (24 << 8))"
    started = [subprocess.Popen(user.box([PYTHON, "-c", program], 20 * MIB, "--name", f"many-{i}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                start_new_session=True, cwd=user.folder) for i in range(nr)]
    results = [(process.communicate(timeout=boxes.TIMEOUT_S), process.returncode) for process in started]
    assert [(out, code) for (out, _), code in results] == [(b"True\n", 0)] * nr, results


def test_nobody_runs_on_when_the_keeper_is_killed(user):
    """Also a child that has just been forked: the kernel kills whom the keeper traced."""
    program = ("import os\nb = bytearray(96 << 20)\nb[::4096] = b'x' * (96 << 8)\nprint('ready', flush=True)\n"
               "while True:\n  p = os.fork()\n  if not p:\n    assert sum(b[::4096]) == 120 * (96 << 8)\n    os._exit(0)\n  assert os.waitpid(p, 0)[1] == 0")
    for _ in range(scale(3, 20)):
        process = subprocess.Popen(user.box([PYTHON, "-c", program], 48 * MIB), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, cwd=user.folder)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        guardian = boxes.named(process.pid, "mbx-guardian")[0]
        keeper = next(pid for pid, _, name in boxes.descendants(guardian) if name == "membox")
        os.kill(keeper, signal.SIGKILL)
        stderr = process.communicate(timeout=30)[1]
        assert process.returncode == 125 and b"no page was lost" in stderr and b"Error" not in stderr, stderr


def test_checkpoint_and_restore(user):
    """Process ids are given again in a namespace of its own, which needs no right."""
    program = ("import os, sys, time\nheld = os.urandom(64 << 20); check = len(set(held[::4096])); me = os.getpid()\nprint('ready', flush=True)\nfor i in range(40):\n"
               "  assert len(set(held[::4096])) == check and os.getpid() == me\n  time.sleep(0.05)\nprint('right', flush=True)")
    output, image = user.folder / "output", user.folder / "image"
    output.touch()
    os.chown(output, NOBODY, NOBODY)  # it is opened again, by its name

    def start(command):
        with open(output, "ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=user.folder)
    process = start(user.box([PYTHON, "-c", program], 32 * MIB, "--name", "saved"))
    assert wait_until(lambda: output.exists() and b"ready" in output.read_bytes(), 20)
    for _ in range(2):
        status, stdout, stderr, _ = execute(user.command(boxes.MEMBOX, "checkpoint", "saved", image), cwd=user.folder)
        assert status == 0, stderr + (process.stderr.read() if process.poll() is not None else "")
        assert process.wait(30) == 137
        process = start(user.command(boxes.MEMBOX, "restore", "--isolate", "--name", "saved", "--swap", user.folder / "swap-restored", image))
        assert wait_until(lambda: execute(user.command(boxes.MEMBOX, "stat", "saved"))[0] == 0 or process.poll() is not None, 20)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 0, stderr
    assert output.read_bytes() == b"ready\nright\n"


FAMILY = """
import ctypes, mmap, os, pty, struct, sys, time
libc, size = ctypes.CDLL(None), 16 << 20
held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); held.write(os.urandom(size)); check = sum(held[::4096])
semaphores, queue = libc.semget(0x4d45, 2, 0o1600), libc.msgget(0x4d46, 0o1600)
assert libc.semctl(semaphores, 1, 16, 9) == 0 and libc.msgsnd(queue, struct.pack("l", 3) + b"text", ctypes.c_size_t(4), 0) == 0
maker, end = pty.openpty(); os.write(maker, b"typed\\n")
child = os.fork()
if child == 0:
    while not os.path.exists(sys.argv[1]): time.sleep(0.01)
    os._exit(5 if sum(held[::4096]) == check else 6)
print("ready", flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
assert os.waitpid(child, 0)[1] == 5 << 8 and sum(held[::4096]) == check
assert libc.semget(0x4d45, 2, 0) == semaphores and libc.semctl(semaphores, 1, 12) == 9 and libc.msgget(0x4d46, 0) == queue
text = ctypes.create_string_buffer(100)
assert libc.msgrcv(queue, text, ctypes.c_size_t(90), ctypes.c_long(0), 0o4000) == 4 and text.raw[8:12] == b"text"
assert os.read(end, 100) == b"typed\\n" and os.read(maker, 100) == b"typed\\r\\n"
os.write(1, b"right\\n")
"""


def test_checkpoint_of_an_isolated_family(user):
    """Without any right: what forks share, semaphores, a message queue, a pseudo terminal."""
    output, image, go_on = user.folder / "output", user.folder / "image", user.folder / "go-on"
    output.touch()
    os.chown(output, NOBODY, NOBODY)

    def start(command):
        with open(output, "ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=user.folder)
    process = start(user.box([PYTHON, "-c", FAMILY, go_on], 64 * MIB, "--isolate", "--name", "saved"))
    assert wait_until(lambda: b"ready" in output.read_bytes() or process.poll() is not None, 20) and process.poll() is None, process.stderr.read()
    for _ in range(2):
        status, stdout, stderr, _ = execute(user.command(boxes.MEMBOX, "checkpoint", "saved", image), cwd=user.folder)
        assert status == 0, stderr
        assert process.wait(30) == 137
        process = start(user.command(boxes.MEMBOX, "restore", "--name", "saved", "--swap", user.folder / "swap-restored", image))
        assert wait_until(lambda: execute(user.command(boxes.MEMBOX, "stat", "saved"))[0] == 0 or process.poll() is not None, 20)
    go_on.touch()
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 0, stderr
    assert output.read_bytes() == b"ready\nright\n"


def swapped(user):
    status, stdout, _, _ = execute(user.command(boxes.MEMBOX, "stat", "m", "--json"))
    return json.loads(stdout)["swap_used"] if status == 0 else 0


def test_migrate(user):
    """An adopted process is traced by the keeper, which holds it once more to tell its threads where memory is to come from."""
    if not os.path.exists("/sys/devices/system/node/has_memory"):
        pytest.skip("the kernel knows no NUMA nodes")
    code = "b = bytearray(96 << 20); b[::4096] = b'x' * (96 << 8); input(); print(sum(b[::4096]), open('/proc/self/numa_maps').readline().split()[1])"
    box = subprocess.Popen(user.box([PYTHON, "-c", code], 48 * MIB, "--name", "m"), cwd=user.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, start_new_session=True)
    try:
        assert wait_until(lambda: swapped(user) > 10 * MIB, 20)
        status, stdout, stderr, _ = execute(user.command(boxes.MEMBOX, "migrate", "m", "--to-node", "0", "--json"))
        assert status == 0, stderr
        assert json.loads(stdout)["undirected"] == 0
        stdout, stderr = box.communicate(b"\n", timeout=60)
    finally:
        box.kill()
    assert stdout == b"%d prefer:0\n" % (120 * (96 << 8)), stderr


def test_is_not_upgraded(user):
    """Traced processes and stamps are not handed over: refused, and the program goes on."""
    holder = subprocess.Popen(user.box([victim("hold-memory"), 48], 24 * MIB, "--name", "ordinary"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "ready\n"
    status, _, stderr, _ = execute(user.command(boxes.MEMBOX, "upgrade", "ordinary"))
    assert status == 1 and "its processes are traced" in stderr, stderr
    stdout, _ = holder.communicate(timeout=60)
    assert (holder.returncode, stdout) == (0, "right\n")
