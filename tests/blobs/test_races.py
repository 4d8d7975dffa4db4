"""A read or a copy sees the whole old or the whole new version, however many overwrite the blob meanwhile.

`RACES=1000` lets every writer, reader and copier go as many rounds; the default is for every day.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.storage.blob import ContainerClient, generate_container_sas

from batchyard.blobs.base import ALWAYS, Blob, BlobDraft, BlobRef, ContainerRef
from batchyard.blobs.store import rows
from batchyard.blobs.store.files import INLINE_BYTES
from batchyard.blobs.store.local import LocalBlobStore

ROUNDS = int(os.environ.get("RACES", "25"))
SMALL, LARGE = 100, INLINE_BYTES + 100
"""Sizes of the versions that replace each other: in the catalogue, and in a data file."""
BOX = ContainerRef("account", "box")
NOW = 1_700_000_000_000_000


@dataclass
class Caller:
    """One client with a connection of its own; `number` tells its writes from those of others."""

    connection: http.client.HTTPConnection
    base: str
    token: str
    number: int

    def __call__(self, method: str, blob: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        self.connection.request(
            method, f"{self.base}/{blob}?{self.token}", body, {name.replace("_", "-"): v for name, v in headers.items()}
        )
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def write(self, at: int) -> str | None:
        size = LARGE if (self.number + at) % 2 else SMALL
        status, _ = self("PUT", "hot", bytes([65 + (self.number + at) % 26]) * size, x_ms_blob_type="BlockBlob")
        return None if status == 201 else f"put: {status}"

    def read(self, at: int) -> str | None:
        return _torn("get", *self("GET", "hot"))

    def copy(self, at: int) -> str | None:
        name = f"copy-{self.number}-{at % 5}"
        status, _ = self("PUT", name, x_ms_copy_source=f"http://{self.connection.host}:{self.connection.port}{self.base}/hot?{self.token}")
        return f"copy: {status}" if status != 202 else _torn("copy", *self("GET", name))


def _torn(what: str, status: int, content: bytes) -> str | None:
    """What is wrong with a version that was read: each is one letter, and of one of two sizes."""
    if status != 200:
        return f"{what}: {status} {content[:200]!r}"
    return (
        None if len(content) in (SMALL, LARGE) and len(set(content)) == 1 else f"{what}: {len(content)} bytes of {len(set(content))} kinds"
    )


def test_sixteen_writers_readers_and_copiers_meet_only_whole_versions(endpoint: Any, container: ContainerClient) -> None:
    name = container.container_name
    token = generate_container_sas(endpoint.account, name, endpoint.key, permission="rcw", expiry=datetime.now(UTC) + timedelta(hours=1))
    together = threading.Barrier(16)

    def work(number: int) -> list[str]:
        connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=60)
        caller = Caller(connection, f"/{endpoint.account}/{name}", token, number)
        act: Callable[[int], str | None] = (caller.write, caller.read, caller.copy, caller.write)[number % 4]
        caller.write(0)
        together.wait()
        found = []
        for at in range(ROUNDS):
            try:
                found.append(act(at))
            except (OSError, http.client.HTTPException) as error:
                found.append(f"{act.__name__}: {error!r}")
                connection.close()
        connection.close()
        return [wrong for wrong in found if wrong is not None]

    with ThreadPoolExecutor(16) as threads:
        wrong = [each for found in threads.map(work, range(16)) for each in found]
    assert wrong == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_overwrite_between_the_lookups_of_a_read_changes_nothing(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    store.create_container(BOX, {}, NOW)
    ref = BlobRef(BOX.account, BOX.container, "blob")

    def put(content: bytes) -> Blob:
        upload = store.put(ref, BlobDraft(), ALWAYS)
        upload.write(content)
        return upload.commit(NOW)

    old = put(b"o" * size)
    overwriter = threading.Thread(target=put, args=(b"n" * size,))
    real = rows.as_blob

    def meanwhile(row: Any) -> Blob:
        monkeypatch.setattr(rows, "as_blob", real)
        overwriter.start()
        while store.blob(ref).etag == old.etag:
            pass
        return real(row)

    monkeypatch.setattr(rows, "as_blob", meanwhile)
    reader = store.read(ref, ALWAYS, 0, None)
    assert reader.blob == old
    assert b"".join(iter(lambda: reader.read(1000), b"")) == b"o" * size
    reader.close()
    overwriter.join()
