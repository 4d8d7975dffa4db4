"""What keeps tasks of one node apart and within their node's size, on a live server: users and limits (docs/isolation.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.conftest import Json, Raw, Yard, pool_body, task, unique
from tests.conftest import Server, wait_for

ROOT = os.geteuid() == 0
USERS = [
    {"name": "ada", "password": "A long secret 1"},
    {"name": "grace", "password": "A long secret 2", "elevationLevel": "nonadmin", "linuxUserConfiguration": {"uid": 4711, "gid": 4712}},
    {"name": "boss", "password": "A long secret 3", "elevationLevel": "admin"},
]
SIZES = """
[[sizes]]
name = "tiny"
cores = 1
memory = "96 MiB"
"""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose size `tiny` has one core and 96 MiB."""
    path: Path = tmp_path_factory.mktemp("config") / "batchyard.toml"
    path.write_text(SIZES)
    running = Server("--config", str(path), nodes=2)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def place(limited: Server) -> Yard:
    """Jobs on a node of that size with the pool's users."""
    raw, pool_id = Raw(limited.endpoint, limited.account, limited.key), unique("limited")
    body = pool_body(pool_id, vmSize="tiny", targetDedicatedNodes=1, taskSlotsPerNode=4, userAccounts=USERS)
    assert raw("POST", "/pools", body).status == 201
    made = Yard(raw, pool_id)
    wait_for(lambda: [node["state"] for node in nodes(made)] == ["idle"], "the node")
    return made


def nodes(yard: Yard) -> list[Json]:
    found: list[Json] = yard.get(f"/pools/{yard.pool_id}/nodes")["value"]
    return found


def about(yard: Yard) -> Json:
    [node] = nodes(yard)
    return yard.get(f"/batchyard/pools/{yard.pool_id}/nodes/{node['id']}")


def printed(yard: Yard, job_id: str, task_id: str) -> str:
    return yard.raw("GET", f"/jobs/{job_id}/tasks/{task_id}/files/stdout.txt").body.decode()


def as_user(name: str) -> Json:
    return {"userIdentity": {"username": name}}


def test_a_node_is_held_to_the_memory_of_its_size(place: Yard) -> None:
    """Where the machine cannot hold it, the node's facts say so; then there is nothing else to see."""
    facts = about(place)
    assert (facts["cores"], facts["memoryBytes"]) == (1, 96 << 20)
    if "memory" not in facts.get("limits", []):
        assert any("not held to the node's memory" in sentence for sentence in facts["notIsolated"])
        return
    hungry = "import sys; data = bytearray(300 << 20); data[::4096] = b'x' * len(data[::4096]); print('had it all')"
    job_id = place.job({"id": "hungry", "commandLine": f'python3 -c "{hungry}"'}, task("modest", "echo fine"))
    ended = place.reached(job_id, "hungry")
    assert (ended["executionInfo"]["exitCode"], ended["executionInfo"]["result"]) == (137, "failure")
    assert printed(place, job_id, "hungry") == ""
    assert place.reached(job_id, "modest")["executionInfo"]["exitCode"] == 0
    assert [node["state"] for node in nodes(place)] == ["idle"], "the agent lives on"


def test_passwords_are_kept_from_everybody(place: Yard) -> None:
    shown = place.get(f"/pools/{place.pool_id}")["userAccounts"]
    assert [user["name"] for user in shown] == ["ada", "grace", "boss"]
    assert all("password" not in user for user in shown)


