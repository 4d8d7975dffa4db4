"""The worlds of a server: opened when first asked for, closed when they have nothing to do; made, limited and removed for the operator.

What is closed is a row of the registry and nothing else: no loop, no thread, no memory. Its `due` opens it in time; a world that is
open has 0 there, so that one whose server was killed is opened by the next. An account is made with its row first and removed with its
row last, so that a crash in between is seen and taken up: what was not made to the end is removed, what was to be removed is.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import structlog
from starlette.types import ASGIApp

from batchyard.api.wire.accounts import Described, Keys, Known
from batchyard.api.wire.auth import Account
from batchyard.engine.wakes import Wakes
from batchyard.model.errors import BatchError, invalid_property
from batchyard.rules.offer import Quotas
from batchyard.server import account_file
from batchyard.server.account_file import AccountFile
from batchyard.server.peers import Peers
from batchyard.server.places import KEYS_KNOWN_S, Places
from batchyard.server.refusals import Refused
from batchyard.server.shared import KEYS, keys_in
from batchyard.server.state import enter_account
from batchyard.server.storages import TOPIC, Storages
from batchyard.server.world import Server, World, quotas
from batchyard.store import accounts as rows
from batchyard.store import servers, storage
from batchyard.store.accounts import ACTIVE, CREATING, DELETING, AccountRow
from batchyard.store.db import Database, StoreUnavailable
from batchyard.store.tx import Taken, Tx

log = structlog.get_logger()

_LOOK_S = 2.0
IDLE_S = 60.0
"""How long nobody may have asked for a world before it is looked at whether it may be closed."""
_PATIENCE_S = 30.0
"""How long a world that could not be opened or removed is left alone."""
_AT_ONCE = 50
_NAME = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_STORAGE_STEM = 17


@dataclass
class _Open:
    """A world that is open."""

    world: World
    row: AccountRow
    using: int = 0
    """Requests under way."""
    last: float = 0.0
    """When the last of them ended, by the loop's clock."""
    leaving: bool = False
    """The account is being deleted: nobody is let in any more."""
    learning: asyncio.Task[None] | None = None
    """Follows the keys of a world that other servers have too."""


