"""Autoscale with a clock that only the test moves: samples, evaluations, what they change and what they leave alone."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from engine_world import EXIT_1, START, Agent, Steady, World

from batchyard.engine import wakes
from batchyard.engine.autoscale import loop as autoscale
from batchyard.engine.autoscale import settings as autoscale_settings
from batchyard.engine.autoscale.loop import Autoscale
from batchyard.engine.pools import autoscale_runs
from batchyard.engine.wakes import Wakes
from batchyard.model import times
from batchyard.model.autoscale import AutoScaleReport, AutoScaleTrace, Sample
from batchyard.model.errors import BatchError
from batchyard.model.pool import AutoScaleRun, PoolEvaluateAutoScale
from batchyard.providers.base import Handle, NoCapacity, NodeOrder
from batchyard.store import autoscale as rows
from batchyard.store import nodes as node_rows
from batchyard.store import pools as pool_rows
from batchyard.store.pools import PoolView

PENDING = "$TargetDedicatedNodes=min(4,$PendingTasks.GetSample(1));$NodeDeallocationOption=taskcompletion;"
MINUTE = 60


def pool_of(world: World) -> PoolView:
    pool = world.pool_row()
    assert pool is not None
    return pool


def last_run(world: World) -> AutoScaleRun:
    run = pool_of(world).autoscale_run
    assert run is not None
    return msgspec.json.decode(run, type=AutoScaleRun)


def samples(world: World) -> list[Sample]:
    return world.run(rows.history, pool_of(world).pk, 0, 2**62)


def report(world: World, *, with_samples: bool = False) -> AutoScaleReport:
    return world.run(autoscale_settings.report, "pool", samples=with_samples)


def settle(world: World) -> list[Agent]:
    """Rounds of capacity until the pool is steady and its nodes have joined."""
    world.capacity(4)
    assert pool_of(world).allocation_state == "steady"
    return [Agent(world, node.pk).join() for node in world.nodes()]


def refusal(error: pytest.ExceptionInfo[BatchError]) -> tuple[int, str]:
    return error.value.status, error.value.code


class TestNewPools:
    def test_the_first_evaluation_comes_with_the_pool(self, world: World) -> None:
        world.job()
        world.add("a", "b", "c")
        pool = world.scaled_pool(PENDING)
        assert (pool.target_dedicated, pool.target_low_priority, pool.allocation_state) == (3, 0, "resizing")
        assert (pool.autoscale_interval, pool.autoscale_next) == (15 * MINUTE * 10**6, world.now + 15 * MINUTE * 10**6)
        run = last_run(world)
        assert run.error is None
        assert run.results == "$TargetDedicatedNodes=3;$TargetLowPriorityNodes=0;$NodeDeallocationOption=taskcompletion"
        assert run.timestamp == times.iso(pool.modified) == times.iso(START)
        assert len(settle(world)) == 3
        [trace] = report(world).runs
        assert (trace.cause, trace.sample_count, trace.samples[0].active_tasks, trace.samples[0].running_tasks) == ("added", 1, 3, None)

    def test_a_formula_that_fails_makes_an_empty_pool(self, world: World) -> None:
        pool = world.scaled_pool("$TargetDedicatedNodes=nothing;")
        assert (pool.target_dedicated, pool.allocation_state) == (0, "resizing")
        run = last_run(world)
        assert run.error is not None
        assert run.error.code == "AutoScalingFormulaEvaluationError"
        assert run.error.values is not None
        assert [(value.name, value.value) for value in run.error.values] == [("Message", "Line 1, Col 23: Undefined symbol: nothing")]

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"autoScaleFormula": None}, "MissingRequiredProperty"),
            ({"autoScaleFormula": " \n"}, "MissingRequiredProperty"),
            ({"targetDedicatedNodes": 0}, "InvalidAutoScalingSettings"),
            ({"targetLowPriorityNodes": 1}, "InvalidAutoScalingSettings"),
            ({"enableAutoScale": False, "targetDedicatedNodes": 1}, "InvalidAutoScalingSettings"),
            ({"autoScaleFormula": "$a="}, "AutoScalingFormulaSyntaxError"),
            ({"autoScaleFormula": "a" * 8193}, "AutoScalingFormulaTooLong"),
            ({"autoScaleFormula": "a;" * 101}, "AutoScalingFormulaSyntaxError"),
            ({"autoScaleEvaluationInterval": "PT4M59S"}, "InvalidPropertyValue"),
            ({"autoScaleEvaluationInterval": "PT168H1S"}, "InvalidPropertyValue"),
            ({"autoScaleEvaluationInterval": "P99999999D"}, "InvalidPropertyValue"),
        ],
    )
    def test_what_is_refused(self, world: World, change: dict[str, object], code: str) -> None:
        with pytest.raises(BatchError) as refused:
            world.scaled_pool(**{"formula": "$TargetDedicatedNodes=1", **change})
        assert refusal(refused) == (400, code)
        assert world.pool_row() is None

    @pytest.mark.parametrize("interval", ["PT5M", "PT168H", "P7D", "PT05M00S"])
    def test_intervals(self, world: World, interval: str) -> None:
        assert world.scaled_pool("$a=1", autoScaleEvaluationInterval=interval).autoscale_interval == times.duration(interval)


class TestEnable:
    def test_a_steady_pool_is_evaluated_at_once(self, world: World) -> None:
        world.working_pool(1)
        before = pool_of(world).modified
        pool = world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=2;$TargetLowPriorityNodes=1;")
        assert (pool.target_dedicated, pool.target_low_priority, pool.allocation_state) == (2, 1, "resizing")
        assert pool.modified > before
        assert last_run(world).timestamp == times.iso(pool.modified)
        assert len(settle(world)) == 3

    def test_it_is_shown_and_noted_when_it_is_on(self, world: World) -> None:
        world.working_pool(1)
        for _ in range(2):
            on = world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=1;")
            assert pool_rows.content(on.body).enable_auto_scale is True
            world.advance(60)
        off = world.disable_autoscale()
        assert pool_rows.content(off.body).enable_auto_scale is False
        assert world.disable_autoscale() == off, "nothing happens where it is off"
        assert [name for (name,) in world.rows("SELECT happened FROM event WHERE happened LIKE 'autoscale %abled' ORDER BY pk")] == [
            "autoscale enabled",
            "autoscale enabled",
            "autoscale disabled",
        ]

    def test_the_same_size_needs_no_resize(self, world: World) -> None:
        world.working_pool(1)
        before = pool_of(world).modified
        pool = world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=1;")
        assert pool.allocation_state == "steady"
        assert pool.modified > before
        assert last_run(world).timestamp == times.iso(pool.modified)

    def test_refusals_change_nothing(self, world: World) -> None:
        world.pool(dedicated=1)
        before = world.pool_row()
        for wanted, refused_as in (
            ({"autoScaleFormula": "$a=1"}, (409, "PoolBeingResized")),
            ({}, (400, "MissingRequiredProperty")),
            ({"autoScaleFormula": "$a="}, (400, "AutoScalingFormulaSyntaxError")),
            ({"autoScaleFormula": "$a=1", "autoScaleEvaluationInterval": "PT1M"}, (400, "InvalidPropertyValue")),
        ):
            with pytest.raises(BatchError) as refused:
                world.enable_autoscale(**wanted)
            assert refusal(refused) == refused_as
        assert world.pool_row() == before

    def test_twice_within_half_a_minute(self, world: World) -> None:
        world.working_pool(1)
        world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=1;")
        world.disable_autoscale()
        world.advance(29)
        with pytest.raises(BatchError) as refused:
            world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=2;")
        assert refusal(refused) == (503, "TooManyEnableAutoScaleRequests")
        world.advance(1)
        world.enable_autoscale(autoScaleFormula="$TargetDedicatedNodes=2;")
        assert pool_of(world).target_dedicated == 2

    def test_what_is_not_given_stays_and_a_new_interval_restarts_the_clock(self, world: World) -> None:
        world.scaled_pool("$TargetDedicatedNodes=0", autoScaleEvaluationInterval="PT20M")
        settle(world)
        world.advance(MINUTE)
        pool = world.enable_autoscale(autoScaleEvaluationInterval="PT10M")
        assert (pool.autoscale_formula, pool.autoscale_next) == ("$TargetDedicatedNodes=0", world.now + 10 * MINUTE * 10**6)
        world.advance(MINUTE)
        pool = world.enable_autoscale(autoScaleFormula="$a=1")
        assert (pool.autoscale_formula, pool.autoscale_interval) == ("$a=1", 10 * MINUTE * 10**6)

    def test_disable_leaves_the_size(self, world: World) -> None:
        world.scaled_pool("$TargetDedicatedNodes=2")
        before = pool_of(world)
        world.disable_autoscale()
        pool = pool_of(world)
        assert (pool.target_dedicated, pool.allocation_state, pool.modified) == (2, "resizing", before.modified + 1)
        assert (pool.autoscale_formula, pool.autoscale_interval, pool.autoscale_next, pool.autoscale_run) == (None,) * 4
        world.disable_autoscale()
        settle(world)
        world.resize(0)
        assert pool_of(world).target_dedicated == 0

    def test_no_resize_by_hand(self, world: World) -> None:
        world.scaled_pool("$TargetDedicatedNodes=0")
        settle(world)
        with pytest.raises(BatchError) as refused:
            world.resize(1)
        assert refusal(refused) == (409, "OperationNotValidOnPool")
        assert pool_of(world).target_dedicated == 0


class TestSamples:
    def test_one_every_half_minute(self, world: World) -> None:
        world.scaled_pool("$a=1")
        settle(world)
        world.job()
        for number in range(4):
            world.add(f"t{number}")
            world.autoscale()
            world.autoscale()
            world.advance(30)
        found = samples(world)
        assert [sample.at for sample in found] == [START // 30_000_000 * 30_000_000 + 30_000_000 * number for number in range(4)]
        assert [sample.active_tasks for sample in found] == [0, 2, 3, 4], "the first was taken with the pool"
        assert len(report(world).runs) == 1, "nothing was due"

    def test_old_ones_go(self, world: World) -> None:
        world.scaled_pool("$a=1", autoScaleEvaluationInterval="PT168H")
        settle(world)
        world.advance(24 * 3600)
        world.autoscale()
        assert len(samples(world)) == 2
        world.advance(3600 + 31)
        world.autoscale()
        assert len(samples(world)) == 2, "a day and an hour is kept"

    def test_pools_without_autoscale_have_none(self, world: World) -> None:
        world.working_pool(1)
        world.advance(300)
        world.autoscale()
        assert world.rows("SELECT count(*) FROM autoscale_sample") == [(0,)]
        assert world.run(autoscale.look, world.now, on_demand=True) == []

    def test_they_go_with_the_pool(self, world: World) -> None:
        world.scaled_pool("$TargetDedicatedNodes=1")
        settle(world)
        world.delete_pool()
        world.autoscale()
        world.capacity(4)
        assert world.pool_row() is None
        assert world.rows("SELECT count(*) FROM autoscale_sample") == world.rows("SELECT count(*) FROM autoscale_run") == [(0,)]

    def test_what_they_count(self, world: World) -> None:
        """Tasks of this pool's jobs that could start, by active jobs; never release tasks, never those of other pools."""
        world.scaled_pool("$TargetDedicatedNodes=2;$TargetLowPriorityNodes=1", taskSlotsPerNode=4)
        agents = settle(world)
        world.job(jobReleaseTask={"commandLine": "true"}, jobPreparationTask={"commandLine": "true", "waitForSuccess": False})
        world.job("other", pool_id="elsewhere")
        world.job("off")
        world.add("x", "y", job_id="other")
        world.add("w1", "w2", job_id="off")
        world.disable(job_id="off")
        world.upkeep()
        world.add({"id": "good", "requiredSlots": 2}, {"id": "f", "requiredSlots": 2}, {"id": "r", "requiredSlots": 3})
        world.schedule()
        for agent in agents:
            agent.sync()
            agent.end(*(attempt for attempt in agent.has if attempt == world.attempt("good")))
            agent.end(*(attempt for attempt in agent.has if attempt == world.attempt("f")), **EXIT_1)
        world.add("a", {"id": "b", "dependsOn": {"taskIds": ["a"]}}, {"id": "big", "requiredSlots": 4})
        node = world.node(agents[2].node_pk)
        world.run(lambda tx: node_rows.move(tx, node, scheduling_state="disabled"))
        seen = world.run(rows.present, pool_of(world), 0)
        assert (seen.active_tasks, seen.running_tasks, seen.pending_tasks) == (2, 1, 3)
        assert (seen.succeeded_tasks, seen.failed_tasks) == (1, 1)
        assert (seen.active_task_slots, seen.running_task_slots) == (5, 3), "one slot and four"
        assert (seen.current_dedicated_nodes, seen.current_low_priority_nodes, seen.task_slots_per_node) == (2, 1, 4)
        assert (seen.preempted_node_count, seen.usable_node_count, seen.sample_node_count) == (0, 2, 3)


