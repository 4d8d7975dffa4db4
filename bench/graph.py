"""A job whose tasks wait for each other, on nodes that are made of words: what the server's side of it costs, without processes.

graph.py N    runs a graph of N tasks and at least as many edges, prints one line of JSON; fails when a task starts before its parents ended
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from batchyard.engine.auto_pools import auto_pools
from batchyard.engine.clock import Clock
from batchyard.engine.nodes import nodes
from batchyard.engine.pools import pools
from batchyard.engine.pools.capacity import Capacity
from batchyard.engine.scheduling import scheduler
from batchyard.engine.work import tasks
from batchyard.model.job import JobCreateContent
from batchyard.model.pool import PoolCreateContent
from batchyard.model.sync import Ended, Orders, Sync
from batchyard.model.task import TaskCreateContent
from batchyard.providers.base import Handle, NodeOrder, NodeProvider, Seen
from batchyard.store import jobs as job_rows
from batchyard.store import nodes as node_rows
from batchyard.store.db import Database

NODES, SLOTS = 8, 16
PER_UNIT = 100
_SETTING = nodes.Setting("account", b"key")
_IMAGE = {"publisher": "canonical", "offer": "ubuntu-24_04-lts", "sku": "server"}
_MACHINE = {"imageReference": _IMAGE, "nodeAgentSKUId": "batch.node.ubuntu 24.04"}


@dataclass
class Graph:
    """Tasks in the order in which they are added; parents may come later."""

    edges: int = 0
    """How many parents all tasks have together."""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    parents: dict[str, tuple[Sequence[str], range]] = field(default_factory=dict)
    """Ids that a task waits for, and numbers."""

    def add(self, name: str, ids: Sequence[str] = (), low: int = 1, high: int = 0) -> str:
        """A task that waits for tasks by their ids, and for a range of numbers."""
        waits: dict[str, Any] = {"taskIds": list(ids)} if ids else {}
        if low <= high:
            waits["taskIdRanges"] = [{"start": low, "end": high}]
        self.tasks.append({"id": name, "commandLine": "true"} | ({"dependsOn": waits} if waits else {}))
        self.parents[name] = (ids, range(low, high + 1))
        self.edges += len(ids) + max(high + 1 - low, 0)
        return name

    def may_start(self, name: str, done: Collection[str]) -> bool:
        """True when everything that the task waits for is among the done."""
        ids, numbers = self.parents[name]
        return all(parent in done for parent in ids) and all(str(number) in done for number in numbers)


def build(n: int) -> Graph:
    """Chains, fan-outs, fan-ins, narrow ranges and barriers of wide ranges in equal parts; later tasks are added first now and then."""
    graph, part = Graph(), n // 5
    for chain in range(part // 100):
        before = graph.add(f"chain-{chain}-0")
        for link in range(1, 100):
            before = graph.add(f"chain-{chain}-{link}", [before])
    for root in range(part // 1000):
        graph.add(f"root-{root}")
        for leaf in range(999):
            graph.add(f"leaf-{root}-{leaf}", [f"root-{root}"])
    for sink in range(part // 100):
        graph.add(f"sink-{sink}", [f"source-{sink}-{source}" for source in range(99)])
        for source in range(99):
            graph.add(f"source-{sink}-{source}")
    number = 0
    for narrow in range(part // 20):
        graph.add(f"narrow-{narrow}", low=number + 1, high=number + 19)
        for _ in range(19):
            number += 1
            graph.add(str(number))
    for stage in range(part // 1000):  # 500 tasks that all wait for 500 others
        for _ in range(500):
            number += 1
            graph.add(str(number))
        for follower in range(500):
            graph.add(f"after-{stage}-{follower}", low=number - 499, high=number)
    return graph


class Always(NodeProvider):
    """Has every node at once."""

    async def launch(self, order: NodeOrder) -> Handle:
        return order.node_id

    async def observe(self, handles: Sequence[Handle]) -> Mapping[Handle, Seen]:
        return dict.fromkeys(handles, Seen.ALIVE)

    async def stop(self, handles: Sequence[Handle]) -> None:
        return None

    async def release(self, handles: Sequence[Handle]) -> None:
        return None


class OutOfOrder(Exception):
    """A task was started before all that it waits for was satisfied."""


class Agent:
    """A node's agent that ends at its next word whatever it was given."""

    def __init__(self, db: Database, node_pk: int, clock: Clock) -> None:
        self._db, self._node_pk, self._clock = db, node_pk, clock
        self._session, self._number = 0, 0
        self.names: dict[str, str] = {}
        """Ids of the attempts that it holds."""

    def sync(self) -> tuple[list[str], list[str]]:
        """Report the end of everything and take the next orders: ids of the ended, ids of the started."""
        self._number += 1
        now = self._clock.now()
        ended = [Ended(attempt=attempt, started=now, ended=now, exit_code=0) for attempt in self.names]
        said = Sync(session=self._session, number=self._number, has=[*self.names], ended=ended)
        answer: Orders | None = self._db.call(nodes.hear, self._node_pk, said, _SETTING, now, refill=True)
        assert answer is not None, "fenced off"
        done, self._session = [*self.names.values()], answer.session
        self.names = {order.attempt: msgspec.json.decode(order.task)["id"] for order in answer.orders}
        return done, [*self.names.values()]


