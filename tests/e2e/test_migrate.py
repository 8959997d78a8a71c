"""membox migrate where there is one node only: nothing moves, what cannot be is refused, and the program goes on. What moves is tested in a virtual machine
with two nodes (test_migrate_vm.py)."""
import json
import os
import pathlib
import re
import signal
import struct

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
