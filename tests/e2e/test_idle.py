"""Below the limit a program is left alone: no tracer, no registered range, no helper inside. (The time it takes: bench/idle-overhead.)"""
import re

from boxes import MIB, descendants, named, need_membox, read, victim, wait_until


def look_at(pid):
    status = read(f"/proc/{pid}/status")
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.M))
    flags = re.findall(r"^VmFlags: (.*)$", read(f"/proc/{pid}/smaps"), re.M)
    return fields, {flag for line in flags for flag in line.split()}


def test_left_alone(box):
    process = box.start([victim("hold-memory"), 64], 256 * MIB)
    assert process.stdout.readline() == b"ready\n"
    pid = named(None, "hold-memory")[0]
    for _ in range(20):
        fields, flags = look_at(pid)
        assert fields["TracerPid"] == "0" and fields["Seccomp"] == "0"
        assert flags and not flags & {"um", "uw", "ui"}
        assert not [name for _, _, name in descendants() if name == "membox-agent"]
    process.stdin.close()
    process.stdin = None
    stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout, stderr) == (0, b"right\n", b"")


def test_adopted_above_the_limit(box):
    """The counter-proof: the same look sees the adoption."""
    need_membox()
    process = box.start([victim("hold-memory"), 64], 32 * MIB)
    assert process.stdout.readline() == b"ready\n"
    pid = named(None, "hold-memory")[0]
    fields, flags = look_at(pid)
    assert "um" in flags and named(None, "membox-agent")
    assert wait_until(lambda: look_at(pid)[0]["TracerPid"] == "0", 2), "still traced"
    process.stdin.close()
    process.stdin = None
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (0, b"right\n", b"")


def test_no_swap_space_is_used(box):
    run = box.run_boxed([victim("touch-pages"), 32, "rand-write"], 128 * MIB)
    assert run.status == 0
    if run.stats:
        assert run.stats["adoptions"] == run.stats["swap_out"] == run.stats["faults"] == 0
