"""LINEAGE A2 to A4: what a container says it uses is what its processes' proportional set sizes add up to (within 5 %), whatever they share."""
import json
import os
import socket
import time

import pytest

from boxes import MIB, PYTHON, execute, is_alive, load_json, need_membox, read, scale, victim, wait_until

PRIVATE_MB = scale(48, 512)

# One process of a tree: it does what the lines of its own pipe say, and says "done" on the common output after each.
ACTOR = """
import mmap, os, sys
folder, private_mb = sys.argv[1], int(sys.argv[2])
size = private_mb << 20
file = open(folder + "/file", "rb")
maps = {}

def touch(memory, start, end):
    for at in range(start, end, 4096):
        memory[at] = at >> 12 & 255 | 1

def live(name):
    private = maps.get("private")
    orders = open(folder + "/" + name)
    for line in orders:
        word = line.split()
        if word[0] == "fill":
            maps["private"] = private = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            private.madvise(15)
            touch(private, 0, size)
        elif word[0] == "shmem":
            maps["shmem"] = mmap.mmap(-1, size // 4)
        elif word[0] == "touch-shmem":
            touch(maps["shmem"], 0, size // 4)
        elif word[0] == "map-file":
            maps["file"] = m = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
            sum(m[at] for at in range(0, len(m), 4096))
        elif word[0] == "read":
            sum(private[at] for at in range(0, size, 4096))
        elif word[0] == "write":
            touch(private, size * int(word[1]) // 8, size * int(word[2]) // 8)
        elif word[0] == "fork":
            child = os.fork()
            if child == 0:
                return live(word[1])
            os.write(1, b"%d\\n" % child)
            continue
        elif word[0] == "exec":
            os.execlp("sleep", "sleep", "1000")
        elif word[0] == "exit":
            os._exit(0)
        os.write(1, b"done\\n")

live("root")
"""


def children_of(pid):
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has just ended
        threads = []
    return [int(child) for thread in threads for child in read(f"/proc/{pid}/task/{thread}/children").split()]


def proportional_sum(pid):
    """Of the tree below a process, in bytes, without membox's own."""
    total = 0
    for child in children_of(pid):
        name = read(f"/proc/{child}/comm").strip()
        if not name.startswith(("membox", "mbx-")):
            line = next((l for l in read(f"/proc/{child}/smaps_rollup").splitlines() if l.startswith("Pss:")), "Pss: 0 kB")
            total += int(line.split()[1]) * 1024
        total += proportional_sum(child)
    return total


def ask(name, verb, **members):
    runtime = "/run/membox" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", f"/tmp/membox-{os.geteuid()}") + "/membox"
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{runtime}/{name}/control")
        s.sendall(json.dumps({"version": 1, "verb": verb, **members}).encode() + b"\n")
        return json.loads(s.makefile().readline())


