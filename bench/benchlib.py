"""What the benchmarks share: places, running one side, medians, the table."""
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("MEMBOX_BUILD", ROOT / "build")).absolute()
MEMBOX = os.environ.get("MEMBOX", str(BUILD / "membox"))
VICTIMS = pathlib.Path(os.environ.get("MEMBOX_VICTIMS", BUILD / "tests/victims"))
PRETOUCH = BUILD / "bench/pretouch"
FOLDER = pathlib.Path(os.environ.get("MEMBOX_BENCH_FOLDER", "/var/tmp"))


def check_built():
    missing = [str(path) for path in (pathlib.Path(MEMBOX), VICTIMS / "touch-pages", PRETOUCH) if not path.exists()]
    if missing:
        sys.exit(f"not built: {', '.join(missing)} (run make)")


def pretouch(megabytes):
    subprocess.run([PRETOUCH, str(megabytes)], check=True)


def seconds(command, most=300):
    """Wall time of a command that has to succeed. Waiting with a timeout would look at it every 50 ms at the end: an alarm ends what hangs."""
    process = None

    def give_up(number, frame):
        if process:
            process.kill()
        sys.exit(f"{' '.join(map(str, command))}: not done after {most} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(most)
    begin = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    status = process.wait()
    taken = time.monotonic() - begin
    signal.alarm(0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: status {status}")
    return taken


def run(command, allowed=(0,)):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600)
    if done.returncode not in allowed:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}: {done.stderr}")
    return done


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


def spread(values):
    return f"{statistics.median(values):9.3f} [{min(values):.3f} .. {max(values):.3f}]"
