"""Adding, depending, terminating, deleting (contract 2.4, 3.2, 3.7)."""

from __future__ import annotations

from typing import Any

import pytest
from engine_world import EXIT_1, NO_PROGRAM, Agent, World, refused

from batchyard.engine.settling.dependencies import SPELT_OUT
from batchyard.model.errors import BatchError

SATISFY_ALWAYS = {"default": {"dependencyAction": "satisfy"}}
BLOCK_ON_0 = {"exitCodes": [{"code": 0, "exitOptions": {"dependencyAction": "block"}}]}


def after(*task_ids: str, ranges: list[tuple[int, int]] | None = None) -> dict[str, Any]:
    spans = [{"start": start, "end": end} for start, end in ranges or []]
    return {"dependsOn": {"taskIds": [*task_ids], "taskIdRanges": spans}}


def add_child(world: World, name: str, *task_ids: str, ranges: list[tuple[int, int]] | None = None) -> None:
    [(_, outcome)] = world.add({"id": name, **after(*task_ids, ranges=ranges)})
    assert outcome == world.now


@pytest.fixture
def busy(world: World) -> World:
    """A world with a job and one node that has room for everything."""
    world.working_pool(slots=256)
    world.job()
    return world


def finish(world: World, *task_ids: str, **how: Any) -> None:
    """Start what is ready and report the end of these tasks."""
    world.schedule()
    (node,) = world.nodes()
    agent = Agent(world, node.pk)
    agent.session = node.session
    agent.end(*(world.attempt(task_id) for task_id in task_ids), **how)


# adding


def test_a_task_begins_active_with_the_defaults(world: World) -> None:
    world.job(constraints={"maxTaskRetryCount": 3})
    assert world.add("A") == [("A", world.now)]
    task = world.task("a")
    assert (task.id, task.state, task.ready, task.slots, task.max_retries, task.run, task.retries) == ("A", "active", 1, 1, 3, 0, 0)
    assert (task.previous_state, task.node_pk, task.started, task.ended) == (None, None, None, None)
    (content,) = world.rows("SELECT body FROM task_body")[0]
    body = content.decode()
    assert '"retentionTime":"P7D"' in body
    assert '"requiredSlots":1' in body
    assert world.topics["pool:pool"] == 1


def test_the_jobs_retry_count_is_copied_unless_the_task_has_its_own(world: World) -> None:
    world.job(constraints={"maxTaskRetryCount": 3})
    world.add({"id": "own", "constraints": {"maxTaskRetryCount": 0}}, {"id": "none", "constraints": {"maxWallClockTime": "PT1H"}})
    assert (world.task("own").max_retries, world.task("none").max_retries) == (0, 3)


def test_each_task_of_a_collection_is_judged_alone(world: World) -> None:
    world.job()
    world.add("old")
    outcomes = world.add(
        "new", "OLD", "new", "NEW", "no good", {"id": "big", "requiredSlots": 257}, {"id": "empty", "commandLine": " "}, "last"
    )
    assert [name for name, _ in outcomes] == ["new", "OLD", "new", "NEW", "no good", "big", "empty", "last"]
    assert [refused(outcome) for _, outcome in outcomes] == [
        None,
        "TaskExists",
        "TaskExists",
        "TaskExists",
        "InvalidPropertyValue",
        "InvalidPropertyValue",
        "InvalidPropertyValue",
        None,
    ]
    assert world.counts().active == 3
    assert world.rows("SELECT id FROM task ORDER BY pk") == [("old",), ("new",), ("last",)]
    assert world.rows("SELECT count(*) FROM task_body") == [(3,)]


def test_only_duplicates_add_nothing(world: World) -> None:
    world.job()
    world.add("a", "b")
    assert [refused(outcome) for _, outcome in world.add("B", "A")] == ["TaskExists", "TaskExists"]
    assert world.counts().active == 2


def test_the_same_id_in_two_jobs_are_two_tasks(world: World) -> None:
    world.job("one")
    world.job("two")
    assert [refused(world.add("a", job_id=job)[0][1]) for job in ("one", "two")] == [None, None]


