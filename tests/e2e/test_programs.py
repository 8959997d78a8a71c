"""Output and exit status of real programs are those of a bare run, at 50 % and 25 % of the memory that the bare run takes."""
import os
import random

import pytest

from boxes import FULL, MIB, PYTHON, need_program, scale, victim

LIMITS = [50, 25]
FLOOR = 8 * MIB


def make_text(folder, megabytes):
    path = os.path.join(folder, f"text-{megabytes}")
    if not os.path.exists(path):
        rng = random.Random(5)
        words = ["%x" % rng.getrandbits(rng.randint(8, 60)) for _ in range(50000)]
        with open(path + ".part", "w") as file:
            left = megabytes * 1000 * 1000
            while left > 0:
                chunk = "".join(" ".join(rng.choices(words, k=8)) + "\n" for _ in range(2000))
                file.write(chunk)
                left -= len(chunk)
        os.rename(path + ".part", path)
    return path


def make_file(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def sort(folder):
    return [need_program("sort"), "--parallel=4", "-S", "2G", make_text(folder, scale(16, 200))]


PYTHON_DICTS = """
import random, sys
n = int(sys.argv[1])
r = random.Random(1)
d = {r.getrandbits(60): str(i) * 3 for i in range(n)}
keys = sorted(d)
total = 0
for k in keys[::3]:
    total = (total * 31 + len(d[k]) + k) % (2**61 - 1)
by_value = sorted(d.items(), key=lambda kv: kv[1])
print(total, by_value[0], by_value[-1], by_value[n // 2])
lists = [[i] * 20 for i in range(n // 4)]
random.Random(2).shuffle(lists)
print(sum(l[7] for l in lists), lists[5][0])
sys.exit(3)
"""


def python_dicts(folder):
    return [PYTHON, "-c", PYTHON_DICTS, str(scale(50000, 2000000))]


PYTHON_POOL = """
import multiprocessing, random, subprocess, sys
n = int(sys.argv[1])
shared = [random.Random(i).getrandbits(64) for i in range(n)]
def work(seed):
    r = random.Random(seed)
    own = {r.getrandbits(40): i for i in range(n // 2)}
    ordered = sorted(own)
    total = sum(shared[(k + seed) % n] ^ own[k] for k in ordered)
    child = subprocess.run([sys.executable, "-c", "print(sum(i * i for i in range(100000)))"], capture_output=True, text=True)
    return seed, total, child.stdout.strip(), child.returncode
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        for line in pool.map(work, range(8)):
            print(line)
    out = subprocess.run("sort -n | tail -3", shell=True, input="\\n".join(map(str, shared)), capture_output=True, text=True)
    print(out.stdout, out.returncode)
"""


def python_multiprocessing(folder):
    return [PYTHON, make_file(folder, "pool.py", PYTHON_POOL), str(scale(30000, 1000000))]


NODE = """
const n = +process.argv[2];
let seed = 7;
const next = () => (seed = (seed * 1103515245 + 12345) % 2147483648);
const map = new Map();
for (let i = 0; i < n; i++) map.set('key' + next(), { i, text: 'v'.repeat(i % 50), list: [i, i + 1] });
const keys = [...map.keys()].sort();
let total = 0;
for (const k of keys) { const v = map.get(k); total = (total * 31 + v.i + v.text.length + v.list[1]) % 1000000007; }
const buffers = [];
for (let i = 0; i < 32; i++) buffers.push(Buffer.alloc(1 << 20, i));
for (let i = 0; i < 32; i++) if (buffers[i][12345] !== i) throw new Error('buffer ' + i);
console.log(map.size, total, keys[0], keys[keys.length - 1]);
process.exitCode = 4;
"""


def node(folder):
    return [need_program("node"), make_file(folder, "map.js", NODE), str(scale(60000, 1000000))]


JAVA = """
import java.util.*;
import java.util.concurrent.*;
public class Maps {
    static long work(int seed, int n) {
        Random r = new Random(seed);
        HashMap<Long, String> map = new HashMap<>();
        for (int i = 0; i < n; i++) map.put(r.nextLong() >>> 20, "value" + i);
        ArrayList<Long> keys = new ArrayList<>(map.keySet());
        Collections.sort(keys);
        long total = 0;
        for (long k : keys) total = total * 31 + k + map.get(k).hashCode();
        return total;
    }
    public static void main(String[] a) throws Exception {
        int n = Integer.parseInt(a[0]);
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<Long>> results = new ArrayList<>();
        for (int i = 0; i < 8; i++) { final int s = i; results.add(pool.submit(() -> work(s, n))); }
        for (Future<Long> f : results) System.out.println(f.get());
        pool.shutdown();
        System.exit(5);
    }
}
"""


def java(folder):
    need_program("java")
    source = make_file(folder, "Maps.java", JAVA)
    if not os.path.exists(os.path.join(folder, "Maps.class")):
        import subprocess
        subprocess.run([need_program("javac"), "-d", folder, source], check=True)
    return ["java", "-Xmx1g", "-cp", folder, "Maps", str(scale(20000, 500000))]


PERL = r"""
my %h; my $seed = 3; my $n = shift;
for my $i (1 .. $n) { $seed = ($seed * 1103515245 + 12345) % 2147483648; $h{"k$seed"} = "v$i" x ($i % 5 + 1); }
my $t = 0; my $j = 0; for my $k (sort keys %h) { next if $j++ % 20; $t = ($t * 31 + length($h{$k}) + ord(substr($k, -1))) % 1000000007; }
print scalar(keys %h), " $t\n"; exit 6;
"""


def perl(folder):
    return [need_program("perl"), "-e", PERL, str(scale(80000, 3000000))]


SQL = """
create table a(id integer primary key, x integer, t text);
create table b(id integer primary key, a_id integer, y integer);
with recursive n(i) as (select 1 union all select i + 1 from n where i < {n}) insert into a select i, i / 10 + i % 10, hex(i * 31) || 'padpadpad' from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < {n}) insert into b select i, (i + (i * 7919) % 3000) % {n} + 1, i % 101 from n;
create index b_a on b(a_id); create index a_x on a(x);
select count(*), sum(a.x * b.y), min(a.t), max(a.t) from a join b on b.a_id = a.id;
select a.x % 10, count(*), sum(b.y) from a join b on b.a_id = a.id group by 1 order by 1;
select t from a order by t desc limit 5;
"""


def sqlite3(folder):
    return [need_program("sqlite3"), ":memory:", SQL.format(n=scale(100000, 1500000))]


def xz(folder):
    return [need_program("xz"), "-T4", "-9", "-c", *scale(["--block-size=3MiB"], []), make_text(folder, scale(12, 200))]


def gcc(folder):
    rng = random.Random(9)
    n = scale(150, 8000)
    body = "".join(f"int f{i}(int *p, int n) {{ int s = {i}; for (int k = 0; k < n; k++) {{ s += p[k] * {rng.randint(3, 99)}; if (s & {1 << rng.randint(0, 9)})"
                   f" p[k] ^= s % {rng.randint(2, 50)}; switch (s % 7) {{ case 0: s -= k; break; case 3: s ^= p[(k + {i}) % n]; break; case 5: s *= 3; }} }} return s"
                   f" + {f'f{i - 1}(p, n / 2)' if i else 0}; }}\n" for i in range(n))
    return [need_program("gcc"), "-O2", "-S", "-o", "-", make_file(folder, "large.c", body)]


def busybox(folder):
    program = need_program("busybox")
    text = make_text(folder, scale(15, 100))
    script = f"{program} sort {text} | {program} awk '{{ c[$1 $2]++; n += length($0) }} END {{ for (k in c) m += c[k]; print n, m }}'"
    return [program, "sh", "-c", f"{script}; {program} sort -r {text} | {program} md5sum; exit 9"]


PROGRAMS = {f.__name__: f for f in (sort, python_dicts, python_multiprocessing, node, java, perl, sqlite3, xz, gcc, busybox)}


# Programs that touch all of their memory at random: known to be slow (README, limits).
SLOW = {50: ("perl", "xz", "busybox"), 25: ("perl", "xz", "busybox", "sort", "java", "python_multiprocessing", "gcc")}


@pytest.mark.parametrize("percent", LIMITS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_same_output(box, shared_folder, bare_runs, name, percent):
    if name in SLOW[percent] and not FULL:
        pytest.skip("may take minutes in so little memory: MEMBOX_TEST_SCALE=full runs it")
    command = PROGRAMS[name](shared_folder)
    env = {"LC_ALL": "C", "PYTHONHASHSEED": "0"}
    if name not in bare_runs:
        bare_runs[name] = box.run_bare(command, env=env)
    bare = bare_runs[name]
    limit = max(bare.sample["peak"] * percent // 100, FLOOR)
    boxed = box.run_boxed(command, limit, env=env)
    assert (boxed.status, boxed.stderr) == (bare.status, bare.stderr), f"limit {limit >> 20} MiB: {boxed.stderr[-2000:]}"
    assert boxed.stdout == bare.stdout, f"limit {limit >> 20} MiB: {len(boxed.stdout)} bytes of output, {len(bare.stdout)} bare"
    if boxed.stats:
        assert boxed.stats["exit_status"] == bare.status
        assert boxed.stats["rss_limit"] <= limit


@pytest.mark.parametrize("percent", LIMITS)
def test_stress_ng_verifies(box, bare_runs, percent):
    program = [need_program("stress-ng"), "--vm", "2", "--vm-bytes", scale("96M", "512M"), "--vm-method", "all", "--verify", "-t", str(scale(4, 30)), "--temp-path", box.folder]
    if "stress-ng" not in bare_runs:
        bare_runs["stress-ng"] = box.run_bare(program)
    bare = bare_runs["stress-ng"]
    boxed = box.run_boxed(program, bare.sample["peak"] * percent // 100)
    assert (bare.status, boxed.status) == (0, 0), boxed.stderr
    assert "fail:" not in boxed.stderr + boxed.stdout.decode()


@pytest.mark.parametrize("percent", LIMITS)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("mode", ["seq-read", "seq-write", "rand-read", "rand-write", "zipf-read", "zipf-write"])
def test_touch_pages(box, mode, threads, percent):
    megabytes = scale(64, 512)
    run = box.run_victim("touch-pages", megabytes, mode, 2048, threads, limit=megabytes * percent // 100 * MIB)
    assert b"bad=0" in run.stdout


@pytest.mark.parametrize("name", ["touch-new-memory-static", "touch-new-memory-musl"])
def test_static_program(box, name):
    assert box.run_victim(name, 128, 4, "split", limit=48 * MIB).stdout == b"right\n"


def test_huge_pages_are_no_obstacle(box):
    """Memory made of huge pages by the program's own wish."""
    script = ("import mmap, sys\nm = mmap.mmap(-1, 128 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nm.madvise(14)\n"
              "for i in range(0, len(m), 4096): m[i:i+8] = i.to_bytes(8, 'little')\n"
              "sys.exit(any(m[i:i+8] != i.to_bytes(8, 'little') for i in range(0, len(m), 4096)))")
    run = box.run_boxed([PYTHON, "-c", script], 48 * MIB)
    assert run.status == 0, run.stderr


def test_transparent_victim_finds_its_binary(box):
    run = box.run_boxed(["sh", "-c", "echo $0 \"$@\"", "zero", "a b", "", "c"], 64 * MIB)
    assert (run.status, run.stdout) == (0, b"zero a b  c\n")
