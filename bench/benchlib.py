"""What the benchmarks share: options, running one side of a comparison and cleaning up after it, statistics, the table and its record.

A comparison takes its pairs in turn (membox first, then the peer first, ...), touches memory before each timed run, and gives both the same limit and
the same disk. Its ratio is the median of the pairs' ratios, peer's time divided by membox's: more than 1 means that membox is faster."""
import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("MEMBOX_BUILD", ROOT / "build")).absolute()
MEMBOX = os.environ.get("MEMBOX", str(BUILD / "membox"))
VICTIMS = pathlib.Path(os.environ.get("MEMBOX_VICTIMS", BUILD / "tests/victims"))
PROGRAMS = BUILD / "bench"
FOLDER = pathlib.Path(os.environ.get("MEMBOX_BENCH_FOLDER", "/var/tmp"))
SKIPPED = 77
MOST_SECONDS = 900
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Trouble(Exception):
    """A run that failed; its text says which."""


class TimeUp(Trouble):
    """It was not done in time."""


# --- Options and the frame of a benchmark ---

def parser(doc, pairs=5):
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("-n", type=int, metavar="PAIRS", help=f"how many pairs, or runs where there is no peer (default: {pairs}; 1 with --quick)")
    made.add_argument("--quick", action="store_true", help="small sizes, to see that it works: nothing is judged")
    made.add_argument("--membox-option", action="append", default=[], metavar="OPTION", help="goes to membox run (such as --pool=0), may be repeated")
    made.add_argument("--record", type=pathlib.Path, metavar="FILE", help="adds the rows to this file of JSON lines")
    made.set_defaults(default_pairs=pairs)
    return made


def parse(made):
    options = made.parse_args()
    options.n = options.n or (1 if options.quick else options.default_pairs)
    return options


def check_built():
    missing = [str(path) for path in (pathlib.Path(MEMBOX), VICTIMS / "touch-pages", PROGRAMS / "pretouch") if not path.exists()]
    if missing:
        raise Trouble(f"not built: {', '.join(missing)} (run make)")


def leave(number, frame):
    """For the signals that end a benchmark: a second Ctrl-C does not interrupt the cleaning up."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(body):
    """Runs a benchmark's body(); what it started and made is gone when this ends, whatever ends it."""
    for number in ENDING:
        signal.signal(number, leave)
    try:
        check_built()
        sys.exit(body())
    except Trouble as trouble:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {trouble}")
    except KeyboardInterrupt:
        sys.exit(130)


# --- Running one side ---

@dataclasses.dataclass
class Outcome:
    seconds: float
    text: str
    stats: dict


def pretouch(megabytes):
    subprocess.run([PROGRAMS / "pretouch", str(int(megabytes))], check=True)


@contextlib.contextmanager
def patiently():
    """For cleaning up: Ctrl-C does not interrupt it."""
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def started(command, **how):
    """A process that is gone at the end: SIGTERM lets kernel-swap take its swap and cgroup away, and membox end its program."""
    process = subprocess.Popen([str(word) for word in command], **how)
    try:
        yield process
    finally:
        if process.poll() is None:
            with patiently():
                process.terminate()
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextlib.contextmanager
def time_limit(seconds, what):
    """An alarm, because waiting with a timeout looks at the process every 50 ms only."""
    def give_up(number, frame):
        raise TimeUp(f"{what}: not done after {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(int(seconds))
    try:
        yield
    finally:
        signal.alarm(0)


def run(command, most=MOST_SECONDS, allowed=(0,), **how):
    """Runs a command to its end; Outcome with its standard output."""
    name = " ".join(map(str, command))
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err, time_limit(most, name):
        begin = time.monotonic()
        with started(command, stdout=how.pop("stdout", out), stderr=err, stdin=subprocess.DEVNULL, **how) as process:
            status = process.wait()
        taken = time.monotonic() - begin
        out.seek(0)
        err.seek(0)
        if status not in allowed:
            raise Trouble(f"{name}: status {status}: {err.read()[-2000:].strip()}")
        return Outcome(taken, out.read(), {"status": status, "error": err.read().strip()})


class Membox:
    """The program in membox, under limit_mb."""
    name = "membox"

    def __init__(self, options=()):
        self.options = list(options)

    @contextlib.contextmanager
    def command(self, program, limit_mb, name=None):
        """(command, function that gives the figures once it has ended)"""
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix="membox-bench-") as folder:
            stats = pathlib.Path(folder) / "stats.json"
            named = ["--name", name] if name else []
            yield ([MEMBOX, "run", *named, "--limit", f"{limit_mb}M", "--swap", f"{folder}/swap", "--stats", stats, *self.options, "--", *program],
                   lambda: json.loads(stats.read_text()))

    def run(self, program, limit_mb, swap_mb, most=MOST_SECONDS):
        with self.command(program, limit_mb) as (command, figures_of):
            outcome = run(command, most)
            return dataclasses.replace(outcome, stats=figures_of())


