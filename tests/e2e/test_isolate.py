"""LINEAGE B7: `membox run --isolate`: PID, IPC and mount namespaces of its own, with an init that reaps."""
import ctypes
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import time

import pytest

import boxes
from boxes import MEMBOX, MIB, PYTHON, descendants, describe, execute, is_alive, named, need_membox, need_program, need_root, read, scale, victim, wait_until
from test_job_control import terminal  # noqa: F401 (a fixture)

ISOLATE = ["--isolate"]

# Functions for scripts that run inside and, some of them, outside too.
IPC = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
CREATE, EXCLUSIVE = 0o1000, 0o2000
def get(kind, key, flags):
    args = {"shm": (key, 4096, flags), "sem": (key, 1, flags), "msg": (key, flags)}[kind]
    r = getattr(libc, kind + "get")(*args)
    return r if r >= 0 else -ctypes.get_errno()
"""
LIBC = ctypes.CDLL(None, use_errno=True)
KINDS = ["shm", "sem", "msg"]
IPC_SPACE = {}
exec(IPC, IPC_SPACE)  # noqa: S102


@pytest.fixture(autouse=True)
def isolation(request):
    """Whether this machine allows it at all; the feature that is missing is in the reason."""
    need_membox()
    status, _, stderr, _ = execute([MEMBOX, "run", "--no-swap", "--limit", "64M", "--isolate", "--", "true"], timeout=20)
    if status == 125 and "--isolate: " in stderr:
        pytest.skip(stderr.strip())


def run(box, script, *words, limit=64 * MIB, program=(PYTHON, "-c"), **options):
    return box.run_boxed([*program, script, *words], limit, args=ISOLATE, **options)


def right(result, stdout, status=0):
    assert (result.status, result.stdout, result.stderr) == (status, stdout, "")


# ---- processes --------------------------------------------------------------------------------------------------------------


def test_sees_only_its_own_processes(box):
    script = "import os; print(sorted((int(p) for p in os.listdir('/proc') if p.isdigit())), os.getpid(), os.getppid(), open('/proc/1/comm').read().strip())"
    right(run(box, script), b"[1, 2] 2 0 mbx-init\n")
    need_program("ps")
    result = run(box, "ps -e -o pid=,comm= | tr -s ' ' | sed 's/^ //' | grep -E '^(1|2) |ps$' | sort -n | cut -d' ' -f2", program=["sh", "-c"])
    right(result, b"mbx-init\nsh\nps\n")


def test_cannot_signal_what_is_outside(box):
    script = f"import os\ntry: os.kill({os.getpid()}, 0)\nexcept ProcessLookupError: print('not there')"
    right(run(box, script), b"not there\n")


def test_init_reaps_orphans(box):
    """Orphans that end are gone from /proc: nobody but init can have waited for them."""
    script = """
import os, time
read, write = os.pipe()
for i in range(100):
    pid = os.fork()
    if not pid:
        if os.fork(): os._exit(0)
        os.write(write, b'%5d' % os.getpid())
        os._exit(0)
    os.waitpid(pid, 0)
orphans = [int(os.read(read, 5)) for i in range(100)]
end = time.monotonic() + 20
while any(os.path.exists(f'/proc/{p}') for p in orphans) and time.monotonic() < end: time.sleep(0.002)
print(len(set(orphans)), sum(os.path.exists(f'/proc/{p}') for p in orphans))
"""
    right(run(box, script), b"100 0\n")


def test_ends_with_the_last_process(box):
    """The program ends first; a chain of processes, each an orphan as soon as it has made the next, goes on and is not cut short."""
    script = """
import os, sys
if os.fork(): os._exit(9)
for i in range(400):
    if os.fork(): os._exit(0)
