"""Multi-instance tasks on real nodes (contract 3.10, 4.3, 9.5), through the newer SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from azure.batch import BatchClient, models
from tests.api.conftest import Json, Raw, Yard, pool_body, sh, unique
from tests.conftest import Server, wait_for

NODES = 3


@pytest.fixture(scope="module")
def gang_pool(server: Server) -> Iterator[str]:
    """A pool of three nodes with one slot each that may talk to each other."""
    raw, pool_id = Raw(server.endpoint, server.account, server.key), unique("gang")
    assert raw("POST", "/pools", pool_body(pool_id, targetDedicatedNodes=NODES, enableInterNodeCommunication=True)).status == 201
    wait_for(lambda: [node["state"] for node in nodes(raw, pool_id)] == ["idle"] * NODES, "all nodes to be idle")
    yield pool_id
    raw("DELETE", f"/pools/{pool_id}")
    wait_for(lambda: raw("GET", f"/pools/{pool_id}").status == 404, "the pool to be gone")


@pytest.fixture
def gangs(raw: Raw, gang_pool: str) -> Iterator[Yard]:
    """Jobs on the three nodes."""
    made = Yard(raw, gang_pool)
    yield made
    for job_id in made.jobs:
        raw("DELETE", f"/jobs/{job_id}", query="force=true")
    for job_id in made.jobs:
        made.gone(f"/jobs/{job_id}")


def nodes(raw: Raw, pool_id: str) -> list[Json]:
    found: list[Json] = raw("GET", f"/pools/{pool_id}/nodes").json["value"]
    return found


def gang(task_id: str, script: str = "true", coordination: str = "true", instances: int = NODES, **more: object) -> Json:
    """A multi-instance task of shell scripts."""
    settings = {"numberOfInstances": instances, "coordinationCommandLine": sh(coordination)}
    return {"id": task_id, "commandLine": sh(script), "multiInstanceSettings": settings, **more}


def subtasks(yard: Yard, job_id: str, task_id: str) -> list[Json]:
    found: list[Json] = yard.get(f"/jobs/{job_id}/tasks/{task_id}/subtasksinfo")["value"]
    return found


def file_of(raw: Raw, info: Json, name: str) -> str:
    """A file of a task's directory on a node."""
    path = f"{info['taskRootDirectory']}/{name}".replace("/", "%2F")
    answer = raw("GET", f"/pools/{info['poolId']}/nodes/{info['nodeId']}/files/{path}")
    assert answer.status == 200, answer.body
    return answer.body.decode()


def idle(yard: Yard) -> None:
    wait_for(lambda: [node["state"] for node in nodes(yard.raw, yard.pool_id)] == ["idle"] * NODES, "the nodes to be free again")


SHOW = "echo $AZ_BATCH_TASK_SHARED_DIR; echo $AZ_BATCH_NODE_LIST; echo $AZ_BATCH_HOST_LIST; echo $AZ_BATCH_MASTER_NODE; " + (
    "echo $AZ_BATCH_IS_CURRENT_NODE_MASTER; echo $CCP_NODES; cat $AZ_BATCH_TASK_SHARED_DIR/common.txt"
)


