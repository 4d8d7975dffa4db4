"""What older API versions say otherwise, a row each (contract C.2, C.3): every shape has one form, the newest, and is put into an older one
on its way in and out.

Older names are taken from every version, because programs mix them; only versions that had them are answered with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec
from starlette.responses import Response

from batchyard.model.errors import BatchError, invalid_property

Json: TypeAlias = dict[str, Any]
Change: TypeAlias = Callable[[Json], None]

_JSON = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_AUTO_POOL = ("poolInfo", "autoPoolSpecification", "pool")
_OF_SCHEDULE = ("jobSpecification", *_AUTO_POOL)
_POOLS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "/pools": (), "/pools/{pool_id}": (), "/pools/{pool_id}/resize": (), "/jobs": _AUTO_POOL, "/jobs/{job_id}": _AUTO_POOL,
    "/jobschedules": _OF_SCHEDULE, "/jobschedules/{schedule_id}": _OF_SCHEDULE, "/jobschedules/{schedule_id}/jobs": _AUTO_POOL,
})  # fmt: skip
"""Operations that carry pools, and where in the body or in each item of the answer."""
_COUNTS: Mapping[str, tuple[str, ...]] = MappingProxyType({"/jobs/{job_id}/taskcounts": ()})


class Deviation(msgspec.Struct, frozen=True):
    """A property, or a whole answer, that had another name or form before an API version."""

    before: str
    """The first API version with the newer form."""
    older: str
    newer: str
    places: Mapping[str, tuple[str, ...]] = _POOLS
    """Paths of operations, and the members that lead to the object."""
    inward: Change | None = None
    """Puts the newer form into an object that a client sent with the older one; None when only answers differ."""
    outward: Change | None = None
    """Puts the older form into an object of an answer; None when no version is left that reads it."""


def _rename(older: str, newer: str) -> Change:
    def change(held: Json) -> None:
        if older not in held:
            return
        value = held.pop(older)
        if value is None:
            return
        if held.get(newer, value) != value and held[newer] is not None:
            raise invalid_property(older, str(value)[:100], f"It is the older name of {newer}, which says {str(held[newer])[:100]}")
        held[newer] = value

    return change


def _back(older: str, newer: str) -> Change:
    def change(held: Json) -> None:
        if newer in held:
            held[older] = held.pop(newer)

    return change


def _take_addresses(pool: Json) -> None:
    network = pool.get("networkConfiguration")
    if not isinstance(network, dict) or "publicIPs" not in network:
        return
    addresses = network.pop("publicIPs")
    if addresses is None:
        return
    if network.get("publicIPAddressConfiguration") is not None:
        raise invalid_property(
            "networkConfiguration.publicIPs", "", "It is the older name of publicIPAddressConfiguration, which is given too"
        )
    network["publicIPAddressConfiguration"] = {"provision": "usermanaged", "ipAddressIds": addresses}


def _give_addresses(pool: Json) -> None:
    network = pool.get("networkConfiguration")
    if isinstance(network, dict) and "publicIPAddressConfiguration" in network:
        addresses = network.pop("publicIPAddressConfiguration").get("ipAddressIds")
        if addresses:
            network["publicIPs"] = addresses


def _flatten(result: Json) -> None:
    result.pop("taskSlotCounts", None)
    result.update(result.pop("taskCounts"))
    result["odata.metadata"] = result["odata.metadata"].replace("#taskcountsresult", "#taskcounts")


DEVIATIONS = (
    Deviation(
        "2020-09-01.12.0", "maxTasksPerNode", "taskSlotsPerNode",
        inward=_rename("maxTasksPerNode", "taskSlotsPerNode"), outward=_back("maxTasksPerNode", "taskSlotsPerNode"),
    ),
    Deviation("2020-09-01.12.0", "the five counts", "taskCounts", places=_COUNTS, outward=_flatten),
    Deviation(
        "2020-03-01.11.0", "publicIPs", "publicIPAddressConfiguration", inward=_take_addresses, outward=_give_addresses,
    ),
    Deviation("2017-05-01.5.0", "targetDedicated", "targetDedicatedNodes", inward=_rename("targetDedicated", "targetDedicatedNodes")),
)  # fmt: skip


def request(path: str, body: bytes) -> bytes:
    """The body of a request in the newer form. Raises InvalidPropertyValue where both forms are there and differ."""
    changes = [
        (row.inward, row.places[path])
        for row in DEVIATIONS
        if row.inward is not None and path in row.places and f'"{row.older}"'.encode() in body
    ]  # fmt: skip
    if not changes:
        return body
    try:
        sent = _JSON.decode(body.removeprefix(_BYTE_ORDER_MARK))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body  # the operation's own decoder says what is wrong
    for change, way in changes:
        for held in _held(sent, way):
            change(held)
    return _encode(sent)


def selection(version: str, path: str, text: str) -> str:
    """A `$select` with older names as one with newer names."""
    newer = {row.older: row.newer for row in DEVIATIONS if version < row.before and row.places.get(path) == ()}
    return ",".join(newer.get(name.strip(), name) for name in text.split(","))


def answer(version: str, path: str, response: Response) -> None:
    """Put an answer into the form of an API version."""
    rows = [row for row in DEVIATIONS if version < row.before and path in row.places]
    changes = [
        (row.outward, row.places[path])
        for row in rows
        if row.outward is not None and f'"{row.newer}"'.encode() in bytes(response.body)
    ]  # fmt: skip
    if not changes:
        return
    found = _JSON.decode(response.body)
    for change, way in changes:
        for item in found.get("value", (found,)):
            for held in _held(item, way):
                change(held)
    response.body = _encode(found)
    response.headers["content-length"] = str(len(response.body))


def refusal(version: str, path: str, error: BatchError) -> None:
    """Let an error name the property as the API version does."""
    named = str(error.values.get("PropertyName", ""))
    for row in DEVIATIONS:
        if row.inward and version < row.before and path in row.places and row.newer in named.split("."):
            error.values["PropertyName"] = named = named.partition(row.newer)[0] + row.older


def _held(value: object, way: tuple[str, ...]) -> Iterator[Json]:
    """The object at the end of a way through members, when it is there."""
    for name in way:
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, dict):
        yield value