print('the last', flush=True)
"""
    for _ in range(3):
        right(run(box, script), b"the last\n", 9)
    result = run(box, "(trap '' TERM HUP; sleep 0.3; echo late) & echo early; exit 3", program=["sh", "-c"])
    right(result, b"early\nlate\n", 3)


@pytest.mark.parametrize("script,status", [("exit 0", 0), ("exit 255", 255), ("exit 125", 125), ("kill -KILL $$", 137), ("kill -SEGV $$", 139), ("kill -TERM $$", 143)])
def test_exit_status(box, script, status):
    result = run(box, script, program=["sh", "-c"])
    right(result, b"", status)
    assert result.stats["exit_status"] == status


def test_exec_failures(box):
    plain = box.folder / "plain"
    plain.write_text("text\n")
    for program, status, why in [("no-such-program", 127, "not found"), ("/no/such", 127, "not found"), (plain, 126, "Permission denied")]:
        result = box.run_boxed([program], 64 * MIB, args=ISOLATE)
        assert (result.status, result.stderr) == (status, f"membox: cannot run {program}: {why}\n")


# ---- signals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_program(box, number):
    """Python looks for signals between its own steps: one that comes just before a long sleep waits for its end, so the sleeps are short."""
    process = box.start([PYTHON, "-c", "import signal, sys, time\nsignal.signal(int(sys.argv[1]), lambda n, f: sys.exit(40 + n))\nprint('ready', flush=True)\nwhile True: time.sleep(0.01)",
                         str(int(number))], 64 * MIB, args=ISOLATE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=20) == (b"", b"") and process.returncode == 40 + number


def test_terminal(box, terminal):  # noqa: F811
    """Ctrl-Z, fg and Ctrl-C, also with a program that knows its terminal."""
    line = " ".join(map(str, box.command(["cat"], 64 * MIB, args=ISOLATE))) + "\n"
    for _ in range(2):
        terminal.type(line)
        assert wait_until(lambda: named(None, "cat"), 10)
        pid = named(None, "cat")[0]
        terminal.type("hello\n")
        terminal.expect("hello\nhello\n")
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.expect("PROMPT> ")
        assert wait_until(lambda: boxes.processes()[pid][1] == "T", 5), describe()
        terminal.type("fg\n")
        assert wait_until(lambda: boxes.processes()[pid][1] in "SRD", 5), describe()
        terminal.type("\x03")
        terminal.expect("PROMPT> ")
        assert terminal.status() == 130
    terminal.type(" ".join(map(str, box.command(["bash", "--norc", "--noprofile", "-i"], 64 * MIB, args=ISOLATE))) + "\n")
    terminal.expect("PROMPT> ")
    terminal.type("sleep 50 &\nkill %1\nwait %1; echo inside=$$=$?=\n")
    assert terminal.expect(r"inside=2=(\d+)=")[1] == "143"
    terminal.type("exit 4\n")
    terminal.expect("PROMPT> ")
    assert terminal.status() == 4


# ---- shared memory and mounts -----------------------------------------------------------------------------------------------


def test_system_v_objects_are_private(box):
    """The same keys, taken outside, are free inside; what is made inside is not to be found outside, neither meanwhile nor afterwards."""
    outer = 0x6d620000 + os.getpid() % 0x8000
    inner = outer + 0x8000
    ids = {kind: IPC_SPACE["get"](kind, outer, 0o3600) for kind in KINDS}
    try:
        assert min(ids.values()) >= 0, ids
        script = IPC + f"""
for kind in {KINDS}:
    print(kind, get(kind, {outer}, 0o600), get(kind, {outer}, 0o3600) >= 0, get(kind, {inner}, 0o3600) >= 0)
print('made', flush=True)
input()
"""
        process = box.start([PYTHON, "-c", script], 64 * MIB, args=ISOLATE)
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines == [b"%s -2 True True\n" % kind.encode() for kind in KINDS] + [b"made\n"]
        outside = {kind: IPC_SPACE["get"](kind, inner, 0o600) for kind in KINDS}
        assert process.communicate(b"\n", timeout=20) == (b"", b"") and process.returncode == 0
        assert outside == {kind: -2 for kind in KINDS}
        assert {kind: IPC_SPACE["get"](kind, inner, 0o600) for kind in KINDS} == outside
    finally:
        LIBC.shmctl(ids["shm"], 0, 0)
        LIBC.semctl(ids["sem"], 0, 0)
        LIBC.msgctl(ids["msg"], 0, 0)


def test_posix_objects_are_private(box):
    """Shared memory and named semaphores live in /dev/shm, message queues in the IPC namespace."""
    name = f"membox-test-{os.getpid()}"
    librt = ctypes.CDLL("librt.so.1", use_errno=True)
    queue = librt.mq_open(f"/{name}-out".encode(), os.O_RDWR | os.O_CREAT, 0o600, None)
    shared = pathlib.Path(f"/dev/shm/{name}-out")
    try:
        shared.write_text("outside")
        script = f"""
