"""Servers that are killed, paused, drained and started again: what goes on at the others, and what never happens twice."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from azure.batch import models
from several_servers import Cluster, client, idle, make_pool, sdk
from tests.conftest import Server, wait_for

import postgres
from batchyard.server import account_file
from batchyard.store import leases
from batchyard.store.db import open_store

New = Callable[..., Cluster]


def add_tasks(batch: Any, job: str, names: list[str], command: str) -> None:
    for at in range(0, len(names), 100):
        tasks = [{"id": name, "commandLine": command} for name in names[at : at + 100]]
        batch.post("jobs", job, "addtaskcollection", body={"value": tasks})


def ends(batch: Any, job: str) -> dict[str, int]:
    return dict(batch.get("jobs", job, "taskcounts")["taskCounts"])


def sessions(cluster: Cluster) -> dict[str, tuple[int, str]]:
    return {node: (session, server) for node, session, server in cluster.ask("SELECT id, session, server FROM node")}


def test_when_the_one_that_works_is_killed_another_goes_on_and_every_task_ends_once(fresh: New) -> None:
    """Three servers; clients ask those that live, agents of the killed one move on to them, and it finds its nodes again."""
    cluster = fresh()
    for _ in range(3):
        cluster.start(nodes=1)
    journal = cluster.place / "journal"
    journal.touch()
    journal.chmod(0o666)
    names = [str(n) for n in range(300)]
    with client(cluster.servers[0]) as batch:
        make_pool(batch, "pool", 3, taskSlotsPerNode=2)
        batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
        idle(batch, "pool", 3)
    before = sessions(cluster)
    assert len({server for _, server in before.values()}) == 3, "each server has the node that it has room for"
    killed = cluster.holder()
    left = cluster.other(killed)
    with client(killed) as batch:
        add_tasks(batch, "job", names, f"bash -c 'echo $AZ_BATCH_TASK_ID >> {journal} && sleep 0.1'")
        wait_for(lambda: ends(batch, "job")["completed"] >= 20, "the first tasks")
        killed.kill()
    at = time.time()
    with client(left) as batch, sdk(left) as service:
        service.create_task("job", models.BatchTaskCreateOptions(id="meanwhile", command_line="true"))
        assert service.get_task("job", "meanwhile").state is not None
        cluster.holder(but=killed)
        print(f"the loops run again {time.time() - at:.1f} s after kill -9")
        wait_for(lambda: ends(batch, "job")["completed"] == 301, "all tasks", 90)
        found = ends(batch, "job")
        assert (found["succeeded"], found["failed"], found["active"], found["running"]) == (301, 0, 0, 0)
        assert sorted(journal.read_text().split()) == sorted(names)
        killed.start()
        wait_for(lambda: len(idle(batch, "pool", 3)) == 3, "all nodes")
        assert sessions(cluster) == before, "nobody launched them anew, and none is another server's"


def test_a_server_that_was_paused_changes_nothing_when_it_wakes(fresh: New) -> None:
    """The other one that took the lease meanwhile does nothing itself, so whatever happens the paused one did."""
    cluster = fresh()
    one = cluster.start(nodes=1)
    with client(one) as batch:
        make_pool(batch, "pool", 1)
        batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
        batch.post("jobs", body={"id": "ends", "poolInfo": {"poolId": "pool"}})
        idle(batch, "pool", 1)
        os.kill(one.process.pid, signal.SIGSTOP)
        db = open_store(cluster.location)
        try:
            taken = wait_for(lambda: db.call(lambda tx: leases.acquire(tx, "loops", "another", tx.moment(), 3600)), "the lease")
            cluster.ask("UPDATE job SET state = 'terminating', version = version + 1 WHERE id = 'ends'")
            os.kill(one.process.pid, signal.SIGCONT)
            batch.post("jobs", "job", "tasks", body={"id": "t", "commandLine": "true"})
            wait_for(lambda: "another server does the background work" in one.log(), "it to notice")
            assert batch.get("jobs", "job", "tasks", "t")["state"] == "active"
            assert batch.get("jobs", "ends")["state"] == "terminating"
            assert cluster.ask("SELECT holder, fence FROM lease") == [("another", taken)]
            db.call(leases.release, "loops", "another", taken)
        finally:
            db.close()
        wait_for(lambda: batch.get("jobs", "job", "tasks", "t")["state"] == "completed", "the task")
        wait_for(lambda: batch.get("jobs", "ends")["state"] == "completed", "the job's end")


def test_a_server_that_ends_hands_over_at_once_and_sends_everybody_on(fresh: New) -> None:
    cluster = fresh("--lease", "60", "--drain", "5")
    one = cluster.start(nodes=1)
    two = cluster.start(nodes=1)
    assert cluster.holder() is one
    with client(two) as batch:
        make_pool(batch, "pool", 2)
        batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
        idle(batch, "pool", 2)
        with httpx.Client(base_url=one.endpoint) as ask:
            assert (ask.get("/healthz").text, ask.get("/readyz").text) == ("ok", "ok")
            one.process.terminate()
            wait_for(lambda: ask.get("/readyz").status_code == 503, "it to drain")
            answer = ask.get("/readyz")
            assert (answer.text, answer.headers["connection"]) == ("the server ends", "close")
            assert ask.get("/healthz").status_code == 200
            with client(one) as late:
                assert [pool["id"] for pool in late.listed("pools")] == ["pool"], "who comes late is answered still"
        assert cluster.holder(but=one) is two, "long before the lease would have run out"
        add_tasks(batch, "job", ["a", "b"], "true")
        wait_for(lambda: ends(batch, "job")["completed"] == 2, "tasks")
        assert one.process.wait(60) == 0
        assert {node["state"] for node in batch.listed("pools", "pool", "nodes")} == {"idle", "unknown"}
        assert cluster.ask("SELECT count(*) FROM {registry}.opening") == [(1,)]
        one.start()
        idle(batch, "pool", 2)


def test_nodes_of_a_server_that_is_gone_are_lost_and_nobody_elses(fresh: New) -> None:
    """Its machine is lost: server and agents. What it ran is made elsewhere, its nodes are nobody's, the pool may go, it cleans up."""
    cluster = fresh("--node-silence", "3", "--lease", "2")
    gone, left = cluster.start(nodes=1), cluster.start(nodes=1)
    with client(left) as batch:
        make_pool(batch, "pool", 2)
        batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
        idle(batch, "pool", 2)
        nodes = {server: node for node, (_, server) in sessions(cluster).items()}
        lost = nodes[cluster.id(gone)]
        add_tasks(batch, "job", ["a", "b"], "bash -c 'sleep 2'")
        wait_for(lambda: ends(batch, "job")["running"] == 2, "both to run")
        agent = gone.agents()[lost]
        gone.kill()
        os.kill(agent, signal.SIGKILL)
        wait_for(lambda: ends(batch, "job")["completed"] == 2, "both tasks")
        wait_for(lambda: batch.get("pools", "pool", "nodes", lost)["state"] == "unknown", "the node to be missed")
        assert {home.name for home in left.directory.glob("nodes/*")} == {nodes[cluster.id(left)]}
        batch.delete("pools", "pool")
        wait_for(lambda: not cluster.ask("SELECT 1 FROM pool"), "the pool's end")
        assert [home.name for home in gone.directory.glob("nodes/*")] == [lost]
        gone.start()
        assert not list(gone.directory.glob("nodes/*")), "what was left is removed"


