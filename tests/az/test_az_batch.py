"""`az batch`, unmodified and without a login, on pools, nodes, jobs, tasks and their files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

pytestmark = [pytest.mark.az, pytest.mark.timeout(120)]

POOL, JOB = "az-pool", "az-job"
MACHINE = ("--vm-size", "standard_d2s_v3", "--image", "canonical:ubuntu-24_04-lts:server", "--node-agent-sku-id", "batch.node.ubuntu 24.04")
IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server", "version": "latest"}


class Done(Protocol):
    """How a command ended."""

    code: int
    out: str
    err: str


class Az(Protocol):
    """What these tests need of the fixture `az`."""

    def __call__(self, *words: str | Path) -> Any: ...
    def run(self, *words: str | Path) -> Done: ...
    def alone(self, *words: str) -> Done: ...
    def until(self, wanted: object, *words: str) -> None: ...


@pytest.fixture(scope="module")
def pool(az: Az) -> Iterator[str]:
    """A pool of one node with two slots."""
    size = ("--target-dedicated-nodes", "1", "--task-slots-per-node", "2")
    az("pool", "create", "--id", POOL, *MACHINE, *size, "--metadata", "team=az", "--resize-timeout", "PT20M")
    yield POOL
    az("pool", "delete", "--pool-id", POOL, "--yes")


@pytest.fixture(scope="module")
def job(az: Az, pool: str) -> Iterator[str]:
    """A job on it."""
    az("job", "create", "--id", JOB, "--pool-id", pool, "--uses-task-dependencies")
    yield JOB
    az("job", "delete", "--job-id", JOB, "--yes")


@pytest.fixture(scope="module")
def greeting(az: Az, job: str) -> str:
    """A task that has said hello."""
    shown = az("task", "create", "--job-id", job, "--task-id", "greeting", "--command-line", "/bin/sh -c 'echo hello; echo oops >&2'")
    assert shown["id"] == "greeting"
    completed(az, job, "greeting")
    return "greeting"


@pytest.fixture(scope="module")
def node(az: Az, pool: str, greeting: str) -> str:
    """The pool's node, once it has run a task."""
    [found] = az("node", "list", "--pool-id", pool)
    return str(found["id"])


def completed(az: Az, job: str, task: str) -> None:
    az.until("completed", "task", "show", "--job-id", job, "--task-id", task, "--query", "state")


def test_pool_create_with_options(az: Az, pool: str) -> None:
    shown = az("pool", "show", "--pool-id", pool)
    assert (shown["id"], shown["state"], shown["vmSize"]) == (pool, "active", "standard_d2s_v3")
    assert (shown["targetDedicatedNodes"], shown["taskSlotsPerNode"], shown["resizeTimeout"]) == (1, 2, "PT20M")
    assert shown["metadata"] == [{"name": "team", "value": "az"}]
    assert shown["virtualMachineConfiguration"] == {"imageReference": IMAGE, "nodeAgentSkuId": "batch.node.ubuntu 24.04"}
    assert pool in az("pool", "list", "--query", "[].id")