import ctypes, mmap, os
librt = ctypes.CDLL("librt.so.1", use_errno=True)
print(os.path.exists({str(shared)!r}), os.listdir('/dev/shm'), stat.S_IMODE(os.stat('/dev/shm').st_mode) == 0o1777)
open('/dev/shm/{name}-in', 'w').write('inside' * 1000)
fd = os.open('/dev/shm/{name}-in', os.O_RDWR)
print(mmap.mmap(fd, 4096)[:6])
print(librt.mq_open(b'/{name}-out', os.O_RDWR) < 0, librt.mq_open(b'/{name}-in', os.O_RDWR | os.O_CREAT, 0o600, None) >= 0, flush=True)
input()
"""
        process = box.start([PYTHON, "-c", "import stat\n" + script], 64 * MIB, args=ISOLATE)
        lines = [process.stdout.readline() for _ in range(3)]
        inner = os.path.exists(f"/dev/shm/{name}-in"), librt.mq_open(f"/{name}-in".encode(), os.O_RDWR) < 0
        assert process.communicate(b"\n", timeout=20) == (b"", b"") and process.returncode == 0
        assert lines[:2] == [b"False [] True\n", b"b'inside'\n"] and inner == (False, True)
        if queue >= 0:
            assert lines[2] == b"True True\n"
    finally:
        shared.unlink(missing_ok=True)
        if queue >= 0:
            os.close(queue)
            librt.mq_unlink(f"/{name}-out".encode())


def test_mounts_stay_inside(box):
    need_root()
    place = box.folder / "place"
    place.mkdir()
    script = f"mount -t tmpfs membox-test {place} && touch {place}/file && test -e {place}/file && grep -c membox-test /proc/mounts; read word; exit 6"
    process = box.start(["sh", "-c", script], 64 * MIB, args=ISOLATE)
    assert process.stdout.readline() == b"1\n", process.stderr.read()
    assert "membox-test" not in read("/proc/mounts") and not (place / "file").exists()
    assert process.communicate(b"\n", timeout=20) == (b"", b"") and process.returncode == 6


# ---- memory -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [*scale([], [["fork-evicted"]]), ["exec-evicted"], ["see-no-trace"], ["random-memory-ops", "3000", "3", "96", "3"]], ids=lambda words: words[0])
def test_right_under_pressure(box, words):
    """Adoption, fork with and without inheritance (MADV_WIPEONFORK), exec and threads, with the agents inside the namespaces."""
    box.run_victim(*words, limit=(32 if len(words) > 1 else 24) * MIB, press_mb=40, args=ISOLATE)


def test_fork_with_evicted_memory(box):
    """Children inherit what is evicted, but for what they asked to be wiped: found in the /proc of the namespace, by the child's number there."""
    script = """
import mmap, os
def page(i): return bytes([i % 251]) * 4096
wiped, kept = (mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for i in range(2))
wiped.madvise(18)  # MADV_WIPEONFORK
for m in wiped, kept: m[:] = b'x' * len(m)
data = [page(i) for i in range(3000)]
def check(start): return all(data[i] == page(i) for i in range(start, 3000, 8))
for i in range(3): assert all(map(check, range(8)))
for i in range(4):
    pid = os.fork()
    if not pid:
        os._exit((wiped[:] != bytes(len(wiped))) + 2 * (kept[:] != b'x' * len(kept)) + 4 * (not check(i)))
    assert os.waitpid(pid, 0)[1] == 0, i
print(wiped[:] == kept[:], all(map(check, range(8))))
"""
    result = run(box, script, limit=14 * MIB)
    right(result, b"True True\n")
    assert result.stats["adoptions"] > 0 and result.stats["swap_out"] > 0


def test_orphan_with_evicted_memory(box):
    """A forked child goes on alone with what was evicted in its parent, as init's child."""
    script = """
import os
data = [bytes([i % 251]) * 1500 for i in range(60000)]
read, write = os.pipe()
if os.fork():
    os.close(write)
    os._exit(4)
if os.fork(): os._exit(0)
while os.getppid() != 1: pass
more = [bytes([i % 241]) * 1500 for i in range(20000)]
print(all(data[i] == bytes([i % 251]) * 1500 for i in range(60000)), all(more[i] == bytes([i % 241]) * 1500 for i in range(20000)))
"""
    result = run(box, script, limit=48 * MIB)
    right(result, b"True True\n", 4)
    assert result.stats["adoptions"] > 0 and result.stats["swap_out"] > 0


# ---- ends -------------------------------------------------------------------------------------------------------------------


class Inside:
    """A box with a program under pressure, an orphan and a process in a session of its own."""

    def __init__(self, box):
        script = f"(setsid sleep 61 &); sleep 62 & exec {victim('check-memory-forever')} score 72 2 0 60"
        self.process = box.start(["sh", "-c", script], 32 * MIB, args=ISOLATE, cwd=box.folder)
        assert wait_until(lambda: len(named(None, "sleep")) == 2 and self.agents(), 30), describe()
        self.members = named(None, "sleep") + named(None, "check-memory-forever")

    def agents(self):
        return named(None, "membox-agent")

    def dead_in_time(self):
        return wait_until(lambda: not any(map(is_alive, self.members)), 1, 0.002)

    def end(self):
        stderr = self.process.communicate(timeout=10)[1].decode()
        return self.process.returncode, stderr


