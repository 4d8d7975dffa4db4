"""Acknowledged means on disk: after SIGKILL at any moment, and when the disk is full."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from store_rows import add_job, add_tasks, numbers
from tests.conftest import SmallDisk

from batchyard.engine.clock import Clock
from batchyard.engine.upkeep.upkeep import PAGES_PER_UNIT, Upkeep
from batchyard.store import jobs, tasks
from batchyard.store.db import Database, StoreUnavailable
from batchyard.store.reader import Statement
from batchyard.store.tx import Tx

HERE = Path(__file__).parent

WRITES = """
import sys
from pathlib import Path
from batchyard.store import jobs
from batchyard.store.db import Database
from store_rows import add_job, add_tasks

db = Database(Path(sys.argv[1]))
life = sys.argv[2]
pk = db.call(add_job, "life-" + life)
number = 0
while True:
    units = []
    for _ in range(number % 40 + 1):
        number += 1
        units.append((number, db.submit(add_tasks, pk, *(f"{number}-{n}" for n in range(number % 7 + 1)))))
    for number, unit in units:
        print(life, number, unit.result(), number % 7 + 1, flush=True)
    if number % 400 < 40:
        db.checkpoint()
"""

FILLS = """
import json, resource, sys
from pathlib import Path
from batchyard.store import jobs
from batchyard.store.db import Database, StoreUnavailable
from store_rows import add_job, add_tasks, numbers

path = Path(sys.argv[1])
db = Database(path)
pk = db.call(add_job, "job")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
acknowledged, refused = [], []
while len(refused) < 60:
    first = len(acknowledged) + len(refused)
    units = [db.submit(add_tasks, pk, *(f"{first + n}-{k}" for k in range(20))) for n in range(20)]
    for n, unit in enumerate(units):
        error = unit.exception()
        assert error is None or isinstance(error, StoreUnavailable), error
        (acknowledged if error is None else refused).append(first + n)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
db.call(add_tasks, pk, "afterwards")
db.close()
print(json.dumps({"acknowledged": acknowledged, "refused": refused}))
"""


def python(script: str, *words: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r})\n{script}", *words]


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "batchyard.db"
    chance = random.Random(20_260_101)
    for life in range(6):
        wanted = chance.randrange(1, 600)
        with subprocess.Popen(python(WRITES, str(path), str(life)), stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            acknowledged = [line for line, _ in zip(writer.stdout, range(wanted), strict=False)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [line for line in writer.stdout if line.endswith("\n")]
            writer.wait()
        db = Database(path)
        job = db.call(jobs.find, f"life-{life}")
        assert job is not None
        for line in acknowledged:
            _, number, first, tasks = map(int, line.split())
            found = db.call(
                numbers, "SELECT pk FROM task WHERE job_pk = :job AND id LIKE :name ORDER BY pk", job=job.pk, name=f"{number}-%"
            )
            assert found == list(range(first, first + tasks)), f"unit {number} is whole and on disk"
        counted = db.call(numbers, "SELECT count(*) FROM task WHERE job_pk = :job", job=job.pk)
        assert counted == [db.call(jobs.counts, job.pk).active]
        assert db.call(numbers, "SELECT count(DISTINCT pk) - count(*) FROM task") == [0]
        db.close()
        assert integrity(path) == "ok"


@pytest.mark.sqlite
def test_a_commit_is_on_the_disk_before_anybody_hears(db: Database) -> None:
    """A killed process loses nothing even without this; a machine that loses its power would."""
    assert db.call(numbers, "PRAGMA synchronous") == [2]
    assert db.call(lambda tx: tx._connection.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.sqlite
@pytest.mark.parametrize("most_bytes", [600_000, 2_000_000])
def test_a_file_that_cannot_grow_refuses_whole_commits_and_goes_on_afterwards(tmp_path: Path, most_bytes: int) -> None:
    path = tmp_path / "batchyard.db"
    done = subprocess.run(python(FILLS, str(path), str(most_bytes)), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["acknowledged"]
    db = Database(path)
    there = db.call(numbers, "SELECT CAST(id AS INTEGER) FROM task WHERE id <> 'afterwards'")
    assert sorted(there) == sorted(20 * said["acknowledged"])
    assert db.call(jobs.counts, 1).active == 20 * len(said["acknowledged"]) + 1
    db.close()
    assert integrity(path) == "ok"


@pytest.mark.sqlite
def test_a_full_database_refuses_all_of_the_commit_and_goes_on_afterwards(db: Database) -> None:
    pk = db.call(add_job, "job")
    (pages,) = db.call(numbers, "PRAGMA page_count")
    db.call(lambda tx: tx._connection.execute(f"PRAGMA max_page_count = {pages + 5}"))
    kept = refused = 0
    while not refused:
        units = [db.submit(add_tasks, pk, *(f"{kept}-{n}-{k}" for k in range(50))) for n in range(10)]
        errors = [unit.exception(30) for unit in units]
        assert all(error is None or isinstance(error, StoreUnavailable) for error in errors)
        refused += sum(error is not None for error in errors)
        kept += sum(error is None for error in errors)
    assert db.call(jobs.counts, pk).active == 50 * kept
    assert db.call(numbers, "SELECT count(*) FROM task") == [50 * kept]
    db.call(lambda tx: tx._connection.execute("PRAGMA max_page_count = 1000000"))
    db.call(add_tasks, pk, *(f"after-{n}" for n in range(2000)))
    assert db.call(jobs.counts, pk).active == 50 * kept + 2000


FULL_DISK = """
import os, sys, threading
from pathlib import Path
from batchyard.disk import logs
from batchyard.store.db import Database, StoreUnavailable
from store_rows import add_job, add_tasks

