"""Real programs, checkpointed at random moments, killed and made again, come to the same result (issue: twenty times each with MEMBOX_TEST_SCALE=full)."""
import os
import pathlib
import random
import shutil
import subprocess
import time

import pytest

from boxes import FULL, MIB, PYTHON, need_program, scale, victim
from processes import wait_until
from test_checkpoint import COUNT, Saved, bare, go_through, membox, root_only, saved  # noqa: F401 (fixtures)

pytestmark = [pytest.mark.usefixtures("root_only"), pytest.mark.skipif(not FULL, reason="takes minutes: MEMBOX_TEST_SCALE=full runs it")]
TIMES = int(os.environ.get("MEMBOX_CHECKPOINTS", "20"))


def same_result(saved, program, longest=0.6, limit=256 * MIB, least=TIMES // 2, cwd=None):
    """Until it ends, TIMES at most; then it must be as bare. Returns how often it was saved."""
    output, status = bare(program, cwd=cwd)
    one, boxed, times = go_through(saved, program, TIMES, longest, limit=limit, cwd=cwd)
    assert (boxed, one.output.read_bytes()) == (status, output), f"after {times} checkpoints: {one.errors()[-3000:]}"
    assert times >= least, f"{times} checkpoints only"
    return times


def test_python_computation_with_a_log(saved, shared_folder):
    logs = [pathlib.Path(shared_folder) / name for name in ("log.bare", "log")]
    bare([PYTHON, "-c", COUNT, logs[0], 150 * TIMES])
    one, status, times = go_through(saved, [PYTHON, "-c", COUNT, logs[1], 150 * TIMES], TIMES, 0.5, limit=64 * MIB)
    assert status == 0 and times >= TIMES // 2, (times, one.errors())
    assert logs[0].read_bytes() == logs[1].read_bytes()


def test_threads_with_vectors_timers_and_signals(saved):
    same_result(saved, [victim("keep-state"), 200 * TIMES], longest=0.3, limit=32 * MIB)


def test_pipeline_of_four(saved):
    script = f"i=0; while [ $i -lt {60000 * TIMES} ]; do echo $((i * 7919 % 60013)); i=$((i+1)); done | sort -n -S 8M | tee /dev/null | cksum"
    same_result(saved, ["bash", "-c", script], longest=0.4)


SQL = """
create table t(id integer primary key, x integer, text text);
begin; with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000) insert into t select i, i * 7919 % 100003, hex(i * 31) from n; commit;
create index t_x on t(x);
with recursive r(i) as (select 1 union all select i + 1 from r where i < {rounds}) select i, (select sum(a.x) + count(distinct a.text) from t a where a.x % 20 = i % 20) from r;
update t set x = x + 1 where id % 3 = 0; delete from t where id % 7 = 0; vacuum;
select count(*), sum(x), min(text), max(text) from t; pragma integrity_check;
with recursive r(i) as (select 1 union all select i + 1 from r where i < {rounds}) select i, (select sum(a.x * i) from t a join t b on a.id = b.id + 1 where a.x % 50 = b.x % 50) from r;
"""


def test_sqlite(saved, shared_folder):
    """A database in a file, with its locks and its journal."""
    folder, program, script = pathlib.Path(shared_folder), need_program("sqlite3"), SQL.format(rounds=20 * TIMES)
    output, status = bare([program, folder / "bare.db", script])
    one, boxed, times = go_through(saved, [program, folder / "saved.db", script], TIMES, 0.4)
    assert (boxed, one.output.read_bytes()) == (status, output), f"after {times}: {one.errors()[-3000:]}"
    assert times >= TIMES // 2


NODE = """
const { spawn } = require('child_process');
let done = 0, ticks = 0, total = 0;
const table = new Map();
for (let i = 0; i < 200000; i++) table.set('k' + i, { i, text: 'v'.repeat(i % 40) });
const timer = setInterval(() => { ticks++; total = (total * 31 + table.get('k' + (ticks * 7919 % 200000)).text.length) % 1000003; if (ticks == 1000) { clearInterval(timer); finish(); } }, 10);
for (let c = 0; c < 3; c++) {
  const child = spawn('sh', ['-c', 'i=0; while [ $i -lt 200 ]; do echo line $i; sleep 0.03; i=$((i+1)); done; exit ' + c]);
  let lines = 0;
  child.stdout.on('data', d => { lines += d.toString().split('\\n').length - 1; });
  child.on('close', code => { console.log('child', code, lines); finish(); });
}
function finish() { if (++done == 4) { console.log(ticks, total); process.exitCode = 4; } }
"""


def lines_of(data):
    return sorted(data.splitlines())


def test_node_with_timers_and_children(saved, shared_folder):
    script = pathlib.Path(shared_folder) / "node.js"
    script.write_text(NODE)
    program = [need_program("node"), script]
    output, status = bare(program)
    one, boxed, times = go_through(saved, program, TIMES, 0.4)
    assert (boxed, lines_of(one.output.read_bytes())) == (status, lines_of(output)), f"after {times}: {one.errors()[-3000:]}"
    assert times >= TIMES // 2


JAVA = """
import java.util.*;
import java.util.concurrent.*;
public class Threads {
    static long work(int seed) {
        Random r = new Random(seed);
        HashMap<Long, String> map = new HashMap<>();
        long total = 0;
        for (int round = 0; round < ROUNDS; round++) {
            for (int i = 0; i < 1000; i++) map.put(r.nextLong() >>> 51, "value" + i);
            for (long k : new TreeSet<>(map.keySet())) total = total * 31 + k + map.get(k).hashCode();
            try { Thread.sleep(20); } catch (InterruptedException e) { throw new RuntimeException(e); }
        }
        return total;
    }
    public static void main(String[] a) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(20);
        List<Future<Long>> results = new ArrayList<>();
        for (int i = 0; i < 40; i++) { final int s = i; results.add(pool.submit(() -> work(s))); }
        for (Future<Long> f : results) System.out.println(f.get());
        pool.shutdown();
        System.exit(5);
    }
}
"""


def test_java_with_twenty_threads(saved, shared_folder):
    source = pathlib.Path(shared_folder) / "Threads.java"
    source.write_text(JAVA.replace("ROUNDS", str(8 * TIMES)))
    subprocess.run([need_program("javac"), "-d", shared_folder, source], check=True)
    same_result(saved, [need_program("java"), "-Xmx256m", "-cp", shared_folder, "Threads"], limit=400 * MIB, least=TIMES // 4)


def test_make_in_the_middle(saved, shared_folder):
    """Processes start and end all the time."""
    folder, rng = pathlib.Path(shared_folder) / "make", random.Random(3)
    folder.mkdir()
    names = [f"part{i}" for i in range(max(10, 3 * TIMES))]
    for name in names:
        (folder / f"{name}.c").write_text("".join(f"int {name}_{k}(int x) {{ for (int i = 0; i < x; i++) x ^= i * {rng.randint(3, 999)}; return x; }}\n" for k in range(50)))
    (folder / "Makefile").write_text("all: whole.a\n%.o: %.c\n\t@gcc -O2 -c $< -o $@\nwhole.a: " + " ".join(f"{name}.o" for name in names) + "\n\t@rm -f $@; ar Drc $@ $^\n"
                                     "\t@echo built\n")
    program = [need_program("make"), "-j2", "-s"]
    assert bare(program, cwd=folder) == (b"built\n", 0)
    archive = (folder / "whole.a").read_bytes()
    for path in (*folder.glob("*.o"), folder / "whole.a"):
        path.unlink()
    one, status, times = go_through(saved, program, TIMES, 0.4, cwd=folder)
    assert (status, one.output.read_bytes()) == (0, b"built\n"), f"after {times}: {one.errors()[-3000:]}"
    assert (folder / "whole.a").read_bytes() == archive and times >= TIMES // 4


def test_redis_with_much_data(saved, shared_folder):
    """Clients come between the checkpoints; those that are there when it is saved would be refused."""
    socket, megabytes = pathlib.Path(shared_folder) / "much.sock", int(os.environ.get("MEMBOX_REDIS_MB", "500"))

    def ask(*words):
        return subprocess.run([need_program("redis-cli"), "-s", socket, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=120).stdout
    one = saved([need_program("redis-server"), "--save", "", "--port", "0", "--unixsocket", socket, "--enable-debug-command", "yes"], limit=megabytes * 2 * MIB)
    assert wait_until(lambda: ask("PING") == b"PONG\n", 30), one.errors()
    assert ask("DEBUG", "POPULATE", megabytes * 1000, "key", 1000) == b"OK\n"
    digest = ask("DEBUG", "DIGEST")
    for n in range(TIMES):
        one.checkpoint()
        assert one.status() == 137
        one.restore()
        assert wait_until(lambda: ask("PING") == b"PONG\n", 30), one.errors()
        if n % 5 == 4:
            assert ask("DEBUG", "DIGEST") == digest
    assert ask("DEBUG", "DIGEST") == digest
    ask("SHUTDOWN", "NOSAVE")
    assert one.status() == 0, one.errors()


@pytest.fixture
def postgres():
    """(user id, folder of the programs): it refuses to run as root."""
    import pwd
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("postgresql is not installed")
    need_program("setpriv")
    try:
        return pwd.getpwnam("postgres"), found[-1].parent
    except KeyError:
        pytest.skip("there is no user postgres")


def test_postgres(postgres, monkeypatch):
    """A server of several processes with shared memory, idle when it is saved; as an ordinary user with two capabilities."""
    user, programs = postgres
    folder = pathlib.Path("/var/tmp") / f"membox-postgres-{os.getpid()}"
    caps = "+sys_ptrace,+checkpoint_restore"
    prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", f"--inh-caps={caps}", f"--ambient-caps={caps}"]
    monkeypatch.setenv("MEMBOX_RUNTIME_DIR", str(folder / "run"))
    folder.mkdir()
    os.chown(folder, user.pw_uid, user.pw_gid)

    def ask(sql):
        return subprocess.run([programs / "psql", "-h", folder, "-U", "postgres", "-d", "postgres", "-Atc", sql], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120, cwd="/").stdout.strip()

    def is_idle():
        return ask("select count(*) from pg_stat_activity where backend_type = 'client backend'") == "1" and not subprocess.run(
            ["pgrep", "-f", "^postgres: postgres"], stdout=subprocess.DEVNULL).returncode == 0
    try:
        subprocess.run([*prefix[:4], programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync"], check=True, stdout=subprocess.DEVNULL, cwd=folder)
        (folder / "saved").mkdir()
        (folder / "saved" / "output").touch()  # which the restored ones open again
        (folder / "saved" / "errors").touch()
        for path in (folder / "saved", *(folder / "saved").iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        one = Saved(folder / "saved", [programs / "postgres", "-D", folder / "data", "-k", folder, "-h", "", "-c", "logging_collector=off"], prefix=prefix, cwd=folder, limit=256 * MIB)
        assert wait_until(lambda: ask("select 1") == "1", 30), one.errors()
        assert ask("create table t as select i, md5(i::text) as text from generate_series(1, 100000) i") == "SELECT 100000"
        expected = ask("select count(*), md5(string_agg(text, '' order by i)) from t")
        for n in range(TIMES):
            assert wait_until(is_idle, 20)
            one.checkpoint()
            assert one.status() == 137
            one.restore()
            assert wait_until(lambda: ask("select 1") == "1", 30), one.errors()[-3000:]
            assert ask("select count(*), md5(string_agg(text, '' order by i)) from t") == expected
            assert ask(f"insert into t values (-{n + 1}, 'x'); delete from t where i < 0; select count(*) from t").splitlines()[-1] == "100000"
        subprocess.run(["kill", "-INT", (folder / "data" / "postmaster.pid").read_text().split()[0]], check=True)
        assert one.status() == 0, one.errors()[-3000:]
    finally:
        membox("kill", one.name, check=False)
        shutil.rmtree(folder, ignore_errors=True)
