"""membox migrate where there is one node only: nothing moves, what cannot be is refused, and the program goes on. What moves is tested in a virtual machine
with two nodes (test_migrate_vm.py)."""
import contextlib
import json
import os
import pathlib
import pty
import re
import signal
import socket
import struct
import subprocess
import threading

import pytest

from boxes import BARE, MEMBOX, MIB, PYTHON, Run, ask, execute, read, victim, wait_until

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")

NODES = pathlib.Path("/sys/devices/system/node/has_memory")
ABSENT = 1023


@pytest.fixture(autouse=True)
def runtime(box, monkeypatch):
    if not NODES.exists():
        pytest.skip("the kernel knows no NUMA nodes")
    folder = box.folder / "run"
    monkeypatch.setenv("MEMBOX_RUNTIME_DIR", str(folder))
    yield folder
    for container in folder.glob("[!.]*"):
        ask(container.name, "kill", signal=signal.SIGKILL)


def membox(*words):
    status, stdout, stderr, wall_s = execute([MEMBOX, *map(str, words)], timeout=60)
    return Run(status, stdout.decode(), stderr, None, None, wall_s)


def done(*words):
    run = membox(*words)
    assert run.status == 0 and run.stderr == "", run
    return run.stdout


def refused(*words, status=1):
    run = membox(*words)
    assert run.status == status and run.stdout == "", run
    assert run.stderr.startswith("membox: ") and run.stderr.count("\n") == 1, run.stderr
    return run.stderr


def start(box, *program, limit="64M", args=("--no-swap",)):
    done("run", "--detach", "--name", "a", "--limit", limit, *args, "--", *program)


def program():
    return json.loads(done("stat", "a", "--json"))["program"]


def all_nodes():
    return NODES.read_text().strip()


def result(*words):
    figures = json.loads(done("migrate", "a", "--json", *words))
    assert figures["found"] == sum(figures[name] for name in ("moved", "swapped", "freed", "failed", "left")), figures
    assert figures["failed"] == sum(figures["failed_by_reason"].values())
    return figures


def policies(pid):
    """What each thread's new memory would come from, by a mapping that has no policy of its own."""
    return {re.search(r" (\S+)", read(f"/proc/{pid}/task/{tid}/numa_maps")).group(1) for tid in os.listdir(f"/proc/{pid}/task")}


def policies_of_keeper():
    """Of the threads that bring pages back, or take memory for them."""
    tasks = pathlib.Path("/proc", str(json.loads(done("stat", "a", "--json"))["keeper"]), "task")
    names = {task: read(task / "comm").strip() for task in tasks.iterdir()}
    assert {"mbx-fault", "mbx-store", "mbx-reclaim"} <= set(names.values())
    return [read(task / "numa_maps").split()[1] for task, name in names.items() if name in ("mbx-fault", "mbx-store", "mbx-reclaim")]


class Client:
    """A connection to the container `a` (docs/control-protocol.md)."""

    def __init__(self, runtime):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(runtime / "a" / "control"))
        self.replies = self.socket.makefile()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.replies.close()
        self.socket.close()

    def send(self, verb, **members):
        self.socket.sendall(json.dumps({"version": 1, "verb": verb, **members}).encode() + b"\n")

    def ask(self, verb, **members):
        self.send(verb, **members)
        return json.loads(self.replies.readline())


def test_to_where_it_is_already(box):
    start(box, PYTHON, "-c", f"import time; data = b'x' * {20 * MIB}; time.sleep(60)")
    figures = result("--to-node", all_nodes())
    assert figures["found"] == figures["moved"] == figures["undirected"] == 0 and figures["seconds"] > 0
    assert re.fullmatch(r"0 bytes moved in [0-9.]+ s \(0.00 GB/s\)\n", done("migrate", "a", "--to-node", all_nodes()))


def test_new_memory_comes_from_the_target(box):
    """Every thread has the policy, and who is started later inherits it."""
    threads = "import threading, time, os\nfor i in range(20): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    start(box, PYTHON, "-c", threads + "if not os.fork(): time.sleep(60)\ntime.sleep(60)")
    assert wait_until(lambda: len(os.listdir(f"/proc/{program()}/task")) == 21, 5)
    pids = [member["pid"] for member in json.loads(done("stat", "a", "--json"))["members"]]
    assert all(policies(pid) == {"default"} for pid in pids)
    assert result("--to-node", "0")["undirected"] == 0
    for pid in [member["pid"] for member in json.loads(done("stat", "a", "--json"))["members"]]:
        assert policies(pid) == {"prefer:0"}