class TestReport:
    """What a pool's owner is told of its scaling."""

    def test_of_a_pool_with_autoscale_and_of_one_without(self, world: World) -> None:
        formula = "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=1"
        pool = world.scaled_pool(formula, autoScaleEvaluationInterval="PT10M")
        told = report(world)
        assert (told.pool_id, told.enable_auto_scale, told.auto_scale_formula) == ("pool", True, formula)
        assert (told.auto_scale_evaluation_interval, told.next_evaluation_time) == ("PT10M", times.iso(world.now + 10 * MINUTE * 10**6))
        assert (told.target_dedicated_nodes, told.target_low_priority_nodes, told.samples, len(told.runs)) == (2, 1, None, 1)
        assert pool_rows.content(pool.body).auto_scale_formula is None, "it is kept in one place"
        world.disable_autoscale()
        told = report(world)
        assert (told.enable_auto_scale, told.auto_scale_formula) == (False, None)
        assert (told.auto_scale_evaluation_interval, told.next_evaluation_time) == (None, None)
        with pytest.raises(BatchError, match="PoolNotFound"):
            world.run(autoscale_settings.report, "none", samples=False)


class TestEvaluations:
    def test_up_and_down_with_the_work(self, world: World) -> None:
        world.scaled_pool(PENDING, autoScaleEvaluationInterval="PT5M")
        settle(world)
        world.job()
        world.add("a", "b")
        world.autoscale()
        assert pool_of(world).target_dedicated == 0, "not due yet"
        world.advance(5 * MINUTE)
        world.autoscale()
        pool = pool_of(world)
        assert (pool.target_dedicated, pool.allocation_state, pool.deallocation_option) == (2, "resizing", "taskcompletion")
        agents = settle(world)
        world.schedule()
        for agent in agents:
            agent.end_all()
        world.advance(5 * MINUTE)
        world.autoscale()
        assert pool_of(world).target_dedicated == 0
        world.capacity(4)
        assert world.nodes() == []
        assert [trace.decision.target_dedicated_nodes for trace in report(world).runs] == [0, 2, 0]

    def test_the_size_changes_once(self, world: World) -> None:
        """Nothing is due while the pool resizes; an unchanged result leaves pool and tag alone."""
        world.scaled_pool("$TargetDedicatedNodes=1", autoScaleEvaluationInterval="PT5M")
        world.advance(5 * MINUTE)
        world.autoscale()
        assert len(report(world).runs) == 1
        settle(world)
        before = pool_of(world)
        world.autoscale()
        pool = pool_of(world)
        assert len(report(world).runs) == 2
        assert pool.autoscale_next == world.now + 5 * MINUTE * 10**6
        assert (pool.modified, pool.allocation_state, pool.allocation_time) == (before.modified, "steady", before.allocation_time)
        assert last_run(world).timestamp == times.iso(world.now)

    def test_a_failure_changes_nothing_but_the_run(self, world: World) -> None:
        world.scaled_pool(
            "$TargetDedicatedNodes=2;$TargetDedicatedNodes=time().year>2023?$PendingTasks.GetSample(TimeInterval_Hour,70):2;",
            autoScaleEvaluationInterval="PT5M",
        )
        world.advance(60 * 86400)
        world.capacity(2)
        before = pool_of(world)
        world.autoscale()
        pool = pool_of(world)
        run = last_run(world)
        assert run.error is not None
        assert run.error.code == "InsufficientSampleData"
        assert run.results == "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
        assert (pool.target_dedicated, pool.modified, pool.allocation_state) == (2, before.modified, "steady")
        assert pool.autoscale_next == world.now + 5 * MINUTE * 10**6

    def test_a_pool_that_changed_meanwhile_is_left_alone(self, world: World) -> None:
        world.scaled_pool(PENDING)
        settle(world)
        world.job()
        world.add("a")
        world.advance(15 * MINUTE)
        seen = pool_of(world)
        found = world.run(autoscale_runs.evaluate, seen, PENDING, world.now)
        assert found.resizes
        world.disable_autoscale()
        world.run(autoscale.conclude, seen, found, "interval", world.now)
        assert pool_of(world).target_dedicated == 0
        world.delete_pool()
        world.capacity(2)
        world.run(autoscale.conclude, seen, found, "interval", world.now)

    def test_a_deleted_pool_is_not_evaluated(self, world: World) -> None:
        world.scaled_pool("$TargetDedicatedNodes=1")
        settle(world)
        world.delete_pool()
        world.advance(3600)
        assert world.run(autoscale.look, world.now, on_demand=True) == []
        with pytest.raises(BatchError) as refused:
            world.run(autoscale_settings.evaluate, "pool", PoolEvaluateAutoScale(auto_scale_formula="$a=1"), world.now)
        assert refusal(refused) == (409, "PoolBeingDeleted")

    def test_one_formula_that_breaks_does_not_stop_the_others(self, world: World) -> None:
        for name in ("pool", "second"):
            world.scaled_pool(PENDING, name)
        settle(world)
        first = pool_of(world)
        world.run(lambda tx: pool_rows.move(tx, first, autoscale_formula="not a formula"))
        world.job(pool_id="second")
        world.add("a")
        world.advance(15 * MINUTE)
        world.autoscale()
        second = world.pool_row("second")
        assert second is not None
        assert second.target_dedicated == 1

    def test_what_could_not_be_had_is_asked_for_again(self, world: World) -> None:
        provider = world.provider = Full()
        world.open_loops()
        world.scaled_pool("$TargetDedicatedNodes=2", autoScaleEvaluationInterval="PT5M")
        world.capacity(3)
        pool = pool_of(world)
        assert (pool.allocation_state, pool.current_dedicated, pool.target_dedicated) == ("steady", 0, 2)
        assert pool.resize_errors is not None
        provider.full = False
        world.advance(5 * MINUTE)
        world.autoscale()
        assert pool_of(world).allocation_state == "resizing"
        world.capacity(3)
        assert len(world.nodes()) == 2

    def test_fifty_runs_are_kept(self, world: World) -> None:
        world.scaled_pool("$a=1", autoScaleEvaluationInterval="PT5M")
        settle(world)
        for _ in range(autoscale_runs.RUNS_KEPT + 5):
            world.advance(5 * MINUTE)
            world.autoscale()
        found = report(world, with_samples=True)
        assert len(found.runs) == autoscale_runs.RUNS_KEPT
        assert found.runs[0].run.timestamp == times.iso(world.now)
        assert found.samples is not None
        assert len(found.samples) == autoscale_runs.RUNS_KEPT + 6
        assert isinstance(found.runs[0], AutoScaleTrace)
        assert found.runs[0].variables == {"$a": "1"}
        assert len(found.runs[0].samples) == 10


