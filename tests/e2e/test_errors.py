"""Every bad input has its line and its exit code; every end of a program is passed on."""
import hashlib
import os
import signal
import subprocess
import time

import pytest

from boxes import BARE, MEMBOX, MIB, PYTHON, VICTIMS, execute, named, need_membox, need_program, need_root, scale, victim, wait_until


def refused(run, status=125):
    assert run.status == status, f"status {run.status}: {run.stderr}"
    lines = run.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("membox: ") and len(lines[0]) > 12, run.stderr
    assert run.stdout == b""
    return lines[0]


def membox(*words, **options):
    need_membox()
    from boxes import Run
    status, stdout, stderr, wall_s = execute([MEMBOX, *words], timeout=30, **options)
    return Run(status, stdout, stderr, None, None, wall_s)


# ---- bad command lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["", "x", "12Q", "1.5G", "-1", "-64M", "+64M", "64 M", "64MM", "0x100", "99999999999999999999", "18446744073709551615T",
                                  "M", "%", "200%%", "1e9", "64M "])
def test_malformed_size(box, size):
    assert "--limit" in refused(membox("run", "--limit", size, "--swap", box.folder / "swap", "--", "echo", "ran"))


@pytest.mark.parametrize("size", ["x", "-1", "0"])
def test_malformed_swap_size(box, size):
    refused(membox("run", "--limit", "64M", "--swap", box.folder / "swap", "--swap-size", size, "--", "echo", "ran"))


@pytest.mark.parametrize("size", ["0", "1", "4096", "100K", "0%", "0M"])
def test_limit_too_small(box, size):
    assert "small" in refused(membox("run", "--limit", size, "--swap", box.folder / "swap", "--", "echo", "ran"))
    assert not (box.folder / "swap").exists()


@pytest.mark.parametrize("words", [["run"], ["run", "--limit"], ["run", "--limit", "64M"], ["run", "--limit", "64M", "--"], ["run", "--wrong", "--", "true"], ["wrong"], [],
                                   ["run", "--swap", "", "--", "true"], ["run", "--name", "a/b", "--", "true"], ["run", "--no-swap", "--swap", "f", "--", "true"],
                                   ["doctor", "wrong"], ["version", "--wrong"]], ids=" ".join)
def test_malformed_command_line(words):
    refused(membox(*words))


def test_version_and_doctor():
    run = membox("version")
    assert run.status == 0 and run.stdout and not run.stderr
    run = membox("doctor")
    assert run.status in (0, 1) and run.stdout, run


# ---- bad swap files -------------------------------------------------------------------------------------------------------


def with_swap(box, path, program=("echo", "ran"), limit=64 * MIB, args=()):
    need_membox()
    return box.run_boxed(program, limit, swap=path, args=args)


def test_swap_in_missing_folder(box):
    assert "missing" in refused(with_swap(box, box.folder / "missing" / "swap"))


@pytest.mark.parametrize("path", ["/dev/null", "/proc/membox-swap", "/", "/etc/passwd/swap"])
def test_swap_at_a_wrong_place(box, path):
    need_membox()
    refused(membox("run", "--limit", "64M", "--swap", path, "--", "echo", "ran"))


def test_swap_is_a_folder_or_a_pipe(box):
    (box.folder / "folder").mkdir()
    os.mkfifo(box.folder / "pipe")
    for name in "folder", "pipe":
        need_membox()
        refused(membox("run", "--limit", "64M", "--swap", box.folder / name, "--", "echo", "ran"))


def in_mount(box, options, swap_name, program, args=()):
    """A box whose swap file lies in a file system of its own, mounted in a mount namespace that ends with it."""
    need_membox()
    need_root()
    from boxes import Run
    place = box.folder / "mount"
    place.mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o {options} membox-test "$0" || exit 99; exec "$@"'
    command = [MEMBOX, "run", "--limit", "48M", "--swap", place / swap_name, *args, "--", *program]
    status, stdout, stderr, wall_s = execute(["unshare", "-m", "sh", "-c", script, place, *command])
    if status == 99:
        pytest.skip(f"cannot mount a tmpfs: {stderr}")
    return Run(status, stdout, stderr, None, None, wall_s)


