"""The blobs of a container, listed and downloaded through a signed URL; small requests over kept connections, from several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit
from zlib import crc32

from batchyard.cli.http import Answer, Http, Unreachable
from batchyard.cli.problem import Problem

PART = 8 << 20
"""Bytes that are downloaded at a time."""
_VERSION = "2021-12-02"


class Blob(NamedTuple):
    """A blob of a list."""

    name: str
    size: int
    etag: str
    modified: float
    """Seconds since 1970."""


class Box:
    """A container. Raises Problem where the storage refuses or is away."""

    def __init__(self, url: str, signature: str) -> None:
        self._path, self._signature = urlsplit(url).path, signature
        self._http = Http(url)

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


def download(blob: Blob, target: Path, read: Callable[[int, int], bytes]) -> bool:
    """Write a blob to a file, from where an earlier try stopped; False when it is there already. Raises Problem, OSError."""
    if _same(blob, target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{blob.etag[-16:]}.part")  # another content has another name
    with part.open("ab") as file:
        while (start := file.tell()) < blob.size:
            data = read(start, min(PART, blob.size - start))
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