class Worlds:
    """All accounts of a server, and the way into each."""

    def __init__(
        self, server: Server, registry: Database, places: Places, default: str, *, peers: Peers | None = None, idle_s: float = IDLE_S
    ) -> None:
        self._server, self._registry, self._places, self._default, self._idle_s = server, registry, places, default, idle_s
        self._peers = peers or Peers(registry)
        self.storage = Storages(self, registry, places, server.clock, self._peers, default)
        self._open: dict[str, _Open] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._failed: dict[str, float] = {}
        """Worlds that could not be opened or removed, and when it may be tried again."""
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._closing = False

    @property
    def default(self) -> str:
        return self._default

    @property
    def open_names(self) -> frozenset[str]:
        """Names of the worlds that are open."""
        return frozenset(self._open)

    def lock(self, name: str) -> asyncio.Lock:
        """To be held by whoever opens, closes or changes a world."""
        return self._locks.setdefault(name.lower(), asyncio.Lock())

    def world(self, name: str) -> World | None:
        """A world that is open."""
        found = self._open.get(name.lower())
        return found.world if found else None

    def open_worlds(self) -> Sequence[tuple[AccountRow, World]]:
        """All that are open."""
        return [(found.row, found.world) for found in self._open.values()]

    # the way in

    def is_peer(self, token: str) -> bool:
        calls = self._server.calls
        return calls is not None and calls.is_peer(token)

    def opened(self, name: str) -> ASGIApp | None:
        found = self._open.get(name.lower())
        return found.world.api if found and not found.leaving else None

    async def known(self, name: str) -> Known | None:
        if (found := self._open.get(name.lower())) is not None:
            return msgspec.structs.replace(found.world.known, leaving=found.leaving)
        row = await self._registry.read(rows.named, name)
        if row is None or row.state == CREATING:
            return None
        try:
            secrets = await asyncio.to_thread(self._places.secrets, row)
        except account_file.Unusable as error:
            log.error("account without keys", account=row.name, reason=str(error))
            return None
        account, public = Account(secrets.name, secrets.keys), self._server.config.public_access
        beside = [each for each in await self._registry.read(storage.of_account, row.pk) if each.is_beside(row)]
        stores: dict[str, Sequence[str]] = {each.name: secrets.storage_keys(each.slot) for each in beside}
        stores[secrets.storage_name] = secrets.storage_keys()
        return Known(account, secrets.node_key.encode(), stores, row.state == DELETING, public)

    async def storing(self, name: str) -> str | None:
        for found in self._open.values():
            if any(each.lower() == name.lower() for each in found.world.known.storage):
                return found.row.name
        row = await self._registry.read(rows.storing, name)
        if row is None or row.state == CREATING:
            return None
        await self.storage.catch_up(row)  # another server may have made it a moment ago
        return row.name

    @asynccontextmanager
    async def entered(self, name: str) -> AsyncIterator[ASGIApp]:
        found = self._open.get(name.lower()) or await self._enter(name)
        if found.leaving:
            raise BatchError("AccountBeingDeleted")
        found.using += 1
        try:
            yield found.world.api
        finally:
            found.using -= 1
            found.last = asyncio.get_running_loop().time()

    async def _enter(self, name: str) -> _Open:
        """Open a world. Raises AccountNotFound, and ServerBusy when it cannot be opened."""
        async with self.lock(name):
            if (found := self._open.get(name.lower())) is not None:
                return found
            row = await self._row(name)
            now = asyncio.get_running_loop().time()
            if self._closing or now < self._failed.get(row.name, 0.0):
                raise BatchError("ServerBusy", Reason="The account cannot be opened")
            try:
                opened = await self._open_now(row.pk)
            except (Refused, OSError, StoreUnavailable) as error:
                log.error("account not opened", account=row.name, reason=str(error))
                self._failed[row.name] = now + _PATIENCE_S
                raise BatchError("ServerBusy", Reason="The account cannot be opened") from None
            if opened is None:
                raise BatchError("AccountNotFound")
            return opened

    async def _open_now(self, pk: int, *, unless_elsewhere: bool = False) -> _Open | None:
        """Open a world; None when its account is gone, or another server has it open and that will do."""
        peers = self._peers
        row = await self._registry.run(servers.open_world, pk, peers.id, peers.life_us, unless_elsewhere=unless_elsewhere)
        if row is None:
            return None
        hub = Wakes()
        hub.bind(asyncio.get_running_loop())
        try:
            state = await asyncio.to_thread(self._places.open, row, hub)
            return await self._begin(row, state, hub, named=row.name)
        except BaseException:
            with contextlib.suppress(StoreUnavailable):
                await self._registry.run(servers.close_world, row, peers.id, peers.life_us, 0)
            raise

    async def _begin(self, row: AccountRow, state: Any, hub: Wakes, *, named: str) -> _Open:
        shared = self._places.is_shared(row)
        room = self._places.room(row)
        world = World(self._server, row, state, hub, self._places.nodes(row), self, self._peers, named=named, own_disk=room, shared=shared)
        try:
            await world.begin()
            await self.storage.follow(row, world)
        except BaseException:
            await world.end()
            raise
        found = self._open[row.name.lower()] = _Open(world, row, last=asyncio.get_running_loop().time())
        if shared:
            learning = world.loops.every("keys", KEYS_KNOWN_S, lambda: self._learn_keys(found), hub.event(KEYS))
            found.learning = asyncio.get_running_loop().create_task(learning)
        self._failed.pop(row.name, None)
        log.info("account opened", account=row.name)
        return found

    async def _learn_keys(self, found: _Open) -> None:
        """Another server may have renewed one."""
        account = await found.world.db.read(keys_in)
        found.world.learn_keys(account)
        await asyncio.to_thread(self._places.learn_keys, found.row, account)

    async def _end(self, found: _Open, *, for_good: bool = False) -> None:
        if found.learning is not None:
            found.learning.cancel()
        await found.world.end(for_good=for_good)

    async def begin(self, state: Any, hub: Wakes) -> None:
        """Open the world of the default account for good, and take up what a crash left of others."""
        await self._peers.begin()
        row = await self._registry.read(rows.named, self._default)
        assert row is not None, "the registry knows the default account"
        noted = await self._registry.run(servers.open_world, row.pk, self._peers.id, self._peers.life_us)
        await self._begin(noted or row, state, hub, named="")
        for left in await self._registry.read(rows.changing, _AT_ONCE):
            self._begin_removal(left)

    async def run_once(self) -> None:
        """Open what is due, close what has nothing to do, hear what other servers did to accounts, remove what is to go."""
        loop, clock, life_us = asyncio.get_running_loop(), self._server.clock, self._peers.life_us
        await self._follow()
        for row in await self._registry.read(rows.due, clock.now(), life_us, len(self._open) + _AT_ONCE):
            if row.name.lower() not in self._open and loop.time() >= self._failed.get(row.name, 0.0):
                await self._open_in_time(row)
        for name, found in list(self._open.items()):
            if name != self._default.lower() and not found.using and loop.time() - found.last >= self._idle_s:
                await self._rest(name, found)
        await self.storage.run_once()
        for row in await self._registry.read(rows.changing, _AT_ONCE):
            if loop.time() >= self._failed.get(row.name, 0.0):
                self._begin_removal(row)

    async def _follow(self) -> None:
        """Give the worlds that are open what their rows say by now; one whose account is gone is closed."""
        seen = {row.pk: row for row in await self._registry.read(rows.open_at, self._peers.id)}
        for name, found in list(self._open.items()):
            row = seen.get(found.row.pk)
            if row is None and await self._registry.read(rows.get, found.row.pk) is None:
                found.leaving = True
                async with self.lock(name):
                    if self._open.pop(name, None) is not None:
                        await self._end(found, for_good=True)
            elif row is not None and row.version != found.row.version:
                found.row, found.leaving = row, row.state == DELETING
                found.world.limit(row)

    async def _open_in_time(self, row: AccountRow) -> None:
        """Open a world in which something is due, unless another server does."""
        async with self.lock(row.name):
            if self._closing or row.name.lower() in self._open:
                return
            try:
                await self._open_now(row.pk, unless_elsewhere=True)
            except (Refused, OSError, StoreUnavailable) as error:
                log.error("account not opened in time", account=row.name, reason=str(error))
                self._failed[row.name] = asyncio.get_running_loop().time() + _PATIENCE_S

    async def _rest(self, name: str, found: _Open) -> None:
        """Close a world in which nothing is due within the hour, or that another server keeps open and works on."""
        peers = self._peers
        async with self.lock(name):
            if self._open.get(name) is not found:
                return
            row = await self._registry.read(rows.get, found.row.pk)
            rests, due = await found.world.rests()
            if row is None or found.using or self._open.get(name) is not found:
                return
            if not rests and (found.world.leads or not await self._registry.read(servers.open_elsewhere, row.pk, peers.id, peers.life_us)):
                found.last = asyncio.get_running_loop().time()
                return
            del self._open[name]
            await self._end(found)
            await self._registry.run(servers.close_world, row, peers.id, peers.life_us, due if rests else 0)
            log.info("account closed", account=row.name, due=due)

    async def ready(self) -> str | None:
        """Why no request should come here; None when they may."""
        if self._closing:
            return "the server ends"
        world = self._open.get(self._default.lower())
        if world is None:
            return "the server starts"
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._registry.read(rows.count)
                return await world.world.why_not()
        except (StoreUnavailable, TimeoutError):
            return "the database does not answer"

    def release(self) -> None:
        """The server ends: whoever waits is let go."""
        self._closing = True
        for found in self._open.values():
            found.world.api.close()

    async def hand_over(self) -> None:
        """Let other servers go on with the background work at once; requests are answered still."""
        await asyncio.gather(*(found.world.hand_over() for found in self._open.values()), return_exceptions=True)

    async def end(self) -> None:
        """Close everything; what was open is opened by another server, or by the next one."""
        self._closing = True
        for task in self._removals.values():
            task.cancel()
        await asyncio.gather(*self._removals.values(), self.storage.end(), return_exceptions=True)
        await self.hand_over()
        while self._open:
            _, found = self._open.popitem()
            try:
                await self._end(found)
            except Exception:
                log.exception("account not closed", account=found.row.name)
        with contextlib.suppress(StoreUnavailable):  # it counts as gone after a while
            await self._peers.leave()
        await asyncio.to_thread(self._registry.close)

    # what the operator does

    async def create(self, name: str, location: str | None, quotas: Quotas) -> Described:
        if _NAME.fullmatch(name) is None:
            raise invalid_property("name", name[:64], "A name has 3 to 24 lower-case letters and digits")
        try:
            place = await asyncio.to_thread(self._places.chosen, name, location)
        except (ValueError, OSError) as error:
            raise invalid_property("location", str(location)[:200], str(error)) from None
        made = asyncio.ensure_future(self._create(name, place, quotas))
        return await asyncio.shield(made)  # a client that goes leaves no half of it

    async def _create(self, name: str, place: str, quotas: Quotas) -> Described:
        async with self.lock(name):
            try:
                row = await self._registry.run(_add, name, place, quotas, self._server.clock.now(), self._peers.id)
            except Taken as taken:
                if str(taken) == "location":
                    raise invalid_property("location", place, "Another account lies there") from None
                raise BatchError("AccountExists") from None
            try:
                await asyncio.to_thread(self._places.make, row)
                row = await self._registry.run(_made, row, self._peers.id, self._peers.life_us)
            except BaseException as error:
                self._begin_removal(row)
                if isinstance(error, Refused | OSError):
                    log.error("account not made", account=name, reason=str(error))
                    raise BatchError("ServerBusy", Reason="The account cannot be made") from None
                raise
            log.info("account made", account=name, location=place)
            return self._described(row)

    async def describe(self, name: str) -> Described:
        return self._described(await self._row(name, leaving=True))

    async def listed(self, after: int, most: int) -> Sequence[Described]:
        return [self._described(row) for row in await self._registry.read(rows.page, after, most)]

    async def limit(self, name: str, quotas: Quotas) -> Described:
        async with self.lock(name):
            row = await self._registry.run(_change, (await self._row(name)).pk, _columns(quotas))
            if (found := self._open.get(name.lower())) is not None:
                found.world.limit(row)
            return self._described(row)

    async def delete(self, name: str) -> None:
        async with self.lock(name):
            row = await self._row(name)
            if row.name == self._default:
                raise BatchError("Forbidden", Reason="The default account stays as long as its server")
            row = await self._registry.run(_change, row.pk, {"state": DELETING, "due": None})
            if (found := self._open.get(name.lower())) is not None:
                found.leaving = True
        self._begin_removal(row)

    async def keys(self, name: str) -> Keys:
        row = await self._row(name)
        return _keys(await asyncio.to_thread(self._secrets, row))

    async def renew_key(self, name: str, number: int) -> Keys:
        async with self.lock(name):
            row = await self._row(name)
            try:
                renewed = await asyncio.to_thread(self._places.change_keys, row, partial(account_file.renewed, number=number))
            except (account_file.Unusable, Refused) as error:
                log.error("account without keys", account=row.name, reason=str(error))
                raise BatchError("ServerBusy", Reason="The keys of the account cannot be read") from None
            if (found := self._open.get(name.lower())) is not None:
                found.world.learn_keys(renewed)
            log.info("key renewed", account=row.name, key=number)
            return _keys(renewed)

    def _secrets(self, row: AccountRow) -> AccountFile:
        """Raises ServerBusy."""
        try:
            return self._places.secrets(row)
        except account_file.Unusable as error:
            log.error("account without keys", account=row.name, reason=str(error))
            raise BatchError("ServerBusy", Reason="The keys of the account cannot be read") from None

    async def _row(self, name: str, *, leaving: bool = False) -> AccountRow:
        """Raises AccountNotFound, AccountBeingDeleted."""
        row = await self._registry.read(rows.named, name)
        if row is None or row.state == CREATING:
            raise BatchError("AccountNotFound")
        if row.state == DELETING and not leaving:
            raise BatchError("AccountBeingDeleted")
        return row

    def _described(self, row: AccountRow) -> Described:
        return Described(row.pk, row.name, row.state, row.storage, row.created, quotas(row, self._server.offer.quotas))

    # removal

    def _begin_removal(self, row: AccountRow) -> None:
        running = self._removals.get(row.name)
        if not self._closing and (running is None or running.done()):
            self._removals[row.name] = asyncio.get_running_loop().create_task(self._remove(row))

    async def _remove(self, row: AccountRow) -> None:
        """Take an account away with all that it runs and keeps; its row goes last."""
        try:
            async with self.lock(row.name):
                if await self._removed(row):
                    log.info("account removed", account=row.name)
        except Exception:
            self._failed[row.name] = asyncio.get_running_loop().time() + _PATIENCE_S
            log.exception("account not removed; it is tried again", account=row.name)

    async def _removed(self, seen: AccountRow) -> bool:
        """True when nothing of an account is left; False when it is not to go, or other servers have to let go of it first."""
        row, peers = await self._registry.read(rows.get, seen.pk), self._peers
        if row is None or row.state == ACTIVE:
            return False
        if (found := self._open.pop(row.name.lower(), None)) is not None:
            await self._end(found, for_good=True)
        await self._server.provider(self._places.nodes(row)).sweep(())
        await self._registry.run(servers.close_world, row, peers.id, peers.life_us, None)
        if await self._registry.read(servers.open_elsewhere, row.pk, peers.id, peers.life_us):
            return False
        await asyncio.to_thread(self._places.remove, row, await self._registry.read(storage.of_account, row.pk))
        await self._registry.run(_gone, row.pk)
        self._failed.pop(row.name, None)
        self._removals.pop(row.name, None)
        return True