def test_swap_on_a_read_only_file_system(box):
    assert "ead-only" in refused(in_mount(box, "ro", "swap", ["echo", "ran"]))


def test_swap_on_a_full_file_system(box):
    """Either the program is never started, or the largest process is killed with a reason when the space is gone."""
    run = in_mount(box, "size=8M", "swap", [victim("touch-pages"), "192", "rand-read"])
    assert run.status in (125, 137), run
    assert run.stderr.startswith("membox: ") and b"bad" not in run.stdout, run.stderr
    run = in_mount(box, "size=0,nr_inodes=1", "swap", ["echo", "ran"])
    assert run.status in (0, 125), run


def test_swap_on_a_full_disk_image(box):
    """As before with ext4 on a loop device: no space is only seen when the pages are written."""
    need_membox()
    need_root()
    image = box.folder / "image"
    with open(image, "wb") as file:
        file.truncate(24 * MIB)
    subprocess.run([need_program("mkfs.ext4"), "-q", image], check=True, capture_output=True)
    place = box.folder / "disk"
    place.mkdir()
    script = 'mount -o loop "$0" "$1" || exit 99; shift; exec "$@"'
    status, stdout, stderr, _ = execute(["unshare", "-m", "sh", "-c", script, image, place, MEMBOX, "run", "--limit", "48M", "--swap", place / "swap", "--",
                                         victim("touch-pages"), "192", "rand-read"])
    if status == 99:
        pytest.skip(f"cannot mount an image: {stderr}")
    assert status in (125, 137) and stderr.startswith("membox: "), (status, stderr)


@pytest.mark.parametrize("megabytes", [1, 8])
def test_swap_beyond_the_largest_file_size(box, megabytes):
    """`ulimit -f`: a swap file that may not grow further is a full one."""
    need_membox()
    program = ["sh", "-c", f'ulimit -f {megabytes * 1024}; exec "$@"', "sh", MEMBOX, "run", "--limit", "48M", "--swap", box.folder / "swap", "--",
               victim("touch-pages"), "192", "rand-read"]
    status, stdout, stderr, _ = execute(program)
    assert status == (125 if megabytes == 1 else 137), (status, stderr)
    assert stderr.startswith("membox: ") and ("ulimit" if megabytes == 1 else "the swap file is full") in stderr, stderr
    assert b"bad" not in stdout
    assert (box.folder / "swap").exists() == (megabytes > 1)


@pytest.mark.parametrize("ways", ["buffered", "sync", "sync,buffered"])
def test_swap_without_direct_io_or_ring(box, ways):
    run = box.run_boxed([victim("touch-pages"), "64", "rand-write"], 32 * MIB, env={"MEMBOX_IO": ways})
    assert run.status == 0 and not run.stderr, run.stderr
    if not BARE:
        assert run.stats["swap_out"] > 0 and run.stats["swap_in"] > 0


def test_swap_of_another_container(box):
    need_membox()
    swap = box.folder / "swap"
    first = box.start([victim("hold-memory"), 80], 32 * MIB, swap=swap)
    assert first.stdout.readline() == b"ready\n"
    assert "swap" in refused(with_swap(box, swap))
    assert "swap" in refused(with_swap(box, swap, [victim("touch-pages"), "80", "rand-write"], 32 * MIB))
    stdout, stderr = first.communicate(timeout=60)
    assert (first.returncode, stdout, stderr) == (0, b"right\n", b"")
    assert with_swap(box, swap).stdout == b"ran\n"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode, path.stat().st_size


@pytest.mark.parametrize("content", [b"x", b"precious " * 10000, b"\0" * 4096, b"\0" * (4 << 20), b"#!/bin/sh\n"], ids=["byte", "text", "zeros", "many-zeros", "script"])
def test_swap_is_someone_elses_file(box, content):
    path = box.folder / "precious"
    path.write_bytes(content)
    before = digest(path)
    refused(with_swap(box, path))
    assert digest(path) == before
    link = box.folder / "link"
    link.symlink_to(path)
    refused(with_swap(box, link))
    assert digest(path) == before