def test_every_instance_coordinates_and_the_primary_alone_runs_the_command(
    gangs: Yard, raw: Raw, batch: BatchClient, server: Server, gang_pool: str
) -> None:
    from azure.storage.blob import BlobServiceClient

    box = unique("common")
    container = BlobServiceClient.from_connection_string(server.storage_connection_string).create_container(box)
    container.upload_blob("common.txt", b"for all\n")
    container.upload_blob("own.txt", b"for the primary\n")
    job_id = gangs.job()
    settings = models.MultiInstanceSettings(
        coordination_command_line=sh(f"{SHOW}; test ! -e own.txt"),
        number_of_instances=NODES,
        common_resource_files=[models.ResourceFile(auto_storage_container_name=box, blob_prefix="common")],
    )
    sent = models.BatchTaskCreateOptions(
        id="t",
        command_line=sh("cat own.txt $AZ_BATCH_TASK_SHARED_DIR/common.txt; echo $AZ_BATCH_IS_CURRENT_NODE_MASTER"),
        multi_instance_settings=settings,
        resource_files=[models.ResourceFile(auto_storage_container_name=box, blob_prefix="own")],
    )
    batch.create_task(job_id, sent)
    done = gangs.reached(job_id, "t")
    assert (done["executionInfo"]["result"], done["executionInfo"]["exitCode"]) == ("success", 0)
    got = batch.get_task(job_id, "t")
    assert got.multi_instance_settings.as_dict() == settings.as_dict()
    assert file_of(raw, done["nodeInfo"], "stdout.txt") == "for the primary\nfor all\ntrue\n"

    found = list(batch.list_subtasks(job_id, "t"))
    assert [(one.id, one.state, one.result, one.exit_code) for one in found] == [(n, "completed", "success", 0) for n in (1, 2)]
    places = {one.node_info.node_id for one in found} | {done["nodeInfo"]["nodeId"]}
    assert places == {node["id"] for node in nodes(raw, gang_pool)}
    address = "127.0.0.1"
    for number, info in enumerate([done["nodeInfo"], *(one.as_dict()["nodeInfo"] for one in found)]):
        lines = file_of(raw, info, "stdout.txt" if number else "coordination-stdout.txt").splitlines()
        assert lines[0].endswith(f"/workitems/{job_id}/job-1/t")
        assert lines[1:] == [
            ";".join([address] * NODES),
            ",".join([address] * NODES),
            f"{address}:6000",
            "true" if number == 0 else "false",
            f"{NODES} " + " ".join([f"{address} 1"] * NODES),
            "for all",
        ]
    recent = {node["id"]: node["recentTasks"][0] for node in nodes(raw, gang_pool)}
    assert {one["taskId"] for one in recent.values()} == {"t"}
    assert {node_id: one.get("subtaskId") for node_id, one in recent.items()} == (
        {one.node_info.node_id: one.id for one in found} | {done["nodeInfo"]["nodeId"]: None}
    )
    idle(gangs)
    counts = raw("GET", f"/jobs/{job_id}/taskcounts").json
    assert counts["taskCounts"]["succeeded"] == 1
    assert counts["taskSlotCounts"]["succeeded"] == NODES
    assert [sorted(one) for one in raw("GET", f"/jobs/{job_id}/tasks/t/subtasksinfo", query="$select=id,state").json["value"]] == (
        [["id", "state"]] * 2
    )


def test_what_coordination_leaves_running_lasts_as_long_as_the_task(gangs: Yard, raw: Raw) -> None:
    """The helpers of all instances wait for a file that the primary's command makes in a directory that all nodes of the machine see."""
    job_id = gangs.job()
    meet = f"/tmp/{unique('meet')}"
    helper = f"mkdir -p -m 0777 {meet}; (while sleep 0.05; do touch {meet}/$AZ_BATCH_NODE_ID 2>/dev/null; done) >/dev/null 2>&1 &"
    script = f"until test $(ls {meet} | wc -l) = {NODES}; do sleep 0.05; done; ls {meet}; rm -f {meet}/*; sleep 0.5; ls {meet} | wc -l"
    gangs.add(job_id, gang("t", script, helper))
    done = gangs.reached(job_id, "t")
    lines = file_of(raw, done["nodeInfo"], "stdout.txt").splitlines()
    assert sorted(lines[:-1]) == sorted(node["id"] for node in nodes(raw, gangs.pool_id))
    assert lines[-1] == str(NODES)
    idle(gangs)
    raw("DELETE", f"/jobs/{job_id}", query="force=true")


def test_an_instance_that_fails_ends_all_and_a_retry_is_of_all(gangs: Yard, raw: Raw) -> None:
    job_id = gangs.job()
    once = 'test "$AZ_BATCH_IS_CURRENT_NODE_MASTER" = true || test -e tried || { touch tried; exit 3; }'
    gangs.add(job_id, gang("again", "echo ran", once, constraints={"maxTaskRetryCount": 4}))
    done = gangs.reached(job_id, "again")["executionInfo"]
    assert done["result"] == "success"
    assert done["retryCount"] >= 1
    fails = 'test "$AZ_BATCH_IS_CURRENT_NODE_MASTER" = true || exit 4'
    gangs.add(job_id, gang("bad", "echo ran", fails))
    failed = gangs.reached(job_id, "bad")
    info = failed["executionInfo"]
    assert (info["result"], info["exitCode"], info["failureInfo"]["code"], info["retryCount"]) == ("failure", 4, "FailureExitCode", 0)
    details = {each["name"]: each["value"] for each in info["failureInfo"]["details"]}
    broken = subtasks(gangs, job_id, "bad")
    assert details["NodeId"] in {one["nodeInfo"]["nodeId"] for one in broken}
    assert 4 in {one.get("exitCode") for one in broken}
    assert {one["result"] for one in broken} == {"failure"}
    assert raw("POST", f"/jobs/{job_id}/tasks/bad/reactivate").status == 204
    assert gangs.reached(job_id, "bad")["executionInfo"]["exitCode"] == 4
    idle(gangs)


