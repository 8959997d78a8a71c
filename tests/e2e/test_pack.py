"""Checkpoints as one stream (issue 6, point 7): what was packed restores as the checkpoint did; what was cut off or changed is refused and leaves nothing."""
import json
import os
import pathlib
import pty
import random
import shutil
import signal
import subprocess

import pytest

from boxes import MEMBOX, MIB, PYTHON, execute, need_membox, need_program, need_root, scratch_folder, shell_status, victim
from processes import wait_until
from test_checkpoint import Saved, bare, damage, membox, root_only, saved  # noqa: F401 (fixtures)
from test_ordinary_user import allowed, user  # noqa: F401

HOLD = "import os, sys, time; junk = [os.urandom(4 << 20) for _ in range(4)]; held = os.urandom(8 << 20); check = hash(held); junk.clear(); print('ready', flush=True)\n" \
       "while not os.path.exists(sys.argv[1]): time.sleep(0.005)\nprint('right' if hash(held) == check else 'wrong', flush=True)"


def names(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def packed_from(one, *options):
    """The stream as bytes, from standard output."""
    return subprocess.run([MEMBOX, "pack", *options, one.image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=60).stdout


def unpack(stream, folder):
    return subprocess.run([MEMBOX, "unpack", folder], input=stream, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)


@pytest.fixture(scope="module")
def checkpoint():
    """A program of 8 MiB that has given 16 MiB back, checkpointed; it says whether it has its memory when the file `go` is in its folder."""
    need_membox()
    need_root("to give process ids again")
    folder = pathlib.Path(scratch_folder()) / "held"
    folder.mkdir()
    one = Saved(folder, [PYTHON, "-c", HOLD, folder / "go"], limit=8 * MIB)
    assert wait_until(lambda: one.output.exists() and b"ready" in one.output.read_bytes(), 30), one.errors()
    one.checkpoint()
    assert one.status() == 137
    yield one
    shutil.rmtree(folder.parent)


@pytest.fixture
def held(checkpoint):
    """It, with its image; what a test leaves beside it goes."""
    before = names(checkpoint.folder)
    yield checkpoint
    checkpoint.image = checkpoint.folder / "image"
    for name in set(names(checkpoint.folder)) - set(before):
        path = checkpoint.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def goes_on(one, folder):
    """Restores it until its end."""
    before = one.output.read_bytes()
    (one.folder / "go").touch()
    one.restore(folder=folder)
    assert one.status() == 0, one.errors()
    (one.folder / "go").unlink()
    return one.output.read_bytes()[len(before):] == b"right\n"


def test_there_and_back(held):
    """By a file and by a pipe, at several levels; the folder holds only the pages that are needed, and nothing of the old one is."""
    what = json.loads(membox("inspect", held.image, "--json").stdout)
    said = json.loads(membox("pack", "--json", "-1", "--threads", 2, held.image, held.folder / "packed").stdout)
    assert 8 * MIB < said["bytes"] <= what["bytes"] and said["packed"] == (held.folder / "packed").stat().st_size
    again = membox("pack", held.image, held.folder / "packed", check=False)
    assert again.returncode == 125 and "--force" in again.stderr
    membox("pack", "-f", "-7", "--long", "-o", held.folder / "packed", held.image)
    stream = packed_from(held)
    held.image.rename(held.folder / "away")
    assert "unpacked" in membox("unpack", held.folder / "packed", held.folder / "new").stdout
    assert unpack(stream, held.folder / "other").returncode == 0
    assert names(held.folder / "new") == ["checksums", "image.pb", "pages"]
    assert (held.folder / "new/pages").stat().st_blocks * 512 < 14 * MIB
    assert json.loads(membox("inspect", held.folder / "other", "--json").stdout) == what
    assert goes_on(held, held.folder / "new")
    assert goes_on(held, held.folder / "other")
    (held.folder / "away").rename(held.image)
    assert packed_from(held, "-T1", "-3") == packed_from(held, "-T1", "-3"), "the same checkpoint has different streams"


def test_threads_timers_signals(root_only, saved):
    program = [victim("keep-state"), 300]
    output, status = bare(program)
    one = saved(program, limit=16 * MIB)
    for _ in range(2):
        one.checkpoint()
        assert one.status() == 137
        stream = packed_from(one, "-1")
        shutil.rmtree(one.image)
        assert unpack(stream, one.image).returncode == 0
        one.restore()
    assert one.status() == status == 0, one.errors()
    assert one.output.read_bytes() == output


def test_a_checkpoint_of_a_restored_container_is_whole(held):
    """What is still in the checkpoint below a restored container comes along."""
    held.restore()
    held.is_there()
    held.checkpoint(folder=held.folder / "second")
    assert held.status() == 137
    held.image = held.folder / "second"
    stream = packed_from(held)
    shutil.rmtree(held.image)
    assert unpack(stream, held.image).returncode == 0
    (held.folder / "image/pages").rename(held.folder / "away")
    assert goes_on(held, held.image)
    (held.folder / "away").rename(held.folder / "image/pages")


def test_cut_off_or_changed(held):
    stream, chance = packed_from(held), random.Random(7)
    before = names(held.folder)
    for i in range(20):
        cut = chance.randrange(len(stream)) if i else 0
        answer = unpack(stream[:cut], held.folder / "new")
        assert answer.returncode == 125 and answer.stderr.count(b"\n") == 1 and b"standard input" in answer.stderr, answer.stderr
        assert names(held.folder) == before
    for _ in range(20):
        at = chance.randrange(len(stream))
        answer = unpack(stream[:at] + bytes([stream[at] ^ 1 << chance.randrange(8)]) + stream[at + 1:], held.folder / "new")
        assert answer.returncode == 125 and answer.stderr.count(b"\n") == 1, answer.stderr
        assert names(held.folder) == before
    foreign = held.folder / "swap-of-another"
    foreign.write_text("not what it should be\n" * 100)
    before = names(held.folder)
    for file in (foreign, "/dev/null", "/dev/zero"):
        answer = membox("unpack", file, held.folder / "new", check=False)
        assert answer.returncode == 125 and "not a packed checkpoint" in answer.stderr and str(file) in answer.stderr, answer.stderr
    assert names(held.folder) == before
    # An image that is there stays when the new one is refused.
    shutil.copytree(held.image, held.folder / "older")
    assert unpack(stream[:-1], held.folder / "older").returncode == 125
    assert goes_on(held, held.folder / "older")


def test_a_damaged_checkpoint_is_not_packed(held):
    held.image = shutil.copytree(held.image, held.folder / "copy")
    pages = held.image / "pages"
    for offset in range(1 << 20, pages.stat().st_size, 1 << 14):
        damage(pages, offset)
    answer = membox("pack", held.image, held.folder / "packed", check=False)
    assert answer.returncode == 125 and "damaged" in answer.stderr and str(pages) in answer.stderr, answer.stderr
    assert not [name for name in names(held.folder) if name.startswith("packed")]


def test_full_disk(held):
    need_root()
    small = held.folder / "small"
    membox("pack", held.image, held.folder / "packed")
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        for answer in (membox("pack", held.image, small / "packed", check=False), membox("unpack", held.folder / "packed", small / "new", check=False)):
            assert answer.returncode == 125 and "No space left" in answer.stderr and answer.stderr.count("\n") == 1, answer.stderr
        assert names(small) == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(held, number):
    stream, before = packed_from(held), names(held.folder)
    process = subprocess.Popen([MEMBOX, "unpack", held.folder / "new"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(stream[:len(stream) // 2])
    process.stdin.flush()
    assert wait_until(lambda: len(names(held.folder)) > len(before), 20)
    process.send_signal(number)
    assert shell_status(process.wait(20)) == 128 + number
    process.stdin.close()
    process.stderr.close()
    assert names(held.folder) == before


def test_not_to_a_terminal(held):
    outer, inner = pty.openpty()
    for words in (["pack", held.image], ["unpack", held.folder / "new"]):
        done = subprocess.run([MEMBOX, *words], stdin=inner, stdout=inner, stderr=subprocess.PIPE, text=True, timeout=20)
        assert done.returncode == 125 and "is a terminal" in done.stderr, done.stderr
    os.close(outer)
    os.close(inner)
    assert "new" not in names(held.folder)


def test_as_an_ordinary_user(user):
    """LINEAGE H: nothing here needs a right."""
    need_program("setpriv")
    swap, image, go, output = (user.folder / name for name in ("swap", "image", "go", "output"))

    def ask(*words):
        status, stdout, stderr, _ = execute(user.command(MEMBOX, *words))
        assert status == 0, stderr
        return stdout
    with open(output, "wb") as out:
        process = subprocess.Popen(user.command(MEMBOX, "run", "--name", "packed", "--limit", 16 * MIB, "--swap", swap, "--", PYTHON, "-c", HOLD, go), stdout=out,
                                   stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    assert wait_until(lambda: b"ready" in output.read_bytes(), 30)
    ask("checkpoint", "packed", image)
    assert process.wait(20) == 137
    ask("pack", image, user.folder / "stream")
    ask("unpack", user.folder / "stream", user.folder / "second")
    go.touch()
    output.chmod(0o666)
    assert shell_status(subprocess.run(user.command(MEMBOX, "restore", "--isolate", "--name", "packed", "--swap", swap, user.folder / "second"), cwd="/", timeout=60,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode) == 0
    assert output.read_bytes() == b"ready\nright\n"