class Tree:
    """A tree of actors in a box, one step at a time."""

    def __init__(self, box, limit):
        self.folder, self.name = box.folder, f"accounting-{os.getpid()}-{limit >> 20}"
        with open(box.folder / "file", "wb") as file:
            file.write(os.urandom(1 << 16) * (PRIVATE_MB * MIB // 4 >> 16))
        self.pipes = {}
        self.pipe("root")
        self.process = box.start([PYTHON, "-c", ACTOR, box.folder, PRIVATE_MB], limit, args=["--name", self.name])
        self.orders = {"root": open(self.folder / "root", "w")}
        self.pids = {}

    def pipe(self, who):
        os.mkfifo(self.folder / who)

    def do(self, who, what):
        word = what.split()
        if word[0] == "fork":
            self.pipe(word[1])
        self.orders[who].write(what + "\n")
        self.orders[who].flush()
        if word[0] == "exit":
            assert wait_until(lambda: not is_alive(self.pids[who]), 60)
        elif word[0] == "exec":
            assert wait_until(lambda: read(f"/proc/{self.pids[who]}/comm") == "sleep\n", 60)
        else:
            answer = self.process.stdout.readline()
            assert answer, self.process.stderr.read()
        if word[0] == "fork":
            self.pids[word[1]] = int(answer)
            self.orders[word[1]] = open(self.folder / word[1], "w")

    def figures(self):
        return ask(self.name, "stat")["figures"]

    def end(self):
        for order in self.orders.values():
            order.close()
        print(self.figures())
        ask(self.name, "kill", signal=9)
        self.process.communicate()


def check(tree):
    """Both sums are of one moment only while nothing leaves and nothing comes: they are compared as soon as they hold still."""
    for _ in range(200):
        before = proportional_sum(tree.process.pid)
        figures = tree.figures()
        after = proportional_sum(tree.process.pid)
        if abs(after - before) <= after // 100:
            break
        time.sleep(0.01)
    usage, resident = figures["rss_usage"], figures["rss_usage"] - figures["pool"]
    assert abs(resident - after) <= after // 20 + MIB, f"says {resident / MIB:.1f} MiB, sum of Pss {after / MIB:.1f} MiB"
    assert figures["active"] + figures["inactive"] + figures["unevictable"] == usage
    assert figures["anon"] + figures["file"] == resident
    assert figures["rss_max_usage"] >= usage * 95 // 100
    return figures


@pytest.fixture(params=[400, 60], ids=lambda percent: f"limit {percent} percent")
def tree(box, request):
    need_membox()
    tree = Tree(box, PRIVATE_MB * MIB * request.param // 100)
    yield tree
    tree.end()


def test_children_share_write_and_leave(tree):
    """A2: pages shared by processes of one container count once."""
    tree.do("root", "fork parent")
    tree.do("parent", "fill")
    check(tree)
    for child in "abcd":
        tree.do("parent", f"fork {child}")
    check(tree)
    for i, child in enumerate("abcd"):
        tree.do(child, f"write {i} {i + 1}")
        tree.do(child, "read")
        check(tree)
    tree.do("b", "exit")
    check(tree)
    tree.do("parent", "exit")
    figures = check(tree)
    assert figures["nr_processes"] == 4
    tree.do("d", "exec")
    check(tree)
    tree.do("a", "exit")
    check(tree)
    tree.do("c", "read")
    check(tree)


def test_fork_of_a_fork(tree):
    tree.do("root", "fill")
    for parent, child in [("root", "a"), ("a", "b"), ("b", "c")]:
        tree.do(parent, f"fork {child}")
        tree.do(child, "write 2 4")
        check(tree)
    tree.do("b", "exec")
    check(tree)
    tree.do("a", "exit")
    check(tree)
    tree.do("c", "write 0 8")
    check(tree)


def test_files_and_shared_memory(tree):
    tree.do("root", "shmem")
    tree.do("root", "fork a")
    tree.do("root", "fork b")
    for who in ("root", "a", "b"):
        tree.do(who, "touch-shmem")
        tree.do(who, "map-file")
    figures = check(tree)
    if tree.name.endswith(str(PRIVATE_MB * 4)):
        assert abs(figures["file"] - 2 * PRIVATE_MB * MIB // 4) <= 14 * MIB, figures
    tree.do("a", "exit")
    check(tree)


@pytest.mark.parametrize("limit_mb", [256, 24])
def test_highest_usage(box, limit_mb):
    """What was held for some 60 ms, seen from outside every few milliseconds, over the life of a tree that forks and leaves at random."""
    need_membox()
    out = box.new_path("sample")
    stats = box.new_path("stats")
    status, _, stderr, _ = execute([victim("rss-sampler"), "--out", out, "--pss", "--interval-us", "3000", "--",
                                    *box.command([victim("shared-by-fork"), 24, 3, scale(60, 500)], limit_mb * MIB, stats=stats)])
    assert status == 0, stderr
    seen, says = load_json(out)["held_kib"] * 1024, load_json(stats)["rss_max_usage"]
    assert says >= seen * 90 // 100, f"says {says / MIB:.1f} MiB, seen {seen / MIB:.1f} MiB"
