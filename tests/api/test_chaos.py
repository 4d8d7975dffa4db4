"""Disturbances on demand over HTTP: who may ask, for which node, and what comes of it on a real one."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.api.conftest import Json, Raw, Still, Yard, pool_body, task, unique
from tests.conftest import Server, wait_for

from batchyard.model.states import NodeState
from batchyard.model.sync import Chaos, FileHead

NODES = "/batchyard/chaos/nodes"


@pytest.fixture(scope="module")
def wild() -> Iterator[Server]:
    """A server that lets its nodes be disturbed."""
    running = Server("--chaos", nodes=2)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def wild_pool(wild: Server) -> str:
    pool_id = unique("wild")
    added = Raw(wild.endpoint, wild.account, wild.key)("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=1, taskSlotsPerNode=4))
    assert added.status == 201, added.body
    return pool_id


@pytest.fixture
def range_(wild: Server, wild_pool: str) -> Iterator[Yard]:
    """Jobs on the wild pool."""
    made = Yard(Raw(wild.endpoint, wild.account, wild.key), wild_pool)
    yield made
    for job_id in made.jobs:
        made.raw("DELETE", f"/jobs/{job_id}")


def ready(yard: Yard) -> str:
    """The pool's node, once it takes tasks."""

    def look() -> str | None:
        [node] = yard.get(f"/pools/{yard.pool_id}/nodes")["value"] or [{"state": ""}]
        return node["id"] if node["state"] in ("idle", "running") else None

    return wait_for(look, "the node to be ready")


def test_a_server_that_was_not_started_for_it_does_not_know_it(raw: Raw) -> None:
    raw("POST", f"{NODES}/tvmps_1_d", {"kind": "heal"}).assert_error(404, "ResourceNotFound")


def test_a_killed_agent_is_started_again_and_its_tasks_run_again(wild: Server, range_: Yard) -> None:
    node_id = ready(range_)
    job_id = range_.job(task("long", "[ -e $AZ_BATCH_NODE_SHARED_DIR/ran ] || { touch $AZ_BATCH_NODE_SHARED_DIR/ran && sleep 1000; }"))
    range_.reached(job_id, "long", "running")
    wait_for(lambda: list(wild.directory.glob(f"nodes/{node_id}/root/shared/ran")), "the command to begin")
    before = wait_for(lambda: wild.agents().get(node_id), "the agent")
    answer = range_.raw("POST", f"{NODES}/{node_id}", {"kind": "kill"})
    assert (answer.status, answer.json) == (200, {"poolId": range_.pool_id, "nodeId": node_id, "kind": "kill"})
    wait_for(lambda: wild.agents().get(node_id) not in (None, before), "another agent")
    done = range_.reached(job_id, "long")
    assert (done["executionInfo"]["result"], done["executionInfo"]["retryCount"]) == ("success", 0)


def test_starts_are_slow_and_a_full_disk_takes_no_task_until_the_node_is_healed(range_: Yard) -> None:
    node_id = ready(range_)
    assert range_.raw("POST", f"{NODES}/{node_id.upper()}", {"kind": "slow", "seconds": 1000}).status == 200
    job_id = range_.job(task("slow"))
    wait_for(lambda: range_.task(job_id, "slow")["state"] == "running", "the task to be placed")
    assert range_.raw("POST", f"{NODES}/{node_id}", {"kind": "heal"}).status == 200
    assert range_.raw("POST", f"{NODES}/{node_id}", {"kind": "disk-full"}).status == 200
    assert range_.task(job_id, "slow")["state"] == "running"
    range_.add(job_id, task("full"))

    def refused() -> bool:
        [node] = range_.get(f"/pools/{range_.pool_id}/nodes")["value"]
        failure: Json = range_.task(job_id, "full").get("executionInfo", {}).get("failureInfo", {})
        return node["state"] == "unusable" or failure.get("code") == "DiskFull"

    wait_for(refused, "the node to refuse work")
    assert range_.raw("POST", f"{NODES}/{node_id}", {"kind": "heal"}).status == 200
    ready(range_)
    range_.add(job_id, task("healed"))
    assert range_.reached(job_id, "healed")["executionInfo"]["result"] == "success"


