"""membox migrate between the two nodes of a virtual machine, under load: where the pages are in the end, that the program finds all of them right, and that
the numbers add up. Skipped by name where QEMU or a kernel is not to be had."""
import json
import pathlib
import shutil
import subprocess

import pytest

from boxes import BARE, MEMBOX, MIB, ROOT, need_program, need_root, scale, victim

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")

SIZE = scale(32, 256) * MIB


@pytest.fixture(scope="module")
def said():
    """What the script in the machine has printed: objects and numbers by name."""
    need_root("to read a kernel")
    for tool in "qemu-system-x86_64", "busybox", "setpriv":
        need_program(tool)
    script, load, setpriv = ROOT / "tests/vm/migrate.sh", victim("see-stops"), pathlib.Path(shutil.which("setpriv"))
    command = [ROOT / "tests/vm/run-in-vm", "--timeout", scale(140, 1500), "--add", load, "--add", setpriv, "--add", MEMBOX, "--", script, MEMBOX, load, setpriv,
               SIZE // MIB]
    run = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode == 77:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return {name: json.loads(text) for name, _, text in (line.partition(" ") for line in run.stdout.splitlines())}


def total(figures):
    assert figures["found"] == sum(figures[name] for name in ("moved", "swapped", "freed", "failed", "left")), figures
    assert figures["failed"] == sum(figures["failed_by_reason"].values())
    return figures


def test_pages_move_while_the_program_uses_them(said):
    moved, report = total(said["whole.moved"]), said["whole.report"]
    assert said["whole.status"] == 0 and report["rounds"] > 0
    assert report["nodes"][1] >= 0.99 * SIZE / 4096 and sum(report["nodes"]) == SIZE / 4096
    assert moved["moved"] >= SIZE / 4096 and moved["left"] == moved["undirected"] == 0
    assert moved["swapped"] >= 16  # those that lie in a pipe too: busy for ever


def test_what_comes_back_or_is_new_comes_from_the_target(said):
    """The processor is on node 0, where memory comes from otherwise. The pages in a pipe were in the swap file, and the shared ones without the right to move
    them. The last migration of `whole` was one to node 0, which moved nothing."""
    assert said["bound.report"]["others"] == [0, 16 + 64] and said["bound.report"]["new"] == [0, 32]
    assert said["whole.report"]["others"] == [16, 64] and said["whole.report"]["new"] == [32, 0]


def test_nobody_stands_still_for_long(said):
    """Not for a thread that cannot be held either. The machine's clock counts instructions, so other load does not show."""
    assert said["whole.report"]["longest_us"] <= 10000 and said["tight.report"]["longest_us"] <= 10000


def test_a_target_that_is_too_small(said):
    moved, report = total(said["tight.moved"]), said["tight.report"]
    pages = SIZE / 4096
    assert said["tight.status"] == 0 and sum(report["nodes"]) == pages
    assert moved["moved"] > 0.1 * pages and moved["left"] > 0.1 * pages and moved["failed"] == moved["swapped"] == 0
    assert report["nodes"][1] >= moved["moved"] - 0.05 * pages and report["nodes"][0] >= moved["left"] - 0.05 * pages


def test_stat_shows_the_nodes(said):
    before, after = ([node["rss"] for node in said[name]["nodes"]] for name in ("whole.before", "whole.after"))
    assert before[0] > SIZE and before[1] < 0.01 * before[0]
    assert after[1] > SIZE and after[0] < 0.01 * after[1]
    assert said["whole.after"]["active"] >= said["whole.before"]["active"]


def test_there_is_nothing_to_do_a_second_time(said):
    assert total(said["whole.again"])["moved"] == 0 and total(said["whole.elsewhere"])["moved"] == 0


def test_shared_pages_go_through_swap_where_they_may_not_be_moved(said):
    moved = total(said["bound.moved"])
    assert said["bound.status"] == 0 and said["bound.report"]["nodes"][0] == 0
    assert moved["swapped"] >= 16 + 64 * 5  # in a pipe, and shared by five processes
    assert moved["failed"] == moved["failed_by_reason"]["shared"]  # of files
