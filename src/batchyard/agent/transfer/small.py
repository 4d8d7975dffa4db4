"""Small files on their way into containers without the SDK, for a tenth of what it takes; several at once where the storage takes them so.

Everything here blocks: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import msgspec

from batchyard.agent.http import Http
from batchyard.agent.http import Unreachable as Unheard
from batchyard.model.together import COMP, HEADER, LARGEST, MOST, MOST_BYTES, Put

MOST_ALONE = 256 << 10
"""Bytes of a small file."""
_VERSION, _OK, _CREATED = "2021-12-02", 200, 201
_BROKEN = (Unheard, UnicodeError, ValueError, msgspec.MsgspecError)


class Small(NamedTuple):
    """A blob that is to be."""

    url: str
    """Of the container, with its SAS."""
    name: str
    content: bytes
    headers: dict[str, str]
    """What a Put Blob says of it: `x-ms-blob-content-type`, `x-ms-meta-NAME` and their like."""


def put(blobs: Sequence[Small]) -> list[bool]:
    """Upload; which of them are there now. Of the others nothing is known."""
    there = [False] * len(blobs)
    by_container: dict[str, list[int]] = {}
    for at, blob in enumerate(blobs):
        where, _, signature = blob.url.partition("?")
        if "sig=" in signature:
            by_container.setdefault(where, []).append(at)
    for where, places in by_container.items():
        try:
            parts = urlsplit(where)
            box = _box(parts.scheme, parts.netloc, parts.path.rstrip("/"))
            puts = [_put(box.path, blobs[at]) for at in places]
        except _BROKEN:
            continue
        for at, done in zip(places, box.put(puts), strict=True):
            there[at] = done
    return there


def _put(path: str, blob: Small) -> Put:
    headers = {"x-ms-blob-type": "BlockBlob", "x-ms-version": _VERSION, "content-type": "application/octet-stream"}
    return Put(f"{path}/{quote(blob.name, safe='~/')}?{blob.url.partition('?')[2]}", {**blob.headers, **headers}, blob.content)


class _Box:
    """A container, as all threads see it."""

    def __init__(self, host: Http, path: str) -> None:
        self.path = path
        self._host = host
        self._together = False
        """The storage takes several at once."""

    def put(self, puts: Sequence[Put]) -> Iterator[bool]:
        """Upload; for each, whether it is there now."""
        # The first answer says whether the storage takes several at once.
        first = 0 if self._together else 1
        for group in (*([one] for one in puts[:first]), *_groups(puts[first:])):
            sent = self._with_others(group) if self._together and len(group) > 1 else None
            yield from sent if sent is not None else map(self._alone, group)

    def _with_others(self, puts: list[Put]) -> list[bool] | None:
        """Upload in one request; None when that cannot be."""
        signature = puts[0].target.partition("?")[2]
        headers = {"host": self._host.name, "x-ms-version": _VERSION, "content-type": "application/x-msgpack"}
        target = f"{self.path}?restype=container&comp={COMP}&{signature}"
        try:
            answer = self._host.send("POST", target, headers, msgspec.msgpack.encode(puts))
            statuses = msgspec.msgpack.decode(answer.body, type=list[int]) if answer.status == _OK else []
        except _BROKEN:
            statuses = []
        if len(statuses) == len(puts):
            return [status == _CREATED for status in statuses]
        self._together = False  # an older server took its place, or the first one's SAS opens nothing
        return None

    def _alone(self, one: Put) -> bool:
        try:
            answer = self._host.send("PUT", one.target, {"host": self._host.name, **one.headers}, one.content)
        except _BROKEN:
            return False
        self._together = self._together or HEADER in answer.headers
        return answer.status == _CREATED


def _groups(puts: Iterable[Put]) -> Iterator[list[Put]]:
    """What goes into one request each, in order."""
    group: list[Put] = []
    size = 0
    for one in puts:
        large = len(one.content) > LARGEST
        if group and (large or len(group) >= MOST or size + len(one.content) > MOST_BYTES):
            yield group
            group, size = [], 0
        group.append(one)
        size += len(one.content)
        if large:
            yield group
            group, size = [], 0
    if group:
        yield group


@lru_cache(maxsize=32)
def _box(scheme: str, name: str, path: str) -> _Box:
    return _Box(_host(scheme, name), path)


@lru_cache(maxsize=32)
def _host(scheme: str, name: str) -> Http:
    """A storage server, with connections that all threads share. Raises Unheard when that is none."""
    if scheme != "https":
        return Http(f"{scheme}://{name}")
    import httpx  # large; it knows which authorities are the usual ones

    return Http(f"{scheme}://{name}", httpx.create_ssl_context())