class Full(Steady):
    """A provider without machines until it has some."""

    full = True

    async def launch(self, order: NodeOrder) -> Handle:
        if self.full:
            raise NoCapacity("no room")
        return await super().launch(order)


class TestTrial:
    """evaluateautoscale, which changes nothing."""

    def try_out(self, world: World, formula: str) -> AutoScaleRun:
        return world.run(autoscale_settings.evaluate, "pool", PoolEvaluateAutoScale(auto_scale_formula=formula), world.now)

    def test_results_and_errors(self, world: World) -> None:
        world.scaled_pool("$TargetDedicatedNodes=2")
        before = world.rows("SELECT * FROM pool"), world.rows("SELECT * FROM autoscale_run"), world.rows("SELECT * FROM autoscale_sample")
        assert self.try_out(world, "$TargetDedicatedNodes=5").results == (
            "$TargetDedicatedNodes=5;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
        )
        run = self.try_out(world, "something_useless")
        assert run.results == "$TargetDedicatedNodes=2;$TargetLowPriorityNodes=0;$NodeDeallocationOption=requeue"
        assert run.error is not None
        assert run.error.code == "AutoScalingFormulaEvaluationError"
        assert run.error.message == "The specified auto-scaling formula has evaluation error"
        with pytest.raises(BatchError) as refused:
            self.try_out(world, "$a=")
        assert refusal(refused) == (400, "AutoScalingFormulaSyntaxError")
        assert refused.value.values == {"Message": "Line 1, Col 4: Unexpected end of the formula"}
        after = world.rows("SELECT * FROM pool"), world.rows("SELECT * FROM autoscale_run"), world.rows("SELECT * FROM autoscale_sample")
        assert after == before

    def test_only_a_pool_that_is_there_and_stays(self, world: World) -> None:
        for code in ("PoolNotFound", "PoolBeingDeleted"):
            with pytest.raises(BatchError) as refused:
                self.try_out(world, "$a=1")
            assert refused.value.code == code
            if code == "PoolNotFound":
                world.scaled_pool("$TargetDedicatedNodes=2")
                world.delete_pool()

    def test_only_where_autoscale_is_on(self, world: World) -> None:
        world.pool()
        with pytest.raises(BatchError) as refused:
            self.try_out(world, "$a=1")
        assert refusal(refused) == (409, "OperationNotValidOnPool")


