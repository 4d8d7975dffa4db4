"""Why is it not running? A table of facts and the reasons that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchyard.model.explain import Code, Reason, ReasonGroup
from batchyard.model.states import JobScheduleState, JobState, NodeState, TaskState
from batchyard.rules import explain, schedule_reasons, supply
from batchyard.rules.explain import Why
from batchyard.rules.facts import (
    Held,
    InTheWay,
    JobFacts,
    LaunchFailure,
    NamedNode,
    NextRound,
    NodeGroup,
    PoolFacts,
    Rival,
    ScheduleFacts,
    Snapshot,
    TaskFacts,
    Wait,
)
from batchyard.rules.placement import GANG_HOLD_US, Room
from batchyard.rules.reasons import WORDS, counted, reason
from batchyard.rules.schedules import Missed

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
REBOOT = "batchyard node reboot --yes P/n1"
HELD_NODE = {1: Held("n1", 7, "big", "other", 4, 2), 2: Held("n2", 8, "larger", "other", 4, 1)}

GANG = {"instances": 3, "slots": 3}
KEPT = NextRound(rooms=[Room(1, 1, 1), Room(2, 1, 1)], held={1: Held("n1", 1, "T", "J", 1, 1, 3), 2: Held("n2", 1, "T", "J", 1, 1, 3)})
TALKING = {"groups": [nodes(NodeState.RUNNING, 4, used=2)], "takes_gangs": True, "slots_per_node": 1, "next": KEPT}

# (code, what the task, the job and the pool are but for the usual)
SITUATIONS: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any], Mapping[str, Any] | None]] = [
    ("Ready", {}, {}, FREE | MINE),
    ("Running", {"state": TaskState.RUNNING, "node_id": "n"}, {}, FULL),
    ("Preparing", {"state": TaskState.PREPARING, "node_id": "n"}, {"preparation_id": "prepare"}, FULL),
    ("Completed", {"state": TaskState.COMPLETED, "succeeded": True, "exit_code": 0}, {"state": JobState.COMPLETED}, FREE),
    ("Failed", {"state": TaskState.COMPLETED, "exit_code": 2}, {}, FREE),
    ("Failed", {"state": TaskState.COMPLETED, "failure": "TaskEnded: by user"}, {}, FREE),
    ("JobDisabled", {}, {"state": JobState.DISABLED}, FREE | MINE),
    ("JobDisabling", {}, {"state": JobState.DISABLING}, FREE),
    ("JobEnabling", {}, {"state": JobState.ENABLING}, None),
    ("JobTerminating", {"ready": False}, {"state": JobState.TERMINATING}, FREE),
    ("JobCompleted", {}, {"state": JobState.COMPLETED, "ended_by": "AllTasksComplete"}, FREE),
    ("JobDeleting", {}, {"state": JobState.DELETING}, FREE),
    ("AutoPoolFailed", {}, {"state": JobState.COMPLETED, "pool_failure": "InvalidAutoPoolSettings: no"}, None),
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
    ("HigherPriority", {}, {}, FULL | {"rivals": [Rival("Y", 5, 2), Rival("Z", 3, 1), Rival("X", 3, 3), Rival("E", 0, 7)]}),
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
    ("WantsInterNodeCommunication", GANG, {}, FREE),
    ("WantsInterNodeCommunication", GANG, {}, FREE | {"slots_per_node": 1}),
    ("TooFewNodes", GANG, {}, TALKING | {"groups": [IDLE]}),
    ("NodesAtOnce", GANG, {}, TALKING),
    ("NodesAtOnce", GANG | {"held_since": NOW}, {}, TALKING | {"now": NOW + 10, "running": [InTheWay("j", "t", "n3", NOW)]}),
    ("NodesAtOnce", GANG | {"held_since": NOW}, {}, TALKING | {"now": NOW + GANG_HOLD_US, "next": NextRound(rooms=[Room(1, 1, 1)])}),
    ("NodesAtOnce", GANG | {"pk": 9}, {}, TALKING | {"running": [InTheWay("j", "t", "n3", None), InTheWay("j", "u", "n4", NOW)]}),
    ("KeptForOthers", {"pk": 9}, {}, TALKING),
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
        assert "{" not in f"{one.sentence}{one.action}{one.look}{one.command}"
        assert "None" not in one.sentence


JOBS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("NoTasks", {"active": 0}, []),
    ("AllTasksCompleted", {"active": 0, "completed": 2}, []),
    ("Running", {"running": 3}, ["t"]),
    ("JobDisabled", {"state": JobState.DISABLED}, ["t"]),
    ("NodesBusy", {}, ["t"]),
]


@pytest.mark.parametrize(("code", "job", "looked_at"), JOBS)
def test_the_first_reason_of_a_job(code: str, job: Mapping[str, Any], looked_at: list[str]) -> None:
    reasons, groups = Why(snapshot({}, job, FULL)).job(looked_at)
    assert reasons[0].code == code
    assert sum(group.tasks for group in groups) == len(looked_at)


HELD = ReasonGroup(code=Code.TOO_BIG, tasks=1, job_id="J", example="T", reason=reason(Code.JOB_ENABLING, job_id="J", since="s"))


POOLS: list[tuple[str, dict[str, Any], list[ReasonGroup]]] = [
    ("PoolDeleting", FREE | {"deleting": True}, []),
    ("PoolEmpty", {"target": 0}, []),
    ("AllocationFailed", {"target": 3, **FREE, "failure": "quota"}, []),
    ("IdleWhileTasksWait", FREE, [HELD]),
    ("PoolWorks", FULL, [HELD]),
    ("NothingWaits", FREE, []),
]


@pytest.mark.parametrize(("code", "pool", "groups"), POOLS)
def test_the_first_reason_of_a_pool(code: str, pool: Mapping[str, Any], groups: list[ReasonGroup]) -> None:
    assert explain.pool(msgspec.structs.replace(POOL, **pool), groups, len(groups))[0].code == code


PLAN = ScheduleFacts(id="S", state=JobScheduleState.ACTIVE, since=NOW, due=NOW - 60_000_000, closes=None, now=NOW)
BUSY_JOB = {"job_id": "S:job-1", "job_state": JobState.ACTIVE, "job_since": NOW - 99_000_000}
# (code of the first reason, what the schedule is but for the usual, what is said)
SCHEDULES: Sequence[tuple[str, Mapping[str, Any], str]] = [
    ("ScheduleWaits", {"due": NOW + 60_000_000}, "makes its next job at 2023-11-14T22:14:20Z"),
    ("ScheduleWaits", {}, "2023-11-14T22:12:20Z"),
    ("NeverDue", {"due": None}, "makes no more jobs"),
    ("PreviousJobActive", BUSY_JOB, "S:job-1 is active since 2023-11-14T22:11:41Z"),
    ("PreviousJobActive", {**BUSY_JOB, "closes": NOW + 1_000_000}, "ends before 2023-11-14T22:13:21Z"),
    ("ActiveJobQuota", {"full": True, "retry_s": 15}, "as its quota allows; it is tried every 15 s"),
    ("ScheduleDisabled", {"state": JobScheduleState.DISABLED}, "is disabled since"),
    ("ScheduleTerminating", {"state": JobScheduleState.TERMINATING, **BUSY_JOB}, "waits for the end of S:job-1"),
    ("ScheduleCompleted", {"state": JobScheduleState.COMPLETED}, "is completed"),
    ("ScheduleDeleting", {"state": JobScheduleState.DELETING}, "is being deleted"),
    ("DueTimeMissed", {"due": NOW + 1, "missed": NOW - 1, "missed_why": Missed.BUSY}, "the previous job was still active"),
]


@pytest.mark.parametrize(("code", "facts", "told"), SCHEDULES)
def test_the_reason_of_a_schedule(code: str, facts: Mapping[str, Any], told: str) -> None:
    found = schedule_reasons.why(msgspec.structs.replace(PLAN, **facts))
    reasons = {reason.code: reason for reason in found}
    assert found[-1 if code == "DueTimeMissed" else 0].code == code
    assert told in reasons[Code(code)].sentence


def test_a_due_time_that_may_still_be_served_is_not_missed() -> None:
    facts = msgspec.structs.replace(PLAN, full=True, missed=PLAN.due, missed_why=Missed.QUOTA)
    assert [reason.code for reason in schedule_reasons.why(facts)] == ["ActiveJobQuota"]


def test_every_code_is_planted_somewhere() -> None:
    elsewhere = {"NoTasks", "AllTasksCompleted", "IdleWhileTasksWait", "PoolWorks", "NothingWaits", "NodeSilent", "NodeLeaves", "NodeWorks"}
    planted = {code for code, *_ in SITUATIONS} | {code for code, *_ in SCHEDULES} | elsewhere
    assert planted == {code.value for code in Code}


N = NamedNode("n1", NodeState.IDLE, last_seen=NOW - 40_000_000)


@pytest.mark.parametrize(
    ("code", "one", "group", "told", "command"),
    [
        ("NodeWorks", {"last_seen": NOW - 1}, {}, "takes tasks: 2 of 4 slots in use; its agent tells of: skew", None),
        ("NodeSilent", {}, {}, "Node n1 of pool P has said nothing for 40 s;", None),
        ("NodeLeaves", {"action": "reboot"}, {"enabled": False}, "it is to be rebooted", None),
        ("NodeLeaves", {"state": NodeState.LEAVING_POOL}, {"state": NodeState.LEAVING_POOL}, "it is to leave the pool", None),
        ("SchedulingDisabled", {"disabled": True, "last_seen": NOW}, {"enabled": False}, "1 running", "batchyard node enable P/n1"),
        ("NodesUnusable", {"state": NodeState.UNKNOWN}, {"state": NodeState.UNKNOWN}, "node n1 has said nothing for 40 s", REBOOT),
        ("NodesUnusable", {"state": NodeState.UNKNOWN, "last_seen": None}, {"state": NodeState.UNKNOWN}, "no agent that speaks", REBOOT),
        ("StartTaskFailed", {"state": NodeState.START_TASK_FAILED}, {"state": NodeState.START_TASK_FAILED}, "exit code 7", REBOOT),
        ("NodesDeallocated", {"state": NodeState.DEALLOCATED}, {"state": NodeState.DEALLOCATED}, "1 node", "batchyard node start P/n1"),
    ],
)
def test_the_first_reason_of_a_node(code: str, one: dict[str, Any], group: dict[str, Any], told: str, command: str | None) -> None:
    change = msgspec.structs.replace
    groups = [change(nodes(NodeState.RUNNING, used=2), **group)]
    facts = change(POOL, groups=groups, named=[change(N, **one)], now=NOW, start_task_failure="exit code 7")
    first = supply.node(facts, change(N, **one), "skew")[0]
    assert (first.code, first.command) == (code, command)
    assert told in first.sentence


def test_commands_name_some_nodes_or_all_of_a_pool() -> None:
    down = [NamedNode(f"n{n}", NodeState.DEALLOCATED) for n in range(9)]
    pool = msgspec.structs.replace(POOL, target=9, named=down, groups=[nodes(NodeState.DEALLOCATED, 9)])
    assert supply.fewer_nodes(pool)[0].command == "batchyard node start 'P/*'"
    some = msgspec.structs.replace(pool, target=10, groups=[nodes(NodeState.DEALLOCATED, 9), IDLE])
    assert supply.fewer_nodes(some)[0].command == "batchyard node start P/n0 P/n1 P/n2 P/n3 P/n4"


def test_several_silent_nodes_and_a_task_on_one() -> None:
    pool = msgspec.structs.replace(POOL, **FULL, now=NOW, named=[N, NamedNode("n2", NodeState.RUNNING, last_seen=NOW - 50_000_000)])
    [silent] = supply.silent(pool)
    assert (silent.node_id, silent.sentence) == (
        "n2",
        "Node n2 of pool P has said nothing for 50 s, and so does 1 other node; its tasks run elsewhere once it counts as lost.",
    )
    tasks = {"t": msgspec.structs.replace(TASK, state=TaskState.RUNNING, node_id="n2")}
    [running] = Why(Snapshot(JOB, pool, tasks)).task("t")
    assert running.because == [silent]


def test_a_pool_with_a_formula_gets_other_commands() -> None:
    scaled = msgspec.structs.replace(POOL, target=0, formula=True)
    [empty] = supply.fewer_nodes(scaled)
    assert empty.look == "batchyard autoscale trace P"
    assert empty.command == "batchyard pool autoscale P --off && batchyard pool resize --yes P --nodes 1"


def test_an_allocation_that_failed_names_who_has_the_nodes() -> None:
    [reason] = supply.fewer_nodes(msgspec.structs.replace(POOL, failure="AllocationFailed: full", others=[("A", 3), ("B", 1)]))
    assert reason.sentence.endswith("failed: AllocationFailed: full; there are also 3 nodes of pool A, 1 node of pool B.")


@pytest.mark.parametrize(
    ("code", "told"), [(137, "exit code 137 (killed, often for its memory"), (127, "exit code 127 (the command was not found")]
)
def test_what_an_exit_code_mostly_means(code: int, told: str) -> None:
    failed = {"state": TaskState.COMPLETED, "exit_code": code}
    [reason] = Why(snapshot(failed, {}, FREE)).task("t")
    assert f"with {told}" in reason.sentence
    assert reason.command == "batchyard retry J/T"
    assert reason.look == "batchyard logs --stderr J/T"
    [after] = Why(snapshot(failed, {"state": JobState.COMPLETED}, FREE)).task("t")
    assert after.command is None


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


PAGE = Path(__file__).parent / "explained.txt"


def told(reasons: Sequence[Reason], depth: int = 1) -> Iterator[str]:
    """Reasons as a reader gets them, what they follow from one step further in."""
    for one in reasons:
        of = " ".join(f"{name}={value}" for name in ("job_id", "task_id", "node_id", "since") if (value := getattr(one, name)) is not None)
        lines = [f"{one.code}: {one.sentence}", f"  {one.action}", *(f"  $ {line}" for line in (one.look, one.command) if line)]
        yield from ("  " * depth + line for line in [*lines, *([f"  [{of}]"] if of else [])])
        yield from told(one.because or (), depth + 1)


def page() -> str:
    """All situations of this module, in the order they stand here."""
    found: list[tuple[str, list[Reason]]] = []
    for task, job, pool in (situation[1:] for situation in SITUATIONS):
        found.append(("task", Why(snapshot(task, job, pool)).task("t")))
    for _, job, looked_at in JOBS:
        reasons, groups = Why(snapshot({}, job, FULL)).job(looked_at)
        found.append((f"job, {[(group.code.value, group.tasks, group.example) for group in groups]}", reasons))
    for _, pool, groups in POOLS:
        found.append(("pool", explain.pool(msgspec.structs.replace(POOL, **pool), groups, len(groups))))
    return "\n".join(line for kind, reasons in found for line in (f"Why a {kind}", *told(reasons))) + "\n"


def test_what_a_reader_is_told_is_what_the_page_of_it_says() -> None:
    """`python tests/rules/test_explain.py` writes the page anew; read what has changed in it."""
    assert page().splitlines() == PAGE.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
