"""Why is it not running? A table of facts and the reasons that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.model.explain import Code, Reason, ReasonGroup
from batchyard.model.states import JobState, NodeState, TaskState
from batchyard.rules import explain
from batchyard.rules.explain import Why
from batchyard.rules.facts import Held, JobFacts, LaunchFailure, NextRound, NodeGroup, PoolFacts, Rival, Snapshot, TaskFacts, Wait
from batchyard.rules.placement import Room
from batchyard.rules.reasons import WORDS, counted, reason

NOW = 1_700_000_000_000_000
TASK = TaskFacts(pk=1, id="T", state=TaskState.ACTIVE, since=NOW, ready=True)
JOB = JobFacts(pk=1, id="J", state=JobState.ACTIVE, since=NOW, pool_id="P", ready=1, active=1)
POOL = PoolFacts(id="P", since=NOW, target=1, slots_per_node=4)


def nodes(state: NodeState, count: int = 1, used: int = 0, *, enabled: bool = True, dedicated: bool = True) -> NodeGroup:
    return NodeGroup(state, enabled, dedicated, count, 4, 4 * count, used, NOW)


IDLE, BUSY = nodes(NodeState.IDLE), nodes(NodeState.RUNNING, used=4)
FREE = {"groups": [IDLE], "next": NextRound(rooms=[Room(1, 4, 4)])}
FULL = {"groups": [BUSY]}
HALF = {"groups": [nodes(NodeState.RUNNING, used=2)], "next": NextRound(rooms=[Room(1, 2, 4)])}


def coming(**more: Any) -> dict[str, Any]:
    return {"next": msgspec.structs.replace(FREE["next"], **more)}


MINE = coming(placed=frozenset({1}))
HELD_NODE = {1: Held("n1", 7, "big", "other", 4, 2), 2: Held("n2", 8, "larger", "other", 4, 1)}

# (code, what the task, the job and the pool are but for the usual)
SITUATIONS: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any] | None]] = [
    ("Ready", {}, {}, FREE | MINE),
    ("Running", {"state": TaskState.RUNNING, "node_id": "n"}, {}, FULL),
    ("Preparing", {"state": TaskState.PREPARING, "node_id": "n"}, {}, FULL),
    ("Completed", {"state": TaskState.COMPLETED, "succeeded": True, "exit_code": 0}, {"state": JobState.COMPLETED}, FREE),
    ("Failed", {"state": TaskState.COMPLETED, "exit_code": 2}, {}, FREE),
    ("Failed", {"state": TaskState.COMPLETED, "failure": "TaskEnded: by user"}, {}, FREE),
    ("JobDisabled", {}, {"state": JobState.DISABLED}, FREE | MINE),
    ("JobDisabling", {}, {"state": JobState.DISABLING}, FREE),
    ("JobEnabling", {}, {"state": JobState.ENABLING}, None),
    ("JobTerminating", {"ready": False}, {"state": JobState.TERMINATING}, FREE),
    ("JobCompleted", {}, {"state": JobState.COMPLETED, "ended_by": "AllTasksComplete"}, FREE),
    ("JobDeleting", {}, {"state": JobState.DELETING}, FREE),
    ("MaxParallelTasks", {}, {"limit": 2, "running": 2}, FREE),
    ("MaxParallelTasks", {}, {"limit": 2, "running": 3}, FULL),
    ("PoolNotFound", {}, {}, None),
    ("PoolDeleting", {}, {}, FREE | {"deleting": True}),
    ("PoolEmpty", {}, {}, {"target": 0}),
    ("PoolEmpty", {}, {}, {"target": 0, "resizing": True, "groups": [nodes(NodeState.LEAVING_POOL)]}),
    ("PoolResizing", {}, {}, {"resizing": True, "groups": [nodes(NodeState.CREATING)]}),
    ("PoolResizing", {}, {}, {"resizing": True}),
    ("LaunchFails", {}, {}, {"resizing": True, "launch_failure": LaunchFailure("n", 3, "no image")}),
    ("AllocationFailed", {}, {}, {"failure": "AllocationFailed: no quota"}),
    ("AllocationFailed", {}, {}, {}),
    ("NodesStarting", {}, {}, {"groups": [nodes(NodeState.STARTING)]}),
    ("NodesStarting", {}, {}, {"groups": [nodes(NodeState.STARTING), nodes(NodeState.UNUSABLE)], "failure": "x"}),
    ("NodesUnusable", {}, {}, {"groups": [nodes(NodeState.UNUSABLE), nodes(NodeState.UNKNOWN)], "node_problem": "no room on the disk"}),
    ("StartTaskFailed", {}, {}, {"groups": [nodes(NodeState.START_TASK_FAILED)], "start_task_failure": "exit code 7"}),
    ("NodesPreempted", {}, {}, {"groups": [nodes(NodeState.PREEMPTED)]}),
    ("NodesDeallocated", {}, {}, {"groups": [nodes(NodeState.DEALLOCATED), nodes(NodeState.DEALLOCATING)]}),
    ("SchedulingDisabled", {}, {}, {"groups": [nodes(NodeState.OFFLINE, enabled=False)]}),
    ("SchedulingDisabled", {}, {}, {"groups": [nodes(NodeState.IDLE, enabled=False)]}),
    ("TooBig", {"slots": 5}, {}, FREE),
    ("TooBig", {"slots": 5}, {}, {"target": 0}),
    ("PreparationFailed", {}, {"closed": frozenset({1}), "closed_working": 1, "preparation_failure": "exit code 1"}, FREE),
    ("WantsDedicatedNode", {"dedicated_only": True}, {}, {"groups": [nodes(NodeState.IDLE, dedicated=False)]}),
    ("WantsEmptyNode", {"exclusive": True}, {}, HALF),
    ("WantsEmptyNode", {"exclusive": True, "slots": 9}, {}, FULL),
    ("NotEnoughFree", {"slots": 3}, {}, HALF),
    ("NodesBusy", {}, {}, FULL),
    ("NodesBusy", {}, {"closed": frozenset({1}), "closed_working": 1}, {"groups": [IDLE, BUSY], "next": NextRound(rooms=[Room(1, 4, 4)])}),
    ("HigherPriority", {}, {}, FULL | {"rivals": [Rival("Y", 5, 9), Rival("Z", 3, 1)]}),
    ("HigherPriority", {}, {}, FREE | coming(placed=frozenset({2})) | {"rivals": [Rival("Y", 5, 1)]}),
    ("NodesBusy", {}, {}, FULL | {"rivals": [Rival("Y", 0, 9)]}),
    ("BehindOthers", {}, {}, FREE | coming(placed=frozenset({2}), own=1)),
    ("BehindOthers", {}, {"limit": 1}, FREE | coming(placed=frozenset({2}), own=1, left=[Room(1, 3, 4)])),
    ("Ready", {}, {}, FREE | coming(placed=frozenset({2}), own=1, left=[Room(1, 3, 4)])),
    ("HeldForOthers", {}, {}, FREE | coming(held=HELD_NODE)),
    ("HeldForOthers", {}, {}, FREE | coming(held=HELD_NODE, rooms=[Room(1, 2, 4), Room(2, 1, 4)])),
    ("BehindOthers", {}, {}, FREE | coming(held=HELD_NODE, rooms=[Room(1, 2, 4), Room(3, 1, 4)])),
    ("NodeHeld", {"pk": 7, "slots": 4}, {}, HALF | coming(held=HELD_NODE, rooms=[Room(1, 2, 4)])),
    ("WaitsForTask", {"ready": False, "waits": [Wait("r")]}, {}, FULL),
    ("BlockedByFailure", {"ready": False, "waits": [Wait("r"), Wait("gone"), Wait("f")]}, {}, FREE),
    ("WaitsForMissingTask", {"ready": False, "waits": [Wait("r"), Wait("gone")]}, {}, FREE),
    ("WaitsForRange", {"ready": False, "waits": [Wait(low=1, high=9, left=2, missing=((3, None), (4, "f")))]}, {}, FREE),
    ("WaitsForRange", {"ready": False, "waits": [Wait(low=1, high=90000, left=1)]}, {}, FREE),
    ("DependencyCycle", {"ready": False, "waits": [Wait("f"), Wait("t")]}, {}, FREE),
    ("DependencyCycle", {"ready": False, "waits": [Wait(low=1, high=2, left=1, missing=((1, "t"),))]}, {}, FREE),
]
AROUND = {
    "r": TaskFacts(pk=8, id="R", state=TaskState.RUNNING, since=NOW),
    "f": TaskFacts(pk=9, id="F", state=TaskState.COMPLETED, since=NOW, exit_code=3),
}


def snapshot(task: Mapping[str, Any], job: Mapping[str, Any], pool: Mapping[str, Any] | None) -> Snapshot:
    change = msgspec.structs.replace
    tasks = {**AROUND, "t": change(TASK, **task)}
    return Snapshot(change(JOB, **job), None if pool is None else change(POOL, **pool), tasks)


def every(reasons: Sequence[Reason]) -> list[Reason]:
    return [one for found in reasons for one in (found, *every(found.because or []))]


@pytest.mark.parametrize(("code", "task", "job", "pool"), SITUATIONS)
def test_the_first_reason(code: str, task: Mapping[str, Any], job: Mapping[str, Any], pool: Mapping[str, Any] | None) -> None:
    reasons = Why(snapshot(task, job, pool)).task("t")
    assert reasons[0].code == code, reasons
    for one in every(reasons):
        assert one.sentence.endswith(".")
        assert one.sentence[0].isupper()
        assert one.action.endswith(".")
        assert "{" not in one.sentence + one.action
        assert "None" not in one.sentence


@pytest.mark.parametrize(
    ("code", "job", "looked_at"),
    [
        ("NoTasks", {"active": 0}, []),
        ("AllTasksCompleted", {"active": 0, "completed": 2}, []),
        ("Running", {"running": 3}, ["t"]),
        ("JobDisabled", {"state": JobState.DISABLED}, ["t"]),
        ("NodesBusy", {}, ["t"]),
    ],
)
def test_the_first_reason_of_a_job(code: str, job: Mapping[str, Any], looked_at: list[str]) -> None:
    reasons, groups = Why(snapshot({}, job, FULL)).job(looked_at)
    assert reasons[0].code == code
    assert sum(group.tasks for group in groups) == len(looked_at)


HELD = ReasonGroup(code=Code.TOO_BIG, tasks=1, job_id="J", example="T", reason=reason(Code.PREPARING, it="x", node_id="n", since="s"))


@pytest.mark.parametrize(
    ("code", "pool", "groups"),
    [
        ("PoolDeleting", FREE | {"deleting": True}, []),
        ("PoolEmpty", {"target": 0}, []),
        ("AllocationFailed", {"target": 3, **FREE, "failure": "quota"}, []),
        ("IdleWhileTasksWait", FREE, [HELD]),
        ("PoolWorks", FULL, [HELD]),
        ("NothingWaits", FREE, []),
    ],
)
def test_the_first_reason_of_a_pool(code: str, pool: Mapping[str, Any], groups: list[ReasonGroup]) -> None:
    assert explain.pool(msgspec.structs.replace(POOL, **pool), groups, len(groups))[0].code == code


def test_every_code_is_planted_somewhere() -> None:
    planted = {code for code, *_ in SITUATIONS} | {"NoTasks", "AllTasksCompleted", "IdleWhileTasksWait", "PoolWorks", "NothingWaits"}
    assert planted == {code.value for code in Code}


def test_an_action_names_only_what_its_sentence_names() -> None:
    for words in WORDS.values():
        named = {name for _, name, _, _ in Formatter().parse(words.sentence)}
        assert {name for _, name, _, _ in Formatter().parse(words.action) if name} <= named


def test_a_chain_ends() -> None:
    tasks = {
        f"t{n}": TaskFacts(pk=n, id=f"t{n}", state=TaskState.ACTIVE, since=NOW, ready=not n, waits=[Wait(f"t{n - 1}")] if n else [])
        for n in range(500)
    }
    whole = every(Why(Snapshot(JOB, None, tasks)).task("t499"))
    assert 5 < len(whole) < 30
    assert Why(Snapshot(JOB, None, tasks)).task("t1")[0].because


def test_a_dense_graph_costs_little() -> None:
    """Every task waits for all of the layer above, by name and by range: each link tells only what decides."""
    tasks = {}
    for n in range(200):
        above = range(n // 10 * 10 - 10, n // 10 * 10) if n >= 10 else range(0)
        waits = [*(Wait(str(parent)) for parent in above), Wait(low=0, high=9, left=10, missing=tuple((m, str(m)) for m in above))]
        tasks[str(n)] = TaskFacts(pk=n, id=str(n), state=TaskState.ACTIVE, since=NOW, ready=n < 10, waits=waits if above else [])
    whole = every(Why(Snapshot(JOB, None, tasks)).task("199"))
    assert len(whole) < 500


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=9))
def test_any_graph_has_an_answer_and_a_cycle_is_one(graph: dict[int, list[int]]) -> None:
    tasks = {
        str(n): TaskFacts(pk=n, id=str(n), state=TaskState.ACTIVE, since=NOW, waits=[Wait(str(parent)) for parent in graph[n]])
        for n in graph
    }
    why = Why(Snapshot(JOB, None, tasks))
    for n in graph:
        reached, due = set[int](), [n]
        while due:
            fresh = [parent for parent in graph.get(due.pop(), ()) if parent not in reached]
            reached.update(fresh)
            due += fresh
        [first, *_] = why.task(str(n))
        assert (first.code == Code.DEPENDENCY_CYCLE) == (n in reached)


def test_numbers_of_things() -> None:
    assert [counted(0, "slot"), counted(1, "slot"), counted(2, "slot")] == ["0 slots", "1 slot", "2 slots"]
    assert counted(1000, "task", more=True) == "1000 or more tasks"
