#!/usr/bin/env python3
"""What happens when something fails inside membox (docs/reliability.md). For builds with -Dfaults=true.

  faults.py                     every fault, and the table of outcomes
  faults.py --write             ... which goes into docs/reliability.md
  faults.py --sample N          N faults of the list, evenly spread, the same ones each time
  faults.py --only PATTERN      those whose name contains it
  faults.py --kills N           kills of the keeper at points of its transactions, chosen by chance
  --passed FILE                 how often each place is passed without faults: read from the file, or written to it when it is not there
  --jobs N (default 2), --seed N, --seconds N (ends after that many)

A program that checks all it reads runs in a container in which one thing fails, and whatever a user can ask of a container is asked meanwhile. The end must be one
of those that are documented: anything else (a wrong byte, a hang, something left behind, an end without a reason) is printed, and the exit code is 1.
"""
import argparse
import collections
import concurrent.futures
import ctypes
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
from processes import describe, kill_all, read, reap, wait_until  # noqa: E402

MEMBOX = pathlib.Path(os.environ.get("MEMBOX_FAULTS", ROOT / "build-check/clang/membox")).absolute()
VICTIM = MEMBOX.parent / "tests/victims/churn-memory"
FOLDER = os.environ.get("MEMBOX_TEST_FOLDER", "/var/tmp")
HANG_S = float(os.environ.get("MEMBOX_TEST_TIMEOUT", 60))
DOCS = ROOT / "docs/reliability.md"
MARKS = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"

# What each outcome is called in the table.
GOES_ON, REFUSED, ENDED, NOT_STARTED = "goes on", "refused, goes on", "ended with a reason", "not started, with a reason"

Score = collections.namedtuple("Score", "ready rounds wrong address expected found stop forks")


class Bad(Exception):
    pass


