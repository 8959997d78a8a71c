"""Running programs bare and in membox, with a hard time limit, and looking at them from outside.

Environment:
  MEMBOX             the membox binary (default build/membox); "none" runs every program directly, to test the tests
  MEMBOX_VICTIMS     folder of the victims (default: tests/victims beside the binary)
  MEMBOX_TEST_TIMEOUT  seconds until a run counts as a hang
  MEMBOX_TEST_FOLDER   where files and swap files of the tests lie (default /var/tmp; not a tmpfs)
  MEMBOX_TEST_OPTIONS  more options of `membox run` for every box, for example --isolate
  MEMBOX_TEST_SCALE  "ci" (default) or "full": the sizes of the acceptance list
"""
import collections
import ctypes
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time

import pytest

from processes import descendants, describe, is_alive, kill_all, named, processes, read, reap, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
MIB = 1 << 20
BARE = os.environ.get("MEMBOX") == "none"
MEMBOX = pathlib.Path(os.environ.get("MEMBOX_BIN") or (os.environ.get("MEMBOX") if not BARE else None) or ROOT / "build/membox").absolute()
VICTIMS = pathlib.Path(os.environ.get("MEMBOX_VICTIMS") or MEMBOX.parent / "tests/victims").absolute()
OPTIONS = os.environ.get("MEMBOX_TEST_OPTIONS", "").split()
FULL = os.environ.get("MEMBOX_TEST_SCALE", "ci") == "full"
PYTHON = "/usr/bin/python3"
TIMEOUT_S = float(os.environ.get("MEMBOX_TEST_TIMEOUT", 1800 if FULL else 150))

Run = collections.namedtuple("Run", "status stdout stderr stats sample wall_s")


def scale(ci, full):
    return full if FULL else ci


def victim(name):
    path = VICTIMS / name
    if not path.exists():
        pytest.skip(f"victim {name} is not built (in {VICTIMS})")
    return str(path)


def need_program(name):
    path = shutil.which(name)
    if not path:
        pytest.skip(f"program {name} is not installed")
    return path


def need_membox():
    if BARE:
        pytest.skip("MEMBOX=none: there is no membox to test")


def need_faulty_membox():
    """A membox in which calls fail as MEMBOX_FAULT says (docs/reliability.md)."""
    need_membox()
    path = pathlib.Path(os.environ.get("MEMBOX_FAULTS", ROOT / "build-check/clang/membox"))
    if not path.exists() or b"MEMBOX_FAULT" not in path.read_bytes():
        pytest.skip(f"{path} is not built with -Dfaults=true")
    return path


def need_root(why="to mount a file system"):
    if os.geteuid() != 0:
        pytest.skip(f"needs root ({why})")


def was_under_pressure(stats):
    """Pages have left the memory of a program, wherever they went."""
    return stats["adoptions"] > 0 and stats["swap_out"] + stats["pool_out"] + stats["zero_drops"] > 0


def become_subreaper():
    """Orphans come to this process, so that nothing that a test leaves over gets out of sight."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


# ---- running --------------------------------------------------------------------------------------------------------------


def shell_status(returncode):
    return 128 - returncode if returncode < 0 else returncode


def execute(command, timeout=TIMEOUT_S, stdin=b"", env=None, cwd=None):
    """(status as the shell gives it, stdout, stderr, seconds). A hang is a failure that says what everyone was doing."""
    begin = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, **(env or {})}, cwd=cwd, start_new_session=True)
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        report = describe()
        kill_all()
        stdout, stderr = process.communicate()
        pytest.fail(f"hang: not done after {timeout} s: {' '.join(map(str, command))}\n{report}\nstdout: {stdout[-2000:]!r}\nstderr: {stderr[-2000:]!r}",
                    pytrace=False)
    return shell_status(process.returncode), stdout, stderr.decode(errors="replace"), time.monotonic() - begin


def overshoot(limit, sample):
    """What usage may be above the limit: 16 MiB or 3 %, and what a fast program maps (2 GB/s) while the machine keeps a processor from everybody."""
    return max(limit * 3 // 100, 16 * MIB) + sample["stolen_us"] * 2000


def sampler(out, *options):
    return [victim("rss-sampler"), "--out", out, *options, "--"]


def load_json(path):
    try:
        return json.loads(read(path) or "null")
    except ValueError as error:
        pytest.fail(f"{path} is not JSON: {error}")


# ---- the control socket ---------------------------------------------------------------------------------------------------


def runtime_folder():
    if os.environ.get("MEMBOX_RUNTIME_DIR"):
        return os.environ["MEMBOX_RUNTIME_DIR"]
    if os.geteuid() == 0:
        return "/run/membox"
    return f"{os.environ['XDG_RUNTIME_DIR']}/membox" if os.environ.get("XDG_RUNTIME_DIR") else f"/tmp/membox-{os.getuid()}"


class Talk:
    """One connection to a container's keeper."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(f"{runtime_folder()}/{name}/control")
        self.rest = b""

    def send(self, data):
        self.socket.sendall(data)

    def answer(self):
        while b"\n" not in self.rest:
            data = self.socket.recv(65536)
            if not data:
                return None
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def close(self):
        self.socket.close()