def test_slots_are_bounded_by_the_pool_once_it_is_known(world: World) -> None:
    world.job()
    assert refused(world.add({"id": "a", "requiredSlots": 5})[0][1]) is None
    world.pool(taskSlotsPerNode=4)
    assert refused(world.add({"id": "b", "requiredSlots": 5})[0][1]) == "InvalidPropertyValue"
    assert refused(world.add({"id": "c", "requiredSlots": 4})[0][1]) is None


@pytest.mark.parametrize(
    ("end", "code"), [("terminate", "JobBeingTerminated"), ("complete", "JobCompleted"), ("delete", "JobBeingDeleted")]
)
def test_a_closed_job_takes_no_tasks(world: World, end: str, code: str) -> None:
    world.job()
    if end == "delete":
        world.delete_job()
    else:
        world.end_job()
    if end == "complete":
        world.upkeep()
    with pytest.raises(BatchError, match=code):
        world.add("a")
    with pytest.raises(BatchError, match="JobNotFound"):
        world.add("a", job_id="other")


# dependencies


def test_dependencies_need_a_job_that_uses_them(world: World) -> None:
    world.job(usesTaskDependencies=False)
    assert refused(world.add({"id": "b", **after("a")})[0][1]) == "UnsupportedProperty"


@pytest.mark.parametrize(
    ("depends_on", "code"),
    [
        ({"taskIds": ["x" * 64] * 1001}, "TaskDependencyListTooLong"),
        ({"taskIdRanges": [{"start": n, "end": n} for n in range(1001)]}, "TaskDependencyRangesTooLong"),
        ({"taskIdRanges": [{"start": 2, "end": 1}]}, "InvalidPropertyValue"),
        ({"taskIdRanges": [{"start": 0, "end": 2**31}]}, "InvalidPropertyValue"),
        ({"taskIdRanges": [{"start": -(2**31) - 1, "end": 0}]}, "InvalidPropertyValue"),
        ({"taskIds": ["no good"]}, "InvalidPropertyValue"),
    ],
)
def test_dependencies_that_are_refused(world: World, depends_on: dict[str, Any], code: str) -> None:
    world.job()
    assert refused(world.add({"id": "b", "dependsOn": depends_on})[0][1]) == code


def test_a_task_waits_for_every_id_in_any_case(busy: World) -> None:
    busy.add("a", "b")
    add_child(busy, "c", "A", "B", "a")
    assert busy.task("c").unmet == 2
    finish(busy, "a")
    assert busy.free("c") == [False]
    finish(busy, "b")
    assert busy.free("c") == [True]


def test_a_parent_that_is_done_is_not_waited_for(busy: World) -> None:
    busy.add("1", "a")
    finish(busy, "1", "a")
    add_child(busy, "c", "a", ranges=[(1, 1)])
    add_child(busy, "wide", ranges=[(1, 500)])
    assert busy.free("c") == [True]
    assert busy.rows("SELECT remaining FROM dependency_range") == [(499,)]


def test_parents_may_come_later_and_with_their_child(busy: World) -> None:
    add_child(busy, "late", "a")
    busy.add({"id": "together", **after("a")}, "a")
    assert busy.free("late", "together") == [False, False]
    finish(busy, "a")
    assert busy.free("late", "together") == [True, True]


@pytest.mark.parametrize("width", [1, 3, SPELT_OUT, SPELT_OUT + 1, 150])
def test_ranges_narrow_and_wide(busy: World, width: int) -> None:
    numbers = [str(n) for n in range(10, 10 + width)]
    add_child(busy, "child", ranges=[(10, 10 + width - 1)])
    for at in range(0, width, 100):
        busy.add(*numbers[at : at + 100])
    finish(busy, *numbers[:-1])
    assert busy.free("child") == [False]
    finish(busy, numbers[-1])
    assert busy.free("child") == [True]
    assert busy.rows("SELECT count(*) FROM dependency") == busy.rows("SELECT count(*) FROM dependency_range") == [(0,)]


def test_a_missing_number_blocks(busy: World) -> None:
    busy.add("1", "3")
    add_child(busy, "child", ranges=[(1, 3)])
    finish(busy, "1", "3")
    assert busy.free("child") == [False]
    busy.add("2")
    finish(busy, "2")
    assert busy.free("child") == [True]