def test_damaged_swap_file_is_not_taken(box):
    path = box.folder / "swap"
    assert with_swap(box, path).status == 0
    if not path.exists() or path.stat().st_size < 4096:
        pytest.skip("nothing is kept of the swap file")
    data = bytearray(path.read_bytes())
    data[100] ^= 0xff
    data[8] ^= 0x10
    path.write_bytes(data)
    before = digest(path)
    refused(with_swap(box, path))
    assert digest(path) == before


def test_swap_file_is_private_and_can_be_used_again(box):
    path = box.folder / "swap"
    for _ in range(3):
        run = with_swap(box, path, [victim("touch-pages"), scale("32", "96"), "rand-write"], scale(16, 32) * MIB)
        assert run.status == 0, run.stderr
        assert not path.exists() or path.stat().st_mode & 0o777 == 0o600
    empty = box.folder / "empty"
    empty.touch()
    assert with_swap(box, empty).status == 0


# ---- programs -------------------------------------------------------------------------------------------------------------


def test_program_missing(box):
    need_membox()
    for program in "no-such-program", "/no/such/program", "./no-such-program":
        assert "no-such-program" in refused(box.run_boxed([program], 64 * MIB), 127) or program[1] == "n"


def test_program_not_executable(box):
    need_membox()
    plain = box.folder / "plain"
    plain.write_text("text\n")
    plain.chmod(0o644)
    refused(box.run_boxed([plain], 64 * MIB), 126)
    refused(box.run_boxed([box.folder], 64 * MIB), 126)


@pytest.mark.parametrize("script,status", [("true", 0), ("exit 1", 1), ("exit 77", 77), ("exit 255", 255), ("exit 125", 125), ("kill -KILL $$", 137), ("kill -SEGV $$", 139),
                                           ("kill -TERM $$", 143), ("kill -HUP $$", 129), ("kill -PIPE $$", 141), ("kill -INT $$", 130)])
def test_exit_status(box, script, status):
    run = box.run_boxed(["sh", "-c", script], 64 * MIB)
    assert (run.status, run.stdout, run.stderr) == (status, b"", "")
    if run.stats:
        assert run.stats["exit_status"] == status


@pytest.mark.parametrize("end,status", [("os._exit(21)", 21), ("os.kill(os.getpid(), 11)", 139), ("os.abort()", 134), ("os.kill(os.getpid(), 9)", 137)])
def test_exit_status_after_adoption(box, end, status):
    run = box.run_boxed([PYTHON, "-c", f"import os\nx = [os.urandom(4096) for i in range(20000)]\nprint(sum(len(p) for p in x), flush=True)\n{end}"], 40 * MIB)
    assert (run.status, run.stdout) == (status, b"81920000\n"), run.stderr


def test_dying_at_once_many_times(box):
    for _ in range(scale(30, 200)):
        assert box.run_boxed(["/bin/false"], 64 * MIB).status == 1


def test_thousands_of_children(box):
    n = scale(3000, 10000)
    run = box.run_boxed(["sh", "-c", f"i=0; while [ $i -lt {n} ]; do /bin/true || exit 1; i=$((i+1)); done; echo $i"], 64 * MIB)
    assert (run.status, run.stdout, run.stderr) == (0, b"%d\n" % n, "")


@pytest.mark.parametrize("how", ["fork", "spawn", "threads"])
def test_thousands_of_children_under_pressure(box, how):
    n = scale(200, 3000)
    start = {"fork": "pid = os.fork()\n  if not pid: os._exit(0 if data[i % 60000] == bytes([i % 60000 % 251]) * 1500 else 1)",
             "spawn": "pid = os.posix_spawn('/bin/true', ['true'], os.environ)",
             "threads": "import threading; t = threading.Thread(target=lambda: data[i]); t.start(); t.join(); continue"}[how]
    script = (f"import os\ndata = [bytes([i % 251]) * 1500 for i in range(60000)]\nfor i in range({n}):\n  {start}\n"
              "  assert os.waitpid(pid, 0)[1] == 0, i\nassert all(data[i] == bytes([i % 251]) * 1500 for i in range(60000))\nprint('right')")
    run = box.run_boxed([PYTHON, "-c", script], 48 * MIB)
    assert (run.status, run.stdout, run.stderr) == (0, b"right\n", "")
    if run.stats:
        assert run.stats["adoptions"] > 0


