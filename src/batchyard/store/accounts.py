"""Rows of the registry: the accounts of a server, each a world of its own that lies where its row says (decision D17)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Taken, Tx, Versioned

CREATING, ACTIVE, DELETING = "creating", "active", "deleting"
"""An account is made with its world and removed behind it; what a crash left in between is taken up at the next start."""


class AccountRow(msgspec.Struct, frozen=True):
    """An account; quotas of None are the server's own."""

    pk: int
    name: str
    state: str
    version: int
    location: str
    """Where its world lies; only who opens it knows what that means."""
    storage: str
    """Name of the storage account that is linked to it."""
    created: int
    due: int | None
    """When a closed world has something to do, None for never; 0 while it may be open."""
    dedicated_cores: int | None
    low_priority_cores: int | None
    pools: int | None
    active_jobs: int | None


_COLUMNS = columns(AccountRow)
_ROWS = Versioned("account", AccountRow)
_BY_NAME = Statement(f"SELECT {_COLUMNS} FROM account WHERE lower(name) = lower(:name)", AccountRow)
_BY_STORAGE = Statement(
    f"SELECT {columns(AccountRow, 'account.')} FROM storage JOIN account ON account.pk = storage.account_pk"
    " WHERE lower(storage.name) = lower(:storage) AND storage.state = 'active'",
    AccountRow,
)
_BY_LOCATION = Statement(f"SELECT {_COLUMNS} FROM account WHERE location = :location", AccountRow)
_PAGE = Statement(f"SELECT {_COLUMNS} FROM account WHERE pk > :after ORDER BY pk LIMIT :n", AccountRow)
_BY_PK = Statement(f"SELECT {_COLUMNS} FROM account WHERE pk = :pk", AccountRow)
_DUE = Statement(
    f"SELECT {_COLUMNS} FROM account WHERE due <= :now AND state = 'active' AND NOT EXISTS"
    " (SELECT 1 FROM opening JOIN server ON server.id = opening.server"
    " WHERE opening.account_pk = account.pk AND server.seen > :alive) ORDER BY due LIMIT :n",
    AccountRow,
)
_OPEN_AT = Statement(
    f"SELECT {columns(AccountRow, 'account.')} FROM opening JOIN account ON account.pk = opening.account_pk WHERE opening.server = :server",
    AccountRow,
)
_CHANGING = Statement(f"SELECT {_COLUMNS} FROM account WHERE state <> 'active' ORDER BY pk LIMIT :n", AccountRow)
_COUNT = Statement("SELECT count(*) FROM account", int)
_DELETE = Change("DELETE FROM account WHERE pk = :pk")


def named(reader: Reader, name: str) -> AccountRow | None:
    """The account of a name, whatever its case."""
    return reader.first(_BY_NAME, name=name)


def get(reader: Reader, pk: int) -> AccountRow | None:
    """The account of a key."""
    return reader.first(_BY_PK, pk=pk)


def storing(reader: Reader, storage: str) -> AccountRow | None:
    """The account in whose world a storage account lies that may be used."""
    return reader.first(_BY_STORAGE, storage=storage)


def lying_at(reader: Reader, location: str) -> AccountRow | None:
    """The account whose world lies there."""
    return reader.first(_BY_LOCATION, location=location)


def page(reader: Reader, after: int, n: int) -> list[AccountRow]:
    """The next `n` accounts behind a key."""
    return reader.all(_PAGE, after=after, n=n)


def due(reader: Reader, now: int, life_us: int, n: int) -> list[AccountRow]:
    """Accounts in whose worlds something is due and that no server has open which was seen within `life_us`, the longest first."""
    return reader.all(_DUE, now=now, alive=reader.moment() - life_us, n=n)


def open_at(reader: Reader, server: str) -> list[AccountRow]:
    """Accounts whose worlds a server has open."""
    return reader.all(_OPEN_AT, server=server)


def changing(reader: Reader, n: int) -> list[AccountRow]:
    """Accounts that are being made or removed."""
    return reader.all(_CHANGING, n=n)


def count(reader: Reader) -> int:
    """How many accounts there are, in whatever state."""
    return reader.first(_COUNT) or 0


def add(tx: Tx, **values: Any) -> AccountRow:
    """Add an account. Raises Taken with what is taken: name or location."""
    for what, found in (("name", named(tx, values["name"])), ("location", lying_at(tx, values["location"]))):
        if found is not None:
            raise Taken(what)
    tx.insert("account", **values)
    added = named(tx, values["name"])
    assert added is not None
    return added


def change(tx: Tx, seen: AccountRow, values: Mapping[str, Any]) -> AccountRow:
    """Change an account that is still as it was seen. Raises Conflict."""
    return tx.set_state(_ROWS, seen, values)


def delete(tx: Tx, pk: int) -> None:
    """Forget an account; its name may be given again."""
    tx.change(_DELETE, pk=pk)