db = Database(Path(sys.argv[1]))
pk = db.call(add_job, "job")
if sys.argv[2] == "begun":
    logs.begin(1)  # otherwise structlog prints as it is, and raises what its stream raises
print("ready", flush=True)
number = 0
for line in sys.stdin:
    errors = []
    while line == "refuse\\n" and len(errors) < 30 or not errors:
        units = [db.submit(add_tasks, pk, *(f"{number + n}-{k}" for k in range(50))) for n in range(5)]
        number += 5
        done = [unit.exception(30) for unit in units]
        errors += [error for error in done if (error is not None) == (line == "refuse\\n")]
    assert all(error is None or isinstance(error, StoreUnavailable) for error in errors), errors
    assert any(thread.name == "store-write" for thread in threading.enumerate())
    sys.__stderr__.write("said\\n")
    sys.__stderr__.flush()
os._exit(0)  # the writer may still have something to say, and the interpreter does not end well under that
"""


@pytest.mark.sqlite
@pytest.mark.parametrize("logging", ["raises", "begun"])
def test_a_full_disk_under_database_and_log_refuses_commits_and_ends_no_writer(
    small_disk: Callable[[int], SmallDisk], logging: str
) -> None:
    disk = small_disk(16 << 20)
    path = disk.path / "batchyard.db"
    log = disk.path / "log"
    with log.open("ab") as output:
        child = subprocess.Popen(
            python(FULL_DISK, str(path), logging), stdin=subprocess.PIPE, stdout=output, stderr=subprocess.PIPE, text=True, bufsize=1
        )
    assert child.stdin is not None
    assert child.stderr is not None
    for _ in range(3):
        while not log.read_bytes().startswith(b"ready"):
            assert child.poll() is None, child.stderr.read()
        with log.open("ab") as padding:
            padding.write(b"-" * (-padding.tell() % 4096))  # or the log would write on into a page that it has
        disk.fill()
        for word in ("refuse", "take"):
            child.stdin.write(word + "\n")
            assert child.stderr.readline() == "said\n"
            if word == "refuse":
                disk.relieve()
    child.stdin.close()
    assert child.wait(30) == 0, child.stderr.read()
    child.stderr.close()
    assert integrity(path) == "ok"
    if logging == "begun":
        assert "commits work again" in log.read_text()


def test_a_connection_in_an_unknown_state_is_opened_anew(db: Database) -> None:
    pk = db.call(add_job, "job")

    def break_off(tx: Tx) -> None:
        add_tasks(tx, pk, "lost")
        tx._connection.close()

    broken, beside = db.submit(break_off), db.submit(add_tasks, pk, "beside")
    assert isinstance(broken.exception(30), (StoreUnavailable, sqlite3.ProgrammingError, psycopg.Error))
    beside.exception(30)
    db.call(add_tasks, pk, "afterwards")
    assert "lost" not in db.call(lambda tx: tx.all(Statement("SELECT id FROM task", str)))
    assert db.call(jobs.counts, pk).active == db.call(numbers, "SELECT count(*) FROM task")[0]


@pytest.mark.parametrize("ends", [SystemExit, KeyboardInterrupt, MemoryError, RecursionError])
def test_whatever_a_unit_raises_ends_no_writer(db: Database, ends: type[BaseException]) -> None:
    def unit(tx: Tx) -> None:
        add_job(tx, "undone")
        raise ends

    assert isinstance(db.submit(unit).exception(30), (StoreUnavailable, ends))
    db.call(add_job, "job")
    assert db.call(numbers, "SELECT count(*) FROM job") == [1]


async def test_what_was_deleted_is_given_back_to_the_disk_also_by_a_database_of_an_earlier_release(tmp_path: Path) -> None:
    path = tmp_path / "batchyard.db"
    Database(path).close()
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("PRAGMA auto_vacuum = 0")
    old.execute("VACUUM")
    assert old.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    old.close()
    db = Database(path)
    try:
        assert db.call(numbers, "PRAGMA auto_vacuum") == [2]
        pk = db.call(add_job, "job")
        for n in range(20):
            db.call(add_tasks, pk, *(f"{n}-{k}-" + "x" * 100 for k in range(1000)))
        db.checkpoint(empty=True)
        large = path.stat().st_size
        while keys := db.call(tasks.first_keys, pk, 500):
            db.call(tasks.delete, keys)
        upkeep = Upkeep(db, Clock(), 60_000_000)
        seen = statements(db)
        await upkeep.run_once()
        vacuumed = [commit.count("PRAGMA incremental_vacuum(1)") for commit in "\n".join(seen).split("COMMIT")]
        assert 1 < max(vacuumed) <= PAGES_PER_UNIT, "bounded steps"
        assert sum(vacuumed) > PAGES_PER_UNIT
        assert path.stat().st_size < large / 3
        assert path.with_name(path.name + "-wal").stat().st_size < large / 3
        assert db.call(numbers, "PRAGMA freelist_count")[0] > 0, "some room is kept for what is added next"
        db.call(add_tasks, pk, "afterwards")
    finally:
        db.close()
    assert integrity(path) == "ok"


def statements(db: Database) -> list[str]:
    """What the writer's connection runs from now on."""
    seen: list[str] = []
    db.call(lambda tx: tx._connection.set_trace_callback(seen.append))
    return seen


def test_a_database_stays_as_it_is_where_there_is_no_room_to_write_it_anew(small_disk: Callable[[int], SmallDisk]) -> None:
    disk = small_disk(16 << 20)
    path = disk.path / "batchyard.db"
    old = sqlite3.connect(path)
    old.execute("CREATE TABLE filler (content BLOB)")
    old.execute("INSERT INTO filler VALUES (zeroblob(6000000))")
    old.commit()
    old.close()
    db = Database(path)
    try:
        assert db.call(numbers, "PRAGMA auto_vacuum") == [0]
        db.call(add_job, "job")
    finally:
        db.close()
