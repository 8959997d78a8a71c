"""Everything that a program can do to its memory, at random, while its limit changes: a short run of tests/torture (docs/reliability.md)."""
import pytest

from boxes import MEMBOX, ROOT, execute, need_membox, scale


@pytest.mark.parametrize("processes", [1, 8])
def test_torture(processes):
    need_membox()
    program = MEMBOX.parent / "tests/torture/torture"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    status, stdout, stderr, _ = execute([ROOT / "tests/torture/torture.py", "--seed", 7, "--seeds", scale(1, 10), "--seconds", scale(5, 20), "--processes", processes],
                                        env={"MEMBOX": str(MEMBOX)})
    assert status == 0, f"{stdout.decode()[-4000:]}\n{stderr[-2000:]}"