def test_a_full_disk_makes_the_node_unusable_and_says_why(range_: Yard) -> None:
    node_id = ready(range_)
    path = f"/pools/{range_.pool_id}/nodes/{node_id}"
    assert range_.raw("POST", f"{NODES}/{node_id}", {"kind": "disk-full"}).status == 200
    wait_for(lambda: range_.get(path)["state"] == "unusable", "the node to be unusable")
    assert "DiskFull" in [error["code"] for error in range_.get(path)["errors"]]
    assert range_.raw("POST", f"{NODES}/{node_id}", {"kind": "heal"}).status == 200
    wait_for(lambda: range_.get(path)["state"] == "idle", "the node to be idle")
    assert "DiskFull" not in [error["code"] for error in range_.get(path).get("errors", [])]


@pytest.fixture
def notes() -> Iterator[Path]:
    """A directory that every task may write to."""
    with tempfile.TemporaryDirectory(prefix="batchyard-test-") as place:
        Path(place).chmod(0o777)
        yield Path(place)


def test_a_spot_node_is_preempted_after_its_notice_and_its_task_runs_again(wild: Server, notes: Path) -> None:
    raw, pool_id = Raw(wild.endpoint, wild.account, wild.key), unique("spot")
    assert raw("POST", "/pools", pool_body(pool_id, targetLowPriorityNodes=1)).status == 201
    yard = Yard(raw, pool_id)
    node_id = ready(yard)
    script = f'trap "touch {notes}/noticed" TERM; [ -e {notes}/ran ] && exit 0; touch {notes}/ran; while :; do sleep 0.1; done'
    job_id = yard.job(task("work", script))
    wait_for(lambda: (notes / "ran").exists(), "the task to run")
    assert raw("POST", f"{NODES}/{node_id}", {"kind": "preempt", "seconds": 1}).status == 200
    wait_for(lambda: (notes / "noticed").exists(), "the notice")
    wait_for(lambda: yard.get(f"/pools/{pool_id}/nodes/{node_id}")["state"] == "preempted", "the node to be preempted")
    assert yard.task(job_id, "work")["state"] == "active"
    info = yard.reached(job_id, "work")["executionInfo"]
    assert (info["result"], info["retryCount"], info["requeueCount"]) == ("success", 0, 0)
    raw("DELETE", f"/jobs/{job_id}")
    raw("DELETE", f"/pools/{pool_id}")
    yard.gone(f"/pools/{pool_id}")


def test_a_dedicated_node_is_not_preempted(range_: Yard) -> None:
    node_id = ready(range_)
    range_.raw("POST", f"{NODES}/{node_id}", {"kind": "preempt"}).assert_error(409, "OperationNotValidOnNode")


def test_the_token_of_a_task_is_not_enough(range_: Yard) -> None:
    node_id = ready(range_)
    shows = task("shows", "echo $AZ_BATCH_AUTHENTICATION_TOKEN; sleep 1000", authenticationTokenSettings={"access": ["job"]})
    job_id = range_.job(shows)
    path = f"/jobs/{job_id}/tasks/shows/files/stdout.txt"
    token = wait_for(lambda: range_.raw("GET", path).body if range_.raw("GET", path).status == 200 else b"", "the token").decode().strip()
    refused = range_.raw("POST", f"{NODES}/{node_id}", {"kind": "kill"}, headers={"authorization": f"Bearer {token}"})
    refused.assert_error(403, "InsufficientAccountPermissions")


@pytest.fixture
async def quiet() -> AsyncIterator[Still]:
    """A server in memory with `--chaos`, a pool and two nodes, whose agents are the test."""
    made = Still(chaos=True)
    assert (await made("POST", "/pools", pool_body("p"))).status_code == 201
    await made.node("idle", "tvmps_aa1_d")
    await made.node("idle", "tvmps_ab2_d")
    await made.node("idle", "tvmps_a")
    yield made
    await made.close()


