"""The command line's side of a running container: ps, stat, set, kill, wait and the rest; who may use it, and what a killed keeper leaves behind."""
import json
import os
import signal
import stat
import subprocess
import time

import pytest

from boxes import BARE, MEMBOX, MIB, PYTHON, Run, ask, execute, is_alive, need_program, need_root, read, wait_until

pytestmark = pytest.mark.skipif(BARE, reason="about containers only")

NO_SUCH = "no such container (see `membox ps`)"


@pytest.fixture(autouse=True)
def runtime(box, monkeypatch):
    """A RUNTIME of each test's own: ps shows its containers and no others."""
    folder = box.folder / "run"
    monkeypatch.setenv("MEMBOX_RUNTIME_DIR", str(folder))
    yield folder
    for container in folder.glob("[!.]*"):
        ask(container.name, "kill", signal=signal.SIGKILL)


def membox(*words, timeout=30, **options):
    status, stdout, stderr, wall_s = execute([MEMBOX, *map(str, words)], timeout=timeout, **options)
    return Run(status, stdout.decode(), stderr, None, None, wall_s)


def done(run):
    assert run.status == 0 and run.stderr == "", run
    return run.stdout


def refused(run, status=125):
    assert run.status == status and run.stdout == "", run
    lines = run.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("membox: "), run.stderr
    return lines[0]


def start(box, name, *program, limit="64M", swap=False, **options):
    """A container in the background; it is there when this returns."""
    words = ["--swap", box.new_path("swap")] if swap else ["--no-swap"]
    assert done(membox("run", "--detach", "--name", name, "--limit", limit, *words, "--", *program, **options)) == f"{name}\n"
    return name


def hold(megabytes):
    return [PYTHON, "-c", f"import time; data = b'x' * ({megabytes} << 20); time.sleep(60)"]


def figures(name):
    return json.loads(done(membox("stat", name, "--json")))


def listed():
    return [one["name"] for one in json.loads(done(membox("ps", "--json")))]


def parent_of(pid):
    return int(read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[1])


def has_asked(process):
    """True when the command has sent its request: it sleeps for the answer."""
    return "poll" in read(f"/proc/{process.pid}/wchan")


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# ---- the folder -----------------------------------------------------------------------------------------------------------


def test_modes_are_narrow(box, runtime):
    """Acceptance H: folders 0700, files and socket 0600, whatever the umask is."""
    umask = os.umask(0)
    try:
        start(box, "a", "sleep", 60)
    finally:
        os.umask(umask)
    keeper = figures("a")["keeper"]  # it writes its pid before it answers
    assert mode(runtime) == 0o700 and mode(runtime / "a") == 0o700
    files = {path.name: path for path in (runtime / "a").iterdir()}
    assert {"control", "lock", "pid"} <= set(files)
    assert {mode(path) for path in files.values()} == {0o600}
    assert stat.S_ISSOCK(os.stat(files["control"]).st_mode)
    assert files["pid"].read_text() == f"{keeper}\n"
    done(membox("kill", "a"))
    assert wait_until(lambda: not (runtime / "a").exists(), 5)


def test_a_name_in_use_is_refused(box):
    start(box, "a", "sleep", 60)
    assert "a container of this name is running" in refused(membox("run", "--name", "a", "--no-swap", "--", "echo", "ran"))
    assert listed() == ["a"]


@pytest.mark.parametrize("way", ["write", "link"])
def test_an_unsafe_runtime_folder_is_refused(box, runtime, way):
    target = box.folder / "target"
    target.mkdir(mode=0o700)
    if way == "write":
        target.chmod(0o777)
        target.rename(runtime)
    else:
        runtime.symlink_to(target)
    assert str(runtime) in refused(membox("ps"))
    assert str(runtime) in refused(membox("stat", "a"))


def test_leftover_of_a_killed_keeper(box, runtime):
    """Keeper and guardian are killed: nobody could clean up. ps removes what they left, and the name is free."""
    start(box, "a", "sleep", 60)
    start(box, "b", "sleep", 60)
    all_of_a = figures("a")
    guardian = parent_of(all_of_a["keeper"])
    assert "guardian" in read(f"/proc/{guardian}/comm")
    for pid in guardian, all_of_a["keeper"], all_of_a["program"]:
        os.kill(pid, signal.SIGSTOP)
    for pid in guardian, all_of_a["keeper"], all_of_a["program"]:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not any(map(is_alive, (guardian, all_of_a["keeper"], all_of_a["program"]))), 5)
    assert NO_SUCH in refused(membox("stat", "a"), 1)
    assert (runtime / "a").exists()
    assert listed() == ["b"]
    assert not (runtime / "a").exists() and (runtime / "b").exists()
    start(box, "a", "sleep", 60)
    assert listed() == ["a", "b"]


