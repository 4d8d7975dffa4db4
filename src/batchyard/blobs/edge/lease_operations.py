"""Lease Blob and Lease Container: five actions, one for each of `leases`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchyard.blobs import leases
from batchyard.blobs.base import BlobError, BlobStore, Conditions, Lease
from batchyard.blobs.edge.blob_operations import tag_headers
from batchyard.blobs.edge.grants import Grant
from batchyard.blobs.edge.request import Request
from batchyard.model import times

_LONGEST_BREAK_S = 60
_STATUS = {"acquire": 201, "renew": 200, "change": 200, "release": 200, "break": 202}

Act = Callable[[Lease | None], Lease | None]


async def lease_blob(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Lease Blob."""
    action = _action(request)
    blob = await run_in_threadpool(store.lease_blob, request.blob_ref, _conditions(request), action.act)
    return action.answer(tag_headers(blob))


async def lease_container(store: BlobStore, request: Request, grant: Grant) -> Response:
    """Lease Container."""
    action = _action(request)
    container = await run_in_threadpool(store.lease_container, request.container_ref, _conditions(request), action.act)
    return action.answer({"etag": f'"{container.etag}"', "last-modified": times.http_date(container.modified_us)})


@dataclass
class _Action:
    """What is asked for, and once `act` ran what came of it."""

    name: str
    act: Act
    lease_id: str | None = None
    seconds: int | None = None

    def answer(self, headers: dict[str, str]) -> Response:
        if self.lease_id is not None:
            headers["x-ms-lease-id"] = self.lease_id
        if self.seconds is not None:
            headers["x-ms-lease-time"] = str(self.seconds)
        return Response(status_code=_STATUS[self.name], headers=headers)


def _conditions(request: Request) -> Conditions:
    """The lease that is named is what the action is about, and no condition."""
    return replace(request.conditions(), lease_id=None)


def _action(request: Request) -> _Action:
    name, now = request.headers.get("x-ms-lease-action", "").lower(), request.now_us
    if name == "acquire":
        proposed = request.lease_id("x-ms-proposed-lease-id") or str(uuid.uuid4())
        seconds = leases.checked_duration(_number(request, "x-ms-lease-duration"))
        return _Action(name, lambda lease: leases.acquire(lease, proposed, seconds, now), proposed)
    if name == "break":
        return _break(request)
    if name not in _STATUS:
        raise _missing("x-ms-lease-action") if not name else BlobError("InvalidHeaderValue")
    given = request.lease_id("x-ms-lease-id")
    if given is None:
        raise _missing("x-ms-lease-id")
    if name == "renew":
        return _Action(name, lambda lease: leases.renew(lease, given, now), given)
    if name == "release":
        return _Action(name, lambda lease: leases.release(lease, given))
    changed = request.lease_id("x-ms-proposed-lease-id")
    if changed is None:
        raise _missing("x-ms-proposed-lease-id")
    return _Action(name, lambda lease: leases.change(lease, given, changed, now), changed)


def _break(request: Request) -> _Action:
    period = _number(request, "x-ms-lease-break-period") if "x-ms-lease-break-period" in request.headers else None
    if period is not None and not 0 <= period <= _LONGEST_BREAK_S:
        raise BlobError("InvalidHeaderValue", "x-ms-lease-break-period is 0 to 60 seconds.")

    def act(lease: Lease | None) -> Lease:
        broken, action.seconds = leases.broken(lease, period, request.now_us)
        return broken

    action = _Action("break", act)
    return action


def _number(request: Request, name: str) -> int:
    text = request.headers.get(name)
    if text is None:
        raise _missing(name)
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 10:
        raise BlobError("InvalidHeaderValue", f"The value for {name} is not a number of seconds.")
    return int(text)


def _missing(name: str) -> BlobError:
    return BlobError("MissingRequiredHeader", f"{name} is not specified.")