class KernelSwap:
    """The program in a memory cgroup of limit_mb, with kernel swap of swap_mb in a file on the same disk."""

    def __init__(self, zswap=False):
        self.options = ["--zswap"] if zswap else []
        self.name = "zswap" if zswap else "kernel swap"

    @contextlib.contextmanager
    def command(self, program, limit_mb, swap_mb):
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix="membox-bench-") as folder:
            out = pathlib.Path(folder) / "out"
            yield ([ROOT / "bench/kernel-swap", "--limit-mb", limit_mb, "--swap-mb", int(swap_mb), "--swap", f"{folder}/swap", "--out", out, *self.options,
                    "--", *program], lambda: figures(out.read_text()))

    def run(self, program, limit_mb, swap_mb, most=MOST_SECONDS):
        with self.command(program, limit_mb, swap_mb) as (command, figures_of):
            outcome = run(command, most)
            stats = figures_of()
            return Outcome(stats["wall_us"] / 1e6, outcome.text, stats)

    def why_not(self):
        """Why this machine cannot run it; None when it can."""
        with self.command(["true"], 64, 16) as (command, _):
            outcome = run(command, allowed=(0, SKIPPED))
            return outcome.stats["error"].splitlines()[-1] if outcome.stats["status"] else None


def peer_or_none(peer):
    reason = peer.why_not()
    if reason:
        print(f"No comparison with {peer.name}: {reason}", flush=True)
    return None if reason else peer


def figures(text):
    """{"a": 1.0} from "a=1.0 ..."."""
    found = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            pass
    return found


def in_turn(pairs, ours, theirs):
    """Yields (pair, side) so that each side is first in every other pair; a side that is None is left out."""
    for pair in range(pairs):
        for side in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            if side is not None:
                yield pair, side


def touch_pages(size_mb, mode, random_bytes=2048, threads=1):
    return [VICTIMS / "touch-pages", size_mb, mode, random_bytes, threads]


# --- Results ---

def pair_ratio(ours, theirs):
    return statistics.median(b / a for a, b in zip(ours, theirs))


def geometric_mean(values):
    return statistics.geometric_mean(values)


@dataclasses.dataclass
class Row:
    """One line of a table. With a peer it is judged by its ratio, else by the median; bounds are None where nothing is wanted."""
    bench: str
    name: str
    unit: str
    ours: list
    theirs: list = dataclasses.field(default_factory=list)
    peer: str = ""
    least: float | None = None
    most: float | None = None
    judged: bool = True

    @property
    def ratio(self):
        return pair_ratio(self.ours, self.theirs) if self.theirs else None

    @property
    def wanted(self):
        parts = [f"{sign} {bound:.3g}" for sign, bound in (("≥", self.least), ("≤", self.most)) if bound is not None]
        return " and ".join(parts)

    @property
    def verdict(self):
        value = self.ratio if self.peer else statistics.median(self.ours)
        if value is None or not self.judged or not self.wanted:
            return ""
        return "met" if (self.least is None or value >= self.least) and (self.most is None or value <= self.most) else "MISSED"


def spread(values):
    return f"{statistics.median(values):.3f} [{min(values):.3f} .. {max(values):.3f}]" if values else "-"


COLUMNS = "{:26} {:8} {:32} {:32} {:>7}  {:14} {}"


class Table:
    """Prints rows as they come and remembers whether one missed its mark."""

    def __init__(self, bench, options, title, peer="", ours="membox", ratio="ratio"):
        self.bench, self.options, self.peer, self.rows = bench, options, peer, []
        print(f"\n{title}\n{COLUMNS.format('', 'unit', ours, peer or '', ratio if peer else '', 'wanted', '').rstrip()}", flush=True)

    def row(self, name, unit, ours, theirs=(), least=None, most=None, peer=None):
        row = Row(self.bench, name, unit, list(ours), list(theirs), self.peer if peer is None else peer, least, most, not self.options.quick)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        print(COLUMNS.format(name, unit, spread(row.ours), spread(row.theirs) if row.peer else "", ratio, row.wanted, row.verdict).rstrip(), flush=True)
        self.rows.append(row)
        if self.options.record:
            with self.options.record.open("a") as out:
                out.write(json.dumps(dataclasses.asdict(row)) + "\n")
        return row

    def status(self):
        """Exit status: 1 when a mark was missed, 77 when there was nothing to compare with."""
        if any(row.verdict == "MISSED" for row in self.rows):
            return 1
        return SKIPPED if any(row.peer and not row.theirs for row in self.rows) else 0


def compare_touching(table, pairs, rows, size_mb, limit_mb, ours, theirs, fill="fill", fill_least=None):
    """rows: (name, mode, random bytes, threads, least ratio). One row of each, and one for filling from all of them."""
    fills = ([], [])
    for name, mode, random_bytes, threads, least in rows:
        times = ([], [])
        for _, side in in_turn(pairs, ours, theirs):
            pretouch(size_mb * 2)
            found = figures(side.run(touch_pages(size_mb, mode, random_bytes, threads), limit_mb, size_mb + 128).text)
            times[side is theirs].append(found["us_per_access"])
            fills[side is theirs].append(found["fill_us_per_page"])
        table.row(name, "us", *times, least=least)
    table.row(fill, "us", *fills, least=fill_least)
