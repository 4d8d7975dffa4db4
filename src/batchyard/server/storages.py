"""The storage accounts of a server beside the linked ones: made, shown and removed for the operator, their keys renewed.

One is made with its row first and removed with its row last, so a crash in between is seen and taken up, like that of an account
(`worlds`). Who has the world open lets callers in and out as the rows say.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import structlog

from batchyard.api.front import RESERVED
from batchyard.api.wire.accounts import DescribedStorage
from batchyard.engine.clock import Clock
from batchyard.model.errors import BatchError, invalid_property
from batchyard.server import account_file, stored
from batchyard.server.account_file import AccountFile
from batchyard.server.peers import Peers
from batchyard.server.places import Places
from batchyard.server.refusals import Refused
from batchyard.server.world import World
from batchyard.store import accounts, storage
from batchyard.store.accounts import AccountRow
from batchyard.store.db import Database
from batchyard.store.reader import Reader
from batchyard.store.storage import ACTIVE, CREATING, DELETING, StorageRow
from batchyard.store.tx import Taken, Tx

log = structlog.get_logger()

TOPIC = "accounts"
"""Topic of the registry: something was done to an account, or to a storage account."""
_NAME = re.compile(r"[a-z0-9]{3,24}", re.ASCII)
_AT_ONCE = 50
_PATIENCE_S = 30.0

T = TypeVar("T")


class Homes(Protocol):
    """The worlds in which storage accounts lie."""

    def lock(self, name: str) -> asyncio.Lock:
        """To be held by whoever opens, closes or changes a world."""
        ...

    def world(self, name: str) -> World | None:
        """A world that is open."""
        ...

    def open_worlds(self) -> Sequence[tuple[AccountRow, World]]:
        """All that are open."""
        ...


class Storages:
    """All storage accounts of a server."""

    def __init__(self, homes: Homes, registry: Database, places: Places, clock: Clock, peers: Peers, default: str) -> None:
        self._homes, self._registry, self._places, self._clock, self._peers = homes, registry, places, clock, peers
        self._default = default
        self._making: set[int] = set()
        self._failed: dict[int, float] = {}
        """Those that could not be removed, and accounts (less than 0) whose own could not be opened: when it may be tried again."""
        self._removals: dict[int, asyncio.Task[None]] = {}

    # what the operator does

    async def create(self, name: str, account: str | None) -> DescribedStorage:
        if _NAME.fullmatch(name) is None:
            raise invalid_property("name", name[:64], "A name has 3 to 24 lower-case letters and digits")
        if name in RESERVED:
            raise invalid_property("name", name, "Paths of the server begin with that")
        home = await self._registry.read(accounts.named, account or self._default)
        if home is None or home.state != ACTIVE:
            raise invalid_property("account", str(account)[:64], "There is no such account")
        made = asyncio.ensure_future(self._create(name, home))
        return await asyncio.shield(made)  # a client that goes leaves no half of it

    async def _create(self, name: str, home: AccountRow) -> DescribedStorage:
        async with self._homes.lock(home.name):
            try:
                row = await self._registry.run(_add, name, home.pk, self._clock.now(), self._peers.id)
            except Taken:
                raise BatchError("StorageAccountExists") from None
            self._making.add(row.pk)
            try:
                await asyncio.to_thread(self._places.make_storage, home, row)
                row = await self._registry.run(_change, row.pk, ACTIVE)
                await self.follow(home, self._homes.world(home.name))
            except (Refused, OSError, account_file.Unusable) as error:
                log.error("storage account not made", storage=name, reason=str(error))
                raise BatchError("ServerBusy", Reason="The storage account cannot be made") from None
            finally:
                self._making.discard(row.pk)
            log.info("storage account made", storage=name, account=home.name)
            return _described(row, home)

    async def describe(self, name: str) -> DescribedStorage:
        return _described(*await self._row(name, leaving=True))

    async def listed(self, after: int, most: int) -> Sequence[DescribedStorage]:
        return await self._registry.read(_listed, after, most)

    async def delete(self, name: str) -> None:
        row, home = await self._row(name)
        if row.is_linked(home):
            raise BatchError("Forbidden", Reason="The linked storage account stays as long as its Batch account")
        row = await self._registry.run(_change, row.pk, DELETING)
        async with self._homes.lock(home.name):
            await self.follow(home, self._homes.world(home.name))
        self._begin_removal(row, home)

    async def keys(self, name: str) -> Sequence[str]:
        row, home = await self._row(name)
        return (await self._usable(self._places.secrets, home)).storage_keys(_slot(row, home))

    async def renew_key(self, name: str, number: int) -> Sequence[str]:
        row, home = await self._row(name)
        slot = _slot(row, home)
        async with self._homes.lock(home.name):
            change = partial(account_file.renewed_storage, slot=slot, number=number)
            renewed = await self._usable(lambda row: self._places.change_keys(row, change), home)
            if (world := self._homes.world(home.name)) is not None:
                world.learn_keys(renewed)
        log.info("key of storage renewed", storage=row.name, key=number)
        return renewed.storage_keys(slot)

    async def _usable(self, read: Callable[[AccountRow], AccountFile], home: AccountRow) -> AccountFile:
        """Raises ServerBusy."""
        try:
            return await asyncio.to_thread(read, home)
        except (account_file.Unusable, Refused) as error:
            log.error("account without keys", account=home.name, reason=str(error))
            raise BatchError("ServerBusy", Reason="The keys of the storage account cannot be read") from None

    async def _row(self, name: str, *, leaving: bool = False) -> tuple[StorageRow, AccountRow]:
        """A storage account and in whose world it lies. Raises StorageAccountNotFound."""
        found = await self._registry.read(_with_home, name)
        if found is None or found[0].state == CREATING or (found[0].state == DELETING and not leaving):
            raise BatchError("StorageAccountNotFound")
        return found

    # what the worlds do

    async def follow(self, home: AccountRow, world: World | None) -> None:
        """Let callers of an open world into the storage accounts that its rows name, and into no others; its lock is held.

        Raises Refused, OSError, and what databases raise.
        """
        if world is None:
            return
        wanted = {row.slot: row for row in await self._registry.read(storage.of_account, home.pk) if row.is_beside(home)}
        for slot in world.stored - wanted.keys():
            await world.drop_storage(slot)
        for slot in wanted.keys() - world.stored:
            keys = (await asyncio.to_thread(self._places.secrets, home)).storage_keys(slot)
            parts = await asyncio.to_thread(stored.open_stored, self._places.stored(home, wanted[slot]))
            await world.add_storage(wanted[slot].name, slot, keys, parts)

    async def run_once(self) -> None:
        """Take up what a crash, or another server that is gone, left half made or half removed."""
        for row in await self._registry.read(storage.left, self._peers.id, self._peers.life_us, _AT_ONCE):
            home = await self._registry.read(accounts.get, row.account_pk)
            if home is not None and row.pk not in self._making and self._failed.get(row.pk, 0.0) <= _now():
                self._begin_removal(row, home)
        await self._follow_all()

    async def _follow_all(self) -> None:
        """Give all worlds that are open here what their rows say by now, whichever server changed them."""
        wanted: dict[int, set[str]] = {}
        for row in await self._registry.read(storage.open_at, self._peers.id):
            wanted.setdefault(row.account_pk, set()).add(row.slot)
        for home, world in self._homes.open_worlds():
            if world.stored != wanted.get(home.pk, set()):
                await self.catch_up(home)

    async def catch_up(self, home: AccountRow) -> None:
        """Give a world what its rows say by now, if it is open; what cannot be opened is left alone for a while."""
        if self._homes.world(home.name) is None or self._failed.get(-home.pk, 0.0) > _now():
            return
        try:
            async with self._homes.lock(home.name):
                await self.follow(home, self._homes.world(home.name))
        except (Refused, OSError, account_file.Unusable) as error:
            self._failed[-home.pk] = _now() + _PATIENCE_S
            log.error("storage accounts not opened", account=home.name, reason=str(error))

    def _begin_removal(self, row: StorageRow, home: AccountRow) -> None:
        running = self._removals.get(row.pk)
        if running is None or running.done():
            self._removals[row.pk] = asyncio.get_running_loop().create_task(self._remove(row, home))

    async def _remove(self, row: StorageRow, home: AccountRow) -> None:
        """Take a storage account away; its row goes last."""
        try:
            async with self._homes.lock(home.name):
                if (world := self._homes.world(home.name)) is not None:
                    await world.drop_storage(row.slot)
                await asyncio.to_thread(self._places.forget_storage, home, row)
            await asyncio.to_thread(stored.remove, self._places.stored(home, row))
            await self._registry.run(_gone, row.pk)
            for known in (self._failed, self._removals):
                known.pop(row.pk, None)
            log.info("storage account removed", storage=row.name)
        except Exception:
            self._failed[row.pk] = _now() + _PATIENCE_S
            log.exception("storage account not removed; it is tried again", storage=row.name)

    async def end(self) -> None:
        """Stop removing; the next server goes on."""
        for task in self._removals.values():
            task.cancel()
        await asyncio.gather(*self._removals.values(), return_exceptions=True)


def _slot(row: StorageRow, home: AccountRow) -> str | None:
    return None if row.is_linked(home) else row.slot


def _described(row: StorageRow, home: AccountRow) -> DescribedStorage:
    return DescribedStorage(row.pk, row.name, row.state, home.name, row.is_linked(home), row.created)


def _listed(reader: Reader, after: int, most: int) -> Sequence[DescribedStorage]:
    found = [(row, accounts.get(reader, row.account_pk)) for row in storage.page(reader, after, most)]
    return [_described(row, home) for row, home in found if home is not None]


def _with_home(reader: Reader, name: str) -> tuple[StorageRow, AccountRow] | None:
    row = storage.named(reader, name)
    home = None if row is None else accounts.get(reader, row.account_pk)
    return None if row is None or home is None else (row, home)


def _add(tx: Tx, name: str, account: int, now: int, server: str) -> StorageRow:
    """Raises Taken, and AccountNotFound when the account has gone meanwhile."""
    home = accounts.get(tx, account)
    if home is None or home.state != ACTIVE:
        raise BatchError("AccountNotFound")
    return storage.add(tx, name=name, account_pk=account, state=CREATING, created=now, server=server)


def _change(tx: Tx, pk: int, state: str) -> StorageRow:
    """Raises StorageAccountNotFound when it has gone meanwhile."""
    row = storage.get(tx, pk)
    if row is None or row.state == DELETING:
        raise BatchError("StorageAccountNotFound")
    tx.wake(TOPIC)
    return storage.change(tx, row, {"state": state})


def _gone(tx: Tx, pk: int) -> None:
    storage.delete(tx, pk)
    tx.wake(TOPIC)


def _now() -> float:
    return asyncio.get_running_loop().time()