def ask_later(name, verb=None, raw=None, **members):
    talk = Talk(name)
    talk.send(raw or json.dumps({"version": 1, "verb": verb, **members}).encode() + b"\n")
    return talk


def ask(name, verb, **members):
    """The reply, or None when there is no such container (any more)."""
    try:
        talk = ask_later(name, verb, **members)
        reply = talk.answer()
        talk.close()
        return reply
    except (FileNotFoundError, ConnectionError):
        return None


class Boxes:
    """The two ways to run a program; files lie in a folder of the test."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.count = 0

    def new_path(self, kind):
        self.count += 1
        return self.folder / f"{kind}-{self.count}"

    def command(self, program, limit, swap=None, args=(), stats=None):
        """The whole command line of a box. limit in bytes or as text."""
        if BARE:
            return [str(word) for word in program]
        words = [str(MEMBOX), "run", "--limit", str(limit), *OPTIONS]
        if "--no-swap" not in args:
            words += ["--swap", str(swap or self.new_path("swap"))]
        if stats:
            words += ["--stats", str(stats)]
        return words + [str(word) for word in (*args, "--", *program)]

    def run_bare(self, program, **options):
        """sample["peak"]: the highest memory of the whole tree in bytes (shared pages once)."""
        out = self.new_path("bare-sample")
        status, stdout, stderr, wall_s = execute(sampler(out, "--pss", "--interval-us", "10000") + list(program), **options)
        sample = load_json(out)
        sample["peak"] = max(sample["max_kib"], sample["largest_process_kib"]) * 1024
        return Run(status, stdout, stderr, None, sample, wall_s)

    def run_boxed(self, program, limit, swap=None, args=(), sample=False, **options):
        out, stats = self.new_path("sample"), self.new_path("stats")
        own_swap = swap or self.new_path("swap")
        command = self.command(program, limit, own_swap, args, stats)
        status, stdout, stderr, wall_s = execute((sampler(out) if sample else []) + command, **options)
        figures = load_json(stats) if not BARE and stats.exists() else None
        if not swap:
            own_swap.unlink(missing_ok=True)
        return Run(status, stdout, stderr, figures, load_json(out) if sample else None, wall_s)

    def run_victim(self, name, *arguments, limit=scale(20, 48) * MIB, press_mb=scale(32, 80), adopted=True, **options):
        """A self-checking victim must end with 0; with `adopted`, it must have been under pressure in membox."""
        env = {"VICTIM_PRESS_MB": str(press_mb), **options.pop("env", {})}
        run = self.run_boxed([victim(name), *arguments], limit, env=env, cwd=self.folder, **options)
        if run.status == 77:
            pytest.skip(run.stderr.strip())
        assert run.status == 0, f"status {run.status}\nstdout {run.stdout[-500:]!r}\nstderr {run.stderr[-3000:]}"
        if adopted and run.stats:
            assert was_under_pressure(run.stats), run.stats
        return run

    def start(self, program, limit, swap=None, args=(), **options):
        """Popen of a box; the caller waits for it. The leftover check of conftest.py sees what it forgets."""
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True, **options}
        return subprocess.Popen(self.command(program, limit, swap, args), **options)


def scratch_folder():
    """On a disk, not in memory: the swap file needs O_DIRECT to be as in real use."""
    return tempfile.mkdtemp(prefix="membox-e2e-", dir=os.environ.get("MEMBOX_TEST_FOLDER", "/var/tmp"))
