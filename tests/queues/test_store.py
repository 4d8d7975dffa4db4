"""Queues under many clients, across kills, and when they are long."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import databases
from batchyard.blobs.base import BlobError
from batchyard.blobs.queues.base import QueueRef
from batchyard.blobs.queues.store import QueueStore

REF = QueueRef("account", "queue")
NOW = 1_700_000_000_000_000
MINUTE = 60_000_000


@pytest.fixture
def store(driver: str, tmp_path: Path) -> Iterator[QueueStore]:
    made = QueueStore(databases.place(tmp_path / "queues.db"))
    made.create(REF, {})
    yield made
    made.close()


def test_no_message_is_claimed_twice_and_none_is_lost(store: QueueStore) -> None:
    """Eight clients put, eight take and remove; each message is taken once."""
    taken: list[str] = []
    lock = threading.Lock()
    left = threading.Semaphore(0)

    def put(worker: int) -> None:
        for number in range(50):
            store.put(REF, f"{worker}-{number}", 0, None, NOW)
            left.release()

    def take() -> None:
        while left.acquire(timeout=20):
            for message in store.get(REF, 1, MINUTE, NOW + 1):
                with lock:
                    taken.append(message.text)
                store.remove(REF, message.id, message.receipt, NOW + 2)
            with lock:
                if len(taken) == 400:
                    for _ in range(8):
                        left.release()
                    return

    with ThreadPoolExecutor(16) as threads:
        for job in [threads.submit(put, n) for n in range(8)] + [threads.submit(take) for _ in range(8)]:
            job.result()
    assert sorted(taken) == sorted(f"{w}-{n}" for w in range(8) for n in range(50))
    assert store.queue(REF).count == 0


CHILD = """
import sys
from pathlib import Path
from batchyard.blobs.queues.base import QueueRef
from batchyard.blobs.queues.store import QueueStore
location = sys.argv[1]
store, ref, now = QueueStore(location if "://" in location else Path(location)), QueueRef("account", "queue"), int(sys.argv[2])
number = 0
while True:
    number += 1
    store.put(ref, f"{sys.argv[2]}-{number}", 0, None, now)
    print("put", f"{sys.argv[2]}-{number}", flush=True)
    for message in store.get(ref, 2, 1 << 40, now):
        print("got", message.text, flush=True)
        if number % 3:
            store.remove(ref, message.id, message.receipt, now)
            print("removed", message.text, flush=True)
"""


def test_what_was_acknowledged_outlives_a_kill(driver: str, tmp_path: Path) -> None:
    path = databases.place(tmp_path / "queues.db")
    store = QueueStore(path)
    store.create(REF, {})
    store.close()
    said: list[tuple[str, str]] = []
    for life in range(4):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(NOW + life)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(60):
            said.append(tuple(child.stdout.readline().split()))  # type: ignore[arg-type]
        os.kill(child.pid, signal.SIGKILL)
        said += [tuple(line.split()) for line in child.stdout if line.count(" ") == 1 and line.endswith("\n")]  # type: ignore[misc]
        child.wait()
    got = [text for what, text in said if what == "got"]
    assert len(got) == len(set(got)), "a claim was lost with the kill, and the message given again within its time"
    store = QueueStore(path)
    with store._catalogue.reading() as tx:
        kept = {row["text"]: row["dequeued"] for row in tx.execute("SELECT text, dequeued FROM messages")}
    put, removed = ({text for what, text in said if what == wanted} for wanted in ("put", "removed"))
    assert put - removed <= kept.keys() | set(got), "an acknowledged message is gone"
    assert {text for text in put if text not in got} <= kept.keys()
    assert not removed & kept.keys()
    assert all(kept[text] == 1 for text in set(got) & kept.keys())
    assert store.queue(REF).count == len(kept)
    store.close()


def test_two_processes_claim_no_message_twice(driver: str, tmp_path: Path) -> None:
    path = databases.place(tmp_path / "queues.db")
    store = QueueStore(path)
    store.create(REF, {})
    command = [sys.executable, "-c", CHILD, str(path)]
    children = [subprocess.Popen([*command, str(NOW + life)], stdout=subprocess.PIPE, text=True) for life in range(2)]
    said: list[list[str]] = []
    for child in children:
        assert child.stdout is not None
        said += [child.stdout.readline().split() for _ in range(80)]
    for child in children:
        child.kill()
        said += [line.split() for line in child.communicate()[0].splitlines(keepends=True) if line.count(" ") == 1 and line.endswith("\n")]
    got = [text for what, text in said if what == "got"]
    assert len(got) == len(set(got))
    assert {text.partition("-")[0] for text in got} == {str(NOW), str(NOW + 1)}
    with store._catalogue.reading() as tx:
        assert store.queue(REF).count == tx.execute("SELECT COUNT(*) FROM messages").fetchone()[0]
    store.close()


@pytest.mark.sqlite
def test_a_get_costs_the_same_in_a_long_queue(store: QueueStore) -> None:
    """Steps of SQLite, so the speed of the machine does not matter."""

    def steps() -> int:
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        with store._catalogue.reading() as connection:
            connection.set_progress_handler(tick, 10)
        try:
            assert len(store.peek(REF, 32, NOW + 1)) == 32
        finally:
            with store._catalogue.reading() as connection:
                connection.set_progress_handler(None, 0)
        return count

    def fill(number: int) -> None:
        def work(tx: sqlite3.Connection) -> None:
            (queue,) = tx.execute("SELECT id FROM queues").fetchone()
            rows = ((queue, f"{number}-{n}") for n in range(number))
            tx.executemany(f"INSERT INTO messages VALUES (NULL, ?, ?, 'text', {NOW}, {NOW + MINUTE}, {NOW}, 0, 'r')", rows)

        store._catalogue.write(work)

    fill(100)
    short = steps()
    fill(50_000)
    assert steps() <= short * 1.2

    def plan(sql: str) -> str:
        with store._catalogue.reading() as tx:
            return " ".join(row["detail"] for row in tx.execute(f"EXPLAIN QUERY PLAN {sql}"))

    seen = plan("SELECT seq FROM messages WHERE queue = 1 AND visible <= 5 ORDER BY visible, seq LIMIT 5")
    over = plan("SELECT seq FROM messages WHERE expires <= 5 ORDER BY expires LIMIT 5")
    assert "messages_visible" in seen
    assert "messages_expires" in over
    assert "TEMP B-TREE" not in seen + over


def test_a_deleted_queue_goes_in_steps_also_after_a_crash(driver: str, tmp_path: Path) -> None:
    store = QueueStore(databases.place(tmp_path / "queues.db"))
    store.create(REF, {})
    for number in range(10):
        store.put(REF, str(number), 0, None, NOW)
    store.delete(REF)
    with pytest.raises(BlobError, match="QueueNotFound"):
        store.get(REF, 1, MINUTE, NOW)
    assert store.purge(3)
    store.close()
    store = QueueStore(databases.place(tmp_path / "queues.db"))
    while store.purge(3):
        pass
    with store._catalogue.reading() as tx:
        assert [tx.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("queues", "messages")] == [0, 0]
    store.close()