def test_leftover_is_taken_over_by_the_next_of_its_name(box, runtime):
    (runtime / "a").mkdir(parents=True, mode=0o755)
    runtime.chmod(0o700)
    for name in "control", "lock", "pid", "something else":
        (runtime / "a" / name).write_text("1\n")
    start(box, "a", "sleep", 60)
    assert mode(runtime / "a") == 0o700 and not (runtime / "a" / "something else").exists()


def test_a_killed_keeper_leaves_nothing(box, runtime):
    """The guardian ends the container; who waits for it is told."""
    start(box, "a", "sleep", 60)
    keeper, program = figures("a")["keeper"], figures("a")["program"]
    with subprocess.Popen([MEMBOX, "wait", "a"], stderr=subprocess.PIPE) as waiting:
        assert wait_until(lambda: has_asked(waiting), 10)
        os.kill(keeper, signal.SIGKILL)
        _, stderr = waiting.communicate(timeout=20)
    assert waiting.returncode == 125 and b"membox: a: " in stderr and stderr.count(b"\n") == 1, stderr
    assert wait_until(lambda: not is_alive(program), 5)
    assert wait_until(lambda: listed() == [] and not (runtime / "a").exists(), 5)


# ---- other users ----------------------------------------------------------------------------------------------------------


def test_another_user_is_refused(box, runtime):
    """Acceptance H; B5: a listing shows a container's file only to those it belongs to."""
    need_root()
    start(box, "a", "sleep", 60)
    box.folder.chmod(0o755)  # otherwise the way there is closed, which proves nothing
    program = os.open(MEMBOX, os.O_RDONLY)
    as_other = {"executable": f"/proc/self/fd/{program}", "pass_fds": [program], "user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}

    def other(*words):
        result = subprocess.run(["membox", *words], capture_output=True, text=True, timeout=30, **as_other)
        return Run(result.returncode, result.stdout, result.stderr, None, None, 0)

    for words in [["stat", "a"], ["set", "a", "--limit", "1M"], ["kill", "a"], ["ps"]]:
        refused(other(*words))
    runtime.chmod(0o755)
    for words in [["stat", "a"], ["kill", "a"], ["ps"]]:
        assert "another user" in refused(other(*words))
    (runtime / "a").chmod(0o777)
    (runtime / "a" / "control").chmod(0o777)
    connect = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect({str(runtime / "a" / "control")!r})
try:
    s.sendall(b'{{"version": 1, "verb": "kill"}}\\n')
except BrokenPipeError:
    pass  # hung up already: why is there to be read
print(s.makefile().readline())
"""
    reply = subprocess.run([PYTHON, "-c", connect], capture_output=True, text=True, timeout=30)
    assert json.loads(reply.stdout)["errno"] == "EACCES", reply
    assert is_alive(figures("a")["program"])
    os.close(program)


# ---- listing --------------------------------------------------------------------------------------------------------------


def test_ps(box):
    """B5: which file serves which container."""
    assert json.loads(done(membox("ps", "--json"))) == []
    assert done(membox("ps")).count("\n") == 1
    start(box, "zeta", "sleep", 60, limit="64M")
    start(box, "alpha", "sh", "-c", "sleep 60; echo \t\x1b[31m", limit="1536M", swap=True)
    both = json.loads(done(membox("ps", "--json")))
    assert [one["name"] for one in both] == ["alpha", "zeta"]
    alpha, zeta = both
    assert alpha["rss_limit"] == 1536 * MIB and alpha["command"][0] == "sh" and alpha["swap_file"] and alpha["state"] == "running"
    assert zeta["swap_file"] is None and zeta["nr_processes"] == 1 and is_alive(zeta["program"]) and is_alive(zeta["keeper"])
    assert abs(zeta["started"] - time.time()) < 60 and 0 < zeta["rss_usage"] < 64 * MIB
    head, first, second = done(membox("ps")).splitlines()
    assert head.split() == ["NAME", "STATE", "PID", "PROCS", "MEMORY", "LIMIT", "SWAP", "AGE", "COMMAND"]
    assert "1.5G" in first and "sleep 60; echo ?" in first and "\x1b" not in first and second.startswith("zeta")


def test_ps_shows_a_keeper_that_is_stopped(box):
    start(box, "a", "sleep", 60)
    start(box, "b", "sleep", 60)
    keeper = figures("a")["keeper"]
    os.kill(keeper, signal.SIGSTOP)
    try:
        with subprocess.Popen([MEMBOX, "ps"], stdout=subprocess.PIPE, text=True) as text:
            objects = json.loads(done(membox("ps", "--json")))
            assert "no answer" in text.communicate(timeout=20)[0] and text.returncode == 0
        assert [(one["name"], one["state"]) for one in objects] == [("a", "no answer"), ("b", "running")]
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert figures("a")["state"] == "running"


def test_ps_while_containers_come_and_go(box):
    """Whatever ends while it is being asked is left out without a word."""
    script = f'for i in $(seq 12); do "{MEMBOX}" run --no-swap --limit 64M -- true || exit 1; done'
    runs = [subprocess.Popen(["sh", "-c", script], stderr=subprocess.PIPE) for _ in range(3)]
    while any(run.poll() is None for run in runs):
        done(membox("ps", "--json"))
    assert [(run.returncode, run.communicate()[1]) for run in runs] == [(0, b"")] * 3
    assert listed() == []


def test_stat(box):
    """A4, B5: how full the file is."""
    start(box, "a", *hold(20), swap=True)
    wait_until(lambda: figures("a")["anon"] > 20 * MIB, 10)
    a = figures("a")
    assert a["name"] == "a" and a["state"] == "running" and a["swap_file"].startswith("/") and "oom_report" in a and "figures" not in a and "ok" not in a
    for name in ("rss_usage", "rss_limit", "rss_max_usage", "rss_failcnt", "rss_reclaimed", "active", "inactive", "unevictable", "anon", "file", "pool", "pool_stored",
                 "swap_used", "swap_total", "faults", "refaults", "swap_in", "swap_out", "clean_drops", "oom_kills", "nr_processes", "exit_status", "wall_us"):
        assert isinstance(a[name], int), name
    assert [member["pid"] for member in a["members"]] == [a["program"]] and a["members"][0]["rss"] > 20 * MIB
    text = done(membox("stat", "a"))
    for part in "running", "time.sleep(60)", "rss_max_usage", "OOM ADJ", "limit 64M", a["swap_file"]:
        assert part in text, text


def test_stat_watch_ends_with_the_container(box):
    start(box, "a", "sleep", 60)
    with subprocess.Popen([MEMBOX, "stat", "a", "--json", "--watch", "0.02"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        samples = [json.loads(watching.stdout.readline()) for _ in range(3)]
        done(membox("kill", "a"))
        stdout, stderr = watching.communicate(timeout=20)
    assert watching.returncode == 0 and stderr == "", stderr
    assert samples[0]["wall_us"] < samples[1]["wall_us"] < samples[2]["wall_us"]


# ---- the end --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script, status", [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 128 + signal.SIGTERM)])
def test_wait_has_the_status_of_the_program(box, script, status):
    os.mkfifo(box.folder / "go")
    start(box, "a", "sh", "-c", f"read line < {box.folder}/go; {script}")
    waiting = [subprocess.Popen([MEMBOX, "wait", "a"], stderr=subprocess.PIPE) for _ in range(3)]
    assert wait_until(lambda: all(map(has_asked, waiting)), 10)
    (box.folder / "go").write_text("\n")
    assert [(one.communicate(timeout=20)[1], one.returncode) for one in waiting] == [(b"", status)] * 3


@pytest.mark.parametrize("options, expected", [([], signal.SIGKILL), (["-s", "TERM"], signal.SIGTERM), (["--signal", "sigusr1"], signal.SIGUSR1),
                                               (["-s", str(int(signal.SIGHUP))], signal.SIGHUP)])
def test_kill(box, options, expected):
    process = box.start(["sleep", "60"], "64M", args=["--name", "a"])
    assert wait_until(lambda: ask("a", "describe"), 10)
    done(membox("kill", "a", *options))
    process.communicate(timeout=20)
    assert process.returncode == 128 + expected


def test_kill_reaches_the_whole_container(box):
    start(box, "a", "sh", "-c", "sleep 60 & sleep 60 & wait")
    assert wait_until(lambda: figures("a")["nr_processes"] == 3, 10)
    pids = [member["pid"] for member in figures("a")["members"]]
    done(membox("kill", "a"))
    assert wait_until(lambda: not any(map(is_alive, pids)), 5)


# ---- changing it ----------------------------------------------------------------------------------------------------------


def test_the_verbs_do_what_they_say(box):
    start(box, "a", *hold(40), limit="128M")
    wait_until(lambda: figures("a")["anon"] > 40 * MIB, 10)
    assert refused(membox("park", "a"), 1) == "membox: a: the container has no swap file (membox swapon gives it one)"
    swap = box.folder / "late.swap"
    done(membox("swapon", "a", "late.swap", "--size", "100M", cwd=box.folder))
    assert mode(swap) == 0o600 and figures("a")["swap_file"] == str(swap)
    done(membox("set", "a", "--limit", "32M"))
    assert figures("a")["rss_limit"] == 32 * MIB and figures("a")["swap_used"] > 0
    assert done(membox("reclaim", "a", "4M")).endswith(" reclaimed\n")
    assert "MiB reclaimed" in done(membox("reclaim", "a", "all"))
    done(membox("park", "a"))
    assert figures("a")["state"] == "parked"
    done(membox("unpark", "a"))
    assert "not parked" in refused(membox("unpark", "a"), 1)
    assert "raise it with membox set" in refused(membox("swapoff", "a"), 1)
    done(membox("set", "a", "--limit", "128M"))
    done(membox("swapoff", "a"))
    assert figures("a")["swap_file"] is None
    assert "too small" in refused(membox("set", "a", "--limit", "4096"), 1)
    assert figures("a")["rss_limit"] == 128 * MIB


def test_release(box, runtime):
    """An attached process is on its own again; one that membox has started keeps its parent, and has no limit."""
    with subprocess.Popen(["sleep", "60"]) as attached:
        done(membox("attach", "--name", "a", "--no-swap", attached.pid))
        start(box, "b", "sleep", 60)
        done(membox("release", "a"))
        done(membox("release", "b"))
        assert wait_until(lambda: not (runtime / "a").exists(), 5)
        assert listed() == ["b"] and is_alive(attached.pid) and is_alive(figures("b")["program"])
        assert "  none  " in done(membox("ps"))
        done(membox("set", "b", "--limit", "100M"))
        assert figures("b")["rss_limit"] == 100 * MIB
        attached.kill()


# ---- bad command lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["stat", "none"], ["set", "none", "--limit", "1G"], ["reclaim", "none"], ["park", "none"], ["unpark", "none"], ["kill", "none"],
                                   ["swapon", "none", "f"], ["swapoff", "none"], ["release", "none"], ["stat", "../none"], ["stat", ""]], ids=" ".join)
def test_no_such_container(words):
    assert NO_SUCH in refused(membox(*words), 1)


def test_no_such_container_to_wait_for():
    assert NO_SUCH in refused(membox("wait", "none"))


@pytest.mark.parametrize("words", [["stat"], ["stat", "a", "b"], ["stat", "a", "1", "2"], ["stat", "a", "--watch", "x"], ["stat", "a", "--watch=-1"], ["stat", "a", "--watch=1", "1"],
                                   ["set", "a"], ["set", "a", "--limit"], ["set", "a", "--limit", "x"], ["set", "a", "--limit", "99999999T"],
                                   ["set", "a", "--limit", "1M", "--limit", "2M"], ["set", "--limit", "1M"], ["reclaim"], ["reclaim", "a", "much"], ["reclaim", "a", "1M", "b"],
                                   ["park"], ["park", "a", "b"], ["park", "--json", "a"], ["kill"], ["kill", "a", "-s"], ["kill", "a", "-s", "NONE"], ["kill", "a", "-s", "0"],
                                   ["kill", "a", "-9"], ["wait"], ["park", "-s", "9", "a"], ["swapon", "a"], ["swapon", "a", ""], ["swapon", "a", "f", "--size", "x"], ["swapoff"],
                                   ["release"], ["ps", "a"], ["ps", "--wrong"]], ids=" ".join)
def test_malformed_command_line(words):
    refused(membox(*words))


@pytest.mark.parametrize("verb", "ps stat set reclaim park unpark kill wait swapon swapoff release".split())
def test_help(verb):
    assert done(membox(verb, "--help")).startswith(f"Usage: membox {verb} ")
    assert done(membox("help", verb)) == done(membox(verb, "--help"))


# ---- the library ----------------------------------------------------------------------------------------------------------


def test_a_program_with_the_library(box):
    compiler, _ = need_program("cc"), need_program("pkg-config")
    folder = MEMBOX.parent / "meson-uninstalled"
    if not (folder / "libmembox-uninstalled.pc").exists():
        pytest.skip("not a build folder")
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libmembox-uninstalled"], capture_output=True, text=True, check=True,
                           env={**os.environ, "PKG_CONFIG_PATH": str(folder)}).stdout.split()
    source = box.folder / "client.c"
    source.write_text("""
#include <membox.h>
#include <stdio.h>
static int count(const char *name, void *context) { ++*(int *)context; puts(name); return 0; }
int main(void)
{
	struct membox *m = membox_new();
	int nr = 0;
	uint64_t signalled = 0;
	if (membox_list(m, count, &nr) || nr != 1 || membox_connect(m, "a"))
		return 1;
	if (membox_set_limit(m, 1) == 0 || !membox_was_refused(m))
		return 2;
	puts(membox_error(m));
	if (membox_set_limit(m, 32 << 20) || membox_kill(m, 9, &signalled) || signalled != 1)
		return 3;
	membox_free(m);
	return 0;
}
""")
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", source, "-o", box.folder / "client", *flags], check=True)
    start(box, "a", "sleep", 60)
    status, stdout, stderr, _ = execute([box.folder / "client"], timeout=30)
    assert status == 0 and stdout == b"a\na: the limit is too small (the least is 1M)\n", (status, stdout, stderr)