class TestOnDemand:
    """Evaluations that come early because tasks came or went."""

    def early(self, world: World) -> None:
        asyncio.run(Autoscale(world.db, world.clock, on_demand=True).run_once())

    def test_new_tasks_bring_it_forward_and_it_rests_behind(self, world: World) -> None:
        world.scaled_pool(PENDING)
        settle(world)
        world.job()
        world.add("a")
        self.early(world)
        assert pool_of(world).target_dedicated == 0, "too soon after the one before"
        world.advance(5)
        world.autoscale()
        assert pool_of(world).target_dedicated == 0, "only where it was asked for"
        self.early(world)
        assert pool_of(world).target_dedicated == 1
        assert report(world).runs[0].cause == "demand"
        settle(world)
        world.advance(60)
        self.early(world)
        assert len(report(world).runs) == 2, "nothing changed"
        [sample] = samples(world)[:1]
        assert sample.active_tasks == 1, "the sample of that half minute is as new as the evaluation"

    async def test_only_wake_ups_of_scaled_pools_are_followed(self, world: World) -> None:
        hub, sooner = Wakes(), asyncio.Event()
        hub.bind(asyncio.get_running_loop())
        job = Autoscale(world.db, world.clock, on_demand=True, follow=lambda topics: hub.follow(topics, sooner))
        world.scaled_pool("$a=1")
        world.pool("plain")
        await job.run_once()
        hub([wakes.pool("pool")])
        await asyncio.sleep(0)
        assert not sooner.is_set(), "it is resizing"
        for _ in range(3):
            await world.capacity_job.run_once()
        world.advance(6)
        await job.run_once()
        hub([wakes.pool("plain"), wakes.pool("other")])
        await asyncio.sleep(0)
        assert not sooner.is_set()
        hub([wakes.pool("pool")])
        await asyncio.sleep(0)
        assert sooner.is_set()
        sooner.clear()
        hub([wakes.demand("pool")])
        await asyncio.sleep(0)
        assert sooner.is_set()
        sooner.clear()
        await job.run_once()
        hub([wakes.pool("pool")])
        await asyncio.sleep(0)
        assert not sooner.is_set(), "no more than once a second"


def test_everything_is_in_the_store(lasting: World) -> None:
    """A restarted server goes on with formula, samples and runs."""
    lasting.scaled_pool(PENDING, autoScaleEvaluationInterval="PT5M")
    settle(lasting)
    before = report(lasting, with_samples=True)
    lasting.reopen()
    assert report(lasting, with_samples=True) == before
    lasting.advance(5 * MINUTE)
    lasting.autoscale()
    assert len(report(lasting).runs) == 2
