"""The accounts of a server (docs/accounts.md): the operator makes, limits and removes them; an account sees itself and renews its keys."""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.responses import Response

from batchyard.api.wire import wire
from batchyard.api.wire.accounts import PREFIX, Accounts, Described, Keys
from batchyard.api.wire.call import Call
from batchyard.model import times
from batchyard.model.account import AccountKeys, AccountLimits, OwnAccount
from batchyard.model.errors import BatchError, invalid_property
from batchyard.rules.offer import Quotas
from batchyard.store import jobs as job_rows
from batchyard.store import pools as pool_rows
from batchyard.store import usage
from batchyard.store.reader import Reader

_MOST = 2**31 - 1
_Limit = Annotated[int, msgspec.Meta(ge=0, le=_MOST)] | None
_KEY_NAMES = ("primary", "secondary")


class QuotasPatch(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Quotas to change: what is not named stays, null is the server's own."""

    pool_quota: _Limit | msgspec.UnsetType = msgspec.UNSET
    active_job_and_job_schedule_quota: _Limit | msgspec.UnsetType = msgspec.UNSET
    dedicated_core_quota: _Limit | msgspec.UnsetType = msgspec.UNSET
    low_priority_core_quota: _Limit | msgspec.UnsetType = msgspec.UNSET

    def on(self, seen: Quotas) -> Quotas:
        """These quotas in the place of those."""

        def one(wanted: int | msgspec.UnsetType | None, had: int | None) -> int | None:
            return had if wanted is msgspec.UNSET else wanted

        return Quotas(
            one(self.dedicated_core_quota, seen.dedicated_cores),
            one(self.low_priority_core_quota, seen.low_priority_cores),
            one(self.pool_quota, seen.pools),
            one(self.active_job_and_job_schedule_quota, seen.active_jobs),
        )


class AccountCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A new account; `location` is a directory of the server's machine, its state directory has a place for it without one."""

    name: Annotated[str, msgspec.Meta(max_length=64)]
    location: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    quotas: QuotasPatch = QuotasPatch()


def _accounts(call: Call) -> Accounts:
    if call.services.accounts is None:
        raise BatchError("InvalidUri")
    return call.services.accounts


def _for_operator(call: Call) -> Accounts:
    """Raises InsufficientAccountPermissions for everybody else."""
    if not call.by_operator:
        raise BatchError("InsufficientAccountPermissions")
    return _accounts(call)


def _for_owner(call: Call) -> Accounts:
    """The operator may, and the account itself; of others an account does not even learn whether they exist."""
    itself = not call.by_task and call.ids["account"].lower() == call.services.account.name.lower()
    if not call.by_operator and not itself:
        raise BatchError("InsufficientAccountPermissions")
    return _accounts(call)


async def create(call: Call) -> Response:
    """POST /batchyard/v1/accounts"""
    accounts = _for_operator(call)
    wanted = call.decode(AccountCreate)
    made = await accounts.create(wanted.name, wanted.location, wanted.quotas.on(Quotas()))
    return Response(wire.encode(_shown(call, made)), 201, media_type=wire.JSON)


async def list_(call: Call) -> Response:
    """GET /batchyard/v1/accounts"""
    accounts = _for_operator(call)
    after, most = call.page()
    found = await accounts.listed(after, most + 1)
    more = found[most - 1].pk if len(found) > most else None
    return wire.listing(call.base, "accounts", [wire.encode(_shown(call, each)) for each in found[:most]], call.next_link(more))


async def get(call: Call) -> Response:
    """GET /batchyard/v1/accounts/{account}"""
    found = await _for_owner(call).describe(call.ids["account"])
    shown = _shown(call, found)
    if not call.by_operator:
        shown.used = await call.db.read(_used)
    return wire.element(call.base, "accounts", wire.encode(shown))


async def delete(call: Call) -> Response:
    """DELETE /batchyard/v1/accounts/{account}"""
    await _for_operator(call).delete(call.ids["account"])
    return wire.nothing(202)


async def limit(call: Call) -> Response:
    """PATCH /batchyard/v1/accounts/{account}/quotas"""
    accounts = _for_operator(call)
    wanted = call.decode(QuotasPatch)
    seen = await accounts.describe(call.ids["account"])
    found = await accounts.limit(seen.name, wanted.on(seen.quotas))
    return wire.element(call.base, "accounts", wire.encode(_shown(call, found)))


async def keys(call: Call) -> Response:
    """GET /batchyard/v1/accounts/{account}/keys"""
    return _keys(await _for_owner(call).keys(call.ids["account"]))


async def renew_key(call: Call) -> Response:
    """POST /batchyard/v1/accounts/{account}/keys/{keyName}/renew"""
    accounts, name = _for_owner(call), call.ids["key_name"].lower()
    if name not in _KEY_NAMES:
        raise invalid_property("keyName", name[:64], "A key is primary or secondary")
    return _keys(await accounts.renew_key(call.ids["account"], _KEY_NAMES.index(name)))


def _keys(found: Keys) -> Response:
    primary, secondary = [*found.batch, ""][:2]
    return Response(wire.encode(AccountKeys(primary=primary, secondary=secondary, storage_key=found.storage)), media_type=wire.JSON)


def _shown(call: Call, found: Described) -> OwnAccount:
    root = call.base.removesuffix(f"/{PREFIX}/{call.services.named}") if call.services.named else call.base
    default = (call.by_operator and found.name == call.services.account.name) or (not call.by_operator and not call.services.named)
    return OwnAccount(
        name=found.name,
        state=found.state,
        account_endpoint=root if default else f"{root}/{PREFIX}/{found.name}",
        storage_account=found.storage,
        created=times.iso(found.created),
        quotas=_limits(found.quotas),
    )


def _limits(quotas: Quotas) -> AccountLimits:
    return AccountLimits(
        pool_quota=quotas.pools,
        active_job_and_job_schedule_quota=quotas.active_jobs,
        dedicated_core_quota=quotas.dedicated_cores,
        low_priority_core_quota=quotas.low_priority_cores,
    )


def _used(reader: Reader) -> AccountLimits:
    """How much of each quota is taken."""
    return AccountLimits(
        pool_quota=pool_rows.count(reader),
        active_job_and_job_schedule_quota=job_rows.active(reader, _MOST),
        dedicated_core_quota=usage.cores(reader, dedicated=True),
        low_priority_core_quota=usage.cores(reader, dedicated=False),
    )
