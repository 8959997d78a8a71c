"""A program that means harm (tests/victims/hostile.c): it can only harm itself. The container survives it or ends with a reason, in a bounded time, and nothing is
left over; another container does not notice."""
import os
import re
import subprocess

import pytest

from boxes import FULL, MIB, OPTIONS, VICTIMS, need_membox, need_root, runtime_folder, victim

SLOW = ("map-over-staging", "unmap-staging", "use-up-mappings")  # until there is nothing more to try, page by page
NEEDS_ISOLATE = ("signal-all",)
REASONS = re.compile(r"membox: (container \S+ is ended: |killed process \d+ \(hostile\) of container \S+, which held most)")


def ways():
    path = VICTIMS / "hostile"
    listed = subprocess.run([path, "--list"], stdout=subprocess.PIPE, text=True).stdout.split() if path.exists() else ["none"]
    return [way for way in listed if FULL or way not in SLOW]


def strike(box, way):
    name, args = f"hostile-{os.getpid()}-{box.count}", []
    if way in NEEDS_ISOLATE and "--isolate" not in OPTIONS:
        need_root("for namespaces")
        args = ["--isolate"]
    run = box.run_boxed([victim("hostile"), way, 0.4], 24 * MIB, args=("--name", name, *args))
    assert "was killed: the container was ended" not in run.stderr, run.stderr  # that would be the keeper
    assert not os.path.exists(f"{runtime_folder()}/{name}")
    return run


@pytest.mark.parametrize("way", ways())
def test_it_harms_itself_only(box, way):
    """It ends by itself, by what it has done to itself (SIGSEGV, SIGBUS, SIGILL), or membox ends it and says why."""
    need_membox()
    run = strike(box, way)
    assert run.status in (0, 128 + 11, 128 + 7, 128 + 4) or (run.status == 137 and REASONS.search(run.stderr)), (run.status, run.stderr)


def test_another_container_does_not_notice(box):
    need_membox()
    held = box.start([victim("hold-memory"), 48], 16 * MIB)
    assert held.stdout.readline() == b"ready\n"
    for way in ("ring-always", "unmap-all", "proc-mem", "kill-agent", "children-and-ring", "use-up-descriptors"):
        strike(box, way)
    stdout, stderr = held.communicate(timeout=60)
    assert (held.returncode, stdout) == (0, b"right\n"), stderr


def test_who_leaves_no_room_for_an_agent_does_not_get_away(box):
    """Who cannot be limited because of its own limits is killed like any other that does not fit, as a rule after it was said why."""
    need_membox()
    run = box.run_boxed([victim("hostile"), "no-addresses", 20], 24 * MIB)
    assert run.status == 137 and REASONS.search(run.stderr), run.stderr
