#!/usr/bin/env python3
"""Shows that powercut.c is the disk it claims to be: SQLite keeps its promise on it exactly when
it syncs. Needs a C compiler; prints one JSON line. Every round prints its seed when it fails."""
import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def writer(database, synchronous):
    """Two connections commit in turn; each number is printed once its commit has returned."""
    out = threading.Lock()

    def commit_for_ever(which):
        db = sqlite3.connect(database, timeout=60, isolation_level=None)
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute("PRAGMA wal_autocheckpoint=40")  # so that cuts also fall into checkpoints
        for n in range(10**9):
            db.execute("INSERT INTO log VALUES (?, ?, ?)", (which, n, os.urandom(300)))
            with out:
                os.write(1, f"{which} {n}\n".encode())

    db = sqlite3.connect(database, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute(f"PRAGMA synchronous={synchronous}")
    db.execute("CREATE TABLE IF NOT EXISTS log (who INT, n INT, body BLOB, PRIMARY KEY (who, n))")
    other = threading.Thread(target=commit_for_ever, args=(1,), daemon=True)
    other.start()
    commit_for_ever(0)


def files(folder):
    """Each rule of the model once; what is left of it is checked by `each_rule_holds`."""
    os.chdir(folder)

    def put(name, text, sync):
        with open(name, "w") as file:
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())

    def sync_folder(name):
        fd = os.open(name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    put("never", "x", False)
    put("synced", "x", True)
    put("sub/later", "x", True)             # its folder comes with it
    put("old", "one", True)
    put("new", "two", True)
    os.rename("new", "old")                 # not synced: both are as they were
    put("a", "one", True)
    put("b", "two", True)
    os.rename("b", "a")                     # synced by the folder below
    put("gone", "x", True)
    os.remove("gone")                       # not synced: comes back
    os.makedirs("moved/from")
    os.makedirs("moved/to")
    put("moved/from/x", "x", True)
    os.rename("moved/from/x", "moved/to/y")
    sync_folder("moved/from")               # must not lose it
    os.makedirs("dir")
    put("dir/empty", "x", False)
    put("dir/a", "one", True)
    put("dir/b", "two", True)
    os.rename("dir/b", "dir/a")
    put("dir/c", "x", True)
    os.remove("dir/c")
    sync_folder("dir")
    with open("grown", "wb", buffering=0) as file:
        file.write(b"a" * 10)
        os.fsync(file.fileno())
        file.truncate(4)
        file.seek(8)
        file.write(b"b" * 4)
        os.fdatasync(file.fileno())
        file.write(b"lost")
    with open("appended", "ab", buffering=0) as file:
        file.write(b"one")
        os.fsync(file.fileno())
        copy = os.dup(file.fileno())
        os.write(copy, b"two")
        os.fsync(copy)
    put("again", "first life", True)
    os.remove("again")
    put("again", "2nd", True)


def each_rule_holds(shim, folder):
    real, disk = folder / "real", folder / "disk"
    (real / "sub").mkdir(parents=True)
    (real / "before").write_text("here before the program")
    run = subprocess.run([sys.executable, __file__, "files", real], env=environment(shim, real, disk))
    assert run.returncode == 0
    found = {str(p.relative_to(disk)): p.read_text() for p in disk.rglob("*") if p.is_file()}
    assert found == {
        "before": "here before the program", "synced": "x", "sub/later": "x", "old": "one", "new": "two",
        "a": "one", "b": "two", "gone": "x", "moved/to/y": "x", "dir/empty": "", "dir/a": "two",
        "grown": "aaaa\0\0\0\0bbbb", "appended": "onetwo", "again": "2nd",
    }, found


def environment(shim, real, disk, **more):
    return {**os.environ, "LD_PRELOAD": str(shim), "POWERCUT_DIR": str(real),
            "POWERCUT_SHADOW": str(disk), **more}


def cut(shim, folder, synchronous, seed, **more):
    """Runs the writer, kills it, and says how many commits it told of and how many are left."""
    rng = random.Random(seed)
    real, disk = folder / "real", folder / "disk"
    real.mkdir()
    process = subprocess.Popen(
        [sys.executable, __file__, "writer", real / "log.db", synchronous],
        stdout=subprocess.PIPE, env=environment(shim, real, disk, POWERCUT_SEED=str(seed), **more))
    told, end = b"", None
    while end is None or time.monotonic() < end:
        wait = 30 if end is None else max(0, end - time.monotonic())
        if select.select([process.stdout], [], [], wait)[0]:
            told += os.read(process.stdout.fileno(), 65536)
        if end is None:
            assert told, "the writer never wrote"
            end = time.monotonic() + rng.uniform(0.02, 0.4)
    process.send_signal(signal.SIGKILL)
    process.wait()
    told += process.stdout.read()
    acknowledged = {tuple(map(int, line.split())) for line in told.split(b"\n")[:-1]}
    if not (disk / "log.db").exists():
        return len(acknowledged), len(acknowledged), True
    db = sqlite3.connect(disk / "log.db")
    try:
        whole = db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = set(db.execute("SELECT who, n FROM log"))
    except sqlite3.DatabaseError:
        whole, kept = False, set()
    for who in (0, 1):
        numbers = sorted(n for w, n in kept if w == who)
        whole = whole and numbers == list(range(len(numbers)))
    return len(acknowledged), len(acknowledged - kept), whole


def main():
    seeds = [int(s) for s in sys.argv[1:]] or [random.randrange(2**32) for _ in range(8)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        shim = folder / "powercut.so"
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-Wall", "-Wextra", "-shared", "-fPIC",
                        "-o", shim, HERE / "powercut.c", "-ldl", "-lpthread"], check=True)
        each_rule_holds(shim, folder / "rules")
        result = {}
        for name, synchronous, more in (("full", "FULL", {}), ("full_and_leaks", "FULL", {"POWERCUT_LEAK": "30"}),
                                        ("normal", "NORMAL", {}), ("off", "OFF", {})):
            told = lost = 0
            for seed in seeds:
                at = folder / f"{name}-{seed}"
                at.mkdir()
                t, gone, whole = cut(shim, at, synchronous, seed, **more)
                told, lost = told + t, lost + gone
                kept_promise = {"FULL": whole and gone == 0, "NORMAL": whole, "OFF": True}[synchronous]
                assert kept_promise, f"{name}, seed {seed}: {gone} of {t} lost, whole: {whole}"
            result[name] = {"acknowledged": told, "lost": lost}
        assert result["normal"]["lost"] > 0 and result["off"]["lost"] > 0, result
        print(json.dumps({"ok": True, "seeds": len(seeds), **result}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["writer"]:
        writer(sys.argv[2], sys.argv[3])
    elif sys.argv[1:2] == ["files"]:
        files(sys.argv[2])
    else:
        main()
