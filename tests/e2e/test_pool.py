"""The compressed pool: what is in it, what counts, how it shrinks, and that nothing is lost on the way."""
import subprocess

import pytest

from boxes import BARE, MIB, PYTHON, ask, execute, scale, victim, wait_until, MEMBOX

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")

# Pages of which a share is noise and the rest one value; holds them, then checks each when a line comes, and again for every line.
HOLDER = """
import random, sys
megabytes, noise = int(sys.argv[1]), int(sys.argv[2])
r = random.Random(3)
pages = [r.randbytes(noise) + bytes([i & 255]) * (4096 - noise) for i in range(64)]
data = bytearray()
for i in range(megabytes * 256):
    data += pages[i % 64]
print("full", flush=True)
for line in sys.stdin:
    bad = sum(data[i * 4096:(i + 1) * 4096] != pages[i % 64] for i in range(megabytes * 256))
    print("bad", bad, flush=True)
"""


class Holder:
    def __init__(self, box, name, megabytes, noise, limit, *args):
        self.name = name
        command = [str(MEMBOX), "run", "--name", name, "--limit", str(limit), "--swap", str(box.new_path("swap")), *args, "--", PYTHON, "-c", HOLDER,
                   str(megabytes), str(noise)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"full\n"

    def figures(self):
        return ask(self.name, "stat")["figures"]

    def check(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"bad 0\n"

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.fixture
def holder(box, monkeypatch):
    monkeypatch.setenv("MEMBOX_RUNTIME_DIR", str(box.folder / "run"))
    made = []

    def make(name, *arguments):
        made.append(Holder(box, name, *arguments))
        return made[-1]

    yield make
    for one in made:
        one.process.kill()
        one.process.wait()


def test_what_shrinks_is_kept_in_memory_and_counts(holder):
    held = holder("pooled", 96, 1024, 48 * MIB)
    held.check()
    f = held.figures()
    assert f["pool_out"] > 0 and f["pool_in"] > 0
    assert 0 < f["pool"] <= 48 * MIB and f["pool_stored"] > 2 * f["pool"]
    assert f["rss_usage"] >= f["pool"] + f["anon"]
    assert f["rss_max_usage"] <= 48 * MIB + 16 * MIB
    held.end()


def test_noise_goes_to_the_file(holder):
    held = holder("noise", 64, 4096, 32 * MIB)
    held.check()
    f = held.figures()
    assert f["pool_stored"] < 4 * MIB and f["swap_out"] > 0  # what the interpreter itself has shrinks
    held.end()


def test_what_shrinks_well_needs_no_disk(box):
    run = box.run_boxed([victim("touch-pages"), 96, "rand-read", 400], 48 * MIB)
    assert run.status == 0, run.stderr
    assert run.stats["swap_out"] < run.stats["pool_out"] / 4, run.stats
    assert run.stats["swap_in"] < run.stats["pool_in"] / 4, run.stats


def test_no_pool(holder):
    held = holder("none", 64, 1024, 32 * MIB, "--pool", "0")
    held.check()
    f = held.figures()
    assert f["pool"] == f["pool_out"] == 0 and f["swap_out"] > 0
    held.end()


def test_a_pool_that_is_set_smaller_goes_to_the_file(holder):
    held = holder("smaller", 96, 1024, 48 * MIB)
    held.check()
    assert held.figures()["pool_stored"] > MIB
    written = held.figures()["swap_out"]
    assert ask("smaller", "set", pool=0)["ok"]
    assert wait_until(lambda: held.figures()["pool_stored"] == 0, 30), held.figures()
    assert held.figures()["swap_out"] > written
    held.check()
    assert ask("smaller", "set", pool=2**63 - 1)["ok"]
    held.check()
    held.end()


def test_everything_leaves_the_pool_for_park_and_comes_back(holder):
    held = holder("parked", 96, 1024, 48 * MIB)
    assert ask("parked", "park")["ok"]
    f = held.figures()
    assert f["pool_stored"] == 0 and f["rss_usage"] < 10 * MIB, f
    assert ask("parked", "unpark")["ok"]
    held.check()
    held.end()


def test_swapoff_empties_the_pool(holder):
    held = holder("off", 64, 1024, 40 * MIB)
    assert held.figures()["pool_stored"] > 0
    assert ask("off", "set", limit=256 * MIB)["ok"]
    assert ask("off", "swapoff")["ok"]
    assert held.figures()["pool"] == 0
    held.check()
    held.end()


def test_a_child_of_fork_sees_what_is_in_the_pool(box):
    run = box.run_victim("fork-evicted", limit=scale(14, 32) * MIB, args=("--pool", "auto"))
    assert run.status == 0, run.stderr


@pytest.mark.parametrize("words, message", [
    (["--pool", "much"], "--pool: 'much' is not a size"),
    (["--pool", "8M", "--no-swap"], "--pool: contradicts --no-swap"),
])
def test_wrong_options(words, message):
    status, _, stderr, _ = execute([MEMBOX, "run", *words, "true"])
    assert status == 125 and message in stderr and stderr.count("\n") == 1