def test_children_at_the_same_time(box):
    """Many small processes together are over the limit, though none of them is large."""
    script = ("import os, time\npids = []\nfor n in range(24):\n  pid = os.fork()\n  if not pid:\n    d = [os.urandom(4096) for i in range(1500)]; s = sum(map(hash, d))\n"
              "    time.sleep(1)\n    os._exit(s != sum(map(hash, d)))\n  pids.append(pid)\nprint([os.waitpid(p, 0)[1] for p in pids] == [0] * 24)")
    run = box.run_boxed([PYTHON, "-c", script], 80 * MIB)
    assert (run.status, run.stdout, run.stderr) == (0, b"True\n", "")


def test_child_outlives_its_parent(box):
    run = box.run_boxed(["sh", "-c", "(sleep 0.5; echo late) & echo early; exit 3"], 64 * MIB)
    assert (run.status, run.stdout, run.stderr) == (3, b"early\nlate\n", "")


def test_child_with_evicted_memory_outlives_its_parent(box):
    result = box.folder / "result"
    script = (f"import os, time\ndata = [bytes([i % 251]) * 1500 for i in range(60000)]\nif os.fork(): os._exit(4)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(0.5)\n"
              f"right = all(data[i] == bytes([i % 251]) * 1500 for i in range(60000))\nopen({str(result)!r}, 'w').write(str(right))")
    run = box.run_boxed([PYTHON, "-c", script], 48 * MIB)
    assert run.status == 4, run.stderr
    assert wait_until(lambda: result.exists() and result.read_text(), 30) == "True"


def test_closed_standard_descriptors(box):
    status, _, stderr, _ = execute(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *box.command([victim("touch-pages"), "96", "seq-read"], 40 * MIB)])
    assert status == 0, stderr


# ---- no place for what does not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [("--swap-size", "32M"), ("--no-swap",)], ids=" ".join)
@pytest.mark.parametrize("name,extra", [("touch-pages", ("rand-read",)), ("touch-new-memory", (4, "split"))])
def test_largest_process_is_killed(box, args, name, extra):
    need_membox()
    run = box.run_boxed([victim(name), 256, *extra], 64 * MIB, args=args)
    assert run.status == 137, run
    assert run.stderr.startswith("membox: ") and "kill" in run.stderr, run.stderr
    assert run.stats["oom_kills"] >= 1 and run.stats["exit_status"] == 137, run


def test_only_the_largest_process_is_killed(box):
    need_membox()
    run = box.run_boxed(["sh", "-c", f"{victim('touch-pages')} 256 seq-read; echo status=$?; echo alive"], 64 * MIB, args=["--no-swap"])
    assert run.status == 0 and run.stdout.endswith(b"status=137\nalive\n"), run
    assert "membox: " in run.stderr


def test_fits_without_swap(box):
    run = box.run_boxed([victim("touch-pages"), "32", "rand-write"], 64 * MIB, args=["--no-swap"])
    assert run.status == 0 and run.stderr == "", run.stderr


# ---- figures --------------------------------------------------------------------------------------------------------------


def test_statistics(box):
    need_membox()
    run = box.run_boxed([victim("touch-pages"), 128, "rand-read"], 64 * MIB)
    wanted = """rss_usage rss_limit rss_max_usage rss_failcnt rss_reclaimed active inactive unevictable anon file pool pool_stored swap_used swap_total faults refaults
                swap_in swap_out clean_drops oom_kills nr_processes exit_status wall_us""".split()
    assert run.status == 0 and not [name for name in wanted if name not in run.stats]
    assert run.stats["rss_limit"] == 64 * MIB and run.stats["exit_status"] == 0 and run.stats["oom_kills"] == 0
    assert run.stats["swap_out"] >= 60 * 256 and run.stats["swap_in"] > 0 and run.stats["refaults"] > 0
    assert 0 < run.stats["wall_us"] <= run.wall_s * 1e6 * 1.1 and 0 < run.stats["rss_max_usage"] <= 80 * MIB
