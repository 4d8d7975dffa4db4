"""Who hears of a wake-up."""

from __future__ import annotations

import asyncio

from batchyard.engine.wakes import Wakes


async def test_what_is_woken_at_once_is_who_listens_by_then() -> None:
    hub = Wakes()
    hub.bind(asyncio.get_running_loop())
    with hub.listen("node:1") as older, hub.listen("node:2") as other:
        hub.at_once("node:1")
        with hub.listen("node:1") as newer:
            await asyncio.sleep(0)
            assert (older.is_set(), newer.is_set(), other.is_set()) == (True, False, False)
            older.clear()
            hub(["node:1"])
            await asyncio.sleep(0)
            assert (older.is_set(), newer.is_set(), other.is_set()) == (True, True, False)


async def test_an_event_follows_what_it_was_told_last_and_is_woken_once_by_it() -> None:
    hub = Wakes()
    mine, other = asyncio.Event(), asyncio.Event()
    hub.follow(["node:1", "node:2"], mine)
    hub.follow(["node:1"], other)
    hub.follow(["node:2", "node:3"], mine)
    hub.at_once("node:1")
    assert (mine.is_set(), other.is_set()) == (False, True)
    hub.at_once("node:3")
    assert mine.is_set()
    for event in (mine, other):
        event.clear()
    hub.at_once("node:3")
    hub.at_once("node:1")
    assert (mine.is_set(), other.is_set()) == (False, False), "once"
    hub.at_once("node:2")
    assert mine.is_set()
    hub.follow([], mine)
    assert hub._once == {}, "nobody follows anything"


async def test_an_inbox_gets_the_names_below_its_prefix() -> None:
    hub = Wakes()
    names, event = hub.inbox("pool:")
    assert hub.inbox("pool:")[0] is names
    for topic in ("node:1", "pool", "capacity"):
        hub.at_once(topic)
    assert (names, event.is_set()) == (set(), False)
    hub.at_once("pool:a:b")
    hub.at_once("pool:c")
    assert (names, event.is_set()) == ({"a:b", "c"}, True)


def test_a_wake_without_a_loop_or_after_its_end_is_lost() -> None:
    hub = Wakes()
    hub(["capacity"])
    loop = asyncio.new_event_loop()
    hub.bind(loop)
    loop.close()
    hub(["capacity"])
