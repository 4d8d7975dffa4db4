"""Three servers, eight agents and their database, one of which is killed every few seconds: nothing is lost, and nothing happens twice.

`make chaos` runs the long form: BATCHYARD_CHAOS_TASKS and BATCHYARD_CHAOS_KILLS say how long, BATCHYARD_CHAOS_SEED in which order.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from chaos import EVERY_LONG, JOB, Killer, Work, counts, longest_gap, story
from engine_world import World
from several_servers import Cluster, client, idle, make_pool
from tests.conftest import wait_for

import databases
import postgres

TASKS = int(os.environ.get("BATCHYARD_CHAOS_TASKS", "2000"))
KILLS = int(os.environ.get("BATCHYARD_CHAOS_KILLS", "10"))
SEED = int(os.environ.get("BATCHYARD_CHAOS_SEED", "0")) or time.time_ns() % 1_000_000
NODES, SLOTS = (3, 3, 2), 4
GAP_S = 3.0
"""Between two kills."""


@pytest.mark.timeout(0)
def test_whatever_is_killed_every_task_ends_once_and_nothing_acknowledged_is_lost() -> None:
    database = postgres.Cluster(postgres.room())
    cluster = Cluster(f"{database.url}&schema=chaos")
    marks = Path(tempfile.mkdtemp(prefix="batchyard-test-"))
    marks.chmod(0o777)
    print(f"seed {SEED}")
    killer: Killer | None = None
    try:
        for nodes in NODES:
            cluster.start(nodes=nodes)
        with client(cluster.servers[0]) as batch:
            make_pool(batch, "pool", sum(NODES), taskSlotsPerNode=SLOTS)
            batch.post("jobs", body={"id": JOB, "poolInfo": {"poolId": "pool"}, "usesTaskDependencies": True})
            idle(batch, "pool", sum(NODES))
        work, killer = Work(cluster, TASKS, marks), Killer(cluster, database, SEED)
        begun = time.monotonic()
        with work.going_on():
            while len(killer.killed) < KILLS:
                work.share = (len(killer.killed) + 1) / KILLS
                killer.kill()
                since, at = time.monotonic(), counts(cluster).get("completed", 0)
                wait_for(lambda since=since, at=at: time.monotonic() > since + GAP_S and progress(work, cluster, at), "work to go on")
            wait_for(lambda: work.errors or work.asked_for, "the clients", 3600)
            assert not work.errors
            wait_for(lambda: counts(cluster) == {"completed": TASKS}, "the tasks to end", 3600)
        print(f"{TASKS} tasks and {dict(Counter(killer.killed))} killed in {time.monotonic() - begun:.0f} s;", end=" ")
        print(f"nothing started for {longest_gap(cluster):.1f} s at the most")
        for server in cluster.servers:
            server.process.terminate()
            server.process.wait(60)
        check(cluster, work)
    except BaseException:
        print(f"killed: {killer.killed if killer else None}", *story(cluster), sep="\n")
        raise
    finally:
        cluster.stop()
        database.stop()
        shutil.rmtree(marks, ignore_errors=True)


def progress(work: Work, cluster: Cluster, at: int) -> bool:
    """True when tasks end again, or all that there are have ended."""
    assert not work.errors, work.errors
    now = counts(cluster)
    return now.get("completed", 0) > at or set(now) <= {"completed"}


def check(cluster: Cluster, work: Work) -> None:
    """What clients were told is so, and every row agrees with every other."""
    assert work.added == {str(n) for n in range(TASKS)}
    rows = cluster.ask("SELECT id, state, result, failure IS NOT NULL FROM task")
    assert {row[0] for row in rows} == work.added
    assert work.ended == {str(n) for n in range(1, TASKS, EVERY_LONG)}
    failed = {row[0] for row in rows if row[2] != "success"}
    assert failed == work.ended, "these were ended by a client, and all others succeeded in the end"
    twice = "SELECT subject, count(*) FROM event WHERE what = 'task' AND new = 'completed' GROUP BY subject HAVING count(*) <> 1"
    assert cluster.ask(twice) == []
    assert cluster.ask("SELECT count(DISTINCT subject) FROM event WHERE what = 'task' AND new = 'completed'") == [(TASKS,)]
    [(body,)] = cluster.ask("SELECT body FROM job")
    value = next(n for n in range(work.asked, -1, -1) if f'"value":"{n}"'.encode() in bytes(body))
    assert work.patched <= value <= work.asked
    databases.choose(databases.POSTGRES)
    try:
        world = World(location=cluster.location)
        world.check()
        world.close()
    finally:
        databases.choose(databases.SQLITE)
