"""Rows of the lineage that no other test names: A3 (charges), A5 (lists), A8 (what is documented, and creation that fails half-way)."""
import os
import pathlib
import time

import pytest

from boxes import BARE, MIB, ask, runtime_folder, victim, wait_until

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")

ROOT = pathlib.Path(__file__).resolve().parents[2]
LISTS = ("active", "inactive", "unevictable")


def figures_during(box, name, program, limit):
    """Figures of a container under load, taken until it ends; the program must end with success."""
    taken = []
    process = box.start(program, limit, args=("--name", name))
    try:
        wait_until(lambda: (ask(name, "stat") or {"figures": {"swap_out": 0}})["figures"]["swap_out"] > 1000, 20)
        while (reply := ask(name, "stat")):
            taken.append(reply["figures"])
            time.sleep(0.01)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
    finally:
        if process.poll() is None:
            ask(name, "kill")
            process.communicate(timeout=20)
    return taken


def test_no_charge_is_lost_or_counted_twice(box):
    """A3: threads that fault on the same pages, unmap and fork meanwhile. A charge that is lost would let usage grow, one counted twice would keep memory unused."""
    limit = 48 * MIB
    taken = figures_during(box, f"charges-{os.getpid()}", [victim("random-memory-ops"), 3, 4, 160, 3], limit)
    usage = sorted(one["rss_usage"] for one in taken)
    assert taken[-1]["faults"] > 1000
    assert usage[len(usage) // 2] > 0.75 * limit, usage
    assert usage[-1] <= limit + 16 * MIB, usage


def test_lists(box):
    """A5: what came back soon after an eviction is active; the lists are the container's own and hold all of its resident memory."""
    taken = figures_during(box, f"lists-{os.getpid()}", [victim("touch-pages"), 64, "zipf-read", 2048, 1], 32 * MIB)
    for one in taken:
        assert sum(one[name] for name in LISTS) == one["rss_usage"], {name: one[name] for name in (*LISTS, "rss_usage")}
    assert max(one["active"] for one in taken) > MIB


def test_every_figure_is_documented(box):
    """A8"""
    run = box.run_boxed(["true"], 64 * MIB)
    manual = (ROOT / "man/membox-run.1.scd").read_text().replace("\\\\", "")
    assert [name for name in run.stats if f"*{name}*" not in manual] == []


@pytest.mark.parametrize("program,args,status", [(["/no/such/program"], (), 127), (["/etc/passwd"], (), 126), (["true"], ("--swap-size", "1"), 125)])
def test_creation_that_fails_leaves_nothing(box, program, args, status):
    """A8: no swap file, no folder, no process (the check after each test)."""
    name, swap = f"fails-{os.getpid()}", box.new_path("swap")
    process = box.start(program, 64 * MIB, swap=swap, args=("--name", name, *args))
    process.communicate(timeout=20)
    assert process.returncode == status
    assert not swap.exists() and not os.path.exists(f"{runtime_folder()}/{name}")
