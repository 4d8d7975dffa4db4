"""Two servers on one store, whose units and reads take turns statement by statement in any order.

The right to write is one server's at a time; what loops and clients saw before they wrote is guarded. Each server has connections, loops
and a clock of its own, and nobody acts upon a wake-up.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from engine_world import EXIT_1, SETTING, Agent, Steady, World, ended
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from turns import Turns

import databases
from batchyard.drivers.postgres_words import Location
from batchyard.engine import lookup
from batchyard.engine.nodes import nodes as node_cases
from batchyard.engine.nodes.node_changes import disable_scheduling, enable_scheduling, reboot
from batchyard.engine.nodes.nodes import NotThisNode
from batchyard.engine.work import jobs
from batchyard.model import times
from batchyard.model.errors import BatchError
from batchyard.model.job import JobPatch
from batchyard.model.sync import Sync
from batchyard.model.words import NodeDisableSchedulingOption
from batchyard.rules.conditions import Conditions
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store.db import StoreUnavailable
from batchyard.store.jobs import JobRow
from batchyard.store.nodes import NodeRow
from batchyard.store.tx import Conflict, Tx

TASKS = ["a", "b", "c", "d", "fa", "fb", "1", "2"]
SKEW_S = 7
REFUSALS = {
    "TaskExists",
    "TaskNotFound",
    "TaskCompleted",
    "TaskNotCompleted",
    "TaskSucceeded",
    "JobCompleted",
    "JobBeingTerminated",
    "OperationInvalidForCurrentState",
    "ConditionNotMet",
    "PoolBeingResized",
    "PoolNotEligibleForOperation",
    "ResizeStopped",
    "NodeAlreadyInTargetSchedulingState",
    "NodeBeingRebooted",
    "NodeBeingCreated",
    "NodeBeingStarted",
    "NodeNotFound",
    "NodeStateUnusable",
}


class Pair:
    """Two servers, and what clients were told by them."""

    def __init__(self, path: Path) -> None:
        self.one = World(path)
        self.other = World(path, self.one.provider)
        self.other.advance(SKEW_S)
        self.servers = (self.one, self.other)
        for world in self.servers:
            world.watch_bounds()
        self.one.working_pool(nodes=2, slots=2)
        self.one.job("job", maxParallelTasks=3, allowTaskPreemption=True, constraints={"maxTaskRetryCount": 1})
        self.one.job("urgent", priority=2)
        self.raised: dict[int, int] = {}
        """Priorities of `job` by the version that came with each."""
        self.bounded = 3
        """How many tasks of it may run at once, as a client was told last."""
        self.turns = Turns(self.one.db, self.other.db)

    def close(self) -> None:
        self.turns.close()
        for world in self.servers:
            world.close()

    # what a server is asked, or does by itself

    def add(self, world: World, pick: int, behind: int) -> None:
        spec: dict[str, Any] = {"id": TASKS[pick], "requiredSlots": 1 + pick % 2}
        if behind != pick:
            spec["dependsOn"] = {"taskIds": [TASKS[behind]], "taskIdRanges": [{"start": 1, "end": 1}] if behind == 2 else []}
        world.add(spec, job_id="urgent" if pick == 3 else "job")

    def schedule(self, world: World, pick: int, behind: int) -> None:
        world.schedule()

    def node(self, world: World, pick: int) -> NodeRow:
        """One of the nodes that there are by then. Raises NotThisNode."""
        found = world.nodes()
        if not found:
            raise NotThisNode
        return found[pick % len(found)]

    def agent(self, world: World, pick: int) -> Agent:
        node = self.node(world, pick)
        agent = Agent(world, node.pk)
        agent.session = node.session
        return agent

    def change(self, world: World, pick: int, use: Callable[..., None], *args: Any) -> None:
        pk = self.node(world, pick).pk

        def unit(tx: Tx) -> None:
            if (node := node_rows.get(tx, pk)) is None:
                raise NotThisNode
            use(tx, node, *args, world.now)

        world.run(unit)

    def report(self, world: World, pick: int, behind: int) -> None:
        """A node says that something has ended, and takes what it gets for it."""
        agent = self.agent(world, pick)
        agent.sync()
        agent.end(*agent.has[: 1 + behind % 2], **(EXIT_1 if behind > 4 else {}))

    def refill(self, world: World, pick: int, behind: int) -> None:
        agent = self.agent(world, pick)
        agent.sync()
        said = Sync(session=agent.session, number=99, has=[], ended=[ended(each) for each in agent.has])
        world.run(node_cases.hear, agent.node_pk, said, SETTING, world.now, refill=True)

    def join(self, world: World, pick: int, behind: int) -> None:
        self.agent(world, pick).join()

    def silence(self, world: World, pick: int, behind: int) -> None:
        world.run(node_cases.silent, self.node(world, pick).pk, world.now)

    def lose(self, world: World, pick: int, behind: int) -> None:
        provider = world.provider
        assert isinstance(provider, Steady)
        provider.gone.add(self.node(world, pick).handle or "")
        world.capacity()

    def change_node(self, world: World, pick: int, behind: int) -> None:
        uses: list[tuple[Callable[..., None], Any]] = [
            (reboot, None),
            (disable_scheduling, NodeDisableSchedulingOption.REQUEUE),
            (disable_scheduling, NodeDisableSchedulingOption.TASK_COMPLETION),
        ]
        use, option = uses[behind % 3]
        self.change(world, pick, use, option)

    def enable_node(self, world: World, pick: int, behind: int) -> None:
        self.change(world, pick, enable_scheduling)

    def raise_priority(self, world: World, pick: int, behind: int) -> None:
        """A client reads a job, and puts what it read, raised by one, in the place of just that."""
        seen = asyncio.run(world.db.read(job_rows.find, "job"))
        assert seen is not None
        fresh = self.patch(world, JobPatch(priority=seen.priority + 1), Conditions(if_match=times.etag(seen.modified)))
        assert self.raised.setdefault(fresh.version, fresh.priority) == fresh.priority
        assert fresh.priority == seen.priority + 1

    def bound(self, world: World, pick: int, behind: int) -> None:
        most = [-1, 1, 2, 3][behind % 4]
        self.patch(world, JobPatch(max_parallel_tasks=most), Conditions())
        self.bounded = most

    def patch(self, world: World, patch: JobPatch, conditions: Conditions) -> JobRow:
        def unit(tx: Tx) -> JobRow:
            job = lookup.open_job(tx, "job")
            conditions.check(job.modified)
            return jobs.patch(tx, job, patch, world.now)

        return world.run(unit)

    def update(self, world: World, pick: int, behind: int) -> None:
        world.update(TASKS[pick], maxTaskRetryCount=behind % 3)

    def terminate(self, world: World, pick: int, behind: int) -> None:
        world.terminate(TASKS[pick])

    def reactivate(self, world: World, pick: int, behind: int) -> None:
        world.reactivate(TASKS[pick])

    def delete(self, world: World, pick: int, behind: int) -> None:
        world.delete(TASKS[pick])

    def disable(self, world: World, pick: int, behind: int) -> None:
        world.disable(["requeue", "terminate", "wait"][behind % 3])

    def enable(self, world: World, pick: int, behind: int) -> None:
        world.enable()

    def resize(self, world: World, pick: int, behind: int) -> None:
        world.resize(behind % 4)

    def loops(self, world: World, pick: int, behind: int) -> None:
        [world.capacity, world.upkeep, world.schedule][behind % 3]()

    def late(self, world: World, pick: int, behind: int) -> None:
        """Time passes for one server; silence and wall clocks are looked for."""
        world.advance(1 + behind)
        world.upkeep()


DEEDS: dict[str, Callable[[Pair, World, int, int], None]] = {
    name: getattr(Pair, name)
    for name in (
        "add schedule report refill join silence lose change_node enable_node raise_priority bound update terminate reactivate"
        " delete disable enable resize loops late"
    ).split()
}
Deed = tuple[str, int, int]
Order = list[tuple[int, int]]
"""Whose turn it is, and for how many steps."""
Story = list[tuple[Deed, Deed, Order]]
orders = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 40)), max_size=6)


def stories(names: Iterable[str], most: int) -> st.SearchStrategy[Story]:
    """Pairs of deeds, one of each server, and the order of their steps."""
    deeds = st.tuples(st.sampled_from(list(names)), st.integers(0, 7), st.integers(0, 7))
    return st.lists(st.tuples(deeds, deeds, orders), min_size=1, max_size=most)


@contextmanager
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as directory:
        made = Pair(Path(directory) / "batchyard.db")
        try:
            yield made
        finally:
            made.close()
            databases.clear()


def deed(servers: Pair, world: World, told: Deed) -> bool:
    """True when it was not refused."""
    name, pick, behind = told
    try:
        with suppress(NotThisNode):
            DEEDS[name](servers, world, pick, behind)
    except BatchError as error:
        if error.code not in REFUSALS:
            raise
        return False
    return True


def together(servers: Pair, first: Deed, second: Deed, order: Order) -> list[bool]:
    """Have each server do its deed; which were not refused."""
    works = [partial(deed, servers, world, told) for world, told in zip(servers.servers, (first, second), strict=True)]
    done = [future.result() for future in servers.turns.run(works, order)]
    assert not servers.turns.both_inside, "two servers had the right to write"
    return done


def check(servers: Pair) -> None:
    for world in servers.servers:
        world.check()
    job = servers.one.job_row("job")
    assert job is not None
    assert (job.priority, job.max_parallel) == (len(servers.raised), servers.bounded), "what a client was told is lost"


def finish(servers: Pair) -> None:
    """With healthy nodes everything ends, whichever of the two goes on."""
    unfinished = "SELECT count(*) FROM task WHERE state IN ('preparing', 'running') OR (ready = 1 AND :nodes > 0)"
    for _ in range(3):  # what is being disabled has to be disabled first, and a round may look like the one before it
        servers.other.finish()
        for told in (("enable", 0, 0), ("enable_node", 0, 0), ("enable_node", 1, 0)):
            deed(servers, servers.other, told)
    servers.other.finish()
    assert servers.other.rows(unfinished, nodes=len(servers.other.nodes())) == [(0,)]
    check(servers)


def play(story: Story) -> None:
    with pair() as servers:
        for first, second, order in story:
            together(servers, first, second, order)
        check(servers)
        finish(servers)


def played(told: st.SearchStrategy[Story], what: Callable[[Story], None], examples: int) -> None:
    bounds = settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    bounds(given(told)(what))()


@pytest.mark.timeout(600)  # a failure is made small first
def test_no_order_of_two_servers_steps_breaks_what_must_hold() -> None:
    played(stories(DEEDS, 8), play, 8 if databases.on_postgres() else 25)


def refresh(servers: Pair, turn: int) -> None:
    """Nodes with nothing to do, and a few tasks that wait for them."""
    for told in (("enable", 0, 0), ("bound", 0, 3), ("enable_node", 0, 0), ("enable_node", 1, 0), ("resize", 0, 2)):
        deed(servers, servers.one, told)
    for _ in range(3):
        servers.one.upkeep()
        servers.one.capacity()
        for nth, _ in enumerate(servers.one.nodes()):
            with suppress(NotThisNode):
                servers.agent(servers.one, nth).join().end_all()
    for name in TASKS:
        deed(servers, servers.one, ("delete", TASKS.index(name), 0))
    servers.one.add("a", "b", "c", {"id": "fa", "dependsOn": {"taskIds": ["a"]}})
    if turn % 2:
        servers.one.schedule()


def every_switch(first: Deed, second: Deed, *, at_work: bool = False, unlocked: bool = False) -> None:
    """The second server does its deed after each step of the first one's, the next time after the next one."""
    with pair() as servers:
        n = 0
        while n <= servers.turns.taken[0]:
            refresh(servers, int(at_work))
            works = [partial(deed, servers, world, told) for world, told in zip(servers.servers, (first, second), strict=True)]
            for future in servers.turns.run(works, [(0, n), (1, 1000)]):
                with suppress(*((StoreUnavailable, Conflict) if unlocked else ())):
                    future.result()
            assert unlocked or not servers.turns.both_inside, "two servers had the right to write"
            check(servers)
            n += 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("raise_priority", 0, 0), ("raise_priority", 0, 0)),
        (("report", 0, 0), ("report", 0, 0)),
        (("report", 0, 5), ("terminate", 0, 0)),
        (("loops", 0, 0), ("resize", 0, 1)),
        (("lose", 0, 0), ("join", 0, 0)),
    ],
)
def test_what_was_seen_before_may_be_old_by_then(first: Deed, second: Deed) -> None:
    """Clients, loops and agents look first and write later, in a unit of its own; another server writes at every point between."""
    every_switch(first, second, at_work=True)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("schedule", 0, 0), ("bound", 0, 1)),
        (("schedule", 0, 0), ("schedule", 0, 0)),
        (("raise_priority", 0, 0), ("bound", 0, 2)),
        (("schedule", 0, 0), ("change_node", 0, 2)),
    ],
)
def test_slots_places_and_versions_are_guarded_even_where_two_servers_write_at_once(
    driver: str, monkeypatch: pytest.MonkeyPatch, first: Deed, second: Deed
) -> None:
    """Without the right to write, which PostgreSQL would not miss: each statement that takes something looks whether it is there."""
    if driver != databases.POSTGRES:
        pytest.skip("a SQLite file has one writer whatever we do")
    monkeypatch.setattr(Location, "lock", property(lambda self: secrets.randbits(62)))
    every_switch(first, second, unlocked=True)


def test_it_is_seen_when_two_servers_write_at_once(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These turns would show it, should the lock not keep the other one out."""
    if driver != databases.POSTGRES:
        pytest.skip("a SQLite file has one writer whatever we do")
    with pair() as servers:
        monkeypatch.setattr(Location, "lock", property(lambda self: secrets.randbits(62)))
        with pytest.raises(AssertionError, match="the right to write"):
            together(servers, ("report", 0, 0), ("bound", 0, 0), [(0, 2), (1, 2)])
