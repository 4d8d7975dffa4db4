"""Which operation is allowed in which state: the matrices of contract 2.9, all of jobs and tasks, of others what is served yet.

The API is called in process, on a store in memory and without loops, so that a passing state (resizing, terminating,
deleting) stays as the test wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.api.conftest import Json, Still, pool_body, task

from batchyard.model.states import JobState, NodeState

OK = "ok"


async def outcome(still: Still, call: tuple[str, str, Json | None], seen: str) -> str:
    """OK, or the code of the 409; a refusal must not change what `seen` shows."""
    before = (await still("GET", seen)).json()
    method, path, body = call
    answer = await still(method, path, body)
    if answer.is_success:
        return OK
    assert answer.status_code == 409, answer.text
    assert (await still("GET", seen)).json() == before
    return str(answer.json()["code"])


JOB_STATES = ("active", "disabling", "disabled", "enabling", "terminating", "completed", "deleting")
_OPEN = [OK] * 4
_CLOSED = ["JobBeingTerminated", "JobCompleted", "JobBeingDeleted"]
_INVALID = "OperationInvalidForCurrentState"
JOB: Mapping[tuple[str, str, str], tuple[Json | None, list[str]]] = {
    ("get", "GET", "/jobs/j"): (None, [OK] * 7),
    ("list", "GET", "/jobs"): (None, [OK] * 7),
    ("list tasks", "GET", "/jobs/j/tasks"): (None, [OK] * 7),
    ("counts", "GET", "/jobs/j/taskcounts"): (None, [OK] * 6 + ["JobBeingDeleted"]),
    ("add task", "POST", "/jobs/j/tasks"): (task("u"), _OPEN + _CLOSED),
    ("add tasks", "POST", "/jobs/j/addtaskcollection"): ({"value": [task("u")]}, _OPEN + _CLOSED),
    ("patch", "PATCH", "/jobs/j"): ({"priority": 1}, _OPEN + _CLOSED),
    ("patch with its pool", "PATCH", "/jobs/j"): ({"poolInfo": {"poolId": "p"}}, _OPEN + _CLOSED),
    ("patch with another pool", "PATCH", "/jobs/j"): ({"poolInfo": {"poolId": "q"}}, [_INVALID, _INVALID, OK, _INVALID, *_CLOSED]),
    ("put with its pool", "PUT", "/jobs/j"): ({"poolInfo": {"poolId": "P"}, "priority": 1}, _OPEN + _CLOSED),
    ("put with another pool", "PUT", "/jobs/j"): ({"poolInfo": {"poolId": "q"}}, [_INVALID, _INVALID, OK, _INVALID, *_CLOSED]),
    ("disable, requeue", "POST", "/jobs/j/disable"): ({"disableTasks": "requeue"}, [OK, OK, OK, _INVALID, *_CLOSED]),
    ("disable, terminate", "POST", "/jobs/j/disable"): ({"disableTasks": "terminate"}, [OK, OK, OK, _INVALID, *_CLOSED]),
    ("disable, wait", "POST", "/jobs/j/disable"): ({"disableTasks": "wait"}, [OK, OK, OK, _INVALID, *_CLOSED]),
    ("enable", "POST", "/jobs/j/enable"): (None, [_INVALID, _INVALID, OK, _INVALID, *_CLOSED]),
    ("special tasks", "GET", "/jobs/j/jobpreparationandreleasetaskstatus"): (None, ["JobPreparationTaskOrReleaseTaskNotSpecified"] * 7),
    ("terminate", "POST", "/jobs/j/terminate"): (None, _OPEN + _CLOSED),
    ("delete", "DELETE", "/jobs/j"): (None, [OK] * 6 + ["JobBeingDeleted"]),
    ("add again", "POST", "/jobs"): ({"id": "J", "poolInfo": {"poolId": "p"}}, ["JobExists"] * 7),
}


def test_every_state_of_a_job_is_looked_at() -> None:
    assert set(JOB_STATES) == set(JobState)


@pytest.mark.parametrize("state", JOB_STATES)
@pytest.mark.parametrize("operation", JOB, ids=lambda operation: operation[0])
async def test_jobs(still: Still, operation: tuple[str, str, str], state: str) -> None:
    await still.put("job", state=state)
    body, cells = JOB[operation]
    assert await outcome(still, (operation[1], operation[2], body), "/jobs/j") == cells[JOB_STATES.index(state)]


POOL_STATES = (("active", "steady"), ("active", "resizing"), ("active", "stopping"), ("deleting", "steady"))
_RESIZED, _DELETED, _NOT_ON_POOL = "PoolBeingResized", "PoolBeingDeleted", "OperationNotValidOnPool"
_CHANGE, _RESIZE = [OK, OK, OK, _DELETED], [OK, _RESIZED, _RESIZED, _DELETED]
POOL: Mapping[tuple[str, str, str], tuple[Json | None, list[str]]] = {
    ("get", "GET", "/pools/p"): (None, [OK] * 4),
    ("exists", "HEAD", "/pools/p"): (None, [OK] * 4),
    ("list", "GET", "/pools"): (None, [OK] * 4),
    ("nodes", "GET", "/pools/p/nodes"): (None, [OK] * 4),
    ("counts", "GET", "/nodecounts"): (None, [OK] * 4),
    ("patch", "PATCH", "/pools/p"): ({"metadata": [{"name": "a", "value": "b"}]}, _CHANGE),
    ("patch what nodes are made from", "PATCH", "/pools/p"): ({"displayName": "x"}, ["OperationNotValidOnPool"] * 3 + [_DELETED]),
    ("update properties", "POST", "/pools/p/updateproperties"): ({}, _CHANGE),
    ("resize", "POST", "/pools/p/resize"): ({"targetDedicatedNodes": 1}, _RESIZE),
    ("remove nodes", "POST", "/pools/p/removenodes"): ({"nodeList": ["n"]}, _RESIZE),
    ("stop resize", "POST", "/pools/p/stopresize"): (None, [_INVALID, OK, OK, _DELETED]),
    ("enable autoscale", "POST", "/pools/p/enableautoscale"): (
        {"autoScaleFormula": "$TargetDedicatedNodes=0"},
        [OK, _RESIZED, _RESIZED, _DELETED],
    ),
    ("disable autoscale", "POST", "/pools/p/disableautoscale"): (None, [OK, OK, OK, _DELETED]),
    ("evaluate without autoscale", "POST", "/pools/p/evaluateautoscale"): ({"autoScaleFormula": "$a=1"}, [_NOT_ON_POOL] * 3 + [_DELETED]),
    ("delete", "DELETE", "/pools/p"): (None, [OK, OK, OK, _DELETED]),
    ("add again", "POST", "/pools"): (pool_body("P"), ["PoolExists"] * 3 + [_DELETED]),
    ("add a job", "POST", "/jobs"): ({"id": "k", "poolInfo": {"poolId": "p"}}, [OK] * 4),
}


@pytest.mark.parametrize("state", POOL_STATES, ids="-".join)
@pytest.mark.parametrize("operation", POOL, ids=lambda operation: operation[0])
async def test_pools(still: Still, operation: tuple[str, str, str], state: tuple[str, str]) -> None:
    await still.put("pool", state=state[0], allocation_state=state[1], allocation_time=0)
    await still.node("idle")
    body, cells = POOL[operation]
    assert await outcome(still, (operation[1], operation[2], body), "/pools/p") == cells[POOL_STATES.index(state)]


@pytest.mark.parametrize("state", NodeState)
async def test_nodes_are_removed_in_every_state(still: Still, state: str) -> None:
    """What is on its way out is no obstacle either (contract 2.9)."""
    await still.put("pool", allocation_state="steady")
    await still.node(state)
    answer = await still("POST", "/pools/p/removenodes", {"nodeList": ["N"], "nodeDeallocationOption": "TaskCompletion"})
    assert (answer.status_code, answer.content) == (202, b"")
    assert (await still("GET", "/pools/p")).json()["allocationState"] == "resizing", "the first poll sees it"


SCALED: Mapping[tuple[str, str, str], tuple[Json | None, list[str]]] = {
    ("get", "GET", "/pools/p"): (None, [OK] * 4),
    ("resize", "POST", "/pools/p/resize"): ({"targetDedicatedNodes": 1}, [_NOT_ON_POOL] * 3 + [_DELETED]),
    ("remove nodes", "POST", "/pools/p/removenodes"): ({"nodeList": ["n"]}, [_NOT_ON_POOL] * 3 + [_DELETED]),
    ("stop resize", "POST", "/pools/p/stopresize"): (None, [_INVALID, OK, OK, _DELETED]),
    ("patch", "PATCH", "/pools/p"): ({"metadata": [{"name": "a", "value": "b"}]}, _CHANGE),
    ("enable autoscale", "POST", "/pools/p/enableautoscale"): (
        {"autoScaleEvaluationInterval": "PT6M"},
        [OK, _RESIZED, _RESIZED, _DELETED],
    ),
    ("disable autoscale", "POST", "/pools/p/disableautoscale"): (None, [OK, OK, OK, _DELETED]),
    ("evaluate", "POST", "/pools/p/evaluateautoscale"): ({"autoScaleFormula": "$a=1"}, [OK, OK, OK, _DELETED]),
    ("delete", "DELETE", "/pools/p"): (None, [OK, OK, OK, _DELETED]),
}


@pytest.mark.parametrize("state", POOL_STATES, ids="-".join)
@pytest.mark.parametrize("operation", SCALED, ids=lambda operation: operation[0])
async def test_pools_with_autoscale(still: Still, operation: tuple[str, str, str], state: tuple[str, str]) -> None:
    await still.put("pool", allocation_state="steady")
    assert (await still("POST", "/pools/p/enableautoscale", {"autoScaleFormula": "$TargetDedicatedNodes=0"})).status_code == 200
    await still.put("pool", state=state[0], allocation_state=state[1], allocation_time=0, autoscale_enabled=None)
    body, cells = SCALED[operation]
    assert await outcome(still, (operation[1], operation[2], body), "/pools/p") == cells[POOL_STATES.index(state)]


NODE_STATES = tuple(state for state in NodeState if state is not NodeState.UPGRADING_OS)
_RESTARTS = {
    "creating": "NodeBeingCreated",
    "starting": "NodeBeingStarted",
    "waitingforstarttask": "NodeBeingStarted",
    "rebooting": "NodeBeingRebooted",
    "reimaging": "NodeBeingReimaged",
    "deallocating": _INVALID,
    "deallocated": _INVALID,
    "unknown": "NodeStateUnusable",
    "preempted": "NodeStateUnusable",
    "leavingpool": _INVALID,
}
_USERS = _RESTARTS | {"offline": _INVALID, "starttaskfailed": _INVALID, "unusable": "NodeStateUnusable"}
_NO_SCHEDULING = dict.fromkeys(("deallocating", "deallocated", "preempted", "leavingpool", "unknown"), _INVALID)
_SINCE = {"startTime": "2026-01-01T00:00:00Z", "containerUrl": "http://127.0.0.1:9/c?sig=x"}
NODE: Mapping[tuple[str, str, str], tuple[Json | None, Mapping[str, str]]] = {
    ("get", "GET", "/pools/p/nodes/n"): (None, {}),
    ("extensions", "GET", "/pools/p/nodes/n/extensions"): (None, {}),
    ("reboot", "POST", "/pools/p/nodes/n/reboot"): (None, _RESTARTS),
    ("reimage", "POST", "/pools/p/nodes/n/reimage"): ({"nodeReimageOption": "terminate"}, _RESTARTS),
    ("deallocate", "POST", "/pools/p/nodes/n/deallocate"): ({"nodeDeallocateOption": "taskcompletion"}, _RESTARTS),
    ("start", "POST", "/pools/p/nodes/n/start"): (None, {state: _INVALID for state in NODE_STATES if state != "deallocated"}),
    ("disable scheduling", "POST", "/pools/p/nodes/n/disablescheduling"): (None, _NO_SCHEDULING),
    ("enable scheduling", "POST", "/pools/p/nodes/n/enablescheduling"): (
        None,
        dict.fromkeys(NODE_STATES, "NodeAlreadyInTargetSchedulingState") | _NO_SCHEDULING,
    ),
}
AGENT_ASKED: Mapping[tuple[str, str, str], tuple[Json | None, Mapping[str, str]]] = {
    ("add user", "POST", "/pools/p/nodes/n/users"): ({"name": "ada"}, _USERS),
    ("replace user", "PUT", "/pools/p/nodes/n/users/ada"): ({}, _USERS),
    ("delete user", "DELETE", "/pools/p/nodes/n/users/ada"): (None, _USERS),
    ("logs", "POST", "/pools/p/nodes/n/uploadbatchservicelogs"): (
        _SINCE,
        {s: e for s, e in _RESTARTS.items() if s != "waitingforstarttask"},
    ),
}


@pytest.mark.parametrize("state", NODE_STATES)
@pytest.mark.parametrize("operation", NODE, ids=lambda operation: operation[0])
async def test_nodes(still: Still, operation: tuple[str, str, str], state: NodeState) -> None:
    await still.node(state)
    await still.put("node", slots_used=0, tasks_running=0)
    body, refused = NODE[operation]
    assert await outcome(still, (operation[1], operation[2], body), "/pools/p/nodes/n") == refused.get(state, OK)


@pytest.mark.parametrize(("restarting", "expected"), [(frozenset({"local"}), OK), (frozenset({"other"}), "NodeStateUnusable")])
@pytest.mark.parametrize("operation", ["reboot", "reimage", "deallocate"])
async def test_an_unknown_node_can_be_started_anew_where_its_provider_can(still: Still, operation: str, expected: str) -> None:
    await still.node("unknown")
    await still.put("node", slots_used=0, tasks_running=0)
    if operation == "deallocate":
        expected = "NodeStateUnusable"
    assert await outcome(still, ("POST", f"/pools/p/nodes/n/{operation}", None), "/pools/p/nodes/n") == expected


@pytest.mark.parametrize("state", _USERS)
@pytest.mark.parametrize("operation", AGENT_ASKED, ids=lambda operation: operation[0])
async def test_what_an_agent_is_asked_for(still: Still, operation: tuple[str, str, str], state: str) -> None:
    """Only the refusals: where it is allowed there is no agent here to answer."""
    await still.node(state)
    body, refused = AGENT_ASKED[operation]
    if state in refused:
        assert await outcome(still, (operation[1], operation[2], body), "/pools/p/nodes/n") == refused[state]


TASK_STATES = ("active", "preparing", "running", "failed", "succeeded")
TASK: Mapping[tuple[str, str, str], list[str]] = {
    ("get", "GET", "/jobs/j/tasks/t"): [OK] * 5,
    ("put", "PUT", "/jobs/j/tasks/t"): [OK] * 3 + ["TaskCompleted"] * 2,
    ("reactivate", "POST", "/jobs/j/tasks/t/reactivate"): ["TaskNotCompleted"] * 3 + [OK, "TaskSucceeded"],
    ("subtasks", "GET", "/jobs/j/tasks/t/subtasksinfo"): [OK] * 5,
    ("terminate", "POST", "/jobs/j/tasks/t/terminate"): [OK] * 3 + ["TaskCompleted"] * 2,
    ("delete", "DELETE", "/jobs/j/tasks/t"): [OK] * 5,
}


async def put_task(still: Still, state: str) -> None:
    """Bring the task into a state, with its node and the counts of its job."""
    if state == "active":
        return
    await still.node("running" if state in ("preparing", "running") else "idle")
    if state in ("preparing", "running"):
        await still.put("task", state=state, ready=0, node_pk=1, run=1, started=1)
        await still.put("job_counts", ready=0, active=0, active_slots=0, running=1, running_slots=1)
        return
    good = state == "succeeded"
    await still.put(
        "task",
        state="completed",
        ready=0,
        node_pk=1,
        run=1,
        started=1,
        ended=2,
        exit_code=0 if good else 1,
        result="success" if good else "failure",
    )
    grew = {"succeeded" if good else "failed": 1, "succeeded_slots" if good else "failed_slots": 1}
    await still.put("job_counts", ready=0, active=0, active_slots=0, completed=1, completed_slots=1, **grew)


@pytest.mark.parametrize("job_state", JOB_STATES)
@pytest.mark.parametrize("state", TASK_STATES)
@pytest.mark.parametrize("operation", TASK, ids=lambda operation: operation[0])
async def test_tasks(still: Still, operation: tuple[str, str, str], state: str, job_state: str) -> None:
    """The state of the job plays a part for reactivate alone (contract 2.4 names no other)."""
    await put_task(still, state)
    await still.put("job", state=job_state)
    name, method, path = operation
    found = await outcome(still, (method, path, {} if method == "PUT" else None), "/jobs/j/tasks/t")
    expected = TASK[operation][TASK_STATES.index(state)]
    if name == "reactivate" and expected == OK and job_state in ("terminating", "completed", "deleting"):
        expected = _CLOSED[JOB_STATES.index(job_state) - len(_OPEN)]
    assert found == expected
    counts = {"active": 0, "running": 0, "completed": 0, "succeeded": 0, "failed": 0}
    if operation[0] == "terminate" and found == OK:
        counts |= {"completed": 1, "failed": 1}
    elif operation[0] == "reactivate" and found == OK:
        counts |= {"active": 1}
    elif operation[0] != "delete":
        word = {"active": "active", "preparing": "running", "running": "running"}.get(state)
        counts |= {word: 1} if word else {"completed": 1, state: 1}
    await still.put("job", state="active")
    answer = (await still("GET", "/jobs/j/taskcounts")).json()
    assert answer["taskCounts"] == answer["taskSlotCounts"] == counts


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/stdout.txt"), ("HEAD", "/stdout.txt"), ("DELETE", "/stdout.txt")])
async def test_files_of_a_task_that_never_ran(still: Still, method: str, path: str) -> None:
    answer = await still(method, f"/jobs/j/tasks/t/files{path}")
    assert answer.status_code == 409
    assert not answer.content or answer.json()["code"] == "TaskFilesUnavailable"


UNREACHABLE = ("creating", "starting", "rebooting", "reimaging", "deallocating", "deallocated", "preempted", "leavingpool", "unknown")


def test_the_states_of_nodes_are_words_of_the_contract() -> None:
    assert set(UNREACHABLE) <= set(NodeState)


@pytest.mark.parametrize("state", UNREACHABLE)
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/a"), ("HEAD", "/a"), ("DELETE", "/a")])
async def test_files_of_nodes_that_cannot_be_reached(still: Still, method: str, path: str, state: str) -> None:
    await still.node(state)
    answer = await still(method, f"/pools/p/nodes/n/files{path}")
    assert answer.status_code == 409
    assert not answer.content or answer.json()["code"] == _INVALID
    assert (await still("GET", "/pools/p/nodes/n")).json()["state"] == state