def test_an_agent_that_was_given_two_servers_leaves_the_dead_one(fresh: New, tmp_path: Path) -> None:
    cluster = fresh("--provider", "external")
    one, two = cluster.start(), cluster.start()
    with client(two) as batch:
        make_pool(batch, "pool", 1)
        batch.post("jobs", body={"id": "job", "poolInfo": {"poolId": "pool"}})
        token = wait_for(lambda: next((p for s in (one, two) for p in s.directory.glob("nodes/*/token")), None), "the token")
        root = one.directory / "elsewhere"
        words = ["--server", f"{one.endpoint},{two.endpoint}", "--root", str(root), "--token-file", str(token)]
        agent = subprocess.Popen([sys.executable, "-P", "-m", "batchyard.cli.main", "agent", *words], stdin=subprocess.DEVNULL)
        try:
            idle(batch, "pool", 1)
            one.kill()
            add_tasks(batch, "job", ["t"], f"bash -c {shlex.quote('echo $AZ_BATCH_ACCOUNT_URL')}")
            wait_for(lambda: batch.get("jobs", "job", "tasks", "t")["state"] == "completed", "the task")
            assert batch.get("jobs", "job", "tasks", "t")["executionInfo"]["exitCode"] == 0
            assert batch.read("jobs", "job", "tasks", "t", "files", "stdout.txt").startswith(b"http")
        finally:
            agent.terminate()
            agent.wait(60)


def test_a_server_whose_database_is_away_says_so_and_goes_on(fresh: New) -> None:
    own = postgres.Cluster(postgres.room())
    server: Server | None = None
    try:
        server = Server("--database", f"{own.url}&schema=own", nodes=0)
        with httpx.Client(base_url=server.endpoint) as ask, client(server) as batch:
            assert ask.get("/readyz").status_code == 200
            own.kill()
            answer = wait_for(lambda: found if (found := ask.get("/readyz")).status_code == 503 else None, "it to notice")
            assert (answer.text, ask.get("/healthz").text) == ("the database does not answer", "ok")
            own.start()
            wait_for(lambda: ask.get("/readyz").status_code == 200, "it to go on")
            make_pool(batch, "pool", 0)
            wait_for(lambda: batch.get("pools", "pool")["allocationState"] == "steady", "the loops")
    finally:
        if server is not None:
            server.stop()
        own.stop()


def test_a_server_that_cannot_use_its_database_says_why_in_one_sentence(tmp_path: Path) -> None:
    def up(**more: str) -> str:
        command = [sys.executable, "-P", "-m", "batchyard.cli.main", "up", "--dir", str(tmp_path / "state"), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env={**os.environ, **more})
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "secret" not in done.stderr + (tmp_path / "state" / "server.log").read_text()
        return done.stderr

    (tmp_path / "state").mkdir()
    away = up(BATCHYARD_DATABASE="postgresql://me:secret@127.0.0.1:1/accounts?connect_timeout=2")
    assert "the database with schema batchyard cannot be used" in away
    (tmp_path / "state" / "account.json").write_bytes(account_file.encoded(account_file.fresh()))
    (tmp_path / "state" / "server.id").write_text("0" * 16)
    assert "start it with --database where its accounts lie in one" in up()


def test_servers_speak_to_each_other_by_tls_under_one_authority(fresh: New) -> None:
    cluster = fresh("--tls", "auto")
    one, two = cluster.start(nodes=1), cluster.start(nodes=0)
    authorities = [(server.directory / "tls" / "ca.pem").read_bytes() for server in (one, two)]
    assert authorities[0] == authorities[1]

    def run(server: Server, *words: str) -> str:
        command = [sys.executable, "-P", "-m", "batchyard.cli.main", *words]
        environment = {**os.environ, "BATCHYARD_DIR": str(server.directory)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(one, "pool", "create", "pool", "--nodes", "1")
    assert run(two, "submit", "--pool", "pool", "-f", "--", "echo", "here").strip().endswith("here")
    assert json.loads((one.directory / "server.json").read_bytes())["others"] == [two.endpoint]