def _change(tx: Tx, pk: int, values: Mapping[str, Any]) -> AccountRow:
    """Change an account, whatever other servers did to it meanwhile. Raises AccountNotFound."""
    row = rows.get(tx, pk)
    if row is None:
        raise BatchError("AccountNotFound")
    tx.wake(TOPIC)
    return rows.change(tx, row, values)


def _made(tx: Tx, row: AccountRow, server: str, life_us: int) -> AccountRow:
    """The world of a new account is there."""
    active = rows.change(tx, row, {"state": ACTIVE})
    servers.close_world(tx, active, server, life_us, None)
    return rows.get(tx, row.pk) or active


def _gone(tx: Tx, pk: int) -> None:
    """Nothing is left of an account."""
    servers.forget_openings(tx, pk)
    storage.delete_of(tx, pk)
    rows.delete(tx, pk)


def _add(tx: Tx, name: str, location: str, quotas: Quotas, now: int, server: str) -> AccountRow:
    """Enter a new account, whose world is not there yet, for the server that makes it. Raises Taken."""
    linked = f"{name[:_STORAGE_STEM]}storage"
    while storage.named(tx, linked) is not None:
        linked = f"{name[: _STORAGE_STEM - 6]}{token_hex(3)}storage"
    row = enter_account(tx, name=name, state=CREATING, location=location, storage=linked, created=now, **_columns(quotas))
    servers.open_world(tx, row.pk, server, 0)
    return row


def _keys(account: AccountFile) -> Keys:
    return Keys(account.keys, account.storage_key)


def _columns(quotas: Quotas) -> Mapping[str, int | None]:
    return {name: getattr(quotas, name) for name in quotas.__struct_fields__}
