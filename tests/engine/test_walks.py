"""Random walks through everything at once; after every step all rows agree, and with healthy nodes everything ends."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from engine_world import EXIT_1, MACHINE, START, Agent, Steady, World, ended
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from batchyard.engine.nodes.node_changes import CHANGING, deallocate, disable_scheduling, enable_scheduling, preempt, reboot, reimage, start
from batchyard.engine.nodes.nodes import NotThisNode
from batchyard.engine.schedules import schedules
from batchyard.model.errors import BatchError
from batchyard.model.states import NodeState, SchedulingState, TaskState
from batchyard.model.sync import Ended, Orders
from batchyard.model.words import NodeDisableSchedulingOption

NAMES = [*(f"t{n}" for n in range(6)), *(f"f{n}" for n in range(3)), *map(str, range(1, 7)), "01", "002"]
names = st.sampled_from(NAMES)
some = st.lists(names, max_size=3)
spans = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)).map(lambda span: (span[0], span[0] + span[1])), max_size=2)
picks = st.integers(0, 100)
options = st.sampled_from([None, "terminate", "taskcompletion", "retaineddata"])
DAY_US = 86_400_000_000
JOBS: dict[str, dict[str, Any]] = {
    "job": {"constraints": {"maxTaskRetryCount": 1}},
    "managed": {
        "jobManagerTask": {"id": "boss", "commandLine": "true", "constraints": {"maxTaskRetryCount": 1}, "killJobOnCompletion": False},
        "jobPreparationTask": {"commandLine": "true", "constraints": {"maxTaskRetryCount": 1}},
        "jobReleaseTask": {"commandLine": "true"},
        "allowTaskPreemption": True,
    },
    "urgent": {
        "priority": 2,
        "jobManagerTask": {"id": "boss", "commandLine": "true", "runExclusive": False},
        "allowTaskPreemption": True,
        "jobPreparationTask": {"commandLine": "true", "waitForSuccess": False},
        "onTaskFailure": "performexitoptionsjobaction",
    },
}
OWN = {"vmSize": "small", "virtualMachineConfiguration": MACHINE, "targetDedicatedNodes": 1, "taskSlotsPerNode": 2}
AUTO = {"poolLifetimeOption": "job", "pool": OWN}
BOSS = {"jobManagerTask": {"id": "boss", "commandLine": "true"}}
PLANS: dict[str, dict[str, Any]] = {
    "ends": {"poolInfo": {"poolId": "pool"}, "onAllTasksComplete": "terminatejob"},
    "stays": {"poolInfo": {"poolId": "pool"}, "constraints": {"maxWallClockTime": "P1D"}},
    "own": {"poolInfo": {"autoPoolSpecification": AUTO}, **BOSS},
    "shared": {"poolInfo": {"autoPoolSpecification": {**AUTO, "poolLifetimeOption": "jobschedule"}}, **BOSS},
}
TIMES = ({}, {"recurrenceInterval": "PT30M"}, {"recurrenceInterval": "PT3H", "startWindow": "PT1M"})
plan_ids, times_ = st.sampled_from(list(PLANS)), st.sampled_from(TIMES)
job_ids = st.sampled_from(list(JOBS))
CLOSED = {"JobNotFound", "JobBeingTerminated", "JobCompleted", "JobBeingDeleted"}
REFUSALS = CLOSED | {
    "JobExists",
    "OperationInvalidForCurrentState",
    "TaskNotFound",
    "TaskCompleted",
    "TaskNotCompleted",
    "TaskSucceeded",
    "InvalidPropertyValue",
    "NodeBeingCreated",
    "NodeBeingStarted",
    "NodeBeingRebooted",
    "NodeBeingReimaged",
    "NodeStateUnusable",
    "NodeAlreadyInTargetSchedulingState",
    "OperationNotValidOnNode",
    "JobScheduleExists",
    "JobScheduleNotFound",
    "JobScheduleDisabled",
    "JobScheduleCompleted",
    "JobScheduleBeingTerminated",
    "JobScheduleBeingDeleted",
    "PoolNotFound",
    "PoolBeingDeleted",
}


class Walk(RuleBasedStateMachine):
    """Two dedicated nodes and a spot node with three slots, three jobs, and whatever can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        start = {"commandLine": "true", "maxTaskRetryCount": 1}
        agents = self.world.working_pool(nodes=2, slots=3, targetLowPriorityNodes=1, startTask=start)
        self.agents = {agent.node_pk: agent for agent in agents}
        for agent in agents:
            agent.end_all()
        for job_id in JOBS:
            self.world.job(job_id, **JOBS[job_id])
        self.done: dict[int, tuple[Any, ...]] = {}
        self.parents: dict[int, tuple[list[str], list[tuple[int, int]]]] = {}
        self.satisfied: set[tuple[int, str]] = set()
        self.reported: list[tuple[int, str]] = []

    def _agent(self, pick: int) -> Agent:
        return self.agents[sorted(self.agents)[pick % len(self.agents)]]

    @rule(name=names, ids=some, ranges=spans, slots=st.integers(1, 3), job_id=job_ids)
    def add(self, name: str, ids: list[str], ranges: list[tuple[int, int]], slots: int, job_id: str) -> None:
        spec = {"taskIds": ids, "taskIdRanges": [{"start": low, "end": high} for low, high in ranges]}
        try:
            [(_, outcome)] = self.world.add({"id": name, "dependsOn": spec, "requiredSlots": slots}, job_id=job_id)
        except BatchError as error:
            if error.code not in CLOSED:
                raise
            return
        if not isinstance(outcome, BatchError):
            self.parents[self.world.task(name, job_id).pk] = (ids, ranges)

    @rule()
    def schedule(self) -> None:
        self.world.schedule()

    @rule(pick=picks, fails=st.booleans())
    def report(self, pick: int, fails: bool) -> None:
        agent = self._agent(pick)
        if self._sync(agent) is not None and agent.has:
            attempt = agent.has[pick % len(agent.has)]
            self.reported.append((agent.node_pk, attempt))
            agent.end(attempt, **(EXIT_1 if fails else {}))

    @precondition(lambda self: self.reported)
    @rule(pick=picks, fails=st.booleans(), elsewhere=st.booleans())
    def report_again(self, pick: int, fails: bool, elsewhere: bool) -> None:
        node, attempt = self.reported[pick % len(self.reported)]
        agent = self._agent(pick) if elsewhere else self.agents[node]
        self._sync(agent, ended(attempt, **(EXIT_1 if fails else {})))

    def _sync(self, agent: Agent, *said: Ended) -> Orders | None:
        """None as well when the server knows no such node for now."""
        try:
            return agent.sync(*said)
        except NotThisNode:
            away = (NodeState.PREEMPTED, NodeState.DEALLOCATED)
            assert self.world.node(agent.node_pk).state in (away if agent.session else (*away, *CHANGING))
            return None

    @rule(pick=picks)
    def join(self, pick: int) -> None:
        with contextlib.suppress(NotThisNode):
            self._agent(pick).join()

    @rule(pick=picks, use=st.sampled_from([reboot, reimage, deallocate]), option=options)
    def change_node(self, pick: int, use: Any, option: str | None) -> None:
        self._try(self.world.change, use, self._agent(pick).node_pk, option)

    @rule(pick=picks, use=st.sampled_from([start, enable_scheduling]))
    def bring_back(self, pick: int, use: Any) -> None:
        self._try(self.world.change, use, self._agent(pick).node_pk)

    @rule(pick=picks, option=st.sampled_from(NodeDisableSchedulingOption))
    def switch_off(self, pick: int, option: NodeDisableSchedulingOption) -> None:
        self._try(self.world.change, disable_scheduling, self._agent(pick).node_pk, option)

    @rule(pick=picks, notice_us=st.sampled_from([0, 2_000_000]))
    def preempt(self, pick: int, notice_us: int) -> None:
        self._try(self.world.change, preempt, self._agent(pick).node_pk, notice_us)

    @rule()
    def capacity(self) -> None:
        self.world.capacity()

    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        provider = self.world.provider
        assert isinstance(provider, Steady)
        node = self.world.node(self._agent(pick).node_pk)
        provider.gone.add(node.handle or "")
        self.world.capacity()

    @rule(name=names, job_id=job_ids)
    def terminate(self, name: str, job_id: str) -> None:
        self._try(self.world.terminate, name, job_id)

    @rule(name=names, job_id=job_ids)
    def delete(self, name: str, job_id: str) -> None:
        self._try(self.world.delete, name, job_id)

    @rule(name=names, job_id=job_ids)
    def reactivate(self, name: str, job_id: str) -> None:
        if self._try(self.world.reactivate, name, job_id):
            self.done.pop(self.world.task(name, job_id).pk, None)

    @rule(name=names, job_id=job_ids, retries=st.integers(0, 2))
    def update(self, name: str, job_id: str, retries: int) -> None:
        self._try(lambda: self.world.update(name, job_id, maxTaskRetryCount=retries))

    @rule(job_id=job_ids, option=st.sampled_from(["requeue", "terminate", "wait"]))
    def disable(self, job_id: str, option: str) -> None:
        self._try(self.world.disable, option, job_id)

    @rule(job_id=job_ids)
    def enable(self, job_id: str) -> None:
        self._try(self.world.enable, job_id)

    @rule(job_id=job_ids, priority=st.integers(-1, 2), at_once=st.sampled_from([-1, 1, 2]), ends=st.booleans())
    def patch(self, job_id: str, priority: int, at_once: int, ends: bool) -> None:
        more = {"onAllTasksComplete": "terminatejob"} if ends else {}
        self._try(lambda: self.world.patch(job_id, priority=priority, maxParallelTasks=at_once, **more))

    @rule(job_id=job_ids, force=st.booleans())
    def end_job(self, job_id: str, force: bool) -> None:
        self._try(lambda: self.world.end_job(job_id, force=force))

    @rule(job_id=job_ids, force=st.booleans())
    def delete_job(self, job_id: str, force: bool) -> None:
        self._try(lambda: self.world.delete_job(job_id, force=force))

    @rule(job_id=job_ids)
    def add_job(self, job_id: str) -> None:
        self._try(lambda: self.world.job(job_id, **JOBS[job_id]))

    @rule(plan_id=plan_ids, times=times_)
    def add_plan(self, plan_id: str, times: dict[str, str]) -> None:
        self._try(lambda: self.world.plan(plan_id, PLANS[plan_id], schedule=times))

    @rule(plan_id=plan_ids, times=times_)
    def patch_plan(self, plan_id: str, times: dict[str, str]) -> None:
        self._try(lambda: self.world.patch_plan(plan_id, schedule=times))

    @rule(plan_id=plan_ids, other=plan_ids)
    def put_plan(self, plan_id: str, other: str) -> None:
        self._try(lambda: self.world.put_plan(plan_id, jobSpecification=PLANS[other]))

    @rule(plan_id=plan_ids, use=st.sampled_from([schedules.enable, schedules.disable, schedules.terminate]))
    def change_plan(self, plan_id: str, use: Any) -> None:
        self._try(lambda: self.world.change_plan(use, schedule_id=plan_id))

    @rule(plan_id=plan_ids, force=st.booleans())
    def delete_plan(self, plan_id: str, force: bool) -> None:
        self._try(lambda: self.world.delete_plan(plan_id, force=force))

    @rule(plan_id=plan_ids, delete=st.booleans())
    def end_newest(self, plan_id: str, delete: bool) -> None:
        made = self.world.jobs_of(plan_id)
        if made:
            self._try(lambda: (self.world.delete_job if delete else self.world.end_job)(made[-1][0]))

    @rule(pick=picks)
    def delete_own_pool(self, pick: int) -> None:
        made = [name for (name,) in self.world.rows("SELECT id FROM pool WHERE id <> 'pool' ORDER BY pk")]
        if made:
            self._try(lambda: self.world.delete_pool(made[pick % len(made)]))

    @rule()
    def plans(self) -> None:
        self.world.plans()

    @precondition(lambda self: self.world.now < START + 12 * DAY_US)  # after 30 days there are no events to check
    @rule(seconds=st.sampled_from([1, 3_600, 8 * 86_400]))
    def move_the_clock(self, seconds: int) -> None:
        self.world.advance(seconds)

    @rule()
    def upkeep(self) -> None:
        self.world.upkeep()

    def _try(self, what: Any, *args: Any) -> bool:
        """True when it was not refused."""
        try:
            what(*args)
        except BatchError as error:
            if error.code not in REFUSALS:
                raise
            return False
        return True

    @invariant()
    def all_rows_agree(self) -> None:
        self.world.check()

    @invariant()
    def what_is_completed_stays_so(self) -> None:
        seen = "pk, run, result, exit_code, failure, retries, requeues, started, ended, node_pk, satisfied, modified"
        now = {row[0]: row for row in self.world.rows(f"SELECT {seen} FROM task WHERE state = 'completed'")}
        alive = {pk for (pk,) in self.world.rows("SELECT pk FROM task")}
        for pk, row in self.done.items():
            assert pk not in alive or now.get(pk) == row
        self.done = now

    @invariant()
    def nothing_runs_before_what_it_depends_on(self) -> None:
        for job, name, number in self.world.rows("SELECT job_pk, lower(id), number FROM task WHERE satisfied = 1"):
            self.satisfied |= {(job, name), (job, f"#{number}")}
        for job, pk in self.world.rows("SELECT job_pk, pk FROM task WHERE run > 0 AND manager = 0"):
            ids, ranges = self.parents[pk]
            names = {name.lower() for name in ids} | {f"#{number}" for low, high in ranges for number in range(low, high + 1)}
            needed = {(job, name) for name in names}
            assert needed <= self.satisfied, f"task {pk} ran before {needed - self.satisfied}"

    def teardown(self) -> None:
        try:
            for (plan_id,) in self.world.rows("SELECT id FROM job_schedule WHERE state <> 'deleting'"):
                self._try(lambda name=plan_id: self.world.delete_plan(name))
            self.world.finish()
            assert self.world.rows("SELECT id FROM job_schedule UNION ALL SELECT id FROM pool WHERE id <> 'pool'") == []
            self._mend_nodes()
            for (job_id,) in self.world.rows("SELECT id FROM job WHERE state = 'disabled'"):
                self.world.enable(job_id)
            self.world.finish()
            self.world.check()
            self._check_all_ended()
        finally:
            self.world.close()

    def _mend_nodes(self) -> None:
        """What an operator would do, once all retained data may go."""
        self.world.advance(8 * 86_400)
        self.world.finish()
        for node in self.world.nodes():
            if node.state == NodeState.DEALLOCATED:
                self.world.change(start, node.pk)
            elif node.state == NodeState.START_TASK_FAILED:
                self.world.change(reboot, node.pk, None)
        self.world.finish()
        for node in self.world.nodes():
            if node.scheduling_state == SchedulingState.DISABLED:
                self.world.change(enable_scheduling, node.pk)

    def _check_all_ended(self) -> None:
        """Only what is blocked, belongs to a job that ended, or has all nodes closed to it is left."""
        assert {state for (state,) in self.world.rows("SELECT state FROM job")} <= {"active", "completed"}
        assert {node.state for node in self.world.nodes()} == {NodeState.IDLE}
        failed = "SELECT count(*) FROM special_task WHERE job_pk = job.pk AND kind = 'preparation' AND result = 'failure'"
        left = self.world.rows(
            f"SELECT task.id, task.state, unmet, job.state, ({failed}) FROM task JOIN job ON job.pk = job_pk"
            " WHERE task.state <> 'completed'"
        )
        for name, state, unmet, job_state, closed in left:
            assert state == TaskState.ACTIVE, name
            assert unmet > 0 or job_state == "completed" or closed == len(self.agents), (name, unmet, job_state, closed)


@pytest.mark.timeout(600)  # a failure is made small first
def test_random_walks() -> None:
    bounds = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(Walk, settings=bounds)
