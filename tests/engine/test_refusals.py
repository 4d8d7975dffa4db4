"""What is refused of jobs and tasks: the property and its value are named, and nothing is added; what lies just within a limit is taken."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from engine_world import World

from batchyard.engine.checks import demands
from batchyard.model.errors import BatchError
from batchyard.model.job import JobCreateContent

MOST = 2**31 - 1
TOO_LONG = "P999999999999D"
IDENTITY = {"autoUser": {"scope": "pool", "elevationLevel": "nonadmin"}}
CONSTRAINTS = {"maxWallClockTime": "P10675199DT2H48M5.4775807S", "maxTaskRetryCount": 2, "retentionTime": "P7D"}


def web(**more: Any) -> dict[str, Any]:
    """A resource file of the web."""
    return {"resourceFiles": [{"httpUrl": "http://x/y", "filePath": "y", **more}]}


def linked(name: str) -> dict[str, Any]:
    return {"resourceFiles": [{"autoStorageContainerName": name}]}


def output(**more: Any) -> dict[str, Any]:
    container = {"containerUrl": "http://x/c?sig", **more}
    return {
        "outputFiles": [{"filePattern": "*", "destination": {"container": container}, "uploadOptions": {"uploadCondition": "tasksuccess"}}]
    }


def exits(**conditions: Any) -> dict[str, Any]:
    return {"exitConditions": conditions}


def code(number: int, **options: Any) -> dict[str, Any]:
    return exits(exitCodes=[{"code": number, "exitOptions": options}])


def span(start: int, end: int, **options: Any) -> dict[str, Any]:
    return exits(exitCodeRanges=[{"start": start, "end": end, "exitOptions": options}])


BOTH = {"username": "ada", "autoUser": {"scope": "pool"}}
MANAGED = {"identityReference": {"resourceId": "r"}}
COMMON: list[tuple[dict[str, Any], str, str | None]] = [
    ({"commandLine": ""}, "commandLine", ""),
    ({"commandLine": " \t"}, "commandLine", " \t"),
    ({"userIdentity": BOTH}, "userIdentity", ""),
    ({"userIdentity": {}}, "userIdentity", ""),
    ({"resourceFiles": [{"filePath": "y"}]}, "resourceFiles", ""),
    ({"resourceFiles": [{"httpUrl": "u", "filePath": "y", "storageContainerUrl": "v"}]}, "resourceFiles", ""),
    ({"resourceFiles": [{"httpUrl": "u"}]}, "filePath", ""),
    (web(filePath="/y"), "filePath", "/y"),
    (web(filePath="a/../y"), "filePath", "a/../y"),
    (web(filePath="a\0"), "filePath", "a\0"),
    (web(fileMode="0789"), "fileMode", "0789"),
    (web(fileMode=""), "fileMode", ""),
    (web(fileMode="rwx"), "fileMode", "rwx"),
    (web(**MANAGED), "resourceFiles.identityReference", None),
    *((linked(name), "autoStorageContainerName", name) for name in ("ab", "Abc", "a--b", "-ab", "abc-", "a" * 64, "$web", "a_b", "")),
    ({"environmentSettings": [{"name": ""}]}, "environmentSettings", ""),
    ({"environmentSettings": [{"name": "A=B"}]}, "environmentSettings", "A=B"),
    ({"environmentSettings": [{"name": "A", "value": "\0"}]}, "environmentSettings", "A"),
    ({"containerSettings": {"imageName": "A"}}, "containerSettings.imageName", "A"),
]
"""What every kind of task has; the property and its value, None where no value is told."""
TASKS: list[tuple[dict[str, Any], str, str | None]] = [
    *COMMON,
    ({"id": "a b"}, "id", "a b"),
    ({"id": ""}, "id", ""),
    ({"id": "x" * 101}, "id", "x" * 100),
    ({"displayName": "x" * 1025}, "displayName", "x" * 100),
    ({"requiredSlots": 0}, "requiredSlots", "0"),
    ({"requiredSlots": 257}, "requiredSlots", "257"),
    ({"constraints": {"maxTaskRetryCount": -2}}, "maxTaskRetryCount", "-2"),
    ({"authenticationTokenSettings": {}}, "authenticationTokenSettings", ""),
    (output(**MANAGED), "outputFiles.destination.container.identityReference", None),
    ({"multiInstanceSettings": {"coordinationCommandLine": " "}}, "coordinationCommandLine", " "),
    ({"multiInstanceSettings": {"coordinationCommandLine": "c", "numberOfInstances": 0}}, "numberOfInstances", "0"),
    ({"multiInstanceSettings": {"coordinationCommandLine": "c"}, "requiredSlots": 2}, "requiredSlots", "2"),
    (
        {"multiInstanceSettings": {"coordinationCommandLine": "c"}, "containerSettings": {"imageName": "a"}},
        "containerSettings",
        None,
    ),
    ({"applicationPackageReferences": [{"applicationId": "a/b"}]}, "applicationPackageReferences.applicationId", "a/b"),
    ({"applicationPackageReferences": [{"applicationId": "a", "version": "../b"}]}, "applicationPackageReferences.version", "../b"),
    ({"applicationPackageReferences": [{"applicationId": "a"}, {"applicationId": "A"}]}, "applicationPackageReferences", "A"),
    ({"applicationPackageReferences": [{"applicationId": f"a{n}"} for n in range(11)]}, "applicationPackageReferences", "11"),
    (code(MOST + 1), "code", str(MOST + 1)),
    (code(-MOST - 2), "code", str(-MOST - 2)),
    (span(MOST + 1, 1), "start", str(MOST + 1)),
    (span(1, -MOST - 2), "end", str(-MOST - 2)),
    (code(1, jobAction="terminate"), "jobAction", "terminate"),
    (exits(default={"jobAction": "none"}), "jobAction", "none"),
    (span(1, 2, dependencyAction="satisfy"), "dependencyAction", "satisfy"),
    (exits(preProcessingError={"dependencyAction": "block"}), "dependencyAction", "block"),
    (exits(fileUploadError={"jobAction": "disable"}), "jobAction", "disable"),
    ({"dependsOn": {"taskIds": ["a"]}}, "dependsOn", None),
]
TAKEN: list[dict[str, Any]] = [
    {"id": "x" * 64}, {"id": "A-b_9"}, {"displayName": "x" * 1024}, {"requiredSlots": 1}, {"requiredSlots": 256},
    {"constraints": {"maxTaskRetryCount": -1}}, {"constraints": {"maxTaskRetryCount": MOST}}, {"constraints": {"retentionTime": "PT0S"}},
    web(fileMode="0777"), web(fileMode="7"), web(filePath="a/..b/y"), web(filePath="..y"), linked("abc"), linked("a" * 63), linked("a-b-9"),
    linked("$root"), linked("$logs"), {"environmentSettings": [{"name": "A"}, {"name": "B", "value": ""}]}, output(),
    {"applicationPackageReferences": []}, {"applicationPackageReferences": [{"applicationId": "not-there"}]},
    {"dependsOn": {"taskIds": [], "taskIdRanges": []}}, {"userIdentity": {"username": "ada"}},
    code(MOST), code(-MOST - 1), span(-MOST - 1, MOST), code(0), {"authenticationTokenSettings": {"access": ["job"]}},
]  # fmt: skip


def ids(value: object) -> str:
    return value[:30] if isinstance(value, str) else ""


@pytest.mark.parametrize(("sent", "name", "value"), TASKS, ids=ids)
def test_a_task_that_is_refused(world: World, sent: dict[str, Any], name: str, value: str | None) -> None:
    world.job(usesTaskDependencies=False)
    [(_, error)] = world.add({"id": "t", **sent})
    assert isinstance(error, BatchError)
    assert (error.status, error.values["PropertyName"], error.values.get("PropertyValue")) == (400, name, value)
    assert world.rows("SELECT id FROM task") == []


@pytest.mark.parametrize("sent", TAKEN, ids=lambda sent: next(iter(sent)))
def test_a_task_within_the_limits(world: World, sent: dict[str, Any]) -> None:
    world.job(usesTaskDependencies=False)
    [(_, outcome)] = world.add({"id": "t", **sent})
    assert outcome == world.now


def test_a_task_may_not_be_called_as_its_job_prepares_or_releases(world: World) -> None:
    world.job(jobPreparationTask={"id": "Before", "commandLine": "true"}, jobReleaseTask={"id": "After", "commandLine": "true"})
    outcomes = [outcome.code if isinstance(outcome, BatchError) else None for _, outcome in world.add("before", "AFTER", "other")]
    assert outcomes == ["TaskIdSameAsJobPreparationTask", "TaskIdSameAsJobReleaseTask", None]


def with_special(kind: str, sent: dict[str, Any]) -> dict[str, Any]:
    """A job with a task of a kind, and what that cannot be without."""
    least = {"jobReleaseTask": {"jobPreparationTask": {"commandLine": "true"}}, "jobManagerTask": {}}.get(kind, {})
    return {**least, kind: {"commandLine": "true", **({"id": "m"} if kind == "jobManagerTask" else {}), **sent}}


SPECIAL = ("jobManagerTask", "jobPreparationTask", "jobReleaseTask")
JOBS: list[tuple[dict[str, Any], str, str | None]] = [
    *((with_special(kind, sent), name, value) for kind in SPECIAL for sent, name, value in COMMON),
    *((with_special(kind, {"id": "a b"}), f"{kind}.id", "a b") for kind in SPECIAL),
    (with_special("jobManagerTask", {"id": ""}), "jobManagerTask.id", ""),
    (with_special("jobManagerTask", {"displayName": "x" * 1025}), "displayName", "x" * 100),
    (with_special("jobManagerTask", output(**MANAGED)), "outputFiles.destination.container.identityReference", None),
    (with_special("jobManagerTask", {"applicationPackageReferences": [{"applicationId": "a"}] * 2}), "applicationPackageReferences", "a"),
    (with_special("jobManagerTask", {"authenticationTokenSettings": {}}), "authenticationTokenSettings", ""),
    (with_special("jobManagerTask", {"requiredSlots": 0}), "requiredSlots", "0"),
    (with_special("jobManagerTask", {"requiredSlots": 257}), "requiredSlots", "257"),
    (with_special("jobManagerTask", {"constraints": {"maxTaskRetryCount": -2}}), "maxTaskRetryCount", "-2"),
    (with_special("jobReleaseTask", {"maxWallClockTime": "PT15M1S"}), "maxWallClockTime", "PT15M1S"),
    (with_special("jobReleaseTask", {"maxWallClockTime": TOO_LONG}), "maxWallClockTime", TOO_LONG),
    ({"jobReleaseTask": {"commandLine": "true"}}, "jobReleaseTask", ""),
    ({"jobPreparationTask": {"id": "S", "commandLine": "a"}, "jobReleaseTask": {"id": "s", "commandLine": "a"}}, "id", None),
    ({"jobPreparationTask": {"id": "S", "commandLine": "a"}, "jobManagerTask": {"id": "s", "commandLine": "a"}}, "id", None),
    ({"id": "a b"}, "id", "a b"),
    ({"displayName": "x" * 1025}, "displayName", "x" * 100),
    ({"commonEnvironmentSettings": [{"name": "A=B"}]}, "environmentSettings", "A=B"),
    ({"poolInfo": {}}, "poolInfo", ""),
    ({"poolInfo": {"poolId": "a b"}}, "poolId", "a b"),
    ({"priority": -1001}, "priority", "-1001"),
    ({"priority": 1001}, "priority", "1001"),
    ({"maxParallelTasks": 0}, "maxParallelTasks", "0"),
    ({"maxParallelTasks": -2}, "maxParallelTasks", "-2"),
    ({"constraints": {"maxTaskRetryCount": -2}}, "maxTaskRetryCount", "-2"),
]


@pytest.mark.parametrize(("sent", "name", "value"), JOBS, ids=ids)
def test_a_job_that_is_refused(world: World, sent: dict[str, Any], name: str, value: str | None) -> None:
    with pytest.raises(BatchError) as refused:
        world.job(**{"job_id": sent["id"]} if "id" in sent else sent)
    error = refused.value
    assert (error.status, error.values["PropertyName"], error.values.get("PropertyValue")) == (400, name, value)
    assert world.job_row() is None


@pytest.mark.parametrize(
    "sent",
    [
        {"priority": -1000}, {"priority": 1000}, {"maxParallelTasks": -1}, {"maxParallelTasks": 1}, {"maxParallelTasks": MOST},
        {"constraints": {"maxTaskRetryCount": -1}}, {"displayName": "x" * 1024}, with_special("jobManagerTask", {"requiredSlots": 256}),
        with_special("jobReleaseTask", {"maxWallClockTime": "PT15M"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_job_within_the_limits(world: World, sent: dict[str, Any]) -> None:
    world.job(**sent)
    assert world.job_state() == "active"


def test_a_job_gets_the_defaults_of_the_service(world: World) -> None:
    world.job(
        usesTaskDependencies=None,
        constraints={"maxTaskRetryCount": 2},
        jobManagerTask={"id": "m", "commandLine": "manage"},
        jobPreparationTask={"commandLine": "prepare"},
        jobReleaseTask={"commandLine": "release"},
    )
    row = world.job_row()
    assert row is not None
    kept = msgspec.json.decode(row.body)
    assert kept["jobManagerTask"] == {
        "id": "m", "commandLine": "manage", "killJobOnCompletion": True, "runExclusive": True, "allowLowPriorityNode": True,
        "requiredSlots": 1, "userIdentity": IDENTITY, "constraints": CONSTRAINTS,
    }  # fmt: skip
    assert kept["jobPreparationTask"] == {
        "id": "jobpreparation", "commandLine": "prepare", "waitForSuccess": True, "rerunOnNodeRebootAfterSuccess": True,
        "userIdentity": IDENTITY, "constraints": CONSTRAINTS,
    }  # fmt: skip
    assert kept["jobReleaseTask"] == {
        "id": "jobrelease", "commandLine": "release", "maxWallClockTime": "PT15M", "retentionTime": "P7D", "userIdentity": IDENTITY,
    }  # fmt: skip
    job = msgspec.convert(kept, JobCreateContent)
    assert (job.priority, job.max_parallel_tasks, job.allow_task_preemption, job.uses_task_dependencies) == (0, -1, False, False)
    assert (job.on_all_tasks_complete, job.on_task_failure) == ("noaction", "noaction")


def test_what_a_job_says_no_to_stays_so(world: World) -> None:
    said = {"killJobOnCompletion": False, "runExclusive": False, "allowLowPriorityNode": False, "requiredSlots": 3}
    never = {"waitForSuccess": False, "rerunOnNodeRebootAfterSuccess": False}
    world.job(jobManagerTask={"id": "m", "commandLine": "a", **said}, jobPreparationTask={"commandLine": "a", **never})
    row = world.job_row()
    assert row is not None
    kept = msgspec.json.decode(row.body)
    assert {name: kept["jobManagerTask"][name] for name in said} == said
    assert {name: kept["jobPreparationTask"][name] for name in never} == never


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [0, value]
    return value


def test_what_is_nested_too_deeply_to_be_shown_is_refused() -> None:
    for shallow in (None, 1, "text", [], nested(demands.DEEPEST)):
        demands.shallow("extensions.settings", shallow)
    with pytest.raises(BatchError) as refused:
        demands.shallow("extensions.settings", nested(demands.DEEPEST + 1))
    assert (refused.value.values["PropertyName"], refused.value.values["PropertyValue"]) == ("extensions.settings", "")
    assert str(demands.DEEPEST) in refused.value.values["Reason"]