def test_under_pressure(box):
    """The program checks itself; pages leave and come back meanwhile."""
    score = box.new_path("score")
    start(box, victim("check-memory-forever"), score, 48, 2, 2, limit="32M", args=("--swap", box.new_path("swap")))

    def refaults():
        return json.loads(done("stat", "a", "--json"))["refaults"]

    assert wait_until(lambda: refaults() > 1000, 30)
    for _ in range(5):
        assert result("--to-node", all_nodes())["undirected"] == 0
    before = refaults()
    assert wait_until(lambda: refaults() > before + 1000, 30)
    assert wait_until(lambda: all(policy.startswith("prefer") for policy in policies_of_keeper()), 5), policies_of_keeper()
    done("kill", "a")
    records = list(struct.iter_unpack("<8Q", score.read_bytes()))
    assert records and all(ready and wrong == 0 for ready, checks, wrong, *_ in records), records


@pytest.mark.parametrize("nodes,why", [(str(ABSENT), f"node {ABSENT} does not exist"), ("", "no node is given"), ("x", "not a list of nodes"),
                                       ("0,", "not a list of nodes"), ("0-4000", "a number is larger than any node's")])
def test_wrong_nodes(box, nodes, why):
    start(box, "sleep", 60)
    assert f"--to-node: {why}" in refused("migrate", "a", "--to-node", nodes)
    assert f"--from-node: {why}" in refused("migrate", "a", "--to-node", "0", "--from-node", nodes)
    assert policies(program()) == {"default"}


def test_wrong_command_lines(box):
    start(box, "sleep", 60)
    assert "give --to-node LIST" in refused("migrate", "a", status=125)
    assert "no container given" in refused("migrate", "--to-node", "0", status=125)
    assert "no such container" in refused("migrate", "b", "--to-node", "0")


def test_not_while_parked(box):
    start(box, "sleep", 60, args=("--swap", box.new_path("swap")))
    done("park", "a")
    assert "parked" in refused("migrate", "a", "--to-node", "0")
    done("unpark", "a")
    result("--to-node", "0")


def test_a_thread_that_cannot_be_held(box, runtime):
    """One that waits for the child of a vfork. It is given up after a while; until then nobody else may hold, evict or bring back all of the container."""
    start(box, PYTHON, "-c", "import ctypes, time\nctypes.CDLL(None).vfork()\ntime.sleep(60)", args=("--swap", box.new_path("swap")))
    assert wait_until(lambda: len(json.loads(done("stat", "a", "--json"))["members"]) == 2, 5)
    with Client(runtime) as first, Client(runtime) as other:
        first.send("migrate", to="0")
        assert wait_until(lambda: other.ask("migration")["under_way"], 5)
        progress = other.ask("migration")
        assert progress["resident"] > 100 and progress["looked_at"] == progress["moved"] == 0
        for verb in ("migrate", "--to-node", "0"), ("park",), ("swapoff",), ("checkpoint", box.new_path("image")):
            assert "migration is under way" in refused(verb[0], "a", *verb[1:])
        figures = json.loads(first.replies.readline())
    assert figures["ok"] and figures["undirected"] == 1 and figures["seconds"] > 0.1


def test_a_filtered_process_is_left_alone(box):
    """Under a seccomp filter our system calls could kill it: it is said that its policy is the old one."""
    filtered = ("import ctypes, time\nlibc = ctypes.CDLL(None)\nlibc.prctl(38, 1, 0, 0, 0)\n"
                "class F(ctypes.Structure): _fields_ = [('code', ctypes.c_uint16), ('jt', ctypes.c_uint8), ('jf', ctypes.c_uint8), ('k', ctypes.c_uint32)]\n"
                "class P(ctypes.Structure): _fields_ = [('len', ctypes.c_uint16), ('filter', ctypes.POINTER(F))]\n"
                "allow = (F * 1)(F(6, 0, 0, 0x7fff0000))\nassert libc.prctl(22, 2, ctypes.byref(P(1, allow)), 0, 0) == 0\ntime.sleep(60)")
    start(box, PYTHON, "-c", filtered)
    assert wait_until(lambda: "Seccomp:\t2" in read(f"/proc/{program()}/status"), 5)
    assert result("--to-node", "0")["undirected"] == 1
    assert "new memory of 1 processes comes from where it came before" in done("migrate", "a", "--to-node", "0")
    assert policies(program()) == {"default"}


# ---- what is printed, of figures that are played ----------------------------------------------------------------------------------

NOTHING = {"found": 0, "moved": 0, "swapped": 0, "freed": 0, "failed": 0, "failed_by_reason": {"busy": 0, "shared": 0, "refused": 0, "other": 0}, "left": 0,
           "undirected": 0, "seconds": 0.0, "gb_per_s": 0.0}
