"""What happens when something fails inside membox: a selection of tests/faults (docs/reliability.md)."""
import os

import pytest

from boxes import ROOT, execute, need_faulty_membox, need_root, scale

WORDS = {"faults": ("--sample", scale(20, 400)), "kills": ("--kills", scale(16, 1000)),
         "killed-while-it-saves": ("--only", "checkpoint.", "--sample", scale(14, 1000)),
         "killed-while-it-restores": ("--only", "restore.", "--sample", scale(14, 1000))}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_faults(words, shared_folder):
    need_root("to restore a checkpoint")
    program = need_faulty_membox()
    status, stdout, stderr, _ = execute([ROOT / "tests/faults/faults.py", "--passed", os.path.join(shared_folder, "passed"), *words], env={"MEMBOX_FAULTS": str(program)})
    assert status == 0, f"{stdout.decode()[-6000:]}\n{stderr[-2000:]}"
