"""Jobs: how they begin, change and end (contract 2.3, 3.9), and who is served first (3.1)."""

from __future__ import annotations

import msgspec
import pytest
from engine_world import EXIT_1, SECOND_US, START, World

from batchyard.engine import lookup, wakes
from batchyard.engine.upkeep.upkeep import TASKS_PER_UNIT
from batchyard.engine.work import jobs
from batchyard.model.errors import BatchError
from batchyard.model.job import JobConstraints, JobPatch, JobUpdate, PoolInformation

ENDS = {"onAllTasksComplete": "terminatejob"}
ACTS = {"onTaskFailure": "performexitoptionsjobaction"}


def patch(world: World, **changes: object) -> None:
    sent = msgspec.convert(changes, JobPatch)
    world.run(lambda tx: jobs.patch(tx, lookup.open_job(tx, "job"), sent, world.now))


def events(world: World) -> list[tuple[str, str | None]]:
    (pk,) = world.rows("SELECT pk FROM job")[0]
    return [(happened, new) for happened, _, new in world.events("job", pk)]


def test_a_job_is_found_in_any_case_and_added_once(world: World) -> None:
    world.job("Job")
    assert world.job_state("jOB") == "active"
    with pytest.raises(BatchError, match="JobExists"):
        world.job("JOB")


