"""Trees of real programs in one container at half of their summed memory (pages that they share counted once): the results are right."""
import hashlib
import os
import pathlib
import shutil
import socket

import pytest

from boxes import MIB, PYTHON, kill_all, need_program, overshoot, scale

FLOOR = 8 * MIB


def same_as_bare(box, command, percent=50, **options):
    """Runs it bare, then with half of what it took. Returns the boxed run."""
    bare = box.run_bare(command, **options)
    assert bare.status == 0, bare.stderr
    limit = max(bare.sample["peak"] * percent // 100, FLOOR)
    boxed = box.run_boxed(command, limit, sample=True, **options)
    assert (boxed.status, boxed.stdout) == (0, bare.stdout), f"limit {limit >> 20} MiB: {boxed.stderr[-2000:]}"
    if boxed.stats:
        print(limit, boxed.stats, boxed.sample)
        assert boxed.stats["oom_kills"] == 0 and boxed.stats["rss_max_usage"] <= limit + overshoot(limit, boxed.sample)
    return boxed


def test_shell_pipeline(box):
    lines = scale(60000, 2000000)
    generate = f"import random; r = random.Random(3); [print('%x' % r.getrandbits(r.randint(8, 60)), i % 977) for i in range({lines})]"
    script = f"{PYTHON} -c \"{generate}\" | sort -S 32M | awk '{{ n[$2]++; s += length($1) }} END {{ for (k in n) print k, n[k]; print s }}' | sort -n | {PYTHON} -c \"" \
             "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())\""
    same_as_bare(box, ["sh", "-c", script], env={"LC_ALL": "C"})


def test_make_of_a_c_project(box):
    """make -j4, a few dozen files, and the program that comes out of it is run."""
    for name in ("make", "gcc"):
        need_program(name)
    files, functions = scale(3, 120), scale(6, 40)
    for i in range(files):
        body = "\n".join(f"int f{i}_{k}(int x) {{ int s = {i * k}; for (int j = 0; j < x; j++) s = s * {k + 3} + (j ^ {i}) % {k + 7}; return s; }}" for k in range(functions))
        (box.folder / f"part{i}.c").write_text(f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{body}\nint part{i}(int x) {{ return "
                                               + " + ".join(f"f{i}_{k}(x)" for k in range(functions)) + "; }\n")
    (box.folder / "main.c").write_text("#include <stdio.h>\n" + "".join(f"int part{i}(int);\n" for i in range(files))
                                       + "int main(void) { unsigned s = 0;\n" + "".join(f"s = s * 31 + part{i}(9);\n" for i in range(files)) + 'printf("%u\\n", s); }\n')
    objects = " ".join(f"part{i}.o" for i in range(files)) + " main.o"
    (box.folder / "Makefile").write_text(f"CFLAGS = -O1 -fwrapv\nprogram: {objects}\n\t$(CC) -o $@ $^\nclean:\n\t@rm -f *.o program\n")
    same_as_bare(box, ["sh", "-c", "make -s clean && make -s -j4 CC=gcc && ./program"], cwd=box.folder)


POOL = """
import hashlib, multiprocessing, sys
size, workers = int(sys.argv[1]) << 20, 4
data = bytearray(size)
for at in range(0, size, 4096):
    data[at:at + 64] = hashlib.sha512(at.to_bytes(8, "little")).digest()

def work(seed):
    total = 0
    for at in range(0, size, 4096):
        total = (total * 31 + data[at] * seed + data[at + 63]) % 1000000007
    for at in range(seed * 4096, size, 16384):
        data[at] = seed
    for at in range(0, size, 4096):
        total = (total * 31 + data[at]) % 1000000007
    return seed, total

with multiprocessing.get_context("fork").Pool(workers) as pool:
    print(pool.map(work, range(int(sys.argv[2])), chunksize=1))
print(hashlib.sha256(data).hexdigest())
"""


def test_pool_of_workers_that_share(box):
    """What the workers share stays shared for as long as it can, and is stored once."""
    # Which worker takes which piece is chance, and so is what it has written before.
    script = POOL.replace("Pool(workers)", "Pool(workers, maxtasksperchild=1)")
    boxed = same_as_bare(box, [PYTHON, "-c", script, scale(32, 512), scale(4, 8)])
    if boxed.stats:
        assert boxed.stats["shared_drops"] > 0, boxed.stats


@pytest.mark.parametrize("limit_mb", [64, 16])
def test_many_that_share_and_leave(box, limit_mb):
    run = box.run_victim("shared-by-fork", 24, 3, scale(80, 20000), limit=limit_mb * MIB, adopted=limit_mb < 24)
    assert run.stdout == b"right\n"


SERVER = """
import hashlib, socketserver, struct, sys
table = [hashlib.sha512(i.to_bytes(8, "little")).digest() * 8 for i in range(int(sys.argv[1]))]

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline():
            start, step = map(int, line.split())
            own = [table[i] + b"x" for i in range(start, len(table), step)]
            self.wfile.write(hashlib.sha256(b"".join(own)).hexdigest().encode() + b"\\n")

class Server(socketserver.ForkingTCPServer):
    max_children = 100

with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    while True:
        server.handle_request()
        server.service_actions()
"""


def test_forking_server(box):
    """A server with a table in memory, a process for each connection; its clients are outside."""
    entries = scale(20000, 600000)
    table = [hashlib.sha512(i.to_bytes(8, "little")).digest() * 8 for i in range(entries)]
    server = box.start([PYTHON, "-c", SERVER, entries], entries * 600 // 2 + 6 * MIB)
    try:
        port = int(server.stdout.readline())
        asked = [(start, 7 + start % 3) for start in range(12)]
        with_connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
        readers = [connection.makefile() for connection in with_connections]
        for connection, (start, step) in zip(with_connections * 2, asked):
            connection.sendall(f"{start} {step}\n".encode())
        for reader, (start, step) in zip(readers * 2, asked):
            expected = hashlib.sha256(b"".join(table[i] + b"x" for i in range(start, entries, step))).hexdigest()
            assert reader.readline().strip() == expected
    finally:
        for connection in with_connections:
            connection.close()
        kill_all(server.pid)
        server.communicate()


PGBENCH = """
set -e
initdb -D $PWD/data -A trust -U bench >/dev/null
echo "shared_buffers = 4MB
listen_addresses = ''
unix_socket_directories = '$PWD'
fsync = off" >>data/postgresql.conf
trap 'pg_ctl -D data -m fast -w stop >/dev/null' EXIT
pg_ctl -D data -l log -w -t 60 start >/dev/null
export PGHOST=$PWD PGUSER=bench PGDATABASE=postgres
pgbench -i -q -s SCALE 2>/dev/null >&2
pgbench -c 4 -j 2 -t TURNS -n >/dev/null 2>log-pgbench
psql -AtF' ' -c "select count(*), (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),
  (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history), (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
  from pgbench_accounts"
"""


def postgres_path():
    """Debian keeps initdb and the like where no PATH leads."""
    folders = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin")) if os.path.isdir("/usr/lib/postgresql") else []
    return ":".join([*map(str, reversed(folders)), os.environ["PATH"]])


def test_postgres_pgbench(box):
    path = postgres_path()
    for name in ("initdb", "pg_ctl", "postgres", "pgbench", "psql"):
        if not shutil.which(name, path=path):
            pytest.skip(f"program {name} is not installed")
    script = PGBENCH.replace("SCALE", str(scale(1, 20))).replace("TURNS", str(scale(15, 2000)))
    user = []
    if os.geteuid() == 0:  # postgres refuses to run as root
        user = [need_program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chmod(box.folder, 0o755)
    work = box.folder / "postgres"

    def command():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if user:
            os.chown(work, 65534, 65534)
        return [*user, "sh", "-c", script]

    env = {"PATH": path, "LC_ALL": "C", "HOME": str(work)}
    bare = box.run_bare(command(), env=env, cwd=work)
    if bare.status:
        pytest.skip(f"postgres does not run here: {bare.stderr[-300:]}")
    boxed = box.run_boxed(command(), max(bare.sample["peak"] // 2, FLOOR), env=env, cwd=work)
    print(bare.sample, bare.wall_s, boxed.stats)
    assert (boxed.status, boxed.stdout) == (0, bare.stdout), boxed.stderr[-2000:]
    assert boxed.stdout.split()[2:] == [b"t", b"t", b"t"]
