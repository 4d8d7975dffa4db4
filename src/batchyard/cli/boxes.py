"""The blobs of a container, listed and downloaded through a signed URL; small requests over kept connections, from several threads.

Of a server's own storage small ones come with the list, for many prefixes in one answer.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit
from zlib import crc32

import msgspec

from batchyard.agent.http import Answer, Http, Unreachable
from batchyard.cli.client import UNKNOWN, Client, Refused
from batchyard.cli.problem import Problem

PART = 8 << 20
"""Bytes that are downloaded at a time."""
_VERSION = "2021-12-02"
_TOGETHER = 100
"""Prefixes that a server is asked for at a time."""


class Blob(NamedTuple):
    """A blob of a list."""

    name: str
    size: int
    etag: str
    modified: float
    """Seconds since 1970."""
    content: bytes | None = None
    """All of it, when it came with the list."""


class _Below(msgspec.Struct):
    """What a server says of a prefix."""

    blobs: list[dict[str, Any]]
    whole: bool


class _Answer(msgspec.Struct):
    value: list[_Below]


class Box:
    """A container. Raises Problem where the storage refuses or is away.

    `batch` is the server whose own storage it may be.
    """

    def __init__(self, url: str, signature: str, batch: Client | None = None) -> None:
        self._path, self._signature = urlsplit(url).path, signature
        self._http = Http(url)
        self._batch = batch if batch is not None and urlsplit(batch.url)[:2] == urlsplit(url)[:2] else None

    def below(self, prefixes: Sequence[str]) -> dict[str, list[Blob]]:
        """The blobs below each prefix."""
        found: dict[str, list[Blob]] = {}
        for at in range(0, len(prefixes), _TOGETHER):
            found |= self._together(prefixes[at : at + _TOGETHER])
        return found | {prefix: list(self.blobs(prefix)) for prefix in prefixes if prefix not in found}

    def _together(self, prefixes: Sequence[str]) -> dict[str, list[Blob]]:
        """The same in one request, as far as the server gives it."""
        if self._batch is None:
            return {}
        try:
            path = ("batchyard", "v1", "storage", *self._path.strip("/").split("/"), "contents")
            answer = msgspec.convert(self._batch.post(*path, body={"prefixes": [*prefixes]}), _Answer)
        except Refused as refused:
            if refused.error not in (*UNKNOWN, "ResourceNotFound"):
                raise
            self._batch = None  # the storage is another, or the server an older one
            return {}
        return {prefix: list(map(_blob, one.blobs)) for prefix, one in zip(prefixes, answer.value, strict=True) if one.whole}

    def is_there(self) -> bool:
        """Whether there is such a container."""
        return self._get(f"{self._path}?restype=container&comp=list&maxresults=1", {}).status != 404

    def blobs(self, prefix: str) -> Iterator[Blob]:
        """The blobs whose name starts so."""
        from xml.etree import ElementTree

        marker: str | None = ""
        while marker is not None:
            query = urlencode({"restype": "container", "comp": "list", "prefix": prefix, "marker": marker})
            answer = self._get(f"{self._path}?{query}", {})
            if answer.status == 404:
                return
            page = ElementTree.fromstring(answer.body)
            for one in page.iter("Blob"):
                stamp = one.findtext("Properties/Last-Modified") or ""
                yield Blob(
                    one.findtext("Name") or "",
                    int(one.findtext("Properties/Content-Length") or 0),
                    (one.findtext("Properties/Etag") or "").strip('"'),
                    parsedate_to_datetime(stamp).timestamp(),
                )
            marker = page.findtext("NextMarker") or None

    def read(self, name: str, start: int, most: int) -> bytes:
        """A part of a blob; nothing when it is gone."""
        answer = self._get(f"{self._path}/{quote(name)}", {"x-ms-range": f"bytes={start}-{start + most - 1}"})
        return b"" if answer.status == 404 else answer.body

    def _get(self, target: str, headers: dict[str, str]) -> Answer:
        both = f"{target}{'&' if '?' in target else '?'}{self._signature}"
        error = ""
        for _ in range(3):
            try:
                answer = self._http.send("GET", both, {"host": self._http.name, "x-ms-version": _VERSION, **headers}, None)
            except Unreachable as unreachable:
                error = str(unreachable)
                continue
            if answer.status < 300 or answer.status == 404:
                return answer
            error = f"HTTP {answer.status} {answer.headers.get('x-ms-error-code', '')}".strip()
        raise Problem(f"the storage account does not give it ({error}); is AZURE_STORAGE_CONNECTION_STRING right?")


def _blob(found: dict[str, Any]) -> Blob:
    content = None if found.get("content") is None else b64decode(found["content"])
    modified = datetime.fromisoformat(found["lastModified"]).timestamp()
    return Blob(found["name"], found["contentLength"], found["eTag"].strip('"'), modified, content)


def download(blob: Blob, target: Path, read: Callable[[int, int], bytes]) -> bool:
    """Write a blob to a file, from where an earlier try stopped; False when it is there already. Raises Problem, OSError."""
    if _same(blob, target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{blob.etag[-16:]}.part")  # another content has another name
    with part.open("ab") as file:
        while (start := file.tell()) < blob.size:
            data = read(start, min(PART, blob.size - start)) if blob.content is None else blob.content[start:]
            if not data:
                raise Problem(f"{blob.name} changed while it was fetched; fetch it again")
            file.write(data)
    os.utime(part, ns=(_stamp(blob), _stamp(blob)))
    part.replace(target)
    return True


def _same(blob: Blob, target: Path) -> bool:
    """The file is that blob, fetched earlier."""
    try:
        seen = target.stat()
    except OSError:
        return False
    return seen.st_size == blob.size and seen.st_mtime_ns == _stamp(blob)


def _stamp(blob: Blob) -> int:
    """The file's time: the blob's in whole seconds, and a number made of its version for the rest, so that another version is told."""
    return int(blob.modified) * 1_000_000_000 + crc32(blob.etag.encode()) % 1_000_000_000


def inside(into: Path, name: str) -> Path:
    """The file below a directory that a blob or a file of a task becomes. Raises Problem when it would be elsewhere."""
    target = (into / name.lstrip("/")).resolve()
    if not target.is_relative_to(into) or target == into:
        raise Problem(f"the output {name!r} would be written outside of {into}")
    return target
