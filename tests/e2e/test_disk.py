"""A disk that is full, and one that gives back other bits than it was given: the container behaves as with a full swap file, and goes on when there is space
again; wrong bits are never handed on, and the message says where they are."""
import contextlib
import os
import re
import subprocess

import pytest

from boxes import MEMBOX, MIB, ask, need_faulty_membox, need_membox, need_program, need_root, victim
from processes import descendants, wait_until

FULL = "membox: container {} is stopped: out of memory: limit 48 MiB is reached and the swap file is full"


def mount(kind, box):
    """A small file system that something fills, mounted in a namespace that ends with the container: the shell's words, and where it is."""
    place = box.folder / "disk"
    place.mkdir()
    if kind == "ext4":
        image = box.folder / "image"
        with open(image, "wb") as file:
            file.truncate(160 * MIB)
        subprocess.run([need_program("mkfs.ext4"), "-q", image], check=True, capture_output=True)
        how = f"mount -o loop {image} {place}"
    else:
        how = f"mount -t tmpfs -o size=144M membox-test {place}"
    return f'{how} || exit 99; head -c 110M /dev/zero > {place}/filler; sync; exec "$@"', place


@contextlib.contextmanager
def stopping(command, name):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            ask(name, "kill", signal=9)
            process.communicate(timeout=20)


def is_stopped(name):
    return (ask(name, "describe") or {}).get("state") == "stopped"


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "unpromised"])
def test_full_disk_until_there_is_space(box, kind):
    """unpromised: a file system without fallocate, where a full disk shows in a write."""
    need_membox()
    need_root()
    program, name, environment = MEMBOX, f"disk-{os.getpid()}-{kind}", os.environ
    if kind == "unpromised":
        program = need_faulty_membox()
    script, place = mount(kind, box)
    fault = ["env", "MEMBOX_FAULT=fallocate:EOPNOTSUPP:1+"] if kind == "unpromised" else []
    command = ["unshare", "-m", "sh", "-c", script, "sh", *fault, program, "run", "--name", name, "--limit", "48M", "--pool", "0", "--oom", "stop", "--swap", place / "swap",
               "--", victim("hold-memory"), "120"]
    with stopping([str(word) for word in command], name) as process:
        assert wait_until(lambda: process.poll() is not None or is_stopped(name), 60)
        if process.poll() == 99:
            pytest.skip("cannot mount")
        assert is_stopped(name), process.poll()
        keeper = ask(name, "describe")["keeper"]
        os.unlink(f"/proc/{keeper}/root{place}/filler")
        stdout, stderr = process.communicate(timeout=60)
    lines = stderr.decode().splitlines()
    assert process.returncode == 0 and stdout == b"ready\nright\n", (process.returncode, stdout, lines)
    assert lines[0].startswith(FULL.format(name)) and lines[-1].endswith("goes on: it has room again"), lines


def test_flipped_bits_in_the_swap_file(box):
    need_membox()
    swap = box.folder / "swap"
    process = box.start([victim("hold-memory"), 96], 32 * MIB, swap=swap, args=("--pool", "0"))
    assert process.stdout.readline() == b"ready\n"
    with open(swap, "r+b") as file:
        at = 4096
        while at < swap.stat().st_size:
            page = os.pread(file.fileno(), 4096, at)
            os.pwrite(file.fileno(), bytes([page[100] ^ 1]), at + 100)
            at += 4096
        os.fsync(file.fileno())
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 137 and stdout == b"", (process.returncode, stdout)
    assert re.fullmatch(rf"membox: container \S+ is ended: swap file {re.escape(str(swap))} is damaged at offset \d+: checksum mismatch\n", stderr.decode()), stderr
    assert not descendants()