def test_overlapping_ranges_and_ids_count_once(busy: World) -> None:
    busy.add(*map(str, range(1, 8)))
    add_child(busy, "child", "2", "5", ranges=[(1, 4), (3, 6), (2, 3)])
    finish(busy, *map(str, range(1, 6)))
    assert busy.free("child") == [False]
    finish(busy, "6")
    assert busy.free("child") == [True]


def test_what_lies_between_two_ranges_is_not_waited_for(busy: World) -> None:
    spans = [{"start": 1, "end": 1}, {"start": 3, "end": 3}, {"start": 4, "end": 5}]
    busy.add("1", "2", "3", "4", "5", {"id": "child", "dependsOn": {"taskIdRanges": spans}})
    finish(busy, "1", "3", "4")
    assert busy.free("child") == [False]
    finish(busy, "5")
    assert busy.free("child") == [True], "2 has not ended, and is not one of them"


def test_wide_and_narrow_ranges_together(busy: World) -> None:
    busy.add(*map(str, range(1, 100)))
    busy.add(*map(str, range(100, 131)), "200", "201")
    add_child(busy, "child", ranges=[(1, 130), (200, 201)])
    finish(busy, *map(str, range(2, 131)), "200")
    assert busy.free("child") == [False]
    finish(busy, "1")
    assert busy.free("child") == [False]
    finish(busy, "201")
    assert busy.free("child") == [True]


@pytest.mark.parametrize("wide", [False, True])
def test_leading_zeros_are_one_number_and_the_first_satisfies_it(busy: World, wide: bool) -> None:
    busy.add("4", "04", "004")
    add_child(busy, "child", ranges=[(4, 200 if wide else 5)])
    finish(busy, "04")
    finish(busy, "4", "004")
    assert busy.free("child") == [False]
    busy.add(*map(str, range(5, 104)))
    busy.add(*map(str, range(104, 201)))
    finish(busy, *map(str, range(5, 201) if wide else range(5, 6)))
    assert busy.free("child") == [True]


def test_ids_that_are_no_numbers_satisfy_no_range(busy: World) -> None:
    busy.add("4a", "-4", "4_", str(2**31))
    add_child(busy, "child", ranges=[(4, 4)])
    finish(busy, "4a", "-4", "4_", str(2**31))
    assert busy.free("child") == [False]


@pytest.mark.parametrize("wide", [False, True])
def test_deleting_and_repeating_a_number_never_starts_a_child_early(busy: World, wide: bool) -> None:
    last = 120 if wide else 3
    busy.add(*map(str, range(1, 100)))
    busy.add(*map(str, range(100, last + 1)), "dummy")
    add_child(busy, "child", ranges=[(1, last)])
    for _ in range(3):
        finish(busy, "2")
        busy.delete("2")
        busy.add("2")
    finish(busy, "1", *map(str, range(4, last + 1)))
    assert busy.free("child") == [False], "3 is not satisfied"
    finish(busy, "3")
    if wide:  # a range kept as a whole asks what is satisfied now
        assert busy.free("child") == [False]
        finish(busy, "2")
    assert busy.free("child") == [True]


@pytest.mark.parametrize("wide", [False, True])
def test_deleting_one_of_two_spellings_changes_nothing(busy: World, wide: bool) -> None:
    last = 120 if wide else 2
    busy.add("1", "01", *map(str, range(2, 60)))
    busy.add(*map(str, range(60, 121)))
    add_child(busy, "child", ranges=[(1, last)])
    finish(busy, "1", "01")
    busy.delete("01")
    finish(busy, *map(str, range(2, last + 1)))
    assert busy.free("child") == [True]


@pytest.mark.parametrize(
    ("parent", "how", "free"),
    [
        ({}, {}, True),
        ({}, EXIT_1, False),
        ({}, NO_PROGRAM, False),
        ({"exitConditions": SATISFY_ALWAYS}, EXIT_1, True),
        ({"exitConditions": SATISFY_ALWAYS}, NO_PROGRAM, True),
        ({"exitConditions": BLOCK_ON_0}, {}, False),
    ],
)
def test_what_satisfies_and_what_blocks(busy: World, parent: dict[str, Any], how: dict[str, Any], free: bool) -> None:
    busy.add({"id": "1", **parent})
    add_child(busy, "by-id", "1")
    add_child(busy, "by-range", ranges=[(1, 1)])
    finish(busy, "1", **how)
    add_child(busy, "later", "1", ranges=[(1, 1)])
    assert busy.free("by-id", "by-range", "later") == [free] * 3