def test_termination_ends_every_instance(gangs: Yard, raw: Raw) -> None:
    job_id = gangs.job()
    gangs.add(job_id, gang("t", "sleep 1000", "sleep 1000 >/dev/null 2>&1 &"))
    gangs.reached(job_id, "t", "running")
    wait_for(lambda: {one["state"] for one in subtasks(gangs, job_id, "t")} == {"running"}, "the subtasks to run")
    assert raw("POST", f"/jobs/{job_id}/tasks/t/terminate").status == 204
    assert gangs.reached(job_id, "t")["executionInfo"]["failureInfo"]["code"] == "TaskEnded"
    assert {one["state"] for one in subtasks(gangs, job_id, "t")} == {"completed"}
    idle(gangs)


def test_the_wall_clock_holds_for_coordination_and_command_together(gangs: Yard) -> None:
    job_id = gangs.job()
    limited = {"constraints": {"maxWallClockTime": "PT2S"}}
    gangs.add(job_id, gang("command", "sleep 1000", "sleep 0.2", **limited), gang("coordination", "true", "sleep 1000", **limited))
    for task_id in ("command", "coordination"):
        failure = gangs.reached(job_id, task_id)["executionInfo"]["failureInfo"]
        assert (failure["category"].lower(), failure["code"]) == ("servererror", "TaskEnded")
    idle(gangs)


def test_it_waits_where_nodes_may_not_talk_and_for_ever_without_enough_of_them(yard: Yard, gangs: Yard) -> None:
    job_id = yard.job()
    yard.add(job_id, gang("t", instances=1), {"id": "plain", "commandLine": "true"})
    yard.reached(job_id, "plain")
    assert yard.task(job_id, "t")["state"] == "active"
    assert subtasks(yard, job_id, "t") == []
    more = gangs.job()
    gangs.add(more, gang("large", instances=NODES + 1), gang("fits", instances=2), {"id": "plain", "commandLine": "true"})
    gangs.reached(more, "fits")
    gangs.reached(more, "plain")
    assert gangs.task(more, "large")["state"] == "active"


def test_preparation_tasks_come_before_each_instance(gangs: Yard, raw: Raw) -> None:
    job_id = gangs.job(jobPreparationTask={"commandLine": sh("echo ready >made")})
    gangs.add(job_id, gang("t", "cat $AZ_BATCH_JOB_PREP_WORKING_DIR/made", "test -s $AZ_BATCH_JOB_PREP_WORKING_DIR/made"))
    done = gangs.reached(job_id, "t")
    assert done["executionInfo"]["exitCode"] == 0
    assert file_of(raw, done["nodeInfo"], "stdout.txt") == "ready\n"
    assert len(gangs.get(f"/jobs/{job_id}/jobpreparationandreleasetaskstatus")["value"]) == NODES


def test_a_node_that_reboots_takes_the_whole_task_with_it(gangs: Yard, raw: Raw) -> None:
    job_id = gangs.job()
    flag = f"/tmp/{unique('flag')}"
    gangs.add(job_id, gang("t", f"until test -e {flag}; do sleep 0.05; done"))
    gangs.reached(job_id, "t", "running")
    other = subtasks(gangs, job_id, "t")[0]["nodeInfo"]["nodeId"]
    assert raw("POST", f"/pools/{gangs.pool_id}/nodes/{other}/reboot", {"nodeRebootOption": "requeue"}).status == 202
    again = wait_for(lambda: _requeued(gangs.task(job_id, "t")), "the task to wait again or run")
    assert again["executionInfo"]["requeueCount"] == 1
    with open(flag, "w"):
        pass
    assert gangs.reached(job_id, "t")["executionInfo"]["result"] == "success"
    idle(gangs)


def _requeued(task: Json) -> Json | None:
    return task if task["executionInfo"]["requeueCount"] else None
