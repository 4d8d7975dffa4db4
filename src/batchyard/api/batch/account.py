"""Operations of the account as a whole: images, node counts, usage (contract 1.6, 9.3, 9.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

from starlette.responses import Response

from batchyard.api.batch import views
from batchyard.api.wire import wire
from batchyard.api.wire.call import Call
from batchyard.model import times
from batchyard.model.account import NodeAgentSku, PoolUsageMetrics, SupportedImage
from batchyard.model.errors import invalid_query
from batchyard.rules import images, odata, usage
from batchyard.rules.usage import INTERVAL_US, Used
from batchyard.store import nodes as node_rows
from batchyard.store import usage as rows
from batchyard.store.filters import Page, sift
from batchyard.store.filters import page as page_of
from batchyard.store.nodes import NodeCount
from batchyard.store.reader import Reader

_POOL_BITS = 36
"""Room for a pool's key in the token of a page, beside the number of the interval."""
_LOOKED_AT = 2_000
"""Items that a page by `$filter` looks at."""
_HOUR_US = 3_600_000_000
_WINDOW_US = 48 * INTERVAL_US
"""Usage is read a day at a time."""


async def supported_images(call: Call) -> Response:
    """GET /supportedimages"""
    return _offered(call, "supportedimages", call.services.offer.images, odata.IMAGES, _of_image)


async def node_agent_skus(call: Call) -> Response:
    """GET /nodeagentskus: what versions up to 2018-12 have in the place of the supported images."""
    return _offered(call, "nodeagentskus", images.by_agent(call.services.offer.images), odata.NODE_AGENTS, _of_agent)


T = TypeVar("T")


def _offered(call: Call, kind: str, items: Sequence[T], properties: odata.Properties, of: Callable[[T], dict[str, object]]) -> Response:
    """A page of what the account offers, which no client changes."""
    found = call.filter(properties)
    after, most = call.page()
    wanted = [(key, item) for key, item in enumerate(items, 1) if key > after and odata.matches(found, of(item).__getitem__)]
    page = page_of(wanted, most, _first)
    return wire.listing(call.base, kind, [wire.encode(item) for _, item in page.rows], call.next_link(page.more))


def _first(item: tuple[int, object]) -> int:
    return item[0]


def _of_image(image: SupportedImage) -> dict[str, object]:
    return {"osType": image.os_type, "verificationType": image.verification_type, "nodeAgentSKUId": image.node_agent_sku_id}


def _of_agent(agent: NodeAgentSku) -> dict[str, object]:
    return {"osType": agent.os_type}


async def node_counts(call: Call) -> Response:
    """GET /nodecounts: every pool, also one without nodes."""
    found = call.filter(odata.NODE_COUNTS)
    after, most = call.page()

    def query(reader: Reader) -> Page[list[NodeCount]]:
        return sift(
            lambda behind, n: [list(counts) for _, counts in groupby(node_rows.counts(reader, behind, n), key=lambda row: row.pool_pk)],
            lambda counts: odata.matches(found, {"poolId": counts[0].pool_id}.__getitem__),
            lambda counts: counts[0].pool_pk,
            after,
            most,
            most + 1 if found is None else _LOOKED_AT,
        )

    page = await call.db.read(query)
    return wire.listing(call.base, "poolnodecounts", [views.node_counts(counts) for counts in page.rows], call.next_link(page.more))


async def usage_metrics(call: Call) -> Response:
    """GET /poolusagemetrics: an item for each pool and half hour in which it had nodes; without times the newest half hour."""
    found = call.filter(odata.USAGE_METRICS)
    after, most = call.page()
    newest_start, newest_end = usage.last_interval(call.now)
    end = _time(call, "endtime", usage.END_AGE_US, newest_end)
    start = _time(call, "starttime", usage.START_AGE_US, min(newest_start, max(usage.floor(end) - INTERVAL_US, 0)))
    if start > end:
        raise invalid_query("starttime", call.query.get("starttime", ""), "The start must not lie behind the end")

    def query(reader: Reader) -> Page[Used]:
        return sift(
            lambda behind, n: _used(reader, usage.floor(start), end, behind, n),
            lambda used: odata.matches(found, {"poolId": used.pool_id}.__getitem__),
            _token,
            after,
            most,
            most + 1 if found is None else _LOOKED_AT,
        )

    page = await call.db.read(query)
    return wire.listing(call.base, "poolusagemetrics", [_metrics(used) for used in page.rows], call.next_link(page.more))


def _time(call: Call, name: str, age_us: int, default: int) -> int:
    """A time of the question, which must lie so far back that everything is counted. Raises InvalidQueryParameterValue."""
    text = call.query.get(name)
    if text is None:
        return default
    try:
        at = times.from_iso(text)
    except (ValueError, OverflowError):
        raise invalid_query(name, text[:100], "The value is not an ISO 8601 time") from None
    if at > call.now - age_us:
        raise invalid_query(name, text[:100], f"The time must be at least {age_us / _HOUR_US:g} hours ago")
    return max(at, 0)


def _used(reader: Reader, start: int, end: int, after: int, n: int) -> list[Used]:
    """The first `n` items of intervals from `start` to `end` behind the token `after`."""
    found: list[Used] = []
    start = max(start, (after >> _POOL_BITS) * INTERVAL_US)
    while start < end and len(found) < n:
        first = rows.first(reader, start)
        if first is None:
            break
        start = max(start, usage.floor(first))
        until = min(end, start + _WINDOW_US)
        window = usage.by_interval(rows.overlapping(reader, start, until), start, until)
        found += [used for used in window if _token(used) > after]
        start = until
    return found[:n]


def _token(used: Used) -> int:
    return (used.start // INTERVAL_US) << _POOL_BITS | used.pool_pk


def _metrics(used: Used) -> bytes:
    return wire.encode(
        PoolUsageMetrics(
            pool_id=used.pool_id,
            start_time=times.iso(used.start),
            end_time=times.iso(used.start + INTERVAL_US),
            vm_size=used.vm_size,
            total_core_hours=used.core_us / _HOUR_US,
        )
    )