PLAYED = {"found": 16383, "moved": 512, "swapped": 2, "freed": 3, "failed": 21, "failed_by_reason": {"busy": 1, "shared": 4, "refused": 6, "other": 10}, "left": 1024,
          "undirected": 7, "seconds": 0.25, "gb_per_s": 8.388}


class Keeper:
    """Answers `migration` with one object after the other, and the last one again or, if that is None, not at all; `migrate` when these have been asked for."""

    def __init__(self, folder, figures, *progress):
        folder.mkdir(mode=0o700, parents=True)
        folder.parent.chmod(0o700)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "control"))
        self.listener.listen()
        self.figures, self.progress, self.asked = figures, list(progress), []
        self.all_asked = threading.Event()
        if not progress:
            self.all_asked.set()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                request = json.loads(line)
                if request["verb"] == "migrate":
                    self.asked.append(request)
                    self.all_asked.wait(20)
                    reply = self.figures
                elif len(self.progress) > 1:
                    reply = self.progress.pop(0)
                else:
                    threading.Timer(0.1, self.all_asked.set).start()
                    reply = self.progress[0] if self.progress else None
                if reply is None:
                    return  # hangs up
                lines.write(json.dumps({"version": 1, "ok": True, **reply}) + "\n")
                lines.flush()


def test_what_is_asked(runtime):
    keeper = Keeper(runtime / "played", NOTHING)
    done("migrate", "played", "--to-node", "1")
    done("migrate", "played", "--from-node", "0,2", "--to-node", "1")
    assert keeper.asked == [{"version": 1, "verb": "migrate", "to": "1"}, {"version": 1, "verb": "migrate", "to": "1", "from": "0,2"}]


def test_help():
    assert done("migrate", "--help").startswith("Usage: membox migrate NAME --to-node LIST ")


def test_result_as_json(runtime):
    Keeper(runtime / "played", PLAYED)
    assert json.loads(done("migrate", "played", "--to-node", "1", "--json")) == PLAYED


def test_result_as_text(runtime):
    Keeper(runtime / "played", PLAYED)
    assert done("migrate", "played", "--to-node", "1") == (
        "2 MiB moved in 0.250 s (8.39 GB/s), 8 KiB through swap, 12 KiB freed meanwhile, 84 KiB did not move (4 KiB busy all the time; 16 KiB shared, and the right to move "
        "it for all is missing (CAP_SYS_NICE); 24 KiB refused by the rights or the cpuset of the process; 40 KiB refused by the kernel), 4 MiB left: there is no room on the "
        "target, new memory of 7 processes comes from where it came before\n")


def test_result_of_which_little_is_to_be_said(runtime):
    Keeper(runtime / "played", {**NOTHING, "moved": 1, "failed": 2, "failed_by_reason": {"busy": 0, "shared": 0, "refused": 2, "other": 0}})
    assert done("migrate", "played", "--to-node", "1") == "4 KiB moved in 0.000 s (0.00 GB/s), 8 KiB did not move (8 KiB refused by the rights or the cpuset of the process)\n"


def test_result_without_reasons(runtime):
    """A keeper of another version."""
    Keeper(runtime / "played", {"moved": 1, "failed": 3})
    assert done("migrate", "played", "--to-node", "1") == "4 KiB moved in 0.000 s (0.00 GB/s), 12 KiB did not move\n"


def on_terminal(*words):
    """What is printed to the terminal, and to stdout."""
    terminal, end = pty.openpty()
    with subprocess.Popen([MEMBOX, *words], stdout=subprocess.PIPE, stderr=end, text=True) as run, os.fdopen(terminal, "rb", 0) as shown:
        os.close(end)
        text = b""
        with contextlib.suppress(OSError):  # EIO: nobody else has it any more
            while part := shown.read(1000):
                text += part
        stdout, _ = run.communicate(timeout=20)
    assert run.returncode == 0
    return text.decode(), stdout


def test_progress_on_a_terminal(runtime):
    none = {"under_way": False, "resident": 0, "looked_at": 0, "moved": 0}
    some, more = {**none, "resident": 1024, "looked_at": 512, "moved": 256}, {**none, "resident": 1024, "looked_at": 2048, "moved": 1024}
    Keeper(runtime / "played", NOTHING, none, some, more)
    shown, stdout = on_terminal("migrate", "played", "--to-node", "1")
    assert shown.startswith("\r 50 % looked at, 1M moved\x1b[K\r100 % looked at, 4M moved\x1b[K\r") and shown.endswith("\r\x1b[K")
    assert stdout.startswith("0 bytes moved in")


def test_progress_that_cannot_be_seen(runtime):
    Keeper(runtime / "played", NOTHING, None)
    shown, stdout = on_terminal("migrate", "played", "--to-node", "1")
    assert shown == "\r\x1b[K" and stdout.startswith("0 bytes moved in")
