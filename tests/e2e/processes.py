"""Looking at processes from outside, and ending them. Needs nothing but Python itself."""
import collections
import os
import signal
import time


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def processes():
    """{pid: (parent, state, name)} of all processes."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        text = read(f"/proc/{entry}/stat")
        if ")" not in text:
            continue
        name = text[text.index("(") + 1:text.rindex(")")]
        fields = text[text.rindex(")") + 2:].split()
        found[int(entry)] = (int(fields[1]), fields[0], name)
    return found


def descendants(root=None, with_dead=False):
    """[(pid, state, name)] below a process (default: this one), parents first."""
    table = processes()
    children = collections.defaultdict(list)
    for pid, (parent, _, _) in table.items():
        children[parent].append(pid)
    result, queue = [], list(children[root or os.getpid()])
    while queue:
        pid = queue.pop(0)
        _, state, name = table[pid]
        if with_dead or state not in "ZX":
            result.append((pid, state, name))
        queue += children[pid]
    return result


def named(root, name):
    return [pid for pid, _, its_name in descendants(root) if its_name == name[:15]]


def is_alive(pid):
    text = read(f"/proc/{pid}/stat")
    return ")" in text and text[text.rindex(")") + 2] not in "ZX"


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG | 0x40000000)[0]:
            pass
    except ChildProcessError:
        pass


def wait_until(condition, seconds, step=0.005):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


def describe(root=None):
    """What every task below a process is doing; for the report of a hang."""
    lines = []
    for pid, state, name in descendants(root, with_dead=True):
        lines.append(f"{pid} {name} {state} parent {processes().get(pid, ('?',))[0]}")
        try:
            tasks = sorted(os.listdir(f"/proc/{pid}/task"), key=int)
        except OSError:
            continue
        for task in tasks[:12]:
            base = f"/proc/{pid}/task/{task}/"
            told = "State", "TracerPid", "SigPnd", "ShdPnd"
            state_line = " ".join(" ".join(l.split()) for l in read(base + "status").splitlines() if l.startswith(told))
            stack = " < ".join(l.split()[-1].split("+")[0] for l in read(base + "stack").splitlines()[:7])
            lines.append(f"    {task} {read(base + 'comm').strip()} {state_line} wchan={read(base + 'wchan')} syscall={read(base + 'syscall').strip()}"
                         f" stack={stack}")
    return "\n".join(lines)


def kill_all(root=None):
    """SIGKILL, by its id, to each process below one (default: this one): programs first, then the agents and the keeper."""
    for _ in range(100):
        found = descendants(root)
        if not found:
            break
        for pid, _, name in sorted(found, key=lambda one: one[2].startswith(("membox", "mbx-"))):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
        reap()
