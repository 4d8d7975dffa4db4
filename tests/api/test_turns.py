"""Clients take turns: one who adds many tasks at once holds nobody up for longer than what is under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from tests.api.conftest import Still, task

from batchyard.api.wire.turns import UNDER_WAY, Turns
from batchyard.model.errors import BatchError
from batchyard.store.reader import Statement
from batchyard.store.tx import Tx


class Clients:
    """Requests that stay under way until a test lets them go."""

    def __init__(self, most: int) -> None:
        self.turns = Turns(most)
        self.under_way: list[str] = []
        self._go: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *names: str, weight: int = 1, size: int = 0) -> None:
        """Send requests; the line is the letter that the name begins with."""
        for name in names:
            self._go[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._request(name, weight, size))
        await _settle()

    async def _request(self, name: str, weight: int, size: int) -> None:
        async with self.turns.turn(name[0], weight, size):
            self.under_way.append(name)
            try:
                await self._go[name].wait()
            finally:
                self.under_way.remove(name)

    def is_refused(self, name: str) -> bool:
        asked = self._tasks[name]
        return asked.done() and isinstance(error := asked.exception(), BatchError) and error.code == "ServerBusy"

    async def end(self, name: str) -> None:
        self._go[name].set()
        await _settle()

    async def leave(self, *names: str) -> None:
        """The clients are gone before they were answered."""
        for name in names:
            self._tasks[name].cancel()
        await _settle()


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def lines_take_turns(clients: Clients) -> None:
    await clients.ask("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    seen = []
    while clients.under_way:
        seen += clients.under_way
        await clients.end(clients.under_way[0])
    assert seen == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def weight_counts_and_each_is_let_in_whole(clients: Clients) -> None:
    clients.turns = Turns(10)
    await clients.ask("a1", "a2", "a3", weight=8)
    assert clients.under_way == ["a1", "a2"]
    await clients.ask("b1")
    await clients.end("a1")
    assert clients.under_way == ["a2", "a3"]
    await clients.end("a2")
    assert clients.under_way == ["a3", "b1"]


async def who_leaves_keeps_no_room(clients: Clients) -> None:
    await clients.ask("a1", "a2", "b1", "b2")
    await clients.leave("a2", "a1")
    assert clients.under_way == ["b1"]
    await clients.leave("b1")
    assert clients.under_way == ["b2"]
    await clients.end("b2")
    await clients.ask("d1", "d2")
    assert clients.under_way == ["d1"]


async def who_is_let_in_while_leaving_keeps_no_room(clients: Clients) -> None:
    await clients.ask("a1", "b1", "c1")
    clients._go["a1"].set()
    await asyncio.sleep(0)  # b1 is let in, and has not yet gone on
    clients._tasks["b1"].cancel()
    await _settle()
    assert clients.under_way == ["c1"]


async def what_waits_is_bounded_whoever_sends_it(clients: Clients) -> None:
    clients.turns = Turns(1, most_waiting=10)
    await clients.ask("a1", size=100)  # it waits for nobody
    await clients.ask("a2", "b1", size=5)
    await clients.ask("b2", "c1", size=1)
    assert clients.under_way == ["a1"]
    assert [clients.is_refused(name) for name in ("a2", "b1", "b2", "c1")] == [False, False, True, True]
    await clients.leave("b1")
    await clients.ask("c2", size=5)
    await clients.end("a1")
    await clients.ask("d1", size=5)
    await clients.ask("d2", size=1)
    assert [clients.is_refused(name) for name in ("c2", "d1", "d2")] == [False, False, True]
    assert clients.under_way == ["a2"]


@pytest.mark.parametrize(
    ("story", "most"),
    [
        (lines_take_turns, 1),
        (weight_counts_and_each_is_let_in_whole, 10),
        (who_leaves_keeps_no_room, 1),
        (who_is_let_in_while_leaving_keeps_no_room, 1),
        (what_waits_is_bounded_whoever_sends_it, 1),
    ],
)
def test_turns(story: Callable[[Clients], Awaitable[None]], most: int) -> None:
    async def tell() -> None:
        await story(Clients(most))

    asyncio.run(tell())


async def test_a_small_addition_goes_before_most_of_a_large_one_that_came_first(still: Still) -> None:
    """Counted by the keys that tasks get in the order in which the writer comes to them."""
    assert (await still("POST", "/jobs", {"id": "small", "poolInfo": {"poolId": "p"}})).status_code == 201
    go = threading.Event()
    standing = still.db.submit(lambda tx: go.wait(60))
    large = []
    for number in range(10):
        body = {"value": [task(f"{number}-{nth}") for nth in range(100)]}
        large.append(asyncio.create_task(still("POST", "/jobs/j/addtaskcollection", body)))
    for _ in range(500):
        await asyncio.sleep(0)
    small = asyncio.create_task(still("POST", "/jobs/small/tasks", task("one")))
    for _ in range(100):
        await asyncio.sleep(0)
    go.set()
    assert (await small).status_code == 201
    assert {answer.status_code for answer in await asyncio.gather(*large)} == {200}
    standing.result(60)

    def before(tx: Tx) -> int | None:
        return tx.first(Statement("SELECT count(*) FROM task WHERE id LIKE '%-%' AND pk < (SELECT pk FROM task WHERE id = 'one')", int))

    assert (await still.db.run(before)) == UNDER_WAY


async def test_single_additions_take_turns_too(still: Still) -> None:
    """One job's client with many connections is ahead of another's by what is under way, and no more."""
    assert (await still("POST", "/jobs", {"id": "small", "poolInfo": {"poolId": "p"}})).status_code == 201
    go = threading.Event()
    standing = still.db.submit(lambda tx: go.wait(60))
    many = [asyncio.create_task(still("POST", "/jobs/j/tasks", task(f"many-{number}"))) for number in range(3 * UNDER_WAY)]
    for _ in range(500):
        await asyncio.sleep(0)
    one = asyncio.create_task(still("POST", "/jobs/small/tasks", task("one")))
    for _ in range(100):
        await asyncio.sleep(0)
    go.set()
    assert (await one).status_code == 201
    assert {answer.status_code for answer in await asyncio.gather(*many)} == {201}
    standing.result(60)

    def before(tx: Tx) -> int | None:
        return tx.first(Statement("SELECT count(*) FROM task WHERE id LIKE 'many-%' AND pk < (SELECT pk FROM task WHERE id = 'one')", int))

    assert (await still.db.run(before) or 0) <= UNDER_WAY + 1
