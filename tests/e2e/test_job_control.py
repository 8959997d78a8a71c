"""A box in a terminal behaves as the bare program: Ctrl-C, Ctrl-Z, fg, bg, signals to membox, pipes."""
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time

import pytest

from boxes import MIB, PYTHON, descendants, describe, execute, named, need_program, processes, victim, wait_until


class Terminal:
    """An interactive bash on a pseudo terminal."""

    def __init__(self, folder):
        pid, self.fd = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.environ.update(PS1="PROMPT> ", TERM="dumb", HISTFILE="")
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.pid = pid
        self.text = ""
        self.expect(r"PROMPT> ")

    def type(self, text):
        os.write(self.fd, text.encode())

    def expect(self, pattern, timeout=20):
        """Reads on until the pattern comes; what lies before its end is consumed."""
        end = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.text)
            if found:
                self.text = self.text[found.end():]
                return found
            ready = select.select([self.fd], [], [], max(end - time.monotonic(), 0))[0]
            assert ready, f"{pattern!r} does not come; got {self.text!r}\n{describe()}"
            try:
                self.text += os.read(self.fd, 65536).decode(errors="replace").replace("\r", "")
            except OSError:
                pytest.fail(f"terminal closed; got {self.text!r}")

    def status(self):
        self.type("echo status=$?=\n")
        return int(self.expect(r"status=(\d+)=")[1])

    def close(self):
        self.type("\nexit\nexit\n")
        if not wait_until(lambda: os.waitpid(self.pid, os.WNOHANG)[0], 5):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(box):
    need_program("bash")
    terminal = Terminal(box.folder)
    yield terminal
    terminal.close()


def line(box, program, limit=64 * MIB):
    return shlex.join(box.command(program, limit)) + "\n"


def busy(box, seconds=60, limit=32 * MIB):
    """A program that is under pressure all the time (in the bare run: just a busy one), says "ready", and ends with "right"."""
    return line(box, ["sh", "-c", f"{victim('check-memory-forever')} score 72 2 0 {seconds}"], limit)


def busy_pid():
    return wait_until(lambda: named(None, "check-memory-forever"), 10)[0]


def wait_checks(folder, more=1):
    def checks():
        try:
            return int.from_bytes((folder / "score").read_bytes()[8:16], "little")
        except OSError:
            return 0
    before = checks()
    return wait_until(lambda: checks() >= before + more, 20)


@pytest.mark.parametrize("kind", ["idle", "under-pressure"])
def test_ctrl_c(box, terminal, kind):
    terminal.type(line(box, ["sleep", "60"]) if kind == "idle" else busy(box))
    assert wait_until(lambda: named(None, "sleep"), 10) if kind == "idle" else wait_checks(box.folder, 100)
    terminal.type("\x03")
    terminal.expect("PROMPT> ")
    assert terminal.status() == 130


@pytest.mark.parametrize("kind", ["idle", "under-pressure"])
def test_ctrl_z_and_fg(box, terminal, kind):
    if kind == "idle":
        terminal.type(line(box, ["cat"]))
        pid = wait_until(lambda: named(None, "cat"), 10)[0]
        time.sleep(0.1)
    else:
        terminal.type(busy(box, 6))
        assert wait_checks(box.folder, 100)
        pid = busy_pid()
    for _ in range(3):
        terminal.type("\x1a")
        terminal.expect("Stopped")
        terminal.expect("PROMPT> ")
        assert wait_until(lambda: processes()[pid][1] == "T", 5), describe()
        terminal.type("echo shell-$((20+3))\n")
        terminal.expect("shell-23")
        terminal.type("fg\n")
        assert wait_until(lambda: processes()[pid][1] in "SRD", 5), describe()
        time.sleep(0.2)
    if kind == "idle":
        terminal.type("hello after fg\n")
        terminal.expect("hello after fg\n")
        terminal.expect("hello after fg\n")
        terminal.type("\x04")
    else:
        assert wait_checks(box.folder, 100)
        terminal.expect("right\n", 60)
    terminal.expect("PROMPT> ")
    assert terminal.status() == 0


def test_background(box, terminal):
    terminal.type(line(box, ["sh", "-c", "sleep 1; echo done-in-the-$0", "background"]).strip() + " &\n")
    terminal.expect("done-in-the-background")
    terminal.type("wait %1; echo waited=$?=\n")
    assert terminal.expect(r"waited=(\d+)=")[1] == "0"


def test_terminal_is_the_programs(box, terminal):
    """The program may read the terminal, knows it as its own, and gets its size changes' process group right."""
    terminal.type(line(box, [PYTHON, "-c", "import os, sys; print('tty', sys.stdin.isatty(), os.tcgetpgrp(0) == os.getpgrp(), os.ttyname(0) != '', flush=True); print('got', input())"]))
    terminal.expect(r"tty True True True")
    terminal.type("a line\n")
    terminal.expect(r"got a line")
    terminal.expect("PROMPT> ")
    assert terminal.status() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGQUIT])
def test_signal_without_handler(box, number):
    process = box.start(["sleep", "60"], 64 * MIB)
    assert wait_until(lambda: named(process.pid, "sleep") or named(None, "sleep"), 10)
    time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode in (128 + number, -number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGCONT])
def test_signal_with_handler(box, number):
    script = ("import os, signal, sys, time\ngot = []\nsignal.signal(int(sys.argv[1]), lambda n, f: got.append(n))\ndata = [os.urandom(4096) for i in range(16000)]\n"
              "h = hash(tuple(map(hash, data)))\nprint('ready', flush=True)\nwhile not got: time.sleep(0.01)\ntime.sleep(0.2)\nprint(len(got), h == hash(tuple(map(hash, data))))\nsys.exit(7)")
    process = box.start([PYTHON, "-c", script, str(int(number))], 40 * MIB)
    line = process.stdout.readline()
    assert line == b"ready\n", process.communicate()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (7, b"1 True\n", b"")


@pytest.mark.parametrize("delay_ms", range(0, 24, 2))
def test_signal_while_it_starts(box, delay_ms):
    """It ends membox, or the program that was just being made."""
    process = box.start(["sleep", "60"], 64 * MIB)
    time.sleep(delay_ms / 1000)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_pipes(box):
    data = os.urandom(3 * MIB)
    status, stdout, stderr, _ = execute(box.command(["cat"], 64 * MIB), stdin=data)
    assert (status, stdout == data, stderr) == (0, True, "")
    status, stdout, stderr, _ = execute(["sh", "-c", '"$@" | head -c 100 | wc -c', "sh", *box.command(["cat", "/dev/zero"], 64 * MIB)])
    assert stdout.strip() == b"100"
    status, stdout, stderr, _ = execute(box.command(["sh", "-c", "echo out; echo err >&2; exit 5"], 64 * MIB))
    assert (status, stdout, stderr) == (5, b"out\n", "err\n")


def test_environment_and_folder(box):
    status, stdout, _, _ = execute(box.command(["sh", "-c", "pwd; echo $WORD; umask; ulimit -n; ls /proc/self/fd | wc -l; cat /proc/self/status | grep -E 'Sig(Blk|Ign)|Seccomp:|NoNewPrivs'"], 64 * MIB),
                                   cwd="/usr", env={"WORD": "a b"})
    assert status == 0
    assert stdout == execute(["sh", "-c", "pwd; echo $WORD; umask; ulimit -n; ls /proc/self/fd | wc -l; cat /proc/self/status | grep -E 'Sig(Blk|Ign)|Seccomp:|NoNewPrivs'"], cwd="/usr", env={"WORD": "a b"})[1]
