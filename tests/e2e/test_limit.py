"""The limit holds, seen from outside every millisecond, whatever the program does to outrun it."""
import os
import pytest

from boxes import BARE, MIB, PYTHON, overshoot, scale, victim

TOTAL_MB = scale(256, 1536)  # split-64: 49,152 mappings, the system allows 65,530
LIMIT_MB = scale(96, 256)


def check(box, command, limit=LIMIT_MB * MIB, expected=b"right\n"):
    run = box.run_boxed(command, limit, sample=True)
    assert (run.status, run.stdout) == (0, expected), run.stderr
    print(run.sample)
    if not BARE:
        assert run.sample["samples"] > 20
        most = limit + overshoot(limit, run.sample)
        assert run.sample["max_kib"] * 1024 <= most, f"{run.sample['max_kib'] / 1024:.1f} MiB, limit {limit >> 20} MiB"


@pytest.mark.parametrize("shape", [("one",), ("chunk", 64), ("split", 64), ("split", 1024), ("malloc", 64), ("malloc", 1024), ("malloc", 1), ("fork",)],
                         ids=lambda shape: "-".join(map(str, shape)))
@pytest.mark.parametrize("workers", [4, 1])
def test_touching_new_memory(box, workers, shape):
    check(box, [victim("touch-new-memory"), TOTAL_MB, 7 if shape == ("fork",) and workers > 1 else workers, *shape])


@pytest.mark.parametrize("limit_mb", [24, 160])
def test_other_limits(box, limit_mb):
    check(box, [victim("touch-new-memory"), 3 * limit_mb, 4, "one"], limit_mb * MIB)


@pytest.mark.parametrize("name", ["touch-new-memory-static", "touch-new-memory-musl"])
def test_static(box, name):
    check(box, [victim(name), TOTAL_MB // 2, 4, "malloc", 256], LIMIT_MB // 2 * MIB)


def test_growing_list(box):
    n = scale(3000000, 20000000)
    check(box, [PYTHON, "-c", f"l = []\nfor i in range({n}): l.append(i * 3)\nprint('right' if all(l[i] == i * 3 for i in range(0, {n}, 7)) else 'wrong')"])


def test_reading_a_mapped_file(box):
    """Clean pages of mapped files count too, and are given back."""
    size = scale(256, 1024) * MIB
    path = box.folder / "mapped"
    with open(path, "wb") as file:
        for i in range(size // MIB):
            file.write(i.to_bytes(4, "little") * (MIB // 4))
        file.flush()
        os.fsync(file.fileno())
    script = (f"import mmap\nf = open({str(path)!r}, 'rb')\nm = mmap.mmap(f.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)\n"
              "print('right' if all(m[i * 4096:i * 4096 + 4096] == (i // 256).to_bytes(4, 'little') * 1024 for r in range(2) for i in range(len(m) // 4096)) else 'wrong')")
    check(box, [PYTHON, "-c", script], size // 4)
