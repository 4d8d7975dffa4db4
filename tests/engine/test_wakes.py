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
