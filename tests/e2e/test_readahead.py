"""Sequential readers of evicted memory, up and down, in a hurry and slow: they find what they left there, and do not fault at each page of it."""
import subprocess

import pytest

from boxes import BARE, MEMBOX, MIB, PYTHON, ask, scale, wait_until

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")

WINDOWS = 96  # of 512 KiB, as large as they become
# Holds noise. For each line "FIRST LAST STEP NAP" reads its windows in that order, sleeps after each, and says how many were wrong.
PROGRAM = f"""
import random, sys, time, zlib
size, noise = 512 << 10, random.Random(5)
data = memoryview(bytearray(noise.randbytes({WINDOWS} * size)))
sums = [zlib.crc32(data[i * size:(i + 1) * size]) for i in range({WINDOWS})]
print("full", flush=True)
for line in sys.stdin:
    first, last, step, nap = line.split()
    wrong = 0
    for i in range(int(first), int(last), int(step)):
        pages = range(i * size, (i + 1) * size, 4096)
        first_bytes = [data[at] for at in (pages if int(step) > 0 else reversed(pages))]
        wrong += zlib.crc32(data[i * size:(i + 1) * size]) != sums[i]
        time.sleep(float(nap))
    print(wrong, flush=True)
"""


@pytest.mark.parametrize("nap_s", [0, 0.02])  # the second is longer than a page is kept for a reader
@pytest.mark.parametrize("down", [False, True])
def test_a_sequential_reader(box, monkeypatch, down, nap_s):
    monkeypatch.setenv("MEMBOX_RUNTIME_DIR", str(box.folder / "run"))
    process = subprocess.Popen([MEMBOX, "run", "--name", "reader", "--limit", "20M", "--pool", "0", "--swap", box.new_path("swap"), "--", PYTHON, "-c", PROGRAM],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def figures():
        return ask("reader", "stat")["figures"]

    def read(first, last, step):
        before = figures()
        process.stdin.write(f"{first} {last} {step} {nap_s}\n")
        assert process.stdout.readline() == "0\n"
        return {name: value - before[name] for name, value in figures().items() if name in ("refaults", "readahead")}

    assert process.stdout.readline() == "full\n"
    assert subprocess.run([MEMBOX, "set", "reader", "--limit", "100M"], stdout=subprocess.DEVNULL).returncode == 0
    assert wait_until(lambda: figures()["swap_used"] > 0, 10)
    read(WINDOWS - 1, WINDOWS, 1)  # the interpreter is back
    done = read(WINDOWS // 2 - 1, -1, -1) if down else read(0, WINDOWS // 2, 1)  # what was filled first
    assert done["readahead"] >= WINDOWS // 4 * 128, done
    assert done["refaults"] <= WINDOWS * 2, done
    process.stdin.close()
    assert process.wait(60) == 0


def test_what_is_read_ahead_is_moved(box):
    """The kernel looks for a page's mapping before it looks for events: that there is none does not mean that the page is gone."""
    box.run_victim("move-to-and-fro", 40, scale(8, 120), limit=16 * MIB, args=("--pool", "0"))
