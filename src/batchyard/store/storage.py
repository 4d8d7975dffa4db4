"""Rows of the registry: the storage accounts of a server, each in the world of one account."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from batchyard.store.accounts import ACTIVE, CREATING, DELETING, AccountRow
from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Taken, Tx, Versioned

__all__ = ["ACTIVE", "CREATING", "DELETING"]


class StorageRow(msgspec.Struct, frozen=True):
    """A storage account."""

    pk: int
    name: str
    account_pk: int
    """In whose world it lies."""
    state: str
    version: int
    created: int
    server: str
    """Which server makes it, while it is being made."""

    @property
    def slot(self) -> str:
        """What its place and its keys are called by, which never means another one."""
        return f"{self.name.lower()}.{self.pk}"

    def is_beside(self, account: AccountRow) -> bool:
        """True for one that may be used, but is not linked to the account."""
        return self.state == ACTIVE and not self.is_linked(account)

    def is_linked(self, account: AccountRow) -> bool:
        """True for the one that nodes and packages of its account use."""
        return self.name.lower() == account.storage.lower()


_COLUMNS = columns(StorageRow)
_ROWS = Versioned("storage", StorageRow)
_BY_NAME = Statement(f"SELECT {_COLUMNS} FROM storage WHERE lower(name) = lower(:name)", StorageRow)
_BY_PK = Statement(f"SELECT {_COLUMNS} FROM storage WHERE pk = :pk", StorageRow)
_OF_ACCOUNT = Statement(f"SELECT {_COLUMNS} FROM storage WHERE account_pk = :account ORDER BY pk", StorageRow)
_PAGE = Statement(f"SELECT {_COLUMNS} FROM storage WHERE pk > :after ORDER BY pk LIMIT :n", StorageRow)
_LEFT = Statement(
    f"SELECT {_COLUMNS} FROM storage WHERE state = 'deleting' OR (state = 'creating' AND NOT EXISTS"
    " (SELECT 1 FROM server WHERE server.id = storage.server AND server.id <> :own AND server.seen > :alive)) ORDER BY pk LIMIT :n",
    StorageRow,
)
_OPEN_AT = Statement(
    f"SELECT {columns(StorageRow, 'storage.')} FROM opening JOIN account ON account.pk = opening.account_pk"
    " JOIN storage ON storage.account_pk = account.pk AND storage.state = 'active' AND lower(storage.name) <> lower(account.storage)"
    " WHERE opening.server = :server",
    StorageRow,
)
_RENAME = Change("UPDATE storage SET name = :name, version = version + 1 WHERE account_pk = :account AND lower(name) = lower(:old)")
_DELETE = Change("DELETE FROM storage WHERE pk = :pk")
_DELETE_OF = Change("DELETE FROM storage WHERE account_pk = :account")


def named(reader: Reader, name: str) -> StorageRow | None:
    """The storage account of a name, whatever its case."""
    return reader.first(_BY_NAME, name=name)


def get(reader: Reader, pk: int) -> StorageRow | None:
    """The storage account of a key."""
    return reader.first(_BY_PK, pk=pk)


def of_account(reader: Reader, account: int) -> list[StorageRow]:
    """Those that lie in the world of an account, the linked one too, in whatever state."""
    return reader.all(_OF_ACCOUNT, account=account)


def open_at(reader: Reader, server: str) -> list[StorageRow]:
    """Those that a server should have open: in worlds that it has open, beside the linked ones."""
    return reader.all(_OPEN_AT, server=server)


def page(reader: Reader, after: int, n: int) -> list[StorageRow]:
    """The next `n` behind a key."""
    return reader.all(_PAGE, after=after, n=n)


def left(reader: Reader, own: str, life_us: int, n: int) -> list[StorageRow]:
    """Those to be removed: deleted ones, and what no server but `own` that was seen within `life_us` makes, so far as that can tell."""
    return reader.all(_LEFT, own=own, alive=reader.moment() - life_us, n=n)


def add(tx: Tx, **values: Any) -> StorageRow:
    """Add a storage account. Raises Taken."""
    if named(tx, values["name"]) is not None:
        raise Taken("storage")
    pk = tx.insert("storage", **values)
    added = get(tx, pk)
    assert added is not None
    return added


def change(tx: Tx, seen: StorageRow, values: Mapping[str, Any]) -> StorageRow:
    """Change a storage account that is still as it was seen. Raises Conflict."""
    return tx.set_state(_ROWS, seen, values)


def rename(tx: Tx, account: int, old: str, name: str) -> None:
    """The linked one of an account is called otherwise."""
    tx.change(_RENAME, account=account, old=old, name=name)


def delete(tx: Tx, pk: int) -> None:
    """Forget a storage account; its name may be given again."""
    tx.change(_DELETE, pk=pk)


def delete_of(tx: Tx, account: int) -> None:
    """Forget all of an account."""
    tx.change(_DELETE_OF, account=account)