def test_ending_a_job_kills_what_runs_and_leaves_what_waits(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    world.job()
    world.add("done", "running", "preparing-soon", "waiting")
    world.schedule()
    agent.end(world.attempt("done"))
    world.schedule()
    world.advance(5)
    world.end_job(reason="enough")
    assert world.job_state() == "terminating"
    assert world.schedule() == 0, "nothing starts any more"
    world.topics.clear()
    world.upkeep()
    row = world.job_row()
    assert row is not None
    assert (row.state, row.terminate_reason, row.ended, row.previous_state) == ("completed", "enough", world.now, "terminating")
    assert world.states("done", "running", "preparing-soon", "waiting") == ["completed", "completed", "completed", "active"]
    failure = world.task("running").failure
    assert failure is not None
    assert b"TaskEnded" in failure
    assert {f"node:{agent.node_pk}", "pool:pool"} <= set(world.topics)
    answer = agent.sync()
    assert answer is not None
    assert answer.wanted == []
    assert world.schedule() == 0


def test_requests_of_a_closed_job(world: World) -> None:
    world.job()
    world.end_job()
    assert world.job_row() is not None
    for code in ("JobBeingTerminated", "JobCompleted"):
        with pytest.raises(BatchError, match=code):
            world.end_job()
        with pytest.raises(BatchError, match=code):
            patch(world, priority=1)
        world.upkeep()
    world.delete_job()
    with pytest.raises(BatchError, match="JobBeingDeleted"):
        world.delete_job()


def test_the_default_reason(world: World) -> None:
    world.job()
    world.end_job()
    row = world.job_row()
    assert row is not None
    assert row.terminate_reason == "UserTerminate"
    world.upkeep()
    assert events(world) == [("added", "active"), ("terminate requested", "terminating"), ("ended", "completed")]


def test_a_big_job_ends_in_bounded_steps(world: World) -> None:
    many = TASKS_PER_UNIT + 30
    agents = world.working_pool(nodes=5, slots=256)
    world.job()
    for at in range(0, many, 100):
        world.add(*(f"t{n}" for n in range(at, min(at + 100, many))))
    assert world.schedule() == many
    world.end_job()
    world.upkeep()
    assert world.job_state() == "completed"
    assert world.counts().failed == many
    assert all(world.node(agent.node_pk).slots_used == 0 for agent in agents)
    world.delete_job()
    world.upkeep()
    assert world.job_row() is None
    for table in ("task", "task_body", "job_counts"):
        assert world.rows(f"SELECT count(*) FROM {table}") == [(0,)], table
    assert world.rows("SELECT DISTINCT directory FROM removal") == [("workitems/job/job-1",)]
    assert world.rows("SELECT count(*) FROM removal") == [(5,)]


def test_deleting_a_running_job_ends_its_tasks_first(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a", {"id": "b", "dependsOn": {"taskIds": ["a"], "taskIdRanges": [{"start": 1, "end": 500}]}})
    world.schedule()
    world.delete_job()
    assert world.job_state() == "deleting"
    assert world.schedule() == 0
    world.upkeep()
    assert world.job_row() is None
    assert world.node(agent.node_pk).slots_used == 0
    for table in ("task", "dependency", "dependency_range"):
        assert world.rows(f"SELECT count(*) FROM {table}") == [(0,)], table
    world.job()
    assert world.add("a")[0][1] == world.now, "the id is free again"


def test_the_wall_clock_of_a_job_begins_with_it(world: World) -> None:
    [agent] = world.working_pool()
    world.job(constraints={"maxWallClockTime": "PT10M"})
    world.add("a", "b")
    world.schedule()
    world.advance(599)
    agent.sync()
    world.upkeep()
    assert world.job_state() == "active"
    world.advance(1)
    world.upkeep()
    row = world.job_row()
    assert row is not None
    assert (row.state, row.terminate_reason) == ("completed", "MaxWallClockTimeExpiry")
    assert world.states("a", "b") == ["completed", "active"]


def test_a_patch_moves_the_wall_clock(world: World) -> None:
    world.job(constraints={"maxWallClockTime": "PT10M"})
    patch(world, constraints={"maxWallClockTime": "PT20M"})
    row = world.job_row()
    assert row is not None
    assert row.deadline == START + 1200 * SECOND_US
    patch(world, constraints={})
    world.advance(1e6)
    world.upkeep()
    assert world.job_state() == "active"


def test_no_change_of_a_job_starts_its_wall_clock_again(world: World) -> None:
    world.job(constraints={"maxWallClockTime": "PT10M"})
    world.advance(599)
    patch(world, priority=1)
    limits = JobConstraints(max_wall_clock_time="PT10M")
    content = JobUpdate(pool_info=PoolInformation(pool_id="pool"), constraints=limits)
    world.run(lambda tx: jobs.update(tx, lookup.open_job(tx, "job"), content, world.now))
    world.upkeep()
    assert world.job_state() == "active"
    world.advance(1)
    world.upkeep()
    assert world.job_state() == "completed"


# ends when its tasks are complete


def test_a_job_without_tasks_is_complete_at_once(world: World) -> None:
    world.job(**ENDS)
    world.upkeep()
    row = world.job_row()
    assert row is not None
    assert (row.state, row.terminate_reason) == ("completed", "AllTasksComplete")


def test_a_job_is_told_its_pool(world: World) -> None:
    """Neither a new one nor a patch may leave it open."""
    world.job()
    for call in (lambda: world.job("other", poolInfo={}), lambda: world.patch(poolInfo={})):
        with pytest.raises(BatchError, match="InvalidPropertyValue") as refused:
            call()
        assert refused.value.values["PropertyName"] == "poolInfo"
    assert world.job_row("other") is None


def test_a_patch_ends_a_complete_job_and_cannot_be_taken_back(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a", "b")
    world.schedule()
    agent.end(world.attempt("a"))
    patch(world, **ENDS)
    assert world.job_state() == "active", "b waits"
    with pytest.raises(BatchError, match="InvalidPropertyValue"):
        patch(world, onAllTasksComplete="noaction")
    world.topics.clear()
    world.schedule()
    agent.end_all(**EXIT_1)
    assert world.topics["upkeep"] == 1
    world.upkeep()
    assert world.job_state() == "completed"
    assert (world.counts().succeeded, world.counts().failed) == (1, 1)


def test_a_retry_a_lost_node_and_a_blocked_task_keep_it_open(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add({"id": "a", "constraints": {"maxTaskRetryCount": 1}}, {"id": "b", "dependsOn": {"taskIds": ["a"]}})
    patch(world, **ENDS)
    world.schedule()
    agent.end_all(**EXIT_1)
    world.schedule()
    agent.join()
    world.schedule()
    agent.end_all(**EXIT_1)
    world.upkeep()
    assert (world.state("a"), world.state("b"), world.job_state()) == ("completed", "active", "active")
    world.terminate("b")
    world.upkeep()
    assert world.job_state() == "completed"


def test_many_ends_of_one_report_end_the_job_once(world: World) -> None:
    [agent] = world.working_pool(slots=8)
    world.job(**ACTS)
    world.add(*"abcdefgh")
    patch(world, **ENDS)
    world.schedule()
    agent.end_all()
    world.upkeep()
    assert world.job_state() == "completed"
    assert [name for name, _ in events(world)] == ["added", "patched", "terminate requested", "ended"]


def test_a_report_of_a_job_that_ends_wakes_the_pool_for_others(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a", "b")
    patch(world, **ENDS)
    world.schedule()
    world.topics.clear()
    agent.end_all()
    assert world.topics["pool:pool"] >= 1


@pytest.mark.parametrize("asked", ["disable", "enable", "terminate", "delete", "patch"])
def test_what_a_client_asks_of_a_job_is_done_at_once(world: World, asked: str) -> None:
    """Not only when upkeep looks at it by itself."""
    world.job()
    if asked == "enable":
        world.disable()
        world.upkeep()
    use = {"disable": world.disable, "enable": world.enable, "terminate": world.end_job, "delete": world.delete_job, "patch": world.patch}
    world.topics.clear()
    use[asked]()
    assert world.topics[wakes.UPKEEP] >= 1


# task failure


def test_a_failed_task_may_disable_its_job(world: World) -> None:
    [agent] = world.working_pool(slots=2)
    world.job(**ACTS)
    world.add({"id": "a", "exitConditions": {"default": {"jobAction": "disable"}}}, "b")
    world.schedule()
    world.advance(5)
    agent.end(world.attempt("a"), **EXIT_1)
    row = world.job_row()
    assert row is not None
    assert (row.state, row.state_time) == ("disabling", world.now)
    world.upkeep()
    assert (world.job_state(), world.state("b")) == ("disabled", "active")


@pytest.mark.parametrize(
    ("options", "how", "ends"),
    [
        ({}, EXIT_1, True),
        ({}, {}, False),
        ({"exitConditions": {"default": {"jobAction": "none"}}}, EXIT_1, False),
        ({"exitConditions": {"exitCodes": [{"code": 0, "exitOptions": {"jobAction": "terminate"}}]}}, {}, True),
    ],
)
def test_a_failed_task_may_end_its_job(world: World, options: dict[str, object], how: dict[str, object], ends: bool) -> None:
    [agent] = world.working_pool(slots=2)
    world.job(**ACTS)
    world.add({"id": "a", **options}, "b", "c")
    world.schedule()
    agent.end(world.attempt("a"), **how)
    world.upkeep()
    row = world.job_row()
    assert row is not None
    assert (row.state, row.terminate_reason) == (("completed", "TaskFailed") if ends else ("active", None))
    if ends:
        assert world.states("b", "c") == ["completed", "active"]
    else:
        world.schedule()
        assert world.states("b", "c") == ["running", "running"]


def test_without_actions_a_failed_task_ends_nothing(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a")
    world.schedule()
    agent.end_all(**EXIT_1)
    world.upkeep()
    assert world.job_state() == "active"


@pytest.mark.parametrize("how", ["retry", "loss"])
def test_what_ran_when_its_job_was_ended_does_not_wait_again(world: World, how: str) -> None:
    [agent] = world.working_pool()
    world.job(constraints={"maxTaskRetryCount": 5})
    world.add("a")
    world.schedule()
    world.end_job()
    if how == "retry":
        agent.end_all(**EXIT_1)
    else:
        agent.join()
    world.upkeep()
    assert (world.job_state(), world.state("a")) == ("completed", "completed")


# who is served first


def started(world: World) -> list[str]:
    found = world.rows(
        "SELECT task.id FROM event JOIN task ON task.pk = subject WHERE what = 'task' AND happened = 'started' ORDER BY event.pk"
    )
    return [name for (name,) in found]


def test_priority_then_order_of_addition(world: World) -> None:
    world.job("low", priority=-5)
    world.job("high", priority=5)
    world.add("l1", "l2", job_id="low")
    world.add("h1", "h2", job_id="high")
    world.working_pool(slots=3)
    world.schedule()
    assert started(world) == ["h1", "h2", "l1"]


def test_a_new_priority_counts_from_the_next_round(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.job("other")
    world.add("a1", "a2")
    world.add("b1", job_id="other")
    world.schedule()
    patch(world, priority=-1)
    agent.end(world.attempt("a1"))
    world.schedule()
    assert started(world) == ["a1", "b1"]


def test_equal_jobs_share(world: World) -> None:
    world.working_pool(slots=4)
    for job in ("one", "two"):
        world.job(job)
        world.add(*(f"{job}-{n}" for n in range(4)), job_id=job)
    world.schedule()
    assert (world.counts("one").running, world.counts("two").running) == (2, 2)


def test_max_parallel_tasks_counts_what_runs(world: World) -> None:
    [agent] = world.working_pool(slots=8)
    world.job(maxParallelTasks=3)
    world.add(*"abcdef")
    assert (world.schedule(), world.schedule()) == (3, 0)
    agent.end(world.attempt("a"), world.attempt("b"))
    world.schedule()
    assert (world.counts().running, world.counts().active) == (3, 1)
    patch(world, maxParallelTasks=-1)
    assert world.schedule() == 1


def test_big_tasks_at_the_head_do_not_keep_small_ones_from_a_small_gap(world: World) -> None:
    world.working_pool(nodes=1, slots=3)
    world.job()
    world.add(*({"id": f"big-{n}", "requiredSlots": 2} for n in range(10)), "small")
    assert world.schedule() == 2
    assert started(world) == ["big-0", "small"]


def test_spread_and_pack(world: World) -> None:
    for policy in ("spread", "pack"):
        agents = world.working_pool(2, 4, policy, taskSchedulingPolicy={"nodeFillType": policy})
        world.job(policy, policy)
        world.add("a", "b", "c", job_id=policy)
        world.schedule()
        used = sorted(world.node(agent.node_pk).slots_used for agent in agents)
        assert used == ([1, 2] if policy == "spread" else [0, 3])


def test_jobs_wait_for_a_pool_that_comes_later(world: World) -> None:
    world.job()
    world.add("a")
    assert world.schedule() == 0
    world.working_pool()
    assert world.schedule() == 1