class Box:
    """One container in which something fails."""

    def __init__(self, folder, faults, size_mb=12, limit_mb=5):
        self.folder, self.log = pathlib.Path(folder), pathlib.Path(folder) / "log"
        self.score_file, self.swap, self.image = (self.folder / name for name in ("score", "swap", "image"))
        self.name = f"faults-{os.getpid()}-{self.folder.name[-6:]}"
        self.environment = {**os.environ, "MEMBOX_FAULT": faults, "MEMBOX_FAULT_LOG": str(self.log)}
        self.program, self.limit, self.errors = [str(VICTIM), str(self.score_file), str(size_mb)], f"{limit_mb}M", self.folder / "errors"
        self.second_score = self.folder / "score-2"  # of a family
        self.refusals = []
        self.process = None
        self.has_checkpoint = False  # one was made, whatever becomes of the next

    def become_family(self):
        """A tree of three processes instead of one program."""
        # The shell's stderr is nobody's business: it says "Killed" when a child goes before it. It waits for a plain command with that one's redirections in force.
        script = 'exec 3>&2 2> /dev/null; "$0" "$2" "$3" > /dev/null 2>&3 & (exec "$0" "$1" "$3" 2>&3) && wait'
        self.program, self.limit = ["/bin/sh", "-c", script, str(VICTIM), str(self.score_file), str(self.second_score), "8"], "9M"

    def become_terminal(self):
        """The program on a pseudo terminal of the container's own."""
        self.program, self.limit = ["script", "-qec", "stty -opost; exec " + " ".join(self.program), "/dev/null"], "9M"

    def start(self, verb, *words):
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen([str(MEMBOX), verb, "--name", self.name, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                            env=self.environment, cwd=self.folder, start_new_session=True)

    def run(self):
        self.start("run", "--limit", self.limit, "--pool", "1M", "--swap", self.swap, "--", *self.program)

    def score(self, path=None):
        path = path or self.score_file
        data = path.read_bytes() if path.exists() else b""
        return Score(*struct.unpack_from("<8Q", data.ljust(64, b"\0")))

    def ended(self):
        return self.process.poll() is not None

    def wait_for(self, what, condition):
        if not wait_until(lambda: self.ended() or condition(self.score()), HANG_S):
            raise Bad(f"hang: {what}\n{describe()}\n{self.said()}")

    def wait_rounds(self, more):
        """Until the program has done some more."""
        begin = self.score().rounds
        self.wait_for("the program stands still", lambda score: score.ready and score.rounds >= begin + more)

    def ask(self, verb, *words, timeout=HANG_S):
        """A verb from outside: it is done, or refused with a reason."""
        if self.ended():
            return False
        try:
            done = subprocess.run([str(MEMBOX), verb, self.name, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  timeout=timeout, text=True)
        except subprocess.TimeoutExpired:
            raise Bad(f"hang: {verb}\n{describe()}\n{self.said()}") from None
        if done.returncode and not done.stderr.startswith("membox: "):
            raise Bad(f"{verb}: status {done.returncode} without a reason: {done.stderr!r}")
        if done.returncode and not self.ended():
            self.refusals.append(f"{verb}: {done.stderr.strip()}")
        return done.returncode == 0

    def said(self):
        return read(self.errors)

    def stop(self, value=1):
        for path in (self.score_file, self.second_score):
            if path.exists():
                with open(path, "r+b") as file:
                    file.seek(48)
                    file.write(struct.pack("<Q", value))

    def finish(self, is_killed=False):
        """The outcome, or Bad."""
        self.stop()
        try:
            output = self.process.communicate(timeout=HANG_S)[0]
        except subprocess.TimeoutExpired:
            raise Bad(f"hang: no end\n{describe()}\n{self.said()}") from None
        self.check_nothing_left()
        score, status, said = self.score(), self.process.returncode, self.said()
        for one in score, self.score(self.second_score):
            if one.wrong:
                raise Bad(f"WRONG BYTE, status {status}: {one}\n{said}")
        lines = said.splitlines()
        if any(not line.startswith("membox: ") for line in lines):
            raise Bad(f"status {status}, and said {said!r}")
        if status == 0 and output == b"right\n":
            return REFUSED if self.refusals else GOES_ON
        if status in (125, 137) and lines:
            if not is_killed and "was killed: the container was ended, no page" in said and "kill " not in self.environment["MEMBOX_FAULT"].replace(":", " ") + " ":
                raise Bad(f"the keeper died: {said!r}")
            return ENDED if score.ready else NOT_STARTED
        raise Bad(f"status {status}, output {output!r}, said {said!r}")

    def check_images(self):
        """Without any fault: a checkpoint that was made goes on as often as one likes, and what a killed keeper has left beside it is whole, or refused with a reason."""
        self.environment["MEMBOX_FAULT"], self.refusals = "", []
        folders = [path for path in self.folder.glob("image*") if path.is_dir()]
        if self.has_checkpoint and self.image not in folders:
            raise Bad("the older checkpoint is gone")
        for number, image in enumerate(folders):
            self.errors.write_bytes(b"")
            self.stop(0)
            self.process.stdout.close()
            self.start("restore", "--swap", self.folder / f"swap-after-{number}", image)
            wait_until(self.ended, 0.3)
            outcome = self.finish()
            if outcome != GOES_ON and (image == self.image or "not a checkpoint of membox" not in self.said()):
                raise Bad(f"{image.name}: {outcome}: {self.said()!r}")

    def check_nothing_left(self):
        if not wait_until(lambda: reap() or not has_children(), 15):  # an agent that nobody knows ends by itself in 10 s
            report = describe()
            raise Bad(f"left behind:\n{report}\n{self.said()}")
        if self.has_kept_folder():
            raise Bad(f"the folder of the container is still there\n{self.said()}")

    def has_kept_folder(self):
        place = pathlib.Path(os.environ.get("MEMBOX_RUNTIME_DIR", "/run/membox")) / self.name
        causes = "kill", "unlinkat", "rmdir", "openat", "flock", "readdir", "fdopendir"  # the next one who looks removes it
        return place.exists() and not any(cause in self.environment["MEMBOX_FAULT"] for cause in causes)

    def fired(self):
        return any(line.startswith("fault ") for line in read(self.log).splitlines())


def has_children():
    """Whoever is left of a container is, or becomes, a child of this process."""
    return any(read(f"/proc/self/task/{task}/children") for task in os.listdir("/proc/self/task"))


# ---- what is done with a container ----------------------------------------------------------------------------------------


def paging(box):
    box.run()
    box.wait_rounds(200)


def limits(box):
    """Everything that makes memory leave or come back on demand."""
    box.run()
    box.wait_rounds(60)
    box.ask("set", "--limit", "4M")
    box.ask("reclaim", "2M")
    box.ask("stat")
    if box.ask("park"):
        box.ask("unpark")
    box.wait_rounds(30)


def swapoff(box):
    box.run()
    box.wait_rounds(60)
    box.ask("set", "--limit", "64M")
    if box.ask("swapoff"):
        box.wait_rounds(10)
        box.ask("swapon", box.folder / "other")
    box.ask("set", "--limit", "10M")
    box.wait_rounds(40)


def release(box):
    box.run()
    box.wait_rounds(60)
    box.ask("release")
    box.wait_rounds(20)


def checkpoint(box):
    """Twice, with the program running on."""
    box.run()
    box.wait_rounds(60)
    box.has_checkpoint |= box.ask("checkpoint", box.image, "--leave-running")
    box.wait_rounds(20)
    box.has_checkpoint |= box.ask("checkpoint", box.image, "--leave-running")
    box.wait_rounds(20)


def checkpoint_family(box):
    """Of several processes."""
    box.become_family()
    checkpoint(box)


def checkpoint_end(box):
    """A second one that ends the container; what it holds goes on."""
    box.become_family()
    box.run()
    box.wait_rounds(60)
    box.has_checkpoint |= box.ask("checkpoint", box.image, "--leave-running")
    if not box.ask("checkpoint", box.image):
        return
    box.has_checkpoint = True
    box.process.communicate(timeout=HANG_S)
    box.errors.unlink()
    box.environment.pop("MEMBOX_FAULT_LOG")
    box.start("restore", "--swap", box.folder / "swap-2", box.image)
    box.wait_rounds(20)


def restore(box, *options):
    """Faults of the restore and of what follows; the checkpoint is made without any."""
    faults = box.environment.pop("MEMBOX_FAULT")
    box.run()
    box.wait_rounds(40)
    made = box.ask("checkpoint", box.image)
    box.environment["MEMBOX_FAULT"] = faults
    if not made:
        raise Bad(f"no checkpoint to restore\n{box.said()}")
    box.has_checkpoint = True
    box.process.communicate(timeout=HANG_S)
    box.errors.unlink()
    box.log.unlink(missing_ok=True)
    box.start("restore", *options, "--swap", box.folder / "swap-2", box.image)
    box.wait_rounds(40)


def restore_family(box):
    box.become_family()
    restore(box)


def restore_terminal(box):
    box.become_terminal()
    restore(box)


def restore_isolated(box):
    """Into namespaces of its own."""
    box.become_family()
    restore(box, "--isolate")


SCENARIOS = {work.__name__: work for work in (paging, limits, swapoff, release, checkpoint, checkpoint_family, checkpoint_end, restore, restore_family, restore_terminal, restore_isolated)}

# ---- what fails -----------------------------------------------------------------------------------------------------------

# A call's failures, as the kernel's manual pages have them, without those that state a fact (ENOENT, EEXIST); for others EIO.
ERRORS = {
    "swap read": ["EIO", "short", "flip"], "swap write": ["EIO", "ENOSPC", "short"], "read": ["EIO", "EINTR", "short"], "write": ["EIO", "ENOSPC", "short"],
    "pread": ["EIO", "short", "flip"], "pwrite": ["EIO", "ENOSPC", "short"], "open": ["EMFILE", "EACCES"], "openat": ["EMFILE", "EACCES"], "fopen": ["EMFILE", "ENOMEM"],
    "malloc": ["ENOMEM"], "calloc": ["ENOMEM"], "realloc": ["ENOMEM"], "reallocarray": ["ENOMEM"], "strdup": ["ENOMEM"], "posix_memalign": ["ENOMEM"], "mmap": ["ENOMEM"],
    "munmap": ["ENOMEM"], "pthread_create": ["EAGAIN"], "fork": ["EAGAIN"], "clone3": ["EAGAIN"], "poll": ["EINTR", "ENOMEM"], "ppoll": ["EINTR", "ENOMEM"],
    "epoll_wait": ["EINTR"], "epoll_ctl": ["ENOMEM", "ENOSPC"], "epoll_create1": ["EMFILE"], "eventfd": ["EMFILE"], "signalfd": ["EMFILE"], "memfd_create": ["EMFILE"],
    "pipe2": ["EMFILE"], "socket": ["EMFILE"], "socketpair": ["EMFILE"], "accept4": ["EMFILE", "EINTR"], "pidfd_open": ["EMFILE", "ENOMEM"], "pidfd_getfd": ["EMFILE", "EPERM"],
    "pidfd_send_signal": ["EPERM"], "fallocate": ["ENOSPC", "EIO", "EOPNOTSUPP"], "ftruncate": ["EFBIG", "EIO"], "fsync": ["EIO"], "io_uring_queue_init": ["ENOMEM", "EPERM"],
    "io_uring_submit": ["EAGAIN", "EBUSY"], "UFFDIO_COPY": ["EAGAIN", "ENOMEM"], "UFFDIO_ZEROPAGE": ["EAGAIN"], "UFFDIO_REGISTER": ["ENOMEM"],
    "UFFDIO_UNREGISTER": ["ENOMEM"], "UFFDIO_WAKE": ["EINVAL"], "UFFDIO_API": ["EINVAL"], "UFFDIO_WRITEPROTECT": ["EAGAIN"], "PAGEMAP_SCAN": ["ENOMEM"],
    "PROCMAP_QUERY": ["EINTR"], "process_vm_readv": ["EFAULT", "ENOMEM"], "process_vm_writev": ["EFAULT"], "remote call": ["ENOMEM", "EFAULT"],
    "waitid": ["EINTR"], "waitpid": ["EINTR"], "kill": ["EPERM"], "kcmp": ["ENOMEM"], "futex": ["EINTR"], "close": ["EIO"], "send": ["EAGAIN", "ECONNRESET"],
    "recv": ["ECONNRESET", "EINTR"], "sendmsg": ["ENOBUFS"], "unlink": ["EIO"], "unlinkat": ["EIO"], "renameat2": ["EIO"], "linkat": ["EXDEV", "EMLINK"],
    "opendir": ["EMFILE"], "stat": ["EACCES"], "fstat": ["EIO"], "fcntl": ["EMFILE"], "flock": ["ENOLCK"], "PTRACE_SEIZE": ["EPERM"], "PTRACE_INTERRUPT": ["ESRCH"],
    "PTRACE_DETACH": ["ESRCH"], "PTRACE_CONT": ["ESRCH"], "PTRACE_GETREGSET": ["EIO"], "PTRACE_SETREGSET": ["EIO"], "PTRACE_SYSCALL": ["ESRCH"],
}
# At the only pass that there is, at the first ones, and later.
RATES = {"swap read": ["1/50"], "swap write": ["1/20"], "UFFDIO_COPY": ["1/10"], "PAGEMAP_SCAN": ["1/20"], "malloc": ["1/20"], "calloc": ["1/20"], "open": ["1/50"],
         "process_vm_readv": ["1/30"], "io_uring_submit": ["1/3"], "pidfd_open": ["1/10"], "read": ["1/40"], "remote call": ["1/40"], "fallocate": ["1/2"]}

Case = collections.namedtuple("Case", "scenario site what when")


def is_point(site):
    return "." in site


def cases_of(scenario, passed, known):
    """All that fails in a scenario, given how often each site was passed in it; what fails in another one too is not gone through in full again."""
    for number, (site, count) in enumerate(sorted(passed.items())):
        whats = ["kill"] if is_point(site) else ERRORS.get(site, ["EIO"])
        if site in known:
            yield Case(scenario, site, whats[number % len(whats)], str(max(count * (number % 7) // 7, 1)))
            continue
        for what in whats:
            for when in sorted({1, 2, max(count // 3, 1), max(count * 2 // 3, 1)}):
                if when <= count:
                    yield Case(scenario, site, what, str(when))
            for rate in RATES.get(site, []):
                yield Case(scenario, site, what, rate)
        if site in ("swap write", "fallocate"):
            yield Case(scenario, site, "ENOSPC", f"{max(count // 3, 1)}+")
        if site in ("swap write", "swap read"):
            yield Case(scenario, site, "EIO", f"{max(count // 3, 1)}+")


# ---- running --------------------------------------------------------------------------------------------------------------


def in_worker():
    """Orphans come to the process that has started them."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    for fd in range(3, 64):
        try:
            if not os.get_inheritable(fd):
                continue
            os.set_inheritable(fd, False)
        except OSError:
            pass


def run_case(case):
    """(case, outcome, what it said, whether the fault happened); a bad outcome begins with BAD."""
    folder = tempfile.mkdtemp(prefix="membox-faults-", dir=FOLDER)
    box = Box(folder, f"{case.site}:{case.what}:{case.when}" if case.site else "")
    said = log = ""
    try:
        SCENARIOS[case.scenario](box)
        outcome = box.finish()
        said, log = box.said() + "".join(f"[{r}]\n" for r in box.refusals), read(box.log)
        box.check_images()
    except Bad as bad:
        outcome = f"BAD {bad}"
        said, log = box.said(), read(box.log)
    finally:
        if has_children():
            kill_all()
        if box.process:
            box.process.wait()
            box.process.stdout.close()
        reap()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(f"/run/membox/{box.name}", ignore_errors=True)
    return case, outcome, said, log


def run_all(cases, jobs, deadline, report):
    """Calls report with each result."""
    with concurrent.futures.ProcessPoolExecutor(jobs, initializer=in_worker) as pool:
        waiting, cases = set(), iter(cases)
        while True:
            for case in cases:
                waiting.add(pool.submit(run_case, case))
                if len(waiting) >= jobs * 2 or time.monotonic() > deadline:
                    break
            if not waiting:
                return
            done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
            for one in done:
                report(*one.result())
            if time.monotonic() > deadline:
                cases = iter(())


def count_passes(jobs):
    """{scenario: {site: how often}} of runs without faults, which must go well."""
    passed = {}

    def note(case, outcome, said, log):
        if outcome != GOES_ON:
            sys.exit(f"{case.scenario} without a fault: {outcome}\n{said}")
        passed[case.scenario] = {line.rsplit(" ", 1)[0][7:]: int(line.rsplit(" ", 1)[1]) for line in log.splitlines() if line.startswith("passed ")}
    run_all([Case(name, "", "", "") for name in SCENARIOS], jobs, time.monotonic() + 300, note)
    return passed


def passes(file, jobs):
    """count_passes, kept in the file if there is one."""
    if file and file.exists():
        return json.loads(file.read_text())
    passed = count_passes(jobs)
    if file:
        file.write_text(json.dumps(passed))
    return passed


def choose_kills(passed, number, rng):
    points = [(scenario, site, count) for scenario, sites in passed.items() for site, count in sites.items() if is_point(site) and not site.startswith("agent.")]
    for _ in range(number):
        scenario, site, count = rng.choice(points)
        yield Case(scenario, site, "kill", str(rng.randint(1, max(count, 1))))


def choose_sample(cases, number, seed):
    """The same ones each time, though the moments differ with how often a site was passed: one moment of each that is chosen."""
    groups = collections.defaultdict(list)
    for case in cases:
        groups[case[:3]].append(case)
    digests = {key: hashlib.sha256(f"{seed} {key}".encode()).digest() for key in groups}
    return [groups[key][digests[key][0] % len(groups[key])] for key in sorted(groups, key=digests.get)[:number]]


ORDER = [GOES_ON, REFUSED, NOT_STARTED, ENDED]


def table(results):
    """The lines of the table: for each thing that fails the outcomes, over all scenarios and moments."""
    rows = collections.defaultdict(lambda: collections.Counter())
    for case, outcome in results:
        rows[case.site, case.what][outcome] += 1
    lines = ["| what | fails with | goes on | the verb is refused, goes on | not started, with a reason | ended with a reason |", "| --- | --- | --- | --- | --- | --- |"]
    for (site, what), outcomes in sorted(rows.items(), key=lambda item: (is_point(item[0][0]), item[0])):
        lines.append(f"| {site} | {what} | " + " | ".join(str(outcomes[name] or "") for name in ORDER) + " |")
    return "\n".join(lines) + "\n"


def write_table(text):
    docs = DOCS.read_text()
    begin, end = docs.index(MARKS[0]) + len(MARKS[0]), docs.index(MARKS[1])
    DOCS.write_text(docs[:begin] + "\n" + text + "\n" + docs[end:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--only")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--passed", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=86400)
    options = parser.parse_args()
    begin, results, bad, missed = time.monotonic(), [], 0, 0
    deadline = begin + options.seconds
    passed = passes(options.passed, options.jobs)
    if options.kills:
        cases = list(choose_kills(passed, options.kills, random.Random(options.seed)))
    else:
        cases = [case for name, sites in passed.items() for case in cases_of(name, sites, {} if name == "paging" else passed["paging"])]
    if options.only:
        cases = [case for case in cases if options.only in ":".join(case)]
    if options.sample:
        cases = choose_sample(cases, options.sample, options.seed)

    def report(case, outcome, said, log):
        nonlocal bad, missed
        missed += not any(line.startswith("fault ") for line in log.splitlines())
        if outcome.startswith("BAD"):
            bad += 1
            print(f"== {':'.join(case)}: {outcome}\n   said: {said!r}", flush=True)
        else:
            results.append((case, outcome))
        if os.environ.get("FAULTS_VERBOSE"):
            print(f"{':'.join(case)}: {outcome.splitlines()[0]}: {said!r}", flush=True)

    run_all(cases, options.jobs, deadline, report)
    seconds = time.monotonic() - begin
    counts = collections.Counter(outcome for _, outcome in results)
    print(f"{len(results) + bad} faults in {seconds:.0f} s ({missed} of them never came up): " + ", ".join(f"{counts[name]} {name}" for name in ORDER) + f"; {bad} bad")
    if options.write:
        write_table(table(results))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
