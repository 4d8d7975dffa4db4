"""`$filter`, `$select` and `$expand` on every list and get that knows them, through raw HTTP and both SDKs (contract 5)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from azure.batch import BatchClient
from azure.core.exceptions import HttpResponseError
from tests.api.conftest import Json, Raw, Sdk, Still, Yard, pages, pool_body, task, unique
from tests.conftest import Server

SDK14_PYTHON = "BATCHYARD_SDK14_PYTHON"
SCRIPT = Path(__file__).with_name("sdk14_lists.py")


def filtered(text: str, *more: str) -> str:
    """Query that asks for this."""
    return "&".join([f"$filter={quote(text)}", *more])


def ids(raw: Raw, path: str, text: str, *more: str) -> list[str]:
    """Ids of what a filter finds, over as many pages as it takes."""
    return [item["id"] for page in pages(raw, path, filtered(text, *more)) for item in page]


@pytest.fixture(scope="module")
def prefix(server: Server) -> Iterator[str]:
    """Three jobs with an id that begins so; the first has seven tasks t0…t6 that wait, but for t1, t3 and t6, which were terminated."""
    raw, made = Raw(server.endpoint, server.account, server.key), unique("lists")
    for number in range(3):
        job = {"id": f"{made}-{number}", "poolInfo": {"poolId": f"none-{number}"}, "priority": number}
        assert raw("POST", "/jobs", job).status == 201
    tasks = {"value": [task(f"t{number}") for number in range(7)]}
    assert raw("POST", f"/jobs/{made}-0/addtaskcollection", tasks).status == 200
    for number in (1, 3, 6):
        assert raw("POST", f"/jobs/{made}-0/tasks/t{number}/terminate").status == 204
    yield made
    for number in range(3):
        raw("DELETE", f"/jobs/{made}-{number}")


@pytest.fixture(scope="module")
def job_id(prefix: str) -> str:
    return f"{prefix}-0"


# tasks


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("state eq 'active'", "t0 t2 t4 t5"),
        ("state eq 'Completed'", "t1 t3 t6"),
        ("state ne 'completed'", "t0 t2 t4 t5"),
        ("state eq 'running' or state eq 'preparing'", ""),
        ("executionInfo/result eq 'failure'", "t1 t3 t6"),
        ("executionInfo/result ne 'failure'", "t0 t2 t4 t5"),
        ("executionInfo/exitCode lt 0", ""),
        ("executionInfo/exitCode ne 0", "t0 t1 t2 t3 t4 t5 t6"),
        ("state NE 'completed' AND NOT id ne 't4'", "t4"),
        ("id ne 't0' AND (id NE 'T2' AND NOT startswith(id,'t5'))", "t1 t3 t4 t6"),
        ("executionInfo/endTime ne DateTime'2020-01-01T00:00:00Z'", "t0 t1 t2 t3 t4 t5 t6"),
        ("not executionInfo/endTime gt DateTime'2020-01-01T00:00:00Z'", "t0 t2 t4 t5"),
        ("(state eq 'completed') and (executionInfo/result eq 'success')", ""),
        ("startswith(id,'T') and (id eq 't3' or id gt 't4')", "t3 t5 t6"),
        ("id eq 't5' or id eq 'T2' or id eq 'other'", "t2 t5"),
        ("executionInfo/endTime gt DateTime'2020-01-01T00:00:00Z'", "t1 t3 t6"),
        ("creationTime lt DateTime'2020-01-01T00:00:00Z'", ""),
    ],
)
def test_tasks(raw: Raw, job_id: str, text: str, found: str) -> None:
    path = f"/jobs/{job_id}/tasks"
    for more in ([], ["maxresults=1"], ["maxresults=2"], ["maxresults=3", "$expand=stats"]):
        assert ids(raw, path, text, *more) == found.split(), more


def test_times_of_tasks_are_exact(raw: Raw, job_id: str) -> None:
    path = f"/jobs/{job_id}/tasks"
    at = raw("GET", f"{path}/t3").json["executionInfo"]["endTime"]
    assert ids(raw, path, f"executionInfo/endTime eq DateTime'{at}'") == ["t3"]
    assert ids(raw, path, f"lastModifiedTime gt DateTime'{at}'") == ["t6"]
    assert ids(raw, path, f"lastModified ge DateTime'{at}'") == ["t3", "t6"]


def test_newer_sdk_follows_filtered_pages(sdk: Sdk, job_id: str) -> None:
    found = sdk.client.list_tasks(job_id, filter="state eq 'active'", select=["id", "state"], max_results=1)
    assert [(item.id, item.state, item.command_line) for item in found] == [(f"t{n}", "active", None) for n in (0, 2, 4, 5)]
    assert len(sdk.calls) == 4
    with pytest.raises(HttpResponseError) as error:
        list(sdk.client.list_tasks(job_id, filter="state not eq 'active'"))
    assert error.value.status_code == 400


def test_newer_sdk_selects(batch: BatchClient, job_id: str, pool_id: str, node_id: str) -> None:
    task = batch.get_task(job_id, "t0", select=["id", "executionInfo"])
    assert (task.id, task.state, task.execution_info is not None) == ("t0", None, True)
    job = batch.get_job(job_id, select=["id", "stats"], expand=["stats"])
    assert (job.id, job.state, job.job_statistics is not None) == (job_id, None, True)
    assert batch.get_pool(pool_id, select=["id", "vmSize"]).state is None
    [node] = batch.list_nodes(pool_id, filter="state ne 'unknown'", select=["id"])
    assert (node.id, node.state) == (node_id, None)
    assert batch.get_node(pool_id, node_id, select=["state"]).id is None
    assert list(batch.list_subtasks(job_id, "t0", select=["id", "state"])) == []


def test_older_sdk(server: Server, prefix: str, job_id: str, pool_id: str, node_id: str) -> None:
    interpreter = os.environ.get(SDK14_PYTHON)
    if not interpreter:
        pytest.skip(f"{SDK14_PYTHON} is not set (make test sets it)")
    command = [interpreter, str(SCRIPT), prefix, job_id, pool_id]
    done = subprocess.run(command, capture_output=True, text=True, env=server.environment, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["completed"] == ["t1", "t3", "t6"]
    assert found["waiting"] == ["t0", "t2", "t4", "t5"]
    assert found["no exit code"] == ["t0", "t2", "t4", "t5"]
    for image in (
        ["canonical", "0001-com-ubuntu-server-focal", "20_04-lts", "batch.node.ubuntu 20.04"],
        ["almalinux", "almalinux", "8-gen2", "batch.node.el 8"],
        ["microsoft-dsvm", "ubuntu-hpc", "2204", "batch.node.ubuntu 22.04"],
    ):
        assert found["images"].count(image) == 1
    assert (found["refusal"]["status"], found["refusal"]["code"]) == (400, "InvalidQueryParameterValue")
    assert ["QueryParameterName", "$filter"] in found["refusal"]["values"]
    assert found["selected"] == [{"id": f"t{n}", "state": "completed"} for n in (1, 3, 6)]
    assert sorted(found["task"]) == ["id", "url"]
    assert found["jobs"] == [{"id": f"{prefix}-{n}"} for n in range(3)]
    assert found["job"] == {"id": job_id, "priority": 0}
    assert found["pools"] == [{"id": pool_id, "vm_size": "standard_d2s_v3"}]
    assert found["pool"] == {"id": pool_id}
    assert found["nodes"] == [["id", "state"]]


# the other lists


def test_jobs(raw: Raw, prefix: str) -> None:
    def found(text: str) -> list[str]:
        return ids(raw, "/jobs", f"startswith(id,'{prefix}') and ({text})", "maxresults=1")

    first, second, third = (f"{prefix}-{n}" for n in range(3))
    assert found("state eq 'active'") == [first, second, third]
    assert found(f"id gt '{first.upper()}'") == [second, third]
    assert found("executionInfo/poolId eq 'NONE-1'") == [second]
    assert found(f"executionInfo/poolId ne 'none-1' AND executionInfo/endTime NE 2024-01-01T00:00:00Z AND id ne '{third}'") == [first]
    assert found("startswith(executionInfo/poolId,'none-') and executionInfo/endTime le DateTime'2100-01-01T00:00:00Z'") == []
    at = raw("GET", f"/jobs/{third}").json["creationTime"]
    assert found(f"creationTime lt DateTime'{at}'") == [first, second]
    assert found(f"executionInfo/startTime ge {at}") == [third]


def test_pools(raw: Raw) -> None:
    first, second = unique("pool"), unique("pool")
    assert raw("POST", "/pools", pool_body(first)).status == 201
    assert raw("POST", "/pools", pool_body(second, vmSize="STANDARD_A1", enableInterNodeCommunication=True)).status == 201
    both = f"(id eq '{first}' or id eq '{second}')"
    for text, found in {
        "state eq 'active'": [first, second],
        "vmSize eq 'Standard_A1'": [second],
        "vmSize ne 'standard_a1'": [first],
        f"id ne '{first}' AND creationTime ne DateTime'2020-01-01T00:00:00Z'": [second],
        f"NOT (id eq '{first}' OR allocationState eq 'stopping')": [second],
        "enableInterNodeCommunication eq true": [second],
        "enableAutoScale eq false and enableInterNodeCommunication ne true": [first],
        "state eq 'deleting'": [],
        "creationTime lt DateTime'2020-01-01T00:00:00Z' or allocationStateTransitionTime lt DateTime'2020-01-01T00:00:00Z'": [],
    }.items():
        assert ids(raw, "/pools", f"{both} and {text}", "maxresults=1") == found, text
    for pool_id in (first, second):
        raw("DELETE", f"/pools/{pool_id}")


def test_nodes(raw: Raw, pool_id: str, node_id: str) -> None:
    path = f"/pools/{pool_id}/nodes"
    assert ids(raw, path, "state eq 'idle' or state eq 'running'") == [node_id]
    assert ids(raw, path, "state eq 'unusable'") == []
    booted = raw("GET", f"{path}/{node_id}").json["lastBootTime"]
    assert ids(raw, path, f"lastBootTime eq DateTime'{booted}' and allocationTime lt DateTime'{booted}'") == [node_id]
    assert ids(raw, path, "startTaskInfo/result eq 'failure'") == []
    assert ids(raw, path, "startTaskInfo/result ne 'failure'") == [node_id]
    assert ids(raw, path, "startTaskInfo/exitCode ne 0 AND startTaskInfo/state ne 'running'") == [node_id]
    assert ids(raw, path, f"lastBootTime ne DateTime'{booted}'") == []


def test_files(yard: Yard, raw: Raw, batch: BatchClient, node_id: str) -> None:
    job_id = yard.job(task("t", "echo one > a1; echo two > a2; mkdir b; echo three > b/a3"))
    yard.reached(job_id, "t")
    path = f"/jobs/{job_id}/tasks/t/files"

    def names(text: str) -> list[str]:
        return [item["name"] for page in pages(raw, path, filtered(text, "recursive=true", "maxresults=1")) for item in page]

    assert names("startswith(name,'wd/a')") == ["wd/a1", "wd/a2"]
    assert names("startswith(name,'wd/b') or startswith(name,'std')") == ["stderr.txt", "stdout.txt", "wd/b", "wd/b/a3"]
    assert names("startswith(name,'WD')") == []
    assert [item.name for item in batch.list_task_files(job_id, "t", filter="startswith(name,'std')", max_results=1)] == [
        "stderr.txt",
        "stdout.txt",
    ]
    assert [item.name for item in batch.list_node_files(yard.pool_id, node_id, filter="startswith(name,'s')")] == ["shared", "startup"]
    raw("GET", path, query=filtered("name eq 'x'")).assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$filter")
    raw("GET", path, query="$select=name").assert_error(400, "UnsupportedQueryParameter")


def test_preparation_and_release_status(yard: Yard, raw: Raw, batch: BatchClient, node_id: str) -> None:
    job_id = yard.job(task("t"), jobPreparationTask={"commandLine": "true"}, jobReleaseTask={"commandLine": "false"})
    yard.reached(job_id, "t")
    raw("POST", f"/jobs/{job_id}/terminate")
    yard.job_reached(job_id, "completed")

    def found(text: str) -> list[str | None]:
        return [item.node_id for item in batch.list_job_preparation_and_release_task_status(job_id, filter=text, select=["nodeId"])]

    assert found(f"nodeId eq '{node_id}' and poolId eq '{yard.pool_id.upper()}'") == [node_id]
    assert found("jobPreparationTaskExecutionInfo/result eq 'success' and jobReleaseTaskExecutionInfo/exitCode eq 1") == [node_id]
    assert found("jobReleaseTaskExecutionInfo/result eq 'success'") == []
    path = f"/jobs/{job_id}/jobpreparationandreleasetaskstatus"
    assert raw("GET", path, query="$select=nodeId,poolId").json["value"] == [{"nodeId": node_id, "poolId": yard.pool_id}]


# what they have in common


@pytest.mark.parametrize("path", ["/pools", "/jobs", "/jobs/{job}/tasks", "/pools/{pool}/nodes"])
def test_a_wrong_query_says_what_is_wrong(raw: Raw, job_id: str, pool_id: str, path: str) -> None:
    path = path.format(job=job_id, pool=pool_id)
    for text in (
        "state eq 'bogus'",
        "nothing eq 1",
        "state gt 'active'",
        "state not eq 'active'",
        "(" * 1_000,
        "'" * 999,
        "state eq 'a\0",
    ):
        given = raw("GET", path, query=filtered(text)).assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$filter")
        assert text.startswith(given["QueryParameterValue"]) or "\0" in text
        assert given["Reason"]
    for text in ("id,nothing", "ID", "id,,state", "id;state", "a" * 5_000):
        given = raw("GET", path, query=f"$select={text}").assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$select")
        assert given["Reason"]
    for text in ("$filter=", "$filter=%20", "$select=", "$select=%20id%20,url"):
        assert raw("GET", path, query=text).status == 200


@pytest.mark.parametrize("path", ["/pools/{pool}", "/jobs/{job}", "/jobs/{job}/tasks/t0", "/pools/{pool}/nodes/{node}"])
def test_one_of_each_is_selected_from(raw: Raw, job_id: str, pool_id: str, node_id: str, path: str) -> None:
    path = path.format(job=job_id, pool=pool_id, node=node_id)
    whole = raw("GET", path).json
    for name in whole.keys() - {"odata.metadata"}:
        answer = raw("GET", path, query=f"$select={name}")
        if name not in ("lastModified", "executionInfo", "nodeAgentInfo"):
            assert answer.json == {"odata.metadata": whole["odata.metadata"], name: whole[name]}
        assert answer.headers.get("etag") == whole.get("eTag")
    raw("GET", path, query="$select=nothing").assert_error(400, "InvalidQueryParameterValue", QueryParameterName="$select")
    raw("GET", path, query=filtered("id eq 'x'")).assert_error(400, "UnsupportedQueryParameter")


@pytest.mark.parametrize("path", ["/jobs/{job}", "/jobs/{job}/tasks/t0"])
def test_statistics_are_served_when_expanded_and_not_left_out(raw: Raw, job_id: str, path: str) -> None:
    def members(query: str) -> set[str]:
        return set(raw("GET", path.format(job=job_id), query=query).json) - {"odata.metadata"}

    assert members("$select=id,state&$expand=stats") == {"id", "state"}
    assert members("$select=id,stats&$expand=stats") == {"id", "stats"}
    assert members("$select=id,stats") == {"id"}
    assert members("$expand=stats") > {"id", "stats"}


async def test_nodes_by_their_start_task(still: Still) -> None:
    """The start task of a node, not what a job ran there."""
    await still.node("idle", "n1")
    await still.node("idle", "n2")
    rows = [(0, "start", 1, "failure", 3), (0, "start", 2, "success", 0), (5, "preparation", 2, "failure", 9)]
    for job, kind, node, result, code in rows:
        await still.db.run(
            lambda tx, job, kind, node, result, code: tx.insert(
                "special_task",
                job_pk=job,
                kind=kind,
                node_pk=node,
                node_id=f"n{node}",
                pool_id="p",
                state="completed",
                started=1_000_000,
                ended=2_000_000,
                exit_code=code,
                result=result,
            ),
            job,
            kind,
            node,
            result,
            code,
        )

    async def found(text: str) -> list[str]:
        body: Json = (await still("GET", "/pools/p/nodes", query=filtered(text, "$select=id"))).json()
        return [item["id"] for item in body["value"]]

    assert await found("startTaskInfo/result eq 'failure'") == ["n1"]
    assert await found("startTaskInfo/exitCode ge 0 and startTaskInfo/state eq 'completed'") == ["n1", "n2"]
    assert await found("startTaskInfo/exitCode eq 9") == []
    assert await found("startTaskInfo/endTime gt DateTime'1970-01-01T00:00:01Z' and startTaskInfo/startTime le 1970-01-01T00:00:01Z") == [
        "n1",
        "n2",
    ]
