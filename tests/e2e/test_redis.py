"""redis-server in the box, its client outside: every value comes back, a background save (fork) is right, and it ends as bare."""
import os
import random
import socket
import subprocess
import time

import pytest

from boxes import BARE, MIB, load_json, need_program, sampler, scale, wait_until


class Client:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))

    def receive(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), "the server hung up"
        kind, text = line[:1], line[1:-2]
        if kind == b"$":
            return None if text == b"-1" else self.file.read(int(text) + 2)[:-2]
        assert kind != b"-", text
        return int(text) if kind == b":" else text

    def call(self, *words):
        self.send(*words)
        return self.receive()

    def pipeline(self, commands, size=200):
        for at in range(0, len(commands), size):
            part = commands[at:at + size]
            for words in part:
                self.send(*words)
            for _ in part:
                yield self.receive()


def value(key, version):
    rng = random.Random(key * 10 + version)
    return rng.randbytes(rng.randint(200, 1500))


def use_server(path, save_file, nr_keys):
    client = Client(path)
    keys = list(range(nr_keys))
    assert all(a == b"OK" for a in client.pipeline([("SET", k, value(k, 0)) for k in keys]))
    random.Random(1).shuffle(keys)
    assert client.call("BGSAVE").startswith(b"Background")
    changed = set(keys[:nr_keys // 4])
    assert all(a == b"OK" for a in client.pipeline([("SET", k, value(k, 1)) for k in changed]))
    for k, found in zip(keys, client.pipeline([("GET", k) for k in keys])):
        assert found == value(k, k in changed), f"key {k}"
    assert wait_until(lambda: b"rdb_bgsave_in_progress:0" in client.call("INFO", "persistence"), 60, 0.1), "the background save does not end"
    assert b"rdb_last_bgsave_status:ok" in client.call("INFO", "persistence")
    check = subprocess.run([need_program("redis-check-rdb"), save_file], capture_output=True, timeout=60)
    assert check.returncode == 0 and b"%d keys read" % nr_keys in check.stdout, check.stdout
    assert client.call("DBSIZE") == nr_keys
    client.send("SHUTDOWN", "NOSAVE")


def serve(box, wrap, nr_keys):
    path, save_file = box.folder / "socket", box.folder / "dump.rdb"
    path.unlink(missing_ok=True)
    save_file.unlink(missing_ok=True)  # or the next one reads it before it serves anybody
    command = [need_program("redis-server"), "--port", "0", "--unixsocket", path, "--dir", box.folder, "--dbfilename", save_file.name, "--save", "",
               "--logfile", box.folder / "redis.log", "--daemonize", "no"]
    server = subprocess.Popen([str(w) for w in wrap(command)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    assert wait_until(path.exists, 20), server.stderr.read() if server.poll() is not None else "no socket"
    time.sleep(0.1)
    use_server(path, save_file, nr_keys)
    _, stderr = server.communicate(timeout=30)
    assert server.returncode == 0, stderr
    return stderr.decode()


# A quarter of 22 MiB is less than the server uses all the time: two faults a millisecond for as long as it takes.
@pytest.mark.parametrize("percent", scale([50], [50, 25]))
def test_redis_serves_a_client_outside(box, bare_runs, percent):
    nr_keys = scale(10000, 300000)
    if "redis" not in bare_runs:
        out = box.folder / "sample"
        serve(box, lambda command: sampler(out, "--pss", "--interval-us", "10000") + command, nr_keys)
        sample = load_json(out)
        bare_runs["redis"] = sample["largest_process_kib"] * 1024
    limit = bare_runs["redis"] * percent // 100
    stats = box.folder / "stats"
    stderr = serve(box, lambda command: box.command(command, limit, stats=stats), nr_keys)
    assert stderr == ""
    if not BARE:
        assert load_json(stats)["swap_out"] > 0