def test_a_terminated_or_deleted_parent_blocks(busy: World) -> None:
    busy.add("a", "b")
    add_child(busy, "child-a", "a")
    add_child(busy, "child-b", "b")
    busy.terminate("a")
    busy.delete("b")
    assert busy.free("child-a", "child-b") == [False, False]
    busy.add("b")
    finish(busy, "b")
    assert busy.free("child-a", "child-b") == [False, True]


def test_a_child_that_was_ended_while_it_waited_stays_ended(busy: World) -> None:
    busy.add("a")
    add_child(busy, "child", "a")
    busy.terminate("child")
    finish(busy, "a")
    assert busy.states("a", "child") == ["completed", "completed"]
    assert busy.counts().ready == busy.task("child").run == 0


def test_a_deleted_child_leaves_nothing_behind(busy: World) -> None:
    busy.add("a")
    add_child(busy, "child", "a", ranges=[(1, 500), (600, 601)])
    busy.delete("child")
    assert busy.rows("SELECT count(*) FROM dependency") == busy.rows("SELECT count(*) FROM dependency_range") == [(0,)]
    finish(busy, "a")


def test_who_depends_on_itself_waits_for_ever(busy: World) -> None:
    add_child(busy, "self", "self")
    assert busy.schedule() == 0


# terminate and delete


def test_a_waiting_task_ends_without_having_run(busy: World) -> None:
    busy.add("a")
    ended = busy.terminate("a")
    assert (ended.state, ended.result, ended.exit_code, ended.started, ended.ended) == ("completed", "failure", None, None, busy.now)
    assert ended.failure is not None
    assert b'"TaskEnded"' in ended.failure
    assert ended.modified > ended.created
    assert busy.counts().failed == 1
    with pytest.raises(BatchError, match="TaskCompleted"):
        busy.terminate("a")


def test_a_running_task_frees_its_node_and_a_later_report_changes_nothing(busy: World) -> None:
    busy.add({"id": "a", "requiredSlots": 7})
    busy.schedule()
    attempt = busy.attempt("a")
    busy.topics.clear()
    busy.terminate("a")
    (node,) = busy.nodes()
    assert (node.slots_used, node.tasks_running, node.state) == (0, 0, "idle")
    assert {f"node:{node.pk}", "pool:pool"} <= set(busy.topics), "the node has to end it, the room is for others"
    agent = Agent(busy, node.pk)
    agent.session = node.session
    orders = agent.end(attempt)
    assert orders is not None
    assert orders.wanted == []
    assert busy.task("a").result == "failure"
    assert busy.counts().failed == 1


def test_deleting_takes_record_and_files(busy: World) -> None:
    busy.add("Waiting", "running", "done")
    finish(busy, "done")
    node = busy.nodes()[0].pk
    for name in ("Waiting", "running", "done"):
        busy.delete(name)
        with pytest.raises(BatchError, match="TaskNotFound"):
            busy.task(name)
    assert busy.rows("SELECT count(*) FROM task_body") == [(0,)]
    counts = busy.counts()
    assert (counts.active, counts.running, counts.completed, counts.succeeded, counts.ready) == (0, 0, 0, 0, 0)
    removals = busy.rows("SELECT node_pk, directory FROM removal ORDER BY pk")
    assert sorted(removals) == [(node, f"workitems/job/job-1/{name}") for name in ("Waiting", "done", "running")]


def test_a_removal_is_told_until_it_is_done_and_its_number_never_comes_again(busy: World) -> None:
    busy.add("a", "b")
    finish(busy, "a", "b")
    busy.delete("a")
    (node,) = busy.nodes()
    agent = Agent(busy, node.pk)
    agent.session = node.session
    first = agent.sync()
    again = agent.sync()
    assert first is not None
    assert again is not None
    assert first.removals == again.removals
    [removal] = first.removals
    agent.sync(removed=[removal.number])
    busy.delete("b")
    late = agent.sync(removed=[removal.number])  # the answer to the first such report was lost
    assert late is not None
    assert [one.directory for one in late.removals] == ["workitems/job/job-1/b"]