def test_pool_create_from_json_resize_and_delete(az: Az, tmp_path: Path) -> None:
    wish = {
        "id": "az-json-pool",
        "vmSize": "standard_d2s_v3",
        "virtualMachineConfiguration": {"imageReference": IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"},
        "targetDedicatedNodes": 0,
        "taskSchedulingPolicy": {"nodeFillType": "pack"},
    }
    (tmp_path / "pool.json").write_text(json.dumps(wish))
    az("pool", "create", "--json-file", tmp_path / "pool.json")
    named = ("--pool-id", "az-json-pool")
    assert az("pool", "show", *named)["taskSchedulingPolicy"] == {"nodeFillType": "pack"}
    az.until("steady", "pool", "show", *named, "--query", "allocationState")
    az("pool", "resize", *named, "--target-dedicated-nodes", "1", "--resize-timeout", "PT10M")
    az.until([1, 1], "pool", "show", *named, "--query", "[targetDedicatedNodes, currentDedicatedNodes]")
    az("pool", "delete", *named, "--yes")
    az.until([], "pool", "list", "--query", "[?id == 'az-json-pool' && state != 'deleting'].id")


def test_a_pool_without_any_target_has_no_nodes(az: Az) -> None:
    az("pool", "create", "--id", "az-bare", *MACHINE)
    az.until(
        [0, 0, "steady"],
        "pool",
        "show",
        "--pool-id",
        "az-bare",
        "--query",
        "[targetDedicatedNodes, currentDedicatedNodes, allocationState]",
    )
    az("pool", "delete", "--pool-id", "az-bare", "--yes")


def test_pool_set_reset_stop_and_remove_nodes(az: Az, tmp_path: Path) -> None:
    named = ("--pool-id", "az-changes")
    az("pool", "create", "--id", "az-changes", *MACHINE, "--target-dedicated-nodes", "1", "--start-task-command-line", "true")
    assert az("pool", "show", *named, "--query", "startTask.[commandLine, waitForSuccess]") == ["true", True]
    az("pool", "set", *named, "--metadata", "a=b", "--start-task-command-line", "false")
    assert az("pool", "show", *named, "--query", "[metadata[0].value, startTask.commandLine]") == ["b", "false"]
    az("pool", "reset", *named, "--metadata", "c=d")
    assert az("pool", "show", *named, "--query", "[metadata[0].name, startTask]") == ["c", None]
    az.until("steady", "pool", "show", *named, "--query", "allocationState")
    [node] = az("node", "list", *named, "--query", "[].id")
    az("node", "delete", *named, "--node-list", node, "--node-deallocation-option", "terminate")
    az.until([0, 0], "pool", "show", *named, "--query", "[targetDedicatedNodes, currentDedicatedNodes]")
    az.until("steady", "pool", "show", *named, "--query", "allocationState")
    az("pool", "resize", *named, "--abort")
    assert az("pool", "show", *named, "--query", "[allocationState, resizeErrors]") == ["steady", None]
    (tmp_path / "set.json").write_text(json.dumps({"taskSlotsPerNode": 3}))
    az("pool", "set", *named, "--json-file", tmp_path / "set.json")
    az("pool", "delete", *named, "--yes")


def test_images_counts_and_usage(az: Az, pool: str, node: str) -> None:
    images = az("pool", "supported-images", "list", "--filter", "verificationType eq 'verified'")
    assert {image["osType"] for image in images} == {"linux"}
    assert {"batch.node.ubuntu 22.04", "batch.node.debian 12", "batch.node.el 9"} <= {image["nodeAgentSkuId"] for image in images}
    [counts] = [item for item in az("pool", "node-counts", "list") if item["poolId"] == pool]
    assert (counts["dedicated"]["total"], counts["lowPriority"]["total"]) == (1, 0)
    assert az("pool", "usage-metrics", "list") == []
    old = ("--start-time", "2020-01-01T00:00:00Z", "--end-time", "2020-01-02T00:00:00Z")
    assert az("pool", "usage-metrics", "list", *old) == []


def test_nodes(az: Az, pool: str, node: str) -> None:
    shown = az("node", "show", "--pool-id", pool, "--node-id", node)
    assert (shown["id"], shown["schedulingState"], shown["isDedicated"]) == (node, "enabled", True)
    assert shown["totalTasksRun"] >= 1


def test_node_files(az: Az, pool: str, node: str, job: str, greeting: str, tmp_path: Path) -> None:
    named = ("--pool-id", pool, "--node-id", node)
    top = az("node", "file", "list", *named)
    assert {"workitems", "shared", "startup"} <= {entry["name"] for entry in top if entry["isDirectory"]}
    path = f"workitems/{job}/job-1/{greeting}/stdout.txt"
    assert path in az("node", "file", "list", *named, "--recursive", "true", "--query", "[].name")
    az("node", "file", "download", *named, "--file-path", path, "--destination", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "hello\n"


def test_job_life(az: Az, pool: str) -> None:
    named = ("--job-id", "az-life")
    limits = ("--job-max-wall-clock-time", "PT3H", "--job-max-task-retry-count", "2")
    az("job", "create", "--id", "az-life", "--pool-id", pool, "--priority", "5", "--metadata", "a=b", *limits)
    shown = az("job", "show", *named)
    assert (shown["state"], shown["priority"], shown["poolInfo"]) == ("active", 5, {"poolId": pool})
    assert shown["constraints"] == {"maxTaskRetryCount": 2, "maxWallClockTime": "PT3H"}
    assert "az-life" in az("job", "list", "--query", "[].id")
    az("job", "set", *named, "--priority", "-7", "--metadata", "c=d")
    assert az("job", "show", *named, "--query", "[priority, metadata]") == [-7, [{"name": "c", "value": "d"}]]
    az("job", "stop", *named, "--terminate-reason", "enough")
    az.until(["completed", "enough"], "job", "show", *named, "--query", "[state, executionInfo.terminateReason]")
    az("job", "delete", *named, "--yes")
    az.until([], "job", "list", "--query", "[?id == 'az-life'].id")


def test_job_list_as_table(az: Az, job: str) -> None:
    done = az.run("job", "list", "-o", "table")
    assert done.code == 0, done
    assert [job, "active", POOL] in [line.split() for line in done.out.splitlines()]


def test_task_create_with_options(az: Az, job: str) -> None:
    options = ("--environment-settings", "WHO=az", "EMPTY=", "--max-task-retry-count", "1", "--max-wall-clock-time", "PT1H")
    named = ("--job-id", job, "--task-id", "optioned")
    shown = az("task", "create", *named, "--command-line", """/bin/sh -c 'test "$WHO" = az'""", *options)
    assert shown["environmentSettings"] == [{"name": "WHO", "value": "az"}, {"name": "EMPTY", "value": ""}]
    assert shown["constraints"] == {"maxTaskRetryCount": 1, "maxWallClockTime": "PT1H", "retentionTime": "P7D"}
    completed(az, job, "optioned")
    assert az("task", "show", *named, "--query", "[executionInfo.exitCode, executionInfo.result]") == [0, "success"]
    assert "optioned" in az("task", "list", "--job-id", job, "--query", "[].id")


def test_tasks_in_bulk_and_their_counts(az: Az, pool: str, tmp_path: Path) -> None:
    named = ("--job-id", "az-bulk")
    az("job", "create", "--id", "az-bulk", "--pool-id", pool)
    tasks = [{"id": f"n{number}", "commandLine": "false" if number == 7 else "true"} for number in range(150)]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    added = az("task", "create", *named, "--json-file", tmp_path / "tasks.json")
    assert sorted(one["taskId"] for one in added) == sorted(one["id"] for one in tasks)  # az sends each chunk from its end
    assert {one["status"].lower() for one in added} == {"success"}
    assert sorted(az("task", "list", *named, "--query", "[].id")) == sorted(one["id"] for one in tasks)
    counts = {"active": 0, "completed": 150, "failed": 1, "running": 0, "succeeded": 149}
    az.until(counts, "job", "task-counts", "show", *named, "--query", "taskCounts")
    failed = ("--filter", "(state eq 'completed') and (executionInfo/exitCode gt 0)", "--select", "id,state")
    [task] = az("task", "list", *named, *failed)
    assert {name: value for name, value in task.items() if value is not None} == {"id": "n7", "state": "completed"}
    again = az("task", "create", *named, "--json-file", tmp_path / "tasks.json")
    assert {(one["status"].lower(), one["error"]["code"]) for one in again} == {("clienterror", "TaskExists")}
    az("job", "delete", *named, "--yes")


def test_task_stop_and_delete(az: Az, job: str) -> None:
    named = ("--job-id", job, "--task-id", "endless")
    az("task", "create", *named, "--command-line", "sleep 1000")
    az.until("running", "task", "show", *named, "--query", "state")
    az("task", "stop", *named)
    completed(az, job, "endless")
    assert az("task", "show", *named, "--query", "executionInfo.failureInfo.code") == "TaskEnded"
    az("task", "delete", *named, "--yes")
    gone = az.run("task", "show", *named)
    assert gone.code == 3
    assert "(TaskNotFound)" in gone.err


def test_task_files(az: Az, job: str, greeting: str, tmp_path: Path) -> None:
    named = ("--job-id", job, "--task-id", greeting)
    assert sorted(az("task", "file", "list", *named, "--query", "[].name")) == ["stderr.txt", "stdout.txt", "wd"]
    for name, text in (("stdout.txt", "hello\n"), ("stderr.txt", "oops\n")):
        az("task", "file", "download", *named, "--file-path", name, "--destination", tmp_path / name)
        assert (tmp_path / name).read_text() == text
    for number, (ends, text) in enumerate(
        [(("--start-range", "1", "--end-range", "3"), "ell"), (("--start-range", "3"), "lo\n"), (("--end-range", "1"), "he")]
    ):
        az("task", "file", "download", *named, "--file-path", "stdout.txt", "--destination", tmp_path / str(number), *ends)
        assert (tmp_path / str(number)).read_text() == text, ends
    missing = az.run("task", "file", "download", *named, "--file-path", "no/such", "--destination", tmp_path / "none")
    assert missing.code == 3
    assert "(FileNotFound)" in missing.err


def test_what_is_missing_and_what_exists(az: Az, job: str) -> None:
    missing = az.alone("pool", "show", "--pool-id", "no-such-pool")
    assert (missing.code, missing.out) == (3, "")
    assert "(PoolNotFound) The specified pool does not exist." in missing.err
    twice = az.alone("job", "create", "--id", job, "--pool-id", POOL)
    assert twice.code == 1
    assert "(JobExists) The specified job already exists." in twice.err


def test_a_wrong_etag_is_not_met(az: Az, job: str) -> None:
    tag = az("job", "show", "--job-id", job, "--query", "eTag")
    az("job", "show", "--job-id", job, "--if-match", tag)
    unmet = az.run("job", "show", "--job-id", job, "--if-match", "0x0")
    assert unmet.code == 1
    assert "(ConditionNotMet)" in unmet.err
