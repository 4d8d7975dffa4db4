"""The accounts of a server, as those see them who let requests in: each a world of its own, opened when it is asked for (decision D17)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec
from starlette.types import ASGIApp

from batchyard.api.wire.auth import Account
from batchyard.rules.offer import Quotas

OPERATOR = "$operator"
"""Who signs with the operator's key; no account can have the name."""
PREFIX = "accounts"
"""First segment of the URLs of all accounts but the default one; the name of the account follows."""
PREFIXED = "batchyard.prefix"
"""Key of the ASGI scope: `/accounts/NAME` where the URL names the account; the client's signature covers it too."""


CLUSTER = "cluster"
"""First segment of the paths by which servers speak to each other."""
SERVICE = "batchyard.service"
"""Of a scope: which of an account's services answers, once that is known."""
PEER = "batchyard.peer"
"""Key of the ASGI scope: another server asks, as its token has shown."""


class Known(msgspec.Struct, frozen=True):
    """What lets callers of an account in, known without opening its world."""

    account: Account
    node_key: bytes
    storage: dict[str, Sequence[str]]
    """Keys of the storage accounts in its world, by name; changed where the world is open."""
    leaving: bool = False
    """It is being deleted: nobody is let in, and its nodes are told that they are gone."""
    public: bool = False
    """Its containers may be open to readers without a key."""


class Described(msgspec.Struct, frozen=True):
    """An account as its operator sees it."""

    pk: int
    name: str
    state: str
    storage: str
    created: int
    quotas: Quotas


class DescribedStorage(msgspec.Struct, frozen=True):
    """A storage account as its operator sees it."""

    pk: int
    name: str
    state: str
    account: str
    """In whose world it lies."""
    linked: bool
    created: int


class Keys(NamedTuple):
    """What lets its owner into an account and its storage."""

    batch: Sequence[str]
    storage: str


class StorageAccounts(Protocol):
    """Every storage account of a server."""

    async def create(self, name: str, account: str | None) -> DescribedStorage:
        """Make one in the world of an account, the default one unless it is named. Raises StorageAccountExists, InvalidPropertyValue."""
        ...

    async def describe(self, name: str) -> DescribedStorage:
        """One of them. Raises StorageAccountNotFound."""
        ...

    async def listed(self, after: int, most: int) -> Sequence[DescribedStorage]:
        """At most so many behind a key."""
        ...

    async def delete(self, name: str) -> None:
        """Begin to remove one with all that it holds. Raises StorageAccountNotFound; Forbidden for a linked one."""
        ...

    async def keys(self, name: str) -> Sequence[str]:
        """Both keys. Raises StorageAccountNotFound."""
        ...

    async def renew_key(self, name: str, number: int) -> Sequence[str]:
        """Put a new key in the place of one of two; both then. Raises StorageAccountNotFound."""
        ...


class Accounts(Protocol):
    """Every account of a server."""

    @property
    def storage(self) -> StorageAccounts:
        """Their storage accounts."""
        ...

    async def create(self, name: str, location: str | None, quotas: Quotas) -> Described:
        """Make an account with its world. Raises AccountExists, InvalidPropertyValue."""
        ...

    async def describe(self, name: str) -> Described:
        """One account. Raises AccountNotFound."""
        ...

    async def listed(self, after: int, most: int) -> Sequence[Described]:
        """At most so many accounts behind a key."""
        ...

    async def limit(self, name: str, quotas: Quotas) -> Described:
        """Give an account these quotas. Raises AccountNotFound, AccountBeingDeleted."""
        ...

    async def delete(self, name: str) -> None:
        """Begin to remove an account with all that it has and runs. Raises AccountNotFound, AccountBeingDeleted, Forbidden."""
        ...

    async def keys(self, name: str) -> Keys:
        """The keys of an account. Raises AccountNotFound, AccountBeingDeleted."""
        ...

    async def renew_key(self, name: str, number: int) -> Keys:
        """Put a new key in the place of one of two; the keys then. Raises AccountNotFound, AccountBeingDeleted."""
        ...


class Worlds(Accounts, Protocol):
    """The same, with the way into each."""

    @property
    def default(self) -> str:
        """Name of the account that is asked where no other one is named."""
        ...

    def is_peer(self, token: str) -> bool:
        """True for the token of another server."""
        ...

    def opened(self, name: str) -> ASGIApp | None:
        """The world of an account that is open at this moment."""
        ...

    async def known(self, name: str) -> Known | None:
        """What lets callers of an account in, None when there is none of that name."""
        ...

    async def storing(self, name: str) -> str | None:
        """Name of the account in whose world a storage account lies."""
        ...

    def entered(self, name: str) -> AbstractAsyncContextManager[ASGIApp]:
        """The world of an account, opened if need be; it stays open inside. Raises ServerBusy, AccountNotFound."""
        ...
