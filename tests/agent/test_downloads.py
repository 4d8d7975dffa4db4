"""Downloads that are cut off, changed and damaged on their way, from the storage endpoint and from plain web servers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from azure.storage.blob import ContentSettings
from azure.storage.extensions import checksums
from storage_world import Container

from batchyard.agent.transfer import storage
from batchyard.agent.transfer.failures import Failed
from batchyard.agent.transfer.staging import Staging
from batchyard.model.common import ResourceFile

MB = 1 << 20
Stage = Callable[..., Awaitable[None]]


@dataclass
class Wire:
    """Stands before a server and cuts what it sends: each connection after the next number of bytes in `cuts`, then none any more."""

    behind: tuple[str, int]
    port: int = 0
    cuts: list[int] = field(default_factory=list)
    on_cut: Callable[[], object] = lambda: None
    heads: list[str] = field(default_factory=list)
    """What was asked, headers in lower case."""
    open: list[socket.socket] = field(default_factory=list)

    def url(self, url: str) -> str:
        return url.replace(urlsplit(url).netloc, f"127.0.0.1:{self.port}", 1)

    def asked(self, header: str) -> list[str]:
        return re.findall(rf"^{header}: (.*?)\r?$", "\n".join(self.heads), re.MULTILINE)

    def carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.behind) as server:
            self.open.append(client)
            back = threading.Thread(target=self.answer, args=(client, server))
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(MB):
                    self.heads.append(data.decode("latin-1").lower())
                    server.sendall(data)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)
            back.join()

    def answer(self, client: socket.socket, server: socket.socket) -> None:
        left = self.cuts.pop(0) if self.cuts else None
        with contextlib.suppress(OSError):
            while data := server.recv(64 << 10):
                client.sendall(data if left is None else data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    self.on_cut()
                    break
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def wire_to(url: str) -> Iterator[Wire]:
    parts = urlsplit(url)
    made = Wire((parts.hostname or "", parts.port or 0))
    listener = socket.create_server(("127.0.0.1", 0))
    made.port = listener.getsockname()[1]
    carriers: list[threading.Thread] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                carriers.append(threading.Thread(target=made.carry, args=(listener.accept()[0],)))
                carriers[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield made
    finally:
        for client in made.open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for carrier in carriers:
            carrier.join()


@pytest.fixture
def wire(endpoint: str) -> Iterator[Wire]:
    with wire_to(endpoint) as made:
        yield made


@pytest.fixture
def working(place: Path) -> Path:
    (place / "wd").mkdir()
    return place / "wd"


@pytest.fixture
def stage(working: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(storage, "PAUSES_S", (0.01, 0.01))
    with ThreadPoolExecutor(8) as threads:

        async def stage(*files: dict[str, Any]) -> None:
            await Staging(str(working), -1, threads).all(msgspec.convert(list(files), list[ResourceFile]))

        yield stage


@dataclass
class Site:
    """A web server with one file, of which it tells as much as a test wants."""

    url: str = ""
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    parts: bool = True
    asked: list[str | None] = field(default_factory=list)
    """The range of each request."""


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["range"]
            found.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and found.parts else 0
            if start and self.headers["if-match"] != found.headers.get("ETag"):
                self.send_response(412)
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(found.content) - 1}/{len(found.content)}")
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.content) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(found.content[start:])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}/file?sig=SECRET"
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


async def test_a_blob_that_is_cut_off_goes_on_where_it_was(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    content = os.urandom(8 * MB)
    etag = container.client.upload_blob("large", content).get_blob_properties().etag
    wire.cuts = [2 * MB, 3 * MB]
    await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert (working / "large").read_bytes() == content
    starts = [int(each.removeprefix("bytes=").removesuffix("-")) for each in wire.asked("range")]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1]
    assert wire.asked("if-match") == [etag.lower()] * 2
    assert os.listdir(working) == ["large"]


async def test_who_gets_on_is_not_given_up(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    content = os.urandom(20 * MB)
    container.client.upload_blob("large", content)
    wire.cuts = [3 * MB] * 6
    await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert (working / "large").read_bytes() == content
    assert not wire.cuts


async def test_a_blob_that_changes_midway_begins_anew(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    old, new = b"o" * 8 * MB, b"n" * 6 * MB
    container.client.upload_blob("large", old)
    wire.cuts, wire.on_cut = [3 * MB], lambda: container.client.upload_blob("large", new, overwrite=True)
    await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert (working / "large").read_bytes() == new


async def test_a_blob_that_goes_midway_is_told_as_such(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    container.client.upload_blob("large", b"o" * 8 * MB)
    wire.cuts, wire.on_cut = [3 * MB], lambda: container.client.delete_blob("large")
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert caught.value.info.code == "BlobNotFound"
    assert os.listdir(working) == []


async def test_a_blob_that_is_not_what_its_md5_says_is_refused(stage: Stage, container: Container, working: Path) -> None:
    blob = container.client.upload_blob("a", b"content")
    blob.set_http_headers(ContentSettings(content_md5=bytearray(hashlib.md5(b"another").digest())))
    with pytest.raises(Failed) as caught:
        await stage({"storageContainerUrl": container.sas("rl")})
    assert (caught.value.info.code, caught.value.info.category) == ("BlobDownloadMiscError", "servererror")
    assert "MD5" in caught.value.info.message
    assert os.listdir(working) == []


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
async def test_a_web_server_that_cannot_name_versions_is_asked_for_the_whole_again(
    etag: str, stage: Stage, site: Site, working: Path
) -> None:
    site.content, site.headers = os.urandom(4 * MB), {"ETag": etag} if etag else {}
    with wire_to(site.url) as wire:
        wire.cuts = [2 * MB]
        await stage({"httpUrl": wire.url(site.url), "filePath": "file"})
    assert (working / "file").read_bytes() == site.content
    assert site.asked == [None, None]


@pytest.mark.parametrize("parts", [True, False])
async def test_a_web_server_with_versions_is_asked_for_the_rest(parts: bool, stage: Stage, site: Site, working: Path) -> None:
    site.content, site.parts = os.urandom(4 * MB), parts
    site.headers = {"ETag": '"one"', "Content-MD5": md5(site.content)}
    with wire_to(site.url) as wire:
        wire.cuts = [2 * MB]
        await stage({"httpUrl": wire.url(site.url), "filePath": "file"})
    assert (working / "file").read_bytes() == site.content
    assert site.asked[0] is None
    assert re.fullmatch(r"bytes=\d+-", site.asked[1] or "")


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("Content-MD5", md5(b"content"), True),
        ("Content-MD5", md5(b"another"), False),
        ("Content-MD5", "no checksum", True),
        ("x-ms-content-crc64", base64.b64encode(checksums.crc64.compute(b"content", 0).to_bytes(8, "little")).decode(), True),
        ("x-ms-content-crc64", base64.b64encode(bytes(8)).decode(), False),
    ],
)
async def test_a_checksum_has_to_hold_where_the_server_gives_one(
    name: str, value: str, *, taken: bool, stage: Stage, site: Site, working: Path
) -> None:
    site.content, site.headers = b"content", {name: value}
    if taken:
        await stage({"httpUrl": site.url, "filePath": "file"})
        assert (working / "file").read_bytes() == b"content"
        return
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": site.url, "filePath": "file"})
    assert caught.value.info.code == "BlobDownloadMiscError"
    assert "SECRET" not in msgspec.json.encode(caught.value.info).decode()
    assert len(site.asked) == 3  # it may have been damaged on its way
    assert os.listdir(working) == []


async def test_content_comes_as_it_is_stored(stage: Stage, site: Site, working: Path) -> None:
    site.content, site.headers = b"\x1f\x8b no gzip", {"Content-Encoding": "gzip"}
    await stage({"httpUrl": site.url, "filePath": "file"})
    assert (working / "file").read_bytes() == site.content


async def test_a_container_of_many_pages_comes_as_a_whole(
    stage: Stage, wire: Wire, container: Container, working: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "NAMES", 7)
    wanted = {f"d{n % 3}/{n:02} %#ä.txt" for n in range(40)}
    for name in wanted:
        container.client.upload_blob(name, name.encode())
    await stage({"storageContainerUrl": wire.url(container.sas("rl")), "filePath": "in"})
    assert {str(path.relative_to(working / "in")): path.read_text() for path in working.rglob("*.txt")} == {name: name for name in wanted}
    assert sum("comp=list" in head for head in wire.heads) == 6


async def test_no_more_than_a_page_of_a_container_is_held_in_memory(
    stage: Stage, container: Container, working: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "NAMES", 20)
    for n in range(120):
        container.client.upload_blob(f"{n:04}", b"x")
    most, blob_url = 0, storage.blob_url

    def counted(url: str, name: str) -> str:
        nonlocal most
        most = max(most, int(name) - len(os.listdir(working)))
        return blob_url(url, name)

    monkeypatch.setattr(storage, "blob_url", counted)
    await stage({"storageContainerUrl": container.sas("rl")})
    assert len(os.listdir(working)) == 120
    assert most <= 20