async def asked(still: Still, body: Json, answer: FileHead, node: str = "tvmps_aa1_d", pk: int = 1) -> tuple[int, Json, Chaos]:
    """(status, body, what the agent was asked for) of a request that the agent answers so."""
    calling = asyncio.create_task(still("POST", f"{NODES}/{node}", body))
    async with asyncio.timeout(10):
        while not (waiting := still.relay.waiting(pk)):
            assert not calling.done(), calling.result().text
            await asyncio.sleep(0)
    exchange = still.relay.answer(pk, waiting[0].id, answer)
    assert exchange is not None
    found = await calling
    return found.status_code, found.json(), msgspec.json.decode(waiting[0].content, type=Chaos)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"kind": "kill"}, Chaos(kind="kill")),
        ({"kind": "slow", "seconds": 1.5}, Chaos(kind="slow", seconds=1.5)),
        ({"kind": "disk-full"}, Chaos(kind="disk-full")),
        ({"kind": "heal"}, Chaos(kind="heal")),
    ],
)
async def test_what_the_agent_is_asked(quiet: Still, body: Json, expected: Chaos) -> None:
    status, found, chaos = await asked(quiet, body, FileHead())
    assert (status, found) == (200, {"poolId": "p", "nodeId": "tvmps_aa1_d", "kind": body["kind"]})
    assert chaos == expected


async def test_an_agent_that_may_not_says_so(quiet: Still) -> None:
    status, found, _ = await asked(quiet, {"kind": "kill"}, FileHead(error="Forbidden"))
    assert (status, found["code"]) == (403, "Forbidden")


@pytest.mark.parametrize(
    ("start", "node", "pk"), [("tvmps_AA", "tvmps_aa1_d", 1), ("tvmps_ab2_d", "tvmps_ab2_d", 2), ("tvmps_a", "tvmps_a", 3)]
)
async def test_the_start_of_an_id_is_enough_when_no_other_begins_so(quiet: Still, start: str, node: str, pk: int) -> None:
    status, found, _ = await asked(quiet, {"kind": "heal"}, FileHead(), start, pk)
    assert (status, found["nodeId"]) == (200, node)


@pytest.mark.parametrize("start", ["tvmps", "tvmps_aa1_dd", "tvmps_a%25", "tvmps_aa_", "x"])
async def test_other_ids_name_no_node(quiet: Still, start: str) -> None:
    answer = await quiet("POST", f"{NODES}/{start}", {"kind": "heal"})
    assert (answer.status_code, answer.json()["code"]) == (404, "NodeNotFound")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "MissingRequiredProperty"),
        ({"kind": "slow"}, "MissingRequiredProperty"),
        ({"kind": "melt"}, "InvalidPropertyValue"),
        ({"kind": "slow", "seconds": -1}, "InvalidRequestBody"),
        ({"kind": "slow", "seconds": 1e9}, "InvalidRequestBody"),
        ({"kind": "slow", "seconds": "soon"}, "InvalidRequestBody"),
        ({"kind": "heal", "colour": 1}, "InvalidRequestBody"),
    ],
)
async def test_bad_wishes_ask_no_agent(quiet: Still, body: Json, code: str) -> None:
    answer = await quiet("POST", f"{NODES}/tvmps_aa1_d", body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.parametrize(
    "state", sorted(set(NodeState) - {"idle", "running", "offline", "unusable", "waitingforstarttask", "starttaskfailed"})
)
async def test_a_node_without_an_agent_cannot_be_disturbed(quiet: Still, state: str) -> None:
    await quiet.node(state, "other")
    answer = await quiet("POST", f"{NODES}/other", {"kind": "kill"})
    assert (answer.status_code, answer.json()["code"]) == (409, "OperationNotValidOnNode")
    assert state in answer.text