@pytest.mark.parametrize("victims", [["keeper"], ["guardian", "keeper"], ["front"]], ids="-".join)
def test_nothing_survives_the_keeper(box, victims):
    inside = Inside(box)
    front = inside.process.pid
    guardian = named(front, "mbx-guardian")[0]
    pids = {"front": front, "guardian": guardian, "keeper": named(guardian, "membox")[0]}
    for name in victims:
        os.kill(pids[name], signal.SIGKILL)
    assert inside.dead_in_time(), describe()
    inside.end()


def test_init_is_killed(box):
    inside = Inside(box)
    os.kill(named(None, "mbx-init")[0], signal.SIGKILL)
    assert inside.dead_in_time(), describe()
    status, stderr = inside.end()
    assert status == 137 and stderr.startswith("membox: ") and len(stderr.splitlines()) == 1, stderr


# ---- an ordinary user -------------------------------------------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def as_nobody(box):
    """
    Runs a command as nobody, with what a user needs for membox at all: CAP_SYS_PTRACE for the keeper and access to /dev/userfaultfd, here by a node
    of its own that is mounted there for this run only.
    """
    need_root()
    for program in "setpriv", "unshare", "mount":
        need_program(program)
    if not os.path.exists("/dev/userfaultfd"):
        pytest.skip("needs /dev/userfaultfd")
    folder = box.folder / "nobody"
    folder.mkdir()
    box.folder.chmod(0o755)
    os.chown(folder, NOBODY, NOBODY)
    binary = box.folder / "membox"
    shutil.copy(MEMBOX, binary)
    node = box.folder / "userfaultfd"
    os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/userfaultfd").st_rdev)
    node.chmod(0o666)
    enter = ["unshare", "-m", "sh", "-c", f'mount --bind {node} /dev/userfaultfd && exec "$@"', "sh"]
    user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"]
    env = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}

    def execute_as_nobody(program, limit, device=True, options=("--isolate",)):
        command = [*(enter if device else []), *user, str(binary), "run", *options, "--limit", str(limit), "--", *program]
        return execute(command, env=env, cwd=folder)[:3]

    status, _, stderr = execute_as_nobody(["true"], 64 * MIB)
    if status == 125:
        pytest.skip(stderr.strip())
    return execute_as_nobody


def test_ordinary_user(as_nobody):
    script = ("import os\nopen('file', 'w').close()\nprint(os.getuid(), os.getgid(), os.stat('file').st_uid, os.stat('/').st_uid, os.getpid())\n"
              "print(open('/proc/self/setgroups').read().strip(), [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')])")
    status, stdout, stderr = as_nobody([PYTHON, "-c", script], 64 * MIB)
    assert (status, stderr) == (0, "")
    assert stdout == b"65534 65534 65534 65534 2\ndeny ['0000000000000000']\n"


def test_ordinary_user_under_pressure(as_nobody):
    script = """
import os, threading
data = [bytes([i % 251]) * 1500 for i in range(24000)]
def check(): assert all(data[i] == bytes([i % 251]) * 1500 for i in range(24000))
pid = os.fork()
threads = [threading.Thread(target=check) for i in range(2)]
for t in threads: t.start()
for t in threads: t.join()
check()
if pid: print(os.waitpid(pid, 0)[1], 'right')
"""
    status, stdout, stderr = as_nobody([PYTHON, "-c", script], 24 * MIB)
    assert (status, stdout, stderr) == (0, b"0 right\n", "")


def test_ordinary_user_without_userfaultfd(as_nobody):
    """Capabilities in a user namespace do not count for userfaultfd(2): said before the program runs, not when memory gets short."""
    if read("/proc/sys/vm/unprivileged_userfaultfd").strip() == "1":
        pytest.skip("vm.unprivileged_userfaultfd=1")
    status, stdout, stderr = as_nobody(["echo", "ran"], 64 * MIB, device=False)
    assert (status, stdout) == (125, b"") and "userfaultfd" in stderr and len(stderr.splitlines()) == 1, stderr


@pytest.mark.parametrize("how", ["set-user-id", "file capability"])
def test_what_the_user_may_not_look_at(as_nobody, box, how):
    """membox has CAP_SYS_PTRACE, its user has not, and may read the swap file: a program with more rights is not paged, and membox says so."""
    program = box.folder / "more-rights"
    shutil.copy(victim("hold-memory"), program)
    if how == "set-user-id":
        program.chmod(0o4755)
    else:
        subprocess.run([need_program("setcap"), "cap_net_raw+ep", program], check=True)
    status, stdout, stderr = as_nobody([str(program), "40"], 16 * MIB, options=("--stats", "stats"))
    assert status == 137 and "cannot be limited: it has other rights than the user" in stderr and "killed process" in stderr, stderr
    assert json.loads((box.folder / "nobody/stats").read_text())["swap_out"] == 0