async def _round(capacity: Capacity) -> None:
    await capacity.run_once()
    await capacity.settle()


def world(db: Database, clock: Clock) -> list[Agent]:
    """A pool whose nodes have joined, and an empty job for it."""
    pool: dict[str, Any] = {"id": "pool", "vmSize": "standard_d64s_v3", "virtualMachineConfiguration": _MACHINE}
    pool |= {"targetDedicatedNodes": NODES, "taskSlotsPerNode": SLOTS}
    db.call(pools.add, msgspec.convert(pool, PoolCreateContent), clock.now())
    capacity = Capacity(db, {"local": Always()}, clock, b"key")
    for _ in range(2):
        asyncio.run(_round(capacity))
    agents = [Agent(db, node.pk, clock) for node in db.call(node_rows.every)]
    for agent in agents:
        agent.sync()
    job = {"id": "job", "poolInfo": {"poolId": "pool"}, "usesTaskDependencies": True}
    db.call(auto_pools.add, msgspec.convert(job, JobCreateContent), clock.now())
    return agents


def add(db: Database, graph: Graph, clock: Clock) -> None:
    """Add all tasks, as clients do: a collection at a time."""
    for at in range(0, len(graph.tasks), PER_UNIT):
        some = msgspec.convert(graph.tasks[at : at + PER_UNIT], list[TaskCreateContent])
        refused = [outcome for _, outcome in db.call(tasks.add, "job", some, clock.now()) if not isinstance(outcome, int)]
        assert not refused, refused[0]


def rounds(agents: Sequence[Agent], graph: Graph) -> Iterator[int]:
    """Let the agents speak in turn until everything is done; how many are, after each round. Raises OutOfOrder."""
    done: set[str] = set()
    started: set[str] = set()
    while len(done) < len(graph.tasks):
        before = len(done), len(started)
        for agent in agents:
            ended, begun = agent.sync()
            done.update(ended)
            for name in begun:
                if name in started or not graph.may_start(name, done):
                    raise OutOfOrder(name)
            started.update(begun)
        if before == (len(done), len(started)):
            raise OutOfOrder(f"nothing happens any more, {len(graph.tasks) - len(done)} tasks wait")
        yield len(done)


def rss_mb() -> float:
    """Memory of this process in MB of 10**6 bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def run(directory: Path, n: int) -> dict[str, float]:
    """All of it on a store in a directory; CPU is that of the whole process, the words of the agents and the checks included."""
    graph, clock = build(n), Clock()
    db = Database(directory / "batchyard.db")
    try:
        agents = world(db, clock)
        memory, cpu = [rss_mb()], [time.process_time()]
        add(db, graph, clock)
        memory.append(rss_mb())
        cpu.append(time.process_time())
        early = 0.0
        db.call(scheduler.run_once, "pool", clock.now())  # once; from here on every end has to bring what follows
        for done in rounds(agents, graph):
            early = early or (rss_mb() if done > len(graph.tasks) // 10 else 0.0)
        memory.append(rss_mb())
        cpu.append(time.process_time())
        job = db.call(job_rows.find, "job")
        assert job is not None
        counts = db.call(job_rows.counts, job.pk)
        assert (counts.succeeded, counts.ready, counts.active, counts.running) == (len(graph.tasks), 0, 0, 0), counts
    finally:
        db.close()
    return {
        "tasks": len(graph.tasks),
        "edges": graph.edges,
        "add_cpu": cpu[1] - cpu[0],
        "run_cpu": cpu[2] - cpu[1],
        "before_mb": memory[0],
        "added_mb": memory[1],
        "early_mb": early,
        "after_mb": memory[2],
    }


def main() -> None:
    """Run in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="batchyard-graph-") as directory:
        print(json.dumps(run(Path(directory), int(sys.argv[1]))))


if __name__ == "__main__":
    main()
