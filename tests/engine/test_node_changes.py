"""Reboot, reimage, deallocate, start, scheduling, preemption, problems of nodes (contract 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from engine_world import Agent, Steady, World

from batchyard.engine.nodes import node_changes, nodes
from batchyard.engine.nodes.health import MOST_NEWS
from batchyard.engine.nodes.node_changes import PREEMPTED_PAUSE_US
from batchyard.engine.pools import capacity
from batchyard.engine.settling.special_runs import INTERNAL_RETRIES
from batchyard.model.errors import BatchError
from batchyard.model.states import NodeState
from batchyard.model.sync import NodeNews, NodeProblem
from batchyard.model.words import NodeDisableSchedulingOption
from batchyard.providers.base import Handle, NoCapacity, NodeOrder, Seen
from batchyard.store import nodes as node_rows
from batchyard.store import usage

USES: dict[str, Callable[..., None]] = {
    "rebooting": node_changes.reboot,
    "reimaging": node_changes.reimage,
    "deallocating": node_changes.deallocate,
}
OPTION = {option.value: option for option in NodeDisableSchedulingOption}
PREPARED: dict[str, Any] = {"jobPreparationTask": {"commandLine": "true"}}
RESTARTABLE = (NodeState.IDLE, NodeState.RUNNING, NodeState.OFFLINE, NodeState.START_TASK_FAILED, NodeState.UNUSABLE)
DISK_FULL = NodeProblem(code="DiskFull", message="no room", details={"path": "/x"}, blocking=True)
ALMOST_FULL = NodeProblem(code="DiskNearlyFull", message="little room")


def busy(world: World, **more: Any) -> Agent:
    """A node that runs task `a`."""
    [agent] = world.working_pool(slots=2, **more)
    world.job()
    world.add("a")
    world.schedule()
    agent.sync()
    return agent


def state(world: World, agent: Agent) -> str:
    return str(world.node(agent.node_pk).state)


def code(call: Callable[[], object]) -> str:
    with pytest.raises(BatchError) as refused:
        call()
    return refused.value.code


@pytest.mark.parametrize("name", USES)
class TestOptions:
    """What becomes of the tasks, by option."""

    def test_requeue_takes_the_tasks_off_at_once(self, world: World, name: str) -> None:
        agent = busy(world)
        world.change(USES[name], agent.node_pk, None)
        assert state(world, agent) == name, "before the answer, for pollers"
        assert (world.state("a"), world.task("a").requeues) == ("active", 1)

    def test_terminate_ends_them(self, world: World, name: str) -> None:
        agent = busy(world)
        world.change(USES[name], agent.node_pk, "terminate")
        task = world.task("a")
        assert (task.state, task.result) == ("completed", "failure")

    def test_taskcompletion_lets_them_run_and_takes_no_new_ones(self, world: World, name: str) -> None:
        agent = busy(world)
        world.change(USES[name], agent.node_pk, "taskcompletion")
        world.add("b")
        assert world.schedule() == 0
        world.capacity(2)
        assert (state(world, agent), world.state("a")) == (name, "running")
        agent.end(world.attempt("a"))
        assert world.state("a") == "completed"
        world.capacity(2)
        assert state(world, agent) == ("deallocated" if name == "deallocating" else "starting")

    def test_retaineddata_waits_for_what_tasks_keep(self, world: World, name: str) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("a", constraints={"retentionTime": "PT1H"})
        world.schedule()
        world.change(USES[name], agent.node_pk, "retaineddata")
        agent.end_all()
        world.capacity(2)
        assert state(world, agent) == name
        world.advance(3599)
        world.capacity(2)
        assert state(world, agent) == name
        world.advance(2)
        world.capacity(2)
        assert state(world, agent) != name

    def test_an_agent_that_dies_meanwhile_loses_its_tasks(self, world: World, name: str) -> None:
        agent = busy(world)
        world.change(USES[name], agent.node_pk, "taskcompletion")
        world.provider.gone.add(world.node(agent.node_pk).handle)  # type: ignore[attr-defined]
        world.capacity(1)
        assert (world.state("a"), world.task("a").requeues) == ("active", 0)
        assert agent.sync() is None, "fenced off"
        world.capacity(2)
        assert state(world, agent) in ("starting", "deallocated")

    def test_a_silent_agent_does_not_hold_it_up(self, world: World, name: str) -> None:
        agent = busy(world)
        world.change(USES[name], agent.node_pk, "taskcompletion")
        world.run(nodes.silent, agent.node_pk, world.now)
        assert world.state("a") == "active"
        world.capacity(2)
        assert state(world, agent) in ("starting", "deallocated")

    def test_an_agent_that_joins_meanwhile_is_turned_away(self, world: World, name: str) -> None:
        [agent] = world.working_pool()
        world.change(USES[name], agent.node_pk, None)
        with pytest.raises(nodes.NotThisNode):
            agent.join()


def test_a_reboot_keeps_the_machine_and_prepares_again(world: World) -> None:
    [agent] = world.working_pool()
    world.job(**PREPARED)
    world.add("a", "b")
    world.schedule()
    agent.end_all()
    agent.end_all()
    handle = world.node(agent.node_pk).handle
    world.change(node_changes.reboot, agent.node_pk, None)
    world.capacity(3)
    assert world.provider.released == []  # type: ignore[attr-defined]
    assert world.provider.launched.count(world.node(agent.node_pk).id) == 2  # type: ignore[attr-defined]
    assert world.node(agent.node_pk).handle == handle
    agent.join()
    assert state(world, agent) == "idle"
    world.schedule()
    assert world.state("b") == "preparing", "rerunOnNodeRebootAfterSuccess is true by default"
    [row] = world.special()
    assert (row.started, row.retries, row.ended, row.exit_code, row.result, row.stale) == (world.now, 0, None, None, None, 0)
    agent.end_all()
    assert world.state("b") == "running"
    assert len(world.special()) == 1
    agent.end_all()
    world.add("c")
    world.schedule()
    assert world.state("c") == "running", "once after a reboot"


def test_a_reboot_does_not_prepare_again_when_the_job_says_so(world: World) -> None:
    [agent] = world.working_pool()
    world.job(jobPreparationTask={"commandLine": "true", "rerunOnNodeRebootAfterSuccess": False})
    world.add("a", "b")
    world.schedule()
    agent.end_all()
    agent.end_all()
    world.change(node_changes.reboot, agent.node_pk, None)
    world.capacity(3)
    agent.join()
    world.schedule()
    assert world.state("b") == "running"


def test_a_reimage_forgets_what_the_node_kept(world: World) -> None:
    [agent] = world.working_pool()
    world.job(jobPreparationTask={"commandLine": "true", "rerunOnNodeRebootAfterSuccess": False}, jobReleaseTask={"commandLine": "true"})
    world.add("a")
    world.schedule()
    agent.end_all()
    agent.end_all()
    world.change(node_changes.reimage, agent.node_pk, None)
    world.capacity(3)
    assert world.special() == [], "neither prepared nor to be released"
    agent.join()
    world.end_job()
    world.upkeep()
    world.upkeep()
    assert world.job_state() == "completed"


def test_deallocated_nodes_stay_and_start_again(world: World) -> None:
    [agent] = world.working_pool()
    world.change(node_changes.deallocate, agent.node_pk, None)
    world.capacity(3)
    node = world.node(agent.node_pk)
    assert (node.state, node.handle) == ("deallocated", None)
    world.capacity(2)
    assert world.node(agent.node_pk).state == "deallocated"
    pool = world.pool_row()
    assert pool is not None
    assert pool.current_dedicated == 1
    world.change(node_changes.start, agent.node_pk)
    assert state(world, agent) == "starting"
    world.capacity(2)
    agent.join()
    assert world.node_events(agent.node_pk)[-4:] == ["deallocating", "deallocated", "starting", "idle"]


def test_a_deallocated_node_can_be_removed(world: World) -> None:
    [agent] = world.working_pool()
    world.change(node_changes.deallocate, agent.node_pk, None)
    world.capacity(2)
    world.resize(0)
    world.capacity(3)
    assert world.nodes() == []


class TestScheduling:
    """Disable and enable."""

    def test_an_idle_node_goes_offline_and_comes_back(self, world: World) -> None:
        [agent] = world.working_pool()
        world.change(node_changes.disable_scheduling, agent.node_pk, None)
        world.job()
        world.add("a")
        assert (state(world, agent), world.schedule()) == ("offline", 0)
        assert code(lambda: world.change(node_changes.disable_scheduling, agent.node_pk, None)) == "NodeAlreadyInTargetSchedulingState"
        world.change(node_changes.enable_scheduling, agent.node_pk)
        assert (state(world, agent), world.schedule()) == ("idle", 1)
        assert code(lambda: world.change(node_changes.enable_scheduling, agent.node_pk)) == "NodeAlreadyInTargetSchedulingState"

    def test_requeue(self, world: World) -> None:
        agent = busy(world)
        world.change(node_changes.disable_scheduling, agent.node_pk, None)
        assert (state(world, agent), world.state("a"), world.task("a").requeues) == ("offline", "active", 1)

    def test_terminate(self, world: World) -> None:
        agent = busy(world)
        world.change(node_changes.disable_scheduling, agent.node_pk, OPTION["terminate"])
        assert (state(world, agent), world.state("a")) == ("offline", "completed")

    def test_taskcompletion(self, world: World) -> None:
        agent = busy(world)
        world.change(node_changes.disable_scheduling, agent.node_pk, OPTION["taskcompletion"])
        world.add("b")
        assert (state(world, agent), world.schedule()) == ("running", 0)
        agent.end_all()
        assert state(world, agent) == "offline"

    def test_it_holds_over_a_reboot(self, world: World) -> None:
        [agent] = world.working_pool()
        world.change(node_changes.disable_scheduling, agent.node_pk, None)
        world.change(node_changes.reboot, agent.node_pk, None)
        world.capacity(3)
        agent.join()
        assert state(world, agent) == "offline"


class Preempts(Steady):
    """A provider whose machines are taken away when the test says so, and which has none for a while."""

    taken: set[Handle]
    room = True

    def __init__(self) -> None:
        super().__init__()
        self.taken = set()

    async def launch(self, order: NodeOrder) -> Handle:
        if not self.room:
            raise NoCapacity("all spot machines are taken")
        return await super().launch(order)

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        return {**await super().observe(handles), **{handle: Seen.PREEMPTED for handle in handles if handle in self.taken}}


class TestPreemption:
    """Spot nodes that are taken away."""

    def spot(self, world: World) -> Agent:
        world.pool("pool", 0, targetLowPriorityNodes=1, taskSlotsPerNode=2)
        world.capacity(2)
        [node] = world.nodes()
        agent = Agent(world, node.pk).join()
        world.job()
        world.add("a")
        world.schedule()
        agent.sync()
        return agent

    def test_on_demand_with_notice(self, world: World) -> None:
        agent = self.spot(world)
        world.change(node_changes.preempt, agent.node_pk, 30_000_000)
        world.add("b")
        assert world.schedule() == 0, "nothing new on a node that is about to go"
        answer = agent.sync()
        assert answer is not None
        assert answer.notice_s == 30
        world.capacity(2)
        assert world.state("a") == "running"
        world.advance(31)
        world.capacity(1)
        task = world.task("a")
        assert (task.state, task.retries, task.requeues, task.losses) == ("active", 0, 0, 0)
        assert state(world, agent) == "preempted"

    def test_a_preempted_node_stays_listed_and_comes_back(self) -> None:
        provider = Preempts()
        world = World(provider=provider)
        agent = self.spot(world)
        provider.room = False
        provider.taken.add(world.node(agent.node_pk).handle or "")
        world.capacity(2)
        assert (state(world, agent), world.state("a"), world.task("a").losses) == ("preempted", "active", 0)
        assert world.node(agent.node_pk).handle is None, "what was left of it is released"
        with pytest.raises(nodes.NotThisNode):
            agent.join()
        world.capacity(2)
        pool = world.pool_row()
        assert pool is not None
        assert (pool.current_low_priority, pool.allocation_state) == (1, "steady")
        for _ in range(8):
            world.advance(60)
            world.capacity(1)
            assert state(world, agent) == "preempted"
        assert "taken" in (world.node(agent.node_pk).launch_error or "")
        provider.room = True
        provider.taken.clear()
        world.advance(61)
        world.capacity(2)
        agent.join()
        assert world.node_events(agent.node_pk)[-4:] == ["preempted", "creating", "starting", "idle"]
        world.check()
        world.close()

    def test_it_is_not_asked_for_at_once(self, world: World) -> None:
        agent = self.spot(world)
        world.change(node_changes.preempt, agent.node_pk, 0)
        world.capacity(4)
        assert state(world, agent) == "preempted"
        world.advance(PREEMPTED_PAUSE_US / 1e6)
        world.capacity(1)
        assert state(world, agent) == "starting"

    def test_only_spot_nodes(self, world: World) -> None:
        agent = busy(world)
        assert code(lambda: world.change(node_changes.preempt, agent.node_pk, 0)) == "OperationNotValidOnNode"
        assert world.state("a") == "running"

    def test_tasks_that_end_in_time_are_done(self, world: World) -> None:
        agent = self.spot(world)
        world.change(node_changes.preempt, agent.node_pk, 30_000_000)
        agent.end_all()
        assert world.state("a") == "completed"
        world.capacity(1)
        assert state(world, agent) == "preempted"


class TestProblems:
    """What agents find wrong with their nodes."""

    def errors(self, world: World, agent: Agent) -> list[str]:
        return [error["code"] for error in msgspec.json.decode(world.node(agent.node_pk).errors or b"[]")]

    def test_they_are_shown_until_they_are_gone(self, world: World) -> None:
        [agent] = world.working_pool()
        agent.sync(problems=[ALMOST_FULL])
        assert (state(world, agent), self.errors(world, agent)) == ("idle", ["DiskNearlyFull"])
        agent.sync()
        assert self.errors(world, agent) == ["DiskNearlyFull"]
        agent.sync(problems=[])
        assert world.node(agent.node_pk).errors is None
        agent.sync(problems=[NodeProblem("Odd", "it is odd", {"how": "very"})])
        assert msgspec.json.decode(world.node(agent.node_pk).errors or b"") == [
            {"code": "Odd", "message": "it is odd", "errorDetails": [{"name": "how", "value": "very"}]}
        ]

    def test_what_blocks_takes_the_node_out_of_service_and_leaves_its_tasks(self, world: World) -> None:
        agent = busy(world)
        agent.sync(problems=[DISK_FULL])
        world.add("b")
        assert (state(world, agent), world.schedule(), world.state("a")) == ("unusable", 0, "running")
        agent.sync(problems=[])
        assert (state(world, agent), world.schedule()) == ("running", 1)
        agent.sync(problems=[DISK_FULL])
        agent.end_all()
        assert state(world, agent) == "unusable"
        agent.sync(problems=[ALMOST_FULL])
        assert state(world, agent) == "idle"

    def test_a_broken_node_that_falls_silent_loses_its_tasks(self, world: World) -> None:
        agent = busy(world)
        agent.sync(problems=[DISK_FULL])
        world.run(nodes.silent, agent.node_pk, world.now)
        assert world.state("a") == "active"
        assert agent.sync() is None

    def test_a_clock_that_is_wrong(self, world: World) -> None:
        [agent] = world.working_pool()
        agent.sync(clock=world.now + 4_000_000)
        assert self.errors(world, agent) == []
        agent.sync(clock=world.now - 60_000_000)
        assert self.errors(world, agent) == ["ClockSkew"]
        assert "is 60 s behind the server's; set it by NTP" in (world.node(agent.node_pk).errors or b"").decode()
        version = world.node(agent.node_pk).version
        agent.sync(clock=world.now - 61_000_000)
        assert world.node(agent.node_pk).version == version, "the same is not written again"
        agent.sync(problems=[ALMOST_FULL], clock=world.now - 60_000_000)
        assert self.errors(world, agent) == ["DiskNearlyFull", "ClockSkew"]
        agent.sync(clock=world.now)
        assert self.errors(world, agent) == ["DiskNearlyFull"]
        agent.sync(clock=world.now + 90_000_000)
        assert "is 90 s ahead of the server's; set it by NTP" in (world.node(agent.node_pk).errors or b"").decode()


def test_recent_tasks_are_the_last_ten(world: World) -> None:
    [agent] = world.working_pool(slots=3)
    world.job()
    for number in range(14):
        world.add(f"t{number}")
        world.schedule()
        agent.end_all()
    world.delete("t12")
    recent = [task.task_id for task in world.run(node_rows.recent_tasks, world.node(agent.node_pk))]
    assert recent == ["t13", *(f"t{number}" for number in range(11, 3, -1))]


NODE_ERRORS = {
    "creating": "NodeBeingCreated",
    "starting": "NodeBeingStarted",
    "waitingforstarttask": "NodeBeingStarted",
    "rebooting": "NodeBeingRebooted",
    "reimaging": "NodeBeingReimaged",
    "unknown": "NodeStateUnusable",
    "preempted": "NodeStateUnusable",
}


@pytest.mark.parametrize("node_state", [each for each in NodeState if each not in RESTARTABLE])
def test_every_state_has_its_answer(node_state: NodeState) -> None:
    world = World()
    [agent] = world.working_pool()
    world.run(node_rows.set_state, world.node(agent.node_pk), {"state": node_state})
    expected = NODE_ERRORS.get(node_state, "OperationInvalidForCurrentState")
    for use in USES.values():
        with pytest.raises(BatchError, match=expected):
            world.change(use, agent.node_pk, None)
    if node_state != NodeState.DEALLOCATED:
        with pytest.raises(BatchError, match="OperationInvalidForCurrentState"):
            world.change(node_changes.start, agent.node_pk)
    world.close()


class Restarts(Steady):
    """Can end an agent and start another one in its place; remembers whom it ended."""

    restarts = True

    def __init__(self) -> None:
        super().__init__()
        self.stopped: list[Handle] = []

    async def stop(self, handles: Sequence[Handle]) -> None:
        self.stopped += handles
        await super().stop(handles)


class TestSilence:
    """Nodes whose agents say nothing any more."""

    def test_where_the_provider_can_the_agent_is_ended_and_started_anew(self) -> None:
        provider = Restarts()
        world = World(provider=provider)
        agent = busy(world)
        world.run(nodes.silent, agent.node_pk, world.now)
        assert (state(world, agent), world.topics["capacity"] > 0) == ("unknown", True)
        world.capacity(2)
        assert (state(world, agent), provider.stopped) == ("starting", [world.node(agent.node_pk).handle])
        assert len(provider.launched) == 2
        assert agent.sync() is None, "whatever is left of it"
        agent.join()
        assert (state(world, agent), world.schedule(), world.task("a").losses) == ("idle", 1, 1)
        world.capacity(3)
        assert len(provider.stopped) == 1
        world.check()
        world.close()

    def test_elsewhere_it_is_waited_for(self, world: World) -> None:
        agent = busy(world)
        world.run(nodes.silent, agent.node_pk, world.now)
        world.capacity(5)
        assert state(world, agent) == "unknown"
        assert not world.provider.gone  # type: ignore[attr-defined]
        agent.join()
        assert state(world, agent) == "idle"

    def test_one_that_said_goodbye_is_ended_only_when_it_does_not_go(self) -> None:
        """What it does on its way out, locking its accounts for instance, must not be cut short."""
        provider = Restarts()
        world = World(provider=provider)
        agent = busy(world)
        agent.sync(leaving=True)
        world.capacity(3)
        assert (state(world, agent), provider.stopped) == ("unknown", [])
        world.advance(capacity.LEAVING_US // 1_000_000)
        world.capacity(2)
        assert (state(world, agent), provider.stopped) == ("starting", [world.node(agent.node_pk).handle])
        world.check()
        world.close()

    def test_one_that_speaks_in_time_is_not_ended(self) -> None:
        provider = Restarts()
        world = World(provider=provider)
        agent = busy(world)
        world.run(nodes.silent, agent.node_pk, world.now)
        lives = {agent.node_pk: world.node(agent.node_pk).session}
        assert world.run(nodes.still_silent, lives) == {agent.node_pk}
        agent.join()
        assert world.run(nodes.still_silent, lives) == set()
        world.run(nodes.silenced, lives, world.now)
        world.capacity(2)
        assert (state(world, agent), provider.stopped) == ("idle", [])
        world.check()
        world.close()

    @pytest.mark.parametrize(("name", "use"), [("rebooting", node_changes.reboot), ("reimaging", node_changes.reimage)])
    def test_a_client_can_have_it_started_anew_where_the_provider_can(self, world: World, name: str, use: Callable[..., None]) -> None:
        agent = busy(world)
        world.run(nodes.silent, agent.node_pk, world.now)
        for restarting in ((), ("elsewhere",)):
            assert code(lambda restarting=restarting: world.change(partial(use, restarting=restarting), agent.node_pk, None)) == (
                "NodeStateUnusable"
            )
        world.change(partial(use, restarting=("local",)), agent.node_pk, None)
        assert state(world, agent) == name
        world.capacity(3)
        assert state(world, agent) == "starting"
        agent.join()
        assert (state(world, agent), world.schedule()) == ("idle", 1)

    def test_an_unusable_node_that_falls_silent_is_unknown(self, world: World) -> None:
        [agent] = world.working_pool()
        agent.sync(problems=[DISK_FULL])
        assert world.run(node_rows.silent, world.now + 1) == [agent.node_pk]
        world.run(nodes.silent, agent.node_pk, world.now)
        assert state(world, agent) == "unknown"
        agent.join().sync(problems=[DISK_FULL])
        assert state(world, agent) == "unusable"


class TestMany:
    """Several things that happen to nodes at once, or in an unlucky order."""

    def test_a_node_that_was_named_to_leave_is_the_one_that_leaves(self, world: World) -> None:
        agents = world.working_pool(nodes=2)
        world.job()
        world.add("a", "b")
        world.schedule()
        named = agents[0].node_pk
        world.remove_nodes(named, nodeDeallocationOption="taskcompletion")
        world.capacity()
        for use in USES.values():
            with pytest.raises(BatchError, match="OperationInvalidForCurrentState"):
                world.change(use, named, None)
        agents[0].end_all()
        world.capacity(3)
        assert [node.pk for node in world.nodes()] == [agents[1].node_pk]

    def test_a_named_spot_node_that_is_taken_away_leaves(self) -> None:
        provider = Preempts()
        world = World(provider=provider)
        world.pool("pool", 0, targetLowPriorityNodes=2)
        world.capacity(2)
        first, second = (Agent(world, node.pk).join() for node in world.nodes())
        world.job()
        world.add("a", "b")
        world.schedule()
        world.remove_nodes(first.node_pk, nodeDeallocationOption="retaineddata")
        world.capacity()
        provider.taken.add(world.node(first.node_pk).handle or "")
        world.capacity(4)
        assert [node.pk for node in world.nodes()] == [second.node_pk]
        world.check()
        world.close()

    def test_a_slow_start_is_no_silence(self, world: World) -> None:
        """Whatever ended the node's last life: the time since its agent spoke then does not count."""
        [agent] = world.working_pool()
        for use in (node_changes.deallocate, node_changes.reboot, node_changes.reimage):
            world.change(use, agent.node_pk, None)
            world.capacity(1)
            world.advance(3600)
            world.upkeep()
            world.advance(10)
            world.upkeep()
            assert state(world, agent) != "unknown"
            if state(world, agent) == "deallocated":
                world.change(node_changes.start, agent.node_pk)
                world.upkeep()
                assert state(world, agent) == "starting"
            world.capacity(2)
            agent.join()

    def test_a_dead_agent_of_a_node_that_retains_data_is_noted_once(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        agent.end_all()
        world.change(node_changes.reboot, agent.node_pk, "retaineddata")
        world.provider.gone.add(world.node(agent.node_pk).handle)  # type: ignore[attr-defined]
        world.capacity(2)
        before, woken = world.node(agent.node_pk).version, world.topics["capacity"]
        world.capacity(5)
        assert (world.node(agent.node_pk).version, world.topics["capacity"]) == (before, woken)

    def test_a_start_task_that_fills_the_disk(self, world: World) -> None:
        [agent] = world.working_pool(startTask={"commandLine": "true"})
        agent.sync(problems=[DISK_FULL])
        agent.end_all()
        assert state(world, agent) == "unusable"
        agent.sync(problems=[])
        assert state(world, agent) == "idle"

    def test_a_join_with_a_full_disk(self, world: World) -> None:
        [agent] = world.working_pool()
        agent.session, agent.has = 0, []
        agent.sync(problems=[DISK_FULL])
        assert state(world, agent) == "unusable"

    @pytest.mark.parametrize("before", ["unusable", "rebooting", "reimaging"])
    def test_a_machine_may_be_taken_away_in_any_state(self, before: str) -> None:
        provider = Preempts()
        world = World(provider=provider)
        world.pool("pool", 0, targetLowPriorityNodes=1)
        world.capacity(2)
        agent = Agent(world, world.nodes()[0].pk).join()
        world.job()
        world.add("a")
        world.schedule()
        if before == "unusable":
            agent.sync(problems=[DISK_FULL])
        else:
            world.change(USES[before], agent.node_pk, "taskcompletion")
        assert state(world, agent) == before
        provider.taken.add(world.node(agent.node_pk).handle or "")
        world.capacity(1)
        assert (state(world, agent), world.state("a")) == ("preempted", "active")
        world.check()
        world.close()

    def test_an_old_look_does_not_preempt_the_next_life(self, world: World) -> None:
        world.pool("pool", 0, targetLowPriorityNodes=1)
        world.capacity(2)
        agent = Agent(world, world.nodes()[0].pk).join()
        seen = world.node(agent.node_pk)
        agent.join()
        assert not world.run(node_changes.preempted, agent.node_pk, world.now, (seen.session, seen.launches))
        assert state(world, agent) == "idle"

    def test_a_release_task_ends_with_its_emptied_node(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job(jobPreparationTask={"commandLine": "true"}, jobReleaseTask={"commandLine": "true"})
        world.add("a")
        world.schedule()
        agent.end_all()
        agent.end_all()
        world.end_job()
        world.upkeep()
        assert world.special("release")[0].state == "running"
        world.change(node_changes.deallocate, agent.node_pk, None)
        world.capacity(2)
        world.upkeep()
        assert (world.job_state(), world.special("release")[0].result) == ("completed", "failure")
        world.change(node_changes.start, agent.node_pk)
        world.capacity(2)
        assert agent.join().has == []

    def test_removing_one_node_does_not_finish_a_stopped_shrink(self, world: World) -> None:
        agents = world.working_pool(nodes=3)
        world.job()
        world.add("a", "b", "c")
        world.schedule()
        world.resize(1, nodeDeallocationOption="taskcompletion")
        world.capacity()
        world.stop_resize()
        world.capacity(2)
        world.remove_nodes(agents[0].node_pk)
        world.capacity(3)
        assert {node.pk for node in world.nodes()} == {agents[1].node_pk, agents[2].node_pk}

    def test_a_stopped_shrink_leaves_scheduling_as_it_was(self, world: World) -> None:
        [agent] = world.working_pool()
        world.job()
        world.add("a")
        world.schedule()
        world.change(node_changes.disable_scheduling, agent.node_pk, OPTION["taskcompletion"])
        world.resize(0, nodeDeallocationOption="taskcompletion")
        world.capacity()
        world.stop_resize()
        world.capacity(2)
        node = world.node(agent.node_pk)
        assert (node.scheduling_state, node.action) == ("disabled", None)

    def test_machines_that_are_not_there_are_not_counted(self, world: World) -> None:
        """Neither for the quota nor in core time."""
        [agent] = world.working_pool()
        world.advance(3600)
        world.change(node_changes.deallocate, agent.node_pk, None)
        world.capacity(2)
        assert world.run(usage.cores, dedicated=True) == 0
        world.advance(7200)
        world.change(node_changes.start, agent.node_pk)
        world.capacity(2)
        cores = world.run(usage.cores, dedicated=True)
        assert cores > 0
        world.advance(3600)
        used = world.run(usage.dedicated_core_time, 1, world.now)
        assert used == 2 * 3600 * 1_000_000 * cores

    def test_tasks_that_an_action_ends_have_run(self, world: World) -> None:
        agent = busy(world)
        world.change(node_changes.reboot, agent.node_pk, "terminate")
        assert world.node(agent.node_pk).tasks_run == 1

    def test_waiting_for_capacity_is_no_transition(self) -> None:
        provider = Preempts()
        world = World(provider=provider)
        world.pool("pool", 0, targetLowPriorityNodes=1)
        world.capacity(2)
        agent = Agent(world, world.nodes()[0].pk).join()
        provider.room = False
        world.run(node_changes.preempted, agent.node_pk, world.now)
        since = world.node(agent.node_pk).state_time
        for _ in range(5):
            world.advance(60)
            world.capacity(2)
        assert (world.node(agent.node_pk).state_time, world.node(agent.node_pk).launches) == (since, 5)
        world.close()

    def test_a_start_task_that_is_lost_again_and_again_has_failed(self, world: World) -> None:
        [agent] = world.working_pool(startTask={"commandLine": "true"})
        lost = {"failure": {"category": "servererror", "code": "Unknown", "message": "?"}}
        for _ in range(INTERNAL_RETRIES + 1):
            agent.end_all(**lost)
        assert state(world, agent) == "starttaskfailed"


def test_news_of_a_node_are_among_its_events_once(world: World) -> None:
    """A sync that is said again because its answer got lost adds nothing; who is fenced off is not believed."""
    [agent] = world.working_pool()
    news = [NodeNews(happened="service log not uploaded", cause=f"blob {number}") for number in (1, 2)]
    agent.sync(news=news[:1])
    agent.sync(news=news)
    agent.join()
    agent.sync(news=news)
    agent.session -= 1
    assert agent.sync(news=[NodeNews(happened="service log not uploaded", cause="blob 3")]) is None

    def told() -> list[tuple[Any, ...]]:
        return world.rows("SELECT happened, cause FROM event WHERE what = 'node' AND cause LIKE 'blob %' ORDER BY pk")

    assert told() == [("service log not uploaded", "blob 1"), ("service log not uploaded", "blob 2")]
    agent.join()
    agent.sync(news=[NodeNews(happened="service log not uploaded", cause=f"blob {number} " + "x" * 10_000) for number in range(10, 500)])
    assert len(told()) == 2 + MOST_NEWS
    assert max(len(cause) for _, cause in told()) == 1_000