@pytest.mark.skipif(not ROOT, reason="only an agent that runs as root can run tasks as others")
def test_tasks_run_as_whom_they_name(place: Yard) -> None:
    job_id = place.job(
        task("ada", "id -u; echo $USER", **as_user("ada")),
        task("grace", "id -u; id -g; echo $USER", **as_user("grace")),
        task("boss", "id -u", **as_user("boss")),
        task("pool", "id -u"),
    )
    for name in ("ada", "grace", "boss", "pool"):
        assert place.reached(job_id, name)["executionInfo"]["exitCode"] == 0
    ada, user = printed(place, job_id, "ada").split()
    assert (int(ada) >= 70_000, user) == (True, "ada")
    assert printed(place, job_id, "grace").split() == ["4711", "4712", "grace"]
    assert printed(place, job_id, "boss").split() == ["0"]
    assert printed(place, job_id, "pool").strip() not in (ada, "0", "4711")
    place.add(job_id, task("stranger", **as_user("nobody-knows")))
    failed = place.reached(job_id, "stranger")["executionInfo"]["failureInfo"]
    assert (failed["category"], failed["code"]) == ("usererror", "CommandLaunchFailed")


@pytest.mark.skipif(not ROOT, reason="only an agent that runs as root can run tasks as others")
def test_one_task_neither_reads_nor_signals_another(place: Yard) -> None:
    """Task scope: each running task has a user of its own; so it is between named users and the pool's."""
    job_id, own = place.job(), {"userIdentity": {"autoUser": {"scope": "task"}}}
    secret = "echo secret >mine; echo $$ >pid; chmod 644 mine; sleep 300"
    place.add(job_id, task("holder", secret, **own))
    place.reached(job_id, "holder", "running")
    wd = f"/jobs/{job_id}/tasks/holder/files/wd%2Fpid"
    pid = wait_for(lambda: place.raw("GET", wd).body.strip() if place.raw("GET", wd).status == 200 else None, "its pid").decode()
    attack = f"cat ../../holder/wd/mine && echo read it; kill -9 {pid} && echo killed it; true"
    place.add(job_id, task("own", attack, **own), task("named", attack, **as_user("ada")), task("pool", attack))
    for name in ("own", "named", "pool"):
        place.reached(job_id, name)
        assert printed(place, job_id, name) == "", name
    assert place.task(job_id, "holder")["state"] == "running"
    place.add(job_id, task("admin", "cat ../../holder/wd/mine", userIdentity={"autoUser": {"elevationLevel": "admin"}}))
    place.reached(job_id, "admin")
    assert printed(place, job_id, "admin") == "secret\n"
    place.raw("POST", f"/jobs/{job_id}/terminate")


def test_a_tasks_token_makes_nobody_an_administrator(place: Yard) -> None:
    """Neither by elevation, nor by a user of the pool who has it, nor by a pool in which somebody else has it."""
    holder = task("holder", "echo $AZ_BATCH_AUTHENTICATION_TOKEN; sleep 300", authenticationTokenSettings={"access": ["job"]})
    job_id = place.job(holder)
    place.reached(job_id, "holder", "running")
    path = f"/jobs/{job_id}/tasks/holder/files/stdout.txt"
    token = wait_for(lambda: place.raw("GET", path).body if place.raw("GET", path).status == 200 else b"", "the token").decode().strip()
    headers = {"authorization": f"Bearer {token}"}
    for identity in ({"username": "boss"}, {"autoUser": {"elevationLevel": "admin"}}):
        refused = place.raw("POST", f"/jobs/{job_id}/tasks", task("more", userIdentity=identity), headers=headers)
        refused.assert_error(403, "Forbidden")
        body = {"value": [task("more", userIdentity=identity), task(unique("fine"), **as_user("ada"))]}
        results = place.raw("POST", f"/jobs/{job_id}/addtaskcollection", body, headers=headers).json["value"]
        assert sorted(item["status"] for item in results) == ["clienterror", "success"]
    elsewhere = {"poolInfo": {"poolId": "elsewhere"}}
    for method in ("PATCH", "PUT"):
        place.raw(method, f"/jobs/{job_id}", elsewhere, headers=headers).assert_error(403, "Forbidden")
        same = place.raw(method, f"/jobs/{job_id}", {"poolInfo": {"poolId": place.pool_id}, "priority": 3}, headers=headers)
        assert same.status == 200, same.body
    place.raw("GET", f"/pools/{place.pool_id}", headers=headers).assert_error(403, "InsufficientAccountPermissions")
    place.raw("POST", f"/jobs/{job_id}/terminate")
