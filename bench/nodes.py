"""Many nodes against one real server: their agents are coroutines of one process that speak the real protocol, and run nothing.

nodes.py run NODES LOST SILENCE   one line of JSON; fails when a task is lost, or runs again for another reason than the loss of its node
nodes.py serve DIR NODES SILENCE  the server: agents come from outside, and are given up after SILENCE seconds
nodes.py bare                     yardstick: the same HTTP server, which answers every sync with the same bytes; prints its port
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bodies
import meter
import msgspec

from batchyard.agent.state import State
from batchyard.agent.talk.link import Link
from batchyard.model.sync import SYNC_PATH, Ended, NodeFacts, Orders, Sync
from server import Broken, Server, wait_for

SLOTS = 4
CHATTER = 20
"""Syncs of each node that tell their cost."""
IDLE_S = 20.0
_FACTS = NodeFacts(
    agent_version="0",
    host_name="nowhere",
    ip_address="127.0.0.1",
    cores=SLOTS,
    memory_bytes=1 << 34,
    process_control="session",
    switches_users=False,
)
_orders = msgspec.json.Decoder(Orders)


class Node:
    """A node's agent: keeps the books of the real one, and ends tasks when the fleet says so."""

    def __init__(self, fleet: Fleet, link: Link) -> None:
        self._fleet, self._link = fleet, link
        self.state = State()
        self.news = asyncio.Event()
        self._polls: set[asyncio.Task[None]] = set()
        self.task: asyncio.Task[None] | None = None

    async def live(self) -> None:
        """Converse until cancelled."""
        try:
            while True:
                try:
                    await self._turn()
                except OSError:
                    await asyncio.sleep(random.uniform(0.1, 1.0))
        finally:
            for poll in self._polls:
                poll.cancel()

    async def _turn(self) -> None:
        if self.state.session == 0:
            return await self.exchange(self.state.say(facts=_FACTS, clock=_now()))
        if not self.state.has_news():
            self.news.clear()
            poll = asyncio.create_task(self.exchange(self.state.say(clock=_now(), wait_s=self._fleet.wait_s)))
            self._polls.add(poll)
            poll.add_done_callback(self._forget)
            news = asyncio.create_task(self.news.wait())
            await asyncio.wait((poll, news), return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            if poll.done():
                poll.result()
        if self.state.has_news():
            await asyncio.sleep(0)
            await self.exchange(self.state.say(clock=_now()))

    def _forget(self, poll: asyncio.Task[None]) -> None:
        self._polls.discard(poll)
        if not poll.cancelled():
            poll.exception()

    async def exchange(self, said: Sync) -> None:
        """One sync. Raises OSError."""
        answer = await self._link.post(SYNC_PATH, msgspec.json.encode(said), said.wait_s + 30)
        self._fleet.syncs += 1
        if answer.status == 204:
            return
        if answer.status != 200:
            raise OSError(f"the server answered {answer.status}")
        plan = self.state.hear(said, _orders.decode(answer.body))
        if plan.fenced:
            self.state.forget()
        for kill in plan.kills:
            self.end(kill.attempt)
        for start in plan.starts:
            self._fleet.started.append((self, start.order.attempt))
            if start.order.gang is not None and start.order.gang.within is None:
                self.state.note_ready(start.order.attempt)
                self.news.set()
            if self._fleet.ends_at_once:
                self.end(start.order.attempt)

    def end(self, attempt: str) -> None:
        """A task is over."""
        if self.state.note_end(Ended(attempt=attempt, started=_now(), ended=_now(), exit_code=0)):
            self.news.set()


class Fleet:
    """All nodes; a context that ends them."""

    def __init__(self, url: str, wait_s: float) -> None:
        self._url, self.wait_s = url, wait_s
        self.nodes: list[Node] = []
        self.links = contextlib.AsyncExitStack()
        self.syncs = 0
        self.started: list[tuple[Node, str]] = []
        self.ends_at_once = False

    async def join(self, tokens: Sequence[str]) -> None:
        """Begin with one node for each token."""
        for token in tokens:
            self.nodes.append(Node(self, await self.links.enter_async_context(Link(self._url, token, None))))
        self.go()

    def go(self) -> None:
        """Let all nodes converse."""
        for node in self.nodes:
            node.task = asyncio.create_task(node.live())

    async def stop(self, nodes: Sequence[Node]) -> None:
        """Nodes say no more; their server is not told."""
        tasks = [node.task for node in nodes if node.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def chatter(self, n: int) -> None:
        """Every node says n times that there is nothing new."""

        async def say(node: Node) -> None:
            for _ in range(n):
                await node.exchange(node.state.say(clock=_now()))

        await asyncio.gather(*(say(node) for node in self.nodes))

    def running(self) -> list[tuple[Node, str]]:
        """Tasks that were started and did not end."""
        return [(node, attempt) for node, attempt in self.started if attempt in node.state.running]


def _now() -> int:
    return time.time_ns() // 1000


async def until(look: Callable[[], Any], what: str, seconds: float = 120.0) -> None:
    """Wait for something that this process sees. Raises Broken."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise Broken(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(0.005)


class Trial:
    """The measurements, one after the other on the same nodes."""

    def __init__(self, server: Server, nodes: int, lost: int, silence_s: float) -> None:
        self._server, self._n, self._lost, self._silence_s = server, nodes, lost, silence_s
        self._fleet = Fleet(f"http://{server.account.host}:{server.account.port}", min(20.0, silence_s / 2))
        self.seen: dict[str, float] = {"nodes": nodes, "slots": nodes * SLOTS, "lost": lost, "silence_s": silence_s}

    async def run(self) -> None:
        """All of it."""
        async with self._fleet.links:
            try:
                await self._join()
                await self._idle()
                await self._sync()
                await self._place()
                await self._lose()
            finally:
                await self._fleet.stop(self._fleet.nodes)

    @contextlib.contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        """Seconds, CPU seconds of the server and syncs of a block."""
        begun, cpu, syncs = time.monotonic(), meter.cpu(self._server.pid), self._fleet.syncs
        yield
        self.seen[f"{name}_s"] = time.monotonic() - begun
        self.seen[f"{name}_cpu"] = meter.cpu(self._server.pid) - cpu
        self.seen[f"{name}_syncs"] = self._fleet.syncs - syncs

    async def _join(self) -> None:
        places = self._server.directory / "nodes"
        begun = time.monotonic()
        pool = asyncio.create_task(asyncio.to_thread(self._server.add_pool, "pool", self._n, SLOTS))
        await until(lambda: len(list(places.glob("*/token"))) == self._n or pool.done(), "the nodes' tokens")
        self.seen["launch_s"] = time.monotonic() - begun
        with self._measured("join"):
            await self._fleet.join([path.read_text() for path in sorted(places.glob("*/token"))])
            await pool

    async def _idle(self) -> None:
        await asyncio.sleep(1.0)
        with self._measured("idle"):
            await asyncio.sleep(min(IDLE_S, self._silence_s))

    async def _sync(self) -> None:
        await self._fleet.stop(self._fleet.nodes)
        with self._measured("sync"):
            await self._fleet.chatter(CHATTER)
        self._fleet.go()

    def _add(self, job: str, n: int) -> None:
        self._server.add_job(job, "pool")
        for each in bodies.collections([bodies.body(f"task-{number}") for number in range(n)]):
            self._server.connection.send(self._server.account.request("POST", f"/jobs/{job}/addtaskcollection", each))
            if b"clienterror" in self._server.connection.receive():
                raise Broken("a task was refused")

    async def _place(self) -> None:
        """A quarter more tasks than there are slots; the rest starts as soon as so many of the first have ended."""
        fleet, slots = self._fleet, self._n * SLOTS
        more = slots // 4
        with self._measured("place"):
            await asyncio.to_thread(self._add, "place", slots + more)
            await until(lambda: len(fleet.started) == slots, f"{slots} tasks to start")
            begun = time.monotonic()
            for node, attempt in fleet.running()[:more]:
                node.end(attempt)
            await until(lambda: len(fleet.started) == slots + more, "the rest to start")
            self.seen["refill_s"] = time.monotonic() - begun
        await self._finish("place", slots + more)

    async def _finish(self, job: str, n: int) -> None:
        """End all that runs or starts; all tasks must have succeeded."""
        self._fleet.ends_at_once = True
        for node, attempt in self._fleet.running():
            node.end(attempt)
        await self._counted(job, lambda counts: counts["completed"] == n, "all tasks to end")
        counts = await asyncio.to_thread(self._server.counts, job)
        if counts["succeeded"] != n:
            raise Broken(f"of {n} tasks: {counts}")
        self._fleet.ends_at_once = False
        self._fleet.started.clear()

    async def _counted(self, job: str, met: Callable[[dict[str, int]], bool], what: str) -> None:
        await asyncio.to_thread(wait_for, lambda: met(self._server.counts(job)), what, self._silence_s + 60, 0.1)

    async def _lose(self) -> None:
        """Some nodes fall silent at once, with all slots full."""
        fleet, slots, gone = self._fleet, self._n * SLOTS, self._lost * SLOTS
        await asyncio.to_thread(self._add, "lose", slots)
        await until(lambda: len(fleet.started) == slots, f"{slots} tasks to start")
        lost, fleet.nodes = fleet.nodes[: self._lost], fleet.nodes[self._lost :]
        attempts = {attempt for node, attempt in fleet.started if node in lost}
        with self._measured("requeue"):
            await fleet.stop(lost)
            await self._counted(
                "lose", lambda counts: (counts["active"], counts["running"]) == (gone, slots - gone), "the lost tasks to wait"
            )
        fleet.started = [(node, attempt) for node, attempt in fleet.started if attempt not in attempts]
        with self._measured("recover"):
            await self._finish("lose", slots)
        found = self._server.call("GET", "/pools/pool/nodes")["value"]
        self.seen["unknown"] = sum(node["state"] == "unknown" for node in found)


def serve(directory: str, nodes: str, silence_s: str) -> None:
    """Run the server."""
    from batchyard.app import serve as run
    from batchyard.config import Config

    run(Config(Path(directory), port=0, max_nodes=int(nodes), node_silence_s=float(silence_s), external_nodes=True))


def bare() -> None:
    """Run the yardstick."""
    import uvicorn
    import uvloop
    from starlette.requests import Request
    from starlette.responses import Response

    from batchyard.api.wire.protocol import BoundedHttp

    body = msgspec.json.encode(Orders(session=1, number=1))

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await Response(body, media_type="application/json")(scope, receive, send)

    async def main() -> None:
        server = uvicorn.Server(
            uvicorn.Config(answer, port=0, http=BoundedHttp, ws="none", lifespan="off", access_log=False, log_level="error")
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        await serving

    uvloop.run(main())


async def against_nothing(nodes: int) -> float:
    """CPU seconds that the yardstick uses for each sync."""
    command = [sys.executable, "-B", __file__, "bare"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            fleet = Fleet(f"http://127.0.0.1:{int(process.stdout.readline())}", 0)
            async with fleet.links:
                for _ in range(nodes):
                    fleet.nodes.append(Node(fleet, await fleet.links.enter_async_context(Link(fleet._url, "token", None))))
                await fleet.chatter(1)
                before = meter.cpu(process.pid)
                await fleet.chatter(CHATTER)
                return (meter.cpu(process.pid) - before) / (nodes * CHATTER)
        finally:
            process.terminate()


def run(nodes: str, lost: str, silence_s: str) -> None:
    """Measure and print."""
    own = [sys.executable, "-B", __file__, "serve"]
    with Server(program=lambda directory: [*own, str(directory), nodes, silence_s]) as server:
        trial = Trial(server, int(nodes), int(lost), float(silence_s))
        trial.seen["bare_cpu"] = asyncio.run(against_nothing(int(nodes)))
        asyncio.run(trial.run())
    print(json.dumps(trial.seen))


if __name__ == "__main__":
    works: dict[str, Callable[..., None]] = {"run": run, "serve": serve, "bare": bare}
    works[sys.argv[1]](*sys.argv[2:])
