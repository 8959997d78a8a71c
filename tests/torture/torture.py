#!/usr/bin/env python3
"""torture: runs the torture program in containers, over seeds, 1 and 8 processes and limits from 5 % to 50 % of its size, while its limit changes all the time,
and now and then all of its memory is asked for or it is parked.
A run fails when the program sees a wrong byte, when it does not end, or when the swap file's books do not balance at its end. What is random comes
from the seed; how threads and limits meet does not. Prints a line for each run; exit status 1 when one has failed."""
import argparse
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from processes import describe  # noqa: E402, it lies in another folder

ROOT = pathlib.Path(__file__).resolve().parents[2]
MEMBOX = pathlib.Path(os.environ.get("MEMBOX", ROOT / "build/membox")).absolute()
TORTURE = MEMBOX.parent / "tests/torture/torture"
BOOKS = ("do not balance", "were not given back")  # what the keeper says with MEMBOX_DEBUG when slots are lost
OVERHEAD_S = 120  # after the program's own time: it reads all of its memory once more, most of it from the file


def ask(verb, seconds):
    """What membox answers, in a time after which it is ended: a keeper may hang."""
    return subprocess.run(["timeout", str(seconds), MEMBOX, *verb], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def state_of(process, name):
    """What everyone is doing; for the report of a hang."""
    return f"{describe(process.pid)}\n{ask(['stat', name, '--json'], 20)}"


def disturb(name, limits, chance):
    """A verb that comes when the program has just ended is refused."""
    lot = chance.random()
    verbs = [["set", name, "--limit", str(chance.choice(limits))]] if lot < 0.8 else [["reclaim", name, "all"]] if lot < 0.9 else [["park", name], ["unpark", name]]
    for verb in verbs:
        ask(verb, OVERHEAD_S)


def disturb_until_it_ends(process, name, limits, chance, until):
    """False: the program has not ended in time."""
    while process.poll() is None:
        if time.monotonic() > until:
            return False
        disturb(name, limits, chance)
        try:
            process.wait(timeout=chance.uniform(0.05, 1))
        except subprocess.TimeoutExpired:
            pass
    return True


def torture(folder, seed, processes, seconds, size_mb, options):
    """None when all was right, else what was wrong."""
    chance = random.Random(f"{seed} {processes}")
    threads = 4 if processes == 1 else 2
    least = max(size_mb * 5 // 100, 4 + 3 * processes)  # a process needs some pages to go on at all
    limits = [size_mb * percent // 100 << 20 for percent in range(5, 51) if size_mb * percent // 100 >= least]
    name, output = f"torture-{os.getpid()}", folder / "output"
    command = [MEMBOX, "run", "--name", name, "--limit", str(chance.choice(limits)), "--swap", folder / "swap", *options, "--", TORTURE,
               str(seed), str(seconds), str(size_mb), str(threads), str(processes), folder]
    with open(output, "w+") as file:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                                   env={**os.environ, "MEMBOX_DEBUG": "1"})
        try:
            in_time = disturb_until_it_ends(process, name, limits, chance, time.monotonic() + seconds + OVERHEAD_S)
            report = "" if in_time else state_of(process, name)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    text = output.read_text()
    print(f"seed {seed}, {processes} process(es), limits from {limits[0] >> 20} MiB: {' '.join(re.findall(r'steps=.*', text)) or 'not done'}", flush=True)
    if not in_time:
        return f"it has not ended\n{report}\n{text[-3000:]}"
    if process.returncode or "right" not in text.splitlines() or any(words in text for words in BOOKS):
        return f"status {process.returncode}\n{text[-3000:]}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="the program's time in each run (default 20)")
    parser.add_argument("--minutes", type=float, help="seeds are taken until this time is over (default: --seeds)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--size-mb", type=int, default=256, help="memory of the program in MiB (default 256)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8], help="default: 1 and 8")
    parser.add_argument("--option", action="append", default=[], help="goes to membox run, may be repeated")
    options = parser.parse_args()
    begin, runs, failed, seed = time.monotonic(), 0, 0, options.seed

    def goes_on():
        return time.monotonic() - begin < options.minutes * 60 if options.minutes else seed < options.seed + options.seeds

    while goes_on():
        for processes in options.processes:
            with tempfile.TemporaryDirectory(prefix="membox-torture-", dir=os.environ.get("MEMBOX_TEST_FOLDER", "/var/tmp")) as folder:
                wrong = torture(pathlib.Path(folder), seed, processes, options.seconds, options.size_mb, options.option)
            runs += 1
            failed += wrong is not None
            if wrong:
                print(f"FAILED: seed {seed}, {processes} process(es): {wrong}", flush=True)
        seed += 1
    print(f"{runs} runs, {seed - options.seed} seeds, {(time.monotonic() - begin) / 60:.1f} minutes: {failed} failed")
    return failed > 0


sys.exit(main())
