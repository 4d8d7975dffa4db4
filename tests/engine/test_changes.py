"""What changes under way: disabled jobs, reactivated and updated tasks, expired files, preferred places (contract 2.3, 2.4, 3)."""

from __future__ import annotations

import pytest
from engine_world import EXIT_1, SECOND_US, Agent, World

from batchyard.engine.upkeep.upkeep import TASK_LIFETIME_US, TASKS_PER_UNIT, end_old_tasks
from batchyard.model.errors import BatchError

ENDS = {"onAllTasksComplete": "terminatejob"}
DAY = 86_400.0
OLD = 576


def reason(world: World, job_id: str = "job") -> str | None:
    row = world.job_row(job_id)
    assert row is not None
    return row.terminate_reason


class TestDisabled:
    """A disabled job starts nothing, and ends like any other."""

    def test_complete_while_it_was_being_disabled(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        world.patch(**ENDS)
        world.disable("wait")
        world.upkeep()
        assert world.job_state() == "disabling"
        agent.end_all()
        world.upkeep()
        assert (world.job_state(), reason(world)) == ("completed", "AllTasksComplete")

    def test_complete_by_a_change_while_disabled(self, world: World) -> None:
        world.job()
        world.disable()
        world.upkeep()
        assert world.job_state() == "disabled"
        world.patch(**ENDS)
        world.upkeep()
        assert (world.job_state(), reason(world)) == ("completed", "AllTasksComplete")

    def test_a_last_task_that_is_terminated_with_it(self, world: World) -> None:
        world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        world.patch(**ENDS)
        world.disable("terminate")
        world.upkeep()
        assert (world.job_state(), reason(world)) == ("completed", "AllTasksComplete")

    def test_waiting_ends_when_the_last_task_is_deleted(self, world: World) -> None:
        world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        world.disable("wait")
        world.topics.clear()
        world.delete("a")
        assert "upkeep" in world.topics
        world.upkeep()
        assert world.job_state() == "disabled"

    def test_a_failed_attempt_waits_until_it_is_enabled(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job(constraints={"maxTaskRetryCount": 1})
        world.add("a")
        world.schedule()
        world.disable("wait")
        agent.end_all(**EXIT_1)
        world.upkeep()
        assert (world.job_state(), world.state("a"), world.schedule()) == ("disabled", "active", 0)
        world.enable()
        world.upkeep()
        assert world.schedule() == 1

    def test_many_tasks_are_dealt_with_bit_by_bit(self, world: World) -> None:
        world.working_pool(nodes=2, slots=256)
        world.job()
        for first in range(0, 512, 64):
            world.add(*(f"t{number}" for number in range(first, first + 64)))
        world.schedule()
        assert world.counts().running == 512 > TASKS_PER_UNIT
        world.disable()
        world.upkeep()
        assert (world.job_state(), world.counts().active, world.counts().running) == ("disabled", 512, 0)

    def test_another_pool_leaves_nothing_behind(self, world: World) -> None:
        [here] = world.working_pool()
        [there] = world.working_pool(pool_id="other")
        world.job()
        world.add("a")
        world.schedule()
        with pytest.raises(BatchError, match="OperationInvalidForCurrentState"):
            world.patch(poolInfo={"poolId": "other"})
        world.disable()
        world.upkeep()
        world.patch(poolInfo={"poolId": "Other"})
        world.enable()
        world.upkeep()
        world.schedule()
        assert world.task("a").node_pk == there.node_pk
        assert here.sync_all() == []


class TestReactivated:
    """A failed task begins anew."""

    def test_a_failure_that_satisfied_counts_once_in_a_range(self, world: World) -> None:
        """The range waits for the number again, and is not let go by it twice."""
        [agent] = world.working_pool()
        world.job()
        satisfies = {"exitConditions": {"default": {"dependencyAction": "satisfy"}}}
        world.add({"id": "1", **satisfies}, {"id": "child", "dependsOn": {"taskIdRanges": [{"start": 1, "end": 200}]}})
        world.schedule()
        agent.end_all(**EXIT_1)
        assert world.rows("SELECT remaining FROM dependency_range") == [(199,)]
        for _ in range(3):
            world.reactivate("1")
            assert world.rows("SELECT remaining FROM dependency_range") == [(200,)]
            world.schedule()
            agent.end_all(**EXIT_1)
            assert world.rows("SELECT remaining FROM dependency_range") == [(199,)]

    def test_dependants_start_when_it_succeeds_at_last(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("f", {"id": "child", "dependsOn": {"taskIds": ["f"]}})
        world.schedule()
        agent.end_all(**EXIT_1)
        assert world.schedule() == 0
        world.reactivate("f")
        row = world.task("f")
        assert (row.state, row.retries, row.started, row.exit_code, row.failure, row.node_pk) == ("active", 0, None, None, None, None)
        world.schedule()
        agent.end_all()
        world.schedule()
        assert world.states("f", "child") == ["completed", "running"]

    def test_it_may_be_lost_and_put_back_as_often_as_a_new_one(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        world.disable()
        world.upkeep()
        world.enable()
        world.upkeep()
        world.schedule()
        agent.join()
        world.schedule()
        before = world.task("a")
        assert (before.state, before.requeues, before.losses) == ("running", 1, 1)
        world.terminate("a")
        world.reactivate("a")
        after = world.task("a")
        assert (after.requeues, after.losses, after.last_requeue, after.last_retry) == (0, 0, None, None)

    def test_one_that_was_blocked_stays_blocked(self, world: World) -> None:
        world.job()
        world.add({"id": "child", "dependsOn": {"taskIds": ["parent"]}})
        world.terminate("child")
        world.reactivate("child")
        assert world.free("child") == [False]

    def test_a_late_report_of_the_first_life(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        old = world.attempt("a")
        world.terminate("a")
        world.reactivate("a")
        agent.end(old)
        assert world.state("a") == "active"

    def test_its_files_are_kept_from_its_new_end(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add({"id": "a", "constraints": {"retentionTime": "P1D"}})
        world.schedule()
        agent.end_all(**EXIT_1)
        world.reactivate("a")
        world.schedule()
        world.advance(2 * DAY)
        agent.sync()
        world.upkeep()
        assert world.rows("SELECT * FROM removal") == []
        agent.end_all()
        world.advance(DAY)
        agent.sync()
        world.upkeep()
        assert [directory for (directory,) in world.rows("SELECT directory FROM removal")] == ["workitems/job/job-1/a"]


def test_expired_files_are_removed_once_and_not_from_nodes_that_are_gone(world: World) -> None:
    [agent] = world.working_pool()
    world.job()
    world.add("a", constraints={"retentionTime": "PT1H"})
    world.schedule()
    agent.end_all()
    world.advance(3_600)
    agent.sync()
    world.upkeep()
    world.upkeep()
    answer = agent.sync()
    assert answer is not None
    [removal] = answer.removals
    agent.sync(removed=[removal.number])
    world.upkeep()
    assert world.rows("SELECT * FROM removal") == []
    world.add("b", constraints={"retentionTime": "PT1H"})
    world.schedule()
    agent.end_all()
    world.resize(0)
    world.capacity(3)
    world.advance(3_600)
    world.upkeep()
    assert world.rows("SELECT * FROM removal") == []


def test_changed_constraints_hold_for_the_next_decision(world: World) -> None:
    [agent] = world.working_pool()
    world.job(constraints={"maxTaskRetryCount": 4})
    world.add("a")
    world.schedule()
    world.update("a", maxTaskRetryCount=0)
    agent.end_all(**EXIT_1)
    assert world.state("a") == "completed"
    with pytest.raises(BatchError, match="TaskCompleted"):
        world.update("a")


def test_old_tasks_end_bit_by_bit_and_young_ones_stay(world: World) -> None:
    world.job()
    for first in range(0, OLD, 64):
        world.add(*(f"t{number}" for number in range(first, first + 64)))
    world.advance(1)
    world.add("young")
    later = world.now + TASK_LIFETIME_US - SECOND_US
    assert [world.run(end_old_tasks, 1, later) for _ in range(3)] == [TASKS_PER_UNIT, OLD - TASKS_PER_UNIT, 0]
    counts = world.counts()
    assert (counts.active, counts.completed, counts.failed) == (1, OLD, OLD)
    assert world.state("young") == "active"


class TestPlaces:
    """Where tasks go."""

    def test_affinity_is_a_wish(self, world: World) -> None:
        agents = world.working_pool(nodes=3, slots=2)
        world.job()
        wish = world.node(agents[1].node_pk).id
        for spelt in (f"TVM:{wish}", wish.upper()):
            world.add({"id": f"a{len(spelt)}", "affinityInfo": {"affinityId": spelt}})
            world.schedule()
        assert world.rows("SELECT DISTINCT node_pk FROM task") == [(agents[1].node_pk,)]
        world.add({"id": "full", "affinityInfo": {"affinityId": f"TVM:{wish}"}}, {"id": "gone", "affinityInfo": {"affinityId": "TVM:gone"}})
        assert world.schedule() == 2

    def test_pools_do_not_see_each_other(self, world: World) -> None:
        world.working_pool()
        world.working_pool(pool_id="other")
        world.job("here", priority=-1000)
        world.job("there", "other", priority=1000, allowTaskPreemption=True)
        world.add("h", job_id="here")
        world.add(*(f"t{number}" for number in range(5)), job_id="there")
        assert world.schedule() == 2
        assert world.state("h", "here") == "running"

    def test_at_most_so_many_prepare_and_run(self, world: World) -> None:
        [agent] = world.working_pool(slots=4)
        world.job(maxParallelTasks=2, jobPreparationTask={"commandLine": "true"})
        world.add("a", "b", "c")
        assert world.schedule() == 2
        agent.end_all()
        assert world.schedule() == 0
        world.patch(maxParallelTasks=-1)
        assert world.schedule() == 1

    def test_large_tasks_before_a_closed_node_hold_up_nobody(self, world: World) -> None:
        first, second = world.working_pool(nodes=2, slots=2)
        world.job("holds")
        world.job(jobPreparationTask={"commandLine": "true"})
        world.add("small")
        world.schedule()
        closed = first if world.task("small").node_pk == first.node_pk else second
        closed.end_all(**EXIT_1)
        world.schedule()
        assert world.state("small") == "preparing"
        world.add("l1", "l2", "l3", requiredSlots=2)
        world.add("tiny")
        assert world.schedule() == 1
        assert world.state("tiny") == "preparing"

    def test_an_agent_joins_for_good(self, world: World) -> None:
        """The names of runs that an older session had mean nothing in the next."""
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        old = agent.sync_all()
        new = Agent(world, agent.node_pk).join()
        assert agent.end(*old) is None
        world.schedule()
        assert new.sync_all() != old
