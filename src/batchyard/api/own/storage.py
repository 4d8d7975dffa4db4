"""The storage accounts of a server (docs/storage.md): the operator makes, lists and removes them; an account sees its linked one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.accounts import PREFIX, DescribedStorage, StorageAccounts
from batchyard.api.wire.call import Call
from batchyard.model import times
from batchyard.model.account import OwnStorage, StorageEndpoints, StorageKeys
from batchyard.model.endpoints import endpoints
from batchyard.model.errors import BatchError, invalid_property

_KEY_NAMES = ("primary", "secondary")


class StorageCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new storage account; it lies in the world of `account`, that of the default account without one."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    account: Annotated[str, msgspec.Meta(max_length=64)] | None = None


def _storage(call: Call) -> StorageAccounts:
    if call.services.accounts is None:
        raise BatchError("InvalidUri")
    return call.services.accounts.storage


def _for_operator(call: Call) -> StorageAccounts:
    """Raises InsufficientAccountPermissions for everybody else."""
    if not call.by_operator:
        raise BatchError("InsufficientAccountPermissions")
    return _storage(call)


def _for_owner(call: Call) -> StorageAccounts:
    """The operator may, and the account that it is linked to; of others an account does not even learn whether they exist."""
    linked = call.services.linked_storage
    own = not call.by_task and linked is not None and call.ids["storage_account"].lower() == linked.account.lower()
    if not call.by_operator and not own:
        raise BatchError("InsufficientAccountPermissions")
    return _storage(call)


async def create(call: Call) -> Response:
    """POST /batchyard/v1/storageaccounts"""
    storage = _for_operator(call)
    wanted = call.decode(StorageCreate)
    made = await storage.create(wanted.name, wanted.account)
    return Response(wire.encode(_shown(call, made)), 201, media_type=wire.JSON)


async def list_(call: Call) -> Response:
    """GET /batchyard/v1/storageaccounts"""
    storage = _for_operator(call)
    after, most = call.page()
    found = await storage.listed(after, most + 1)
    more = found[most - 1].pk if len(found) > most else None
    return wire.listing(call.base, "storageaccounts", [wire.encode(_shown(call, each)) for each in found[:most]], call.next_link(more))


async def get(call: Call) -> Response:
    """GET /batchyard/v1/storageaccounts/{storageAccount}"""
    found = await _for_owner(call).describe(call.ids["storage_account"])
    return wire.element(call.base, "storageaccounts", wire.encode(_shown(call, found)))


async def delete(call: Call) -> Response:
    """DELETE /batchyard/v1/storageaccounts/{storageAccount}"""
    await _for_operator(call).delete(call.ids["storage_account"])
    return wire.nothing(202)


async def keys(call: Call) -> Response:
    """GET /batchyard/v1/storageaccounts/{storageAccount}/keys"""
    primary, secondary = await _for_owner(call).keys(call.ids["storage_account"])
    return Response(wire.encode(StorageKeys(primary=primary, secondary=secondary)), media_type=wire.JSON)


async def renew_key(call: Call) -> Response:
    """POST /batchyard/v1/storageaccounts/{storageAccount}/keys/{keyName}/renew"""
    storage, name = _for_owner(call), call.ids["key_name"].lower()
    if name not in _KEY_NAMES:
        raise invalid_property("keyName", name[:64], "A key is primary or secondary")
    primary, secondary = await storage.renew_key(call.ids["storage_account"], _KEY_NAMES.index(name))
    return Response(wire.encode(StorageKeys(primary=primary, secondary=secondary)), media_type=wire.JSON)


def _shown(call: Call, found: DescribedStorage) -> OwnStorage:
    root = call.base.removesuffix(f"/{PREFIX}/{call.services.named}") if call.services.named else call.base
    return OwnStorage(
        name=found.name,
        state=found.state,
        account=found.account,
        linked=found.linked,
        created=times.iso(found.created),
        endpoints=StorageEndpoints(**endpoints(call.services.storage_ways._replace(url=root), found.name)._asdict()),
    )
