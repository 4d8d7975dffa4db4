"""Copies from other servers: with progress and abort, after a crash, and what the server may not be made to fetch."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, ContainerClient
from tests.blobs.conftest import Clock, Endpoint, serve
from tests.blobs.test_sdk import code_of

from batchyard.blobs.base import BlobDraft, BlobError, BlobRef, Conditions, Copied, Extras
from batchyard.blobs.edge.fetches import Fetches
from batchyard.blobs.edge.foreign import Foreign, may_reach, networks
from batchyard.blobs.store.local import LocalBlobStore

HERE = networks(["127.0.0.0/8"])
CONTENT = bytes(range(256)) * 8000
_numbers = itertools.count()


@dataclass
class Elsewhere:
    """A server of files: what it is asked, and a gate at which the content waits."""

    port: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    waiting: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    there = Elsewhere()

    class Files(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

        def do_GET(self) -> None:
            there.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            answers: dict[str, Callable[[], None]] = {
                "/redirect": lambda: self._told(302, {"location": "/file"}),
                "/loop": lambda: self._told(302, {"location": "/loop"}),
                "/inside": lambda: self._told(302, {"location": "http://169.254.169.254/latest"}),
                "/missing": lambda: self._told(404, {}),
                "/endless": lambda: self._told(200, {}, close=True),
                "/short": lambda: self._content(CONTENT[:-1]),
                "/slow": lambda: self._content(CONTENT, wait=True),
            }
            answers.get(self.path.partition("?")[0], lambda: self._content(CONTENT))()

        def _told(self, status: int, headers: dict[str, str], *, close: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if not close:
                self.send_header("content-length", "0")
            self.end_headers()

        def _content(self, content: bytes, *, wait: bool = False) -> None:
            tag, wanted = '"one"', self.headers.get("if-match")
            if wanted not in (None, tag):
                self._told(412, {})
                return
            span = self.headers.get("range")
            begin, end = (0, len(CONTENT) - 1) if span is None else map(int, span.removeprefix("bytes=").split("-"))
            self.send_response(200 if span is None else 206)
            self.send_header("content-length", str(end - begin + 1))
            self.send_header("etag", tag)
            self.send_header("content-type", "text/x")
            self.send_header("x-ms-meta-from", "there")
            self.end_headers()
            try:
                self.wfile.write(content[begin : begin + 1000])
                self.wfile.flush()
                if wait:
                    there.waiting.set()
                    there.gate.wait(30)
                self.wfile.write(content[begin + 1000 : end + 1])
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    there.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield there
    there.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class Fetching:
    """An endpoint that may reach this machine, and who fetches for it."""

    endpoint: Endpoint
    fetches: Fetches

    def container(self) -> ContainerClient:
        return self.endpoint.client().create_container(f"box-{next(_numbers)}")


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetching]:
    store, clock = LocalBlobStore(tmp_path_factory.mktemp("fetch") / "store"), Clock()
    fetches = Fetches(store, Foreign(HERE), clock)
    for endpoint in serve(store, clock, fetches=fetches):
        yield Fetching(endpoint, fetches)
        fetches.close()


def refused(call: Callable[[], object]) -> tuple[int | None, str]:
    with pytest.raises(HttpResponseError) as caught:
        call()
    return caught.value.status_code, code_of(caught.value)


def test_a_copy_arrives_behind_the_answer(fetching: Fetching, elsewhere: Elsewhere) -> None:
    box = fetching.container()
    blob = box.get_blob_client("a")
    told = blob.start_copy_from_url(elsewhere.url("/slow?sig=secret"))
    assert told["copy_status"] == "pending"
    assert elsewhere.waiting.wait(30)
    seen = blob.get_blob_properties()
    assert (seen.size, seen.copy.status, seen.copy.id) == (0, "pending", told["copy_id"])
    assert seen.copy.progress.endswith(f"/{len(CONTENT)}")
    assert seen.copy.source == elsewhere.url("/slow"), "nobody reads a signature there"
    for write in (
        lambda: blob.upload_blob(b"x", overwrite=True),
        lambda: blob.set_blob_metadata({}),
        lambda: blob.delete_blob(),
        lambda: blob.start_copy_from_url(elsewhere.url("/file")),
    ):
        assert refused(write) == (409, "PendingCopyOperation")
    elsewhere.gate.set()
    assert fetching.fetches.wait(30)
    seen = blob.get_blob_properties()
    assert (seen.copy.status, seen.copy.progress) == ("success", f"{len(CONTENT)}/{len(CONTENT)}")
    assert (seen.content_settings.content_type, seen.metadata, seen.copy.completion_time is not None) == ("text/x", {"from": "there"}, True)
    assert blob.download_blob().readall() == CONTENT
    assert elsewhere.asked[-1][1]["accept-encoding"] == "identity"
    blob.upload_blob(b"x", overwrite=True)


def test_abort(fetching: Fetching, elsewhere: Elsewhere) -> None:
    blob = fetching.container().get_blob_client("a")
    blob.upload_blob(b"before")
    told = blob.start_copy_from_url(elsewhere.url("/slow"), metadata={"own": "1"})
    assert refused(lambda: blob.abort_copy("00000000-0000-0000-0000-000000000000")) == (409, "CopyIdMismatch")
    blob.abort_copy(told["copy_id"])
    seen = blob.get_blob_properties()
    assert (seen.size, seen.copy.status, seen.metadata) == (0, "aborted", {"own": "1"})
    assert refused(lambda: blob.abort_copy(told["copy_id"])) == (409, "NoPendingCopyOperation")
    elsewhere.gate.set()
    assert fetching.fetches.wait(30)
    assert (blob.get_blob_properties().copy.status, blob.get_blob_properties().size) == ("aborted", 0)
    blob.delete_blob()


def test_copies_before_the_answer(fetching: Fetching, elsewhere: Elsewhere) -> None:
    box = fetching.container()
    blob = box.get_blob_client("a")
    blob.upload_blob_from_url(elsewhere.url("/redirect"), metadata={"own": "1"})
    assert (blob.download_blob().readall(), blob.get_blob_properties().metadata) == (CONTENT, {"own": "1"})
    sync = box.get_blob_client("sync")
    assert sync.start_copy_from_url(elsewhere.url("/file"), requires_sync=True)["copy_status"] == "success"
    assert sync.download_blob().readall() == CONTENT
    blocks = box.get_blob_client("blocks")
    blocks.stage_block_from_url("YQ==", elsewhere.url("/file"), source_offset=10, source_length=50)
    blocks.commit_block_list(["YQ=="])
    assert blocks.download_blob().readall() == CONTENT[10:60]
    log = box.get_blob_client("log")
    log.create_append_blob()
    log.append_block_from_url(elsewhere.url("/file"), source_offset=0, source_length=9)
    assert log.download_blob().readall() == CONTENT[:9]
    disk = box.get_blob_client("disk")
    disk.create_page_blob(1024)
    disk.upload_pages_from_url(elsewhere.url("/file"), offset=512, length=512, source_offset=512)
    assert disk.download_blob().readall() == bytes(512) + CONTENT[512:1024]


@pytest.mark.parametrize(("path", "status"), [("/missing", 404), ("/loop", 400), ("/inside", 400), ("/endless", 400), ("/short", 400)])
def test_sources_that_do_not_bring_what_they_should(fetching: Fetching, elsewhere: Elsewhere, path: str, status: int) -> None:
    blob = fetching.container().get_blob_client("a")
    assert refused(lambda: blob.upload_blob_from_url(elsewhere.url(path))) == (status, "CannotVerifyCopySource")
    assert not blob.exists()
    assert refused(lambda: blob.stage_block_from_url("YQ==", elsewhere.url(path))) == (status, "CannotVerifyCopySource")


def test_conditions_go_to_the_source(fetching: Fetching, elsewhere: Elsewhere) -> None:
    box = fetching.container()
    for wanted, status in (('"other"', 412), ('"one"', 201)):
        answer = fetching.endpoint.send(
            "PUT",
            f"/{box.container_name}/a",
            x_ms_blob_type="BlockBlob",
            x_ms_copy_source=elsewhere.url("/file"),
            x_ms_source_if_match=wanted,
        )
        assert answer.status_code == status, answer.text


def test_what_the_operator_does_not_allow_is_not_reached(tmp_path: Path, elsewhere: Elsewhere) -> None:
    store, clock = LocalBlobStore(tmp_path / "store"), Clock()
    for endpoint in serve(store, clock, fetches=Fetches(store, Foreign(), clock)):
        box = endpoint.client().create_container("box")
        blob = box.get_blob_client("a")
        urls = [
            elsewhere.url("/file"),
            elsewhere.url("/file").replace("127.0.0.1", "127.1.2.3"),
            f"http://localhost:{elsewhere.port}/file",
            f"http://[::ffff:127.0.0.1]:{elsewhere.port}/file",
            f"http://0.0.0.0:{elsewhere.port}/file",
            f"http://2130706433:{elsewhere.port}/file",
        ]
        for url in urls:
            for call in (blob.start_copy_from_url, blob.upload_blob_from_url, lambda url, to=blob: to.stage_block_from_url("YQ==", url)):
                assert refused(lambda call=call, url=url: call(url)) == (400, "CannotVerifyCopySource"), url
        for url in ("ftp://example.com/x", "http://user:word@example.com/x", "file:///etc/passwd", "http:///x", "gopher://x"):
            assert refused(lambda url=url, to=blob: to.start_copy_from_url(url)) == (400, "InvalidHeaderValue"), url
        assert not blob.exists()
    assert elsewhere.asked == []


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("127.0.0.1", False), ("10.0.0.1", False), ("192.168.1.1", False), ("172.16.0.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:10.0.0.1", False), ("64:ff9b::a9fe:a9fe", False), ("2002:7f00:1::", False),
        ("ff02::1", False), ("8.8.8.8", True), ("2606:4700::1111", True),
    ],
)  # fmt: skip
def test_addresses(address: str, may: bool) -> None:
    assert may_reach(address, ()) is may
    assert may_reach(address, networks(["0.0.0.0/0", "::/0"]))


def test_a_copy_whose_server_ended_goes_on_with_the_next(tmp_path: Path, elsewhere: Elsewhere) -> None:
    clock = Clock()
    store = LocalBlobStore(tmp_path / "store")
    fetches = Fetches(store, Foreign(HERE), clock)
    for endpoint in serve(store, clock, fetches=fetches):
        blob = endpoint.client().create_container("box").get_blob_client("a")
        assert blob.start_copy_from_url(elsewhere.url("/slow"))["copy_status"] == "pending"
        assert elsewhere.waiting.wait(30)
        fetches.close()
    elsewhere.gate.set()
    assert fetches.wait(30)
    again = LocalBlobStore(tmp_path / "store")
    later = Fetches(again, Foreign(HERE), clock)
    for endpoint in serve(again, clock, fetches=later):
        blob = BlobClient(endpoint.url, "box", "a", credential=endpoint.client().credential)
        assert blob.get_blob_properties().copy.status == "pending"
        later.resume()
        assert later.wait(30)
        assert blob.download_blob().readall() == CONTENT
        assert blob.get_blob_properties().copy.status == "success"
        assert again._files.sweep(again._known_files) == 0
        later.close()


def test_a_source_that_changed_meanwhile_fails_the_copy(fetching: Fetching, elsewhere: Elsewhere) -> None:
    box = fetching.container()
    blob = box.get_blob_client("a")
    blob.upload_blob(b"")
    store = fetching.endpoint.store
    draft = BlobDraft(extras=Extras(copied=Copied("copy-1", elsewhere.url("/file"), "pending", "0/1")))
    ref = BlobRef(fetching.endpoint.account, box.container_name, "a")
    store.begin_fetch(ref, draft, (elsewhere.url("/file"), "older"), Conditions(now_us=1), 10)
    fetching.fetches.begin("copy-1")
    assert fetching.fetches.wait(30)
    seen = blob.get_blob_properties().copy
    assert (seen.status, seen.status_description is not None) == ("failed", True)
    assert store.fetches() == []
    blob.upload_blob(b"x", overwrite=True)


def test_too_many_copies_at_once_are_sent_away(fetching: Fetching) -> None:
    box = fetching.container()
    store = fetching.endpoint.store
    for number, most in ((1, 1), (2, 1)):
        draft = BlobDraft(extras=Extras(copied=Copied(f"many-{number}", "http://x/", "pending", "0/1")))
        ref = BlobRef(fetching.endpoint.account, box.container_name, str(number))
        if number == 1:
            store.begin_fetch(ref, draft, ("http://x/", ""), Conditions(now_us=1), most)
        else:
            with pytest.raises(BlobError) as caught:
                store.begin_fetch(ref, draft, ("http://x/", ""), Conditions(now_us=1), most)
            assert caught.value.code == "ServerBusy"
    assert store.end_fetch("many-1", "aborted", "", 2)


def test_what_there_is_no_room_for_is_not_begun(tmp_path: Path, elsewhere: Elsewhere) -> None:
    store, clock = LocalBlobStore(tmp_path / "store"), Clock()
    fetches = Fetches(store, Foreign(HERE), clock, lambda size: "full" if size >= len(CONTENT) else None)
    for endpoint in serve(store, clock, fetches=fetches):
        blob = endpoint.client().create_container("box").get_blob_client("a")
        for call in (blob.start_copy_from_url, blob.upload_blob_from_url):
            assert refused(lambda call=call: call(elsewhere.url("/file"))) == (503, "ServerBusy")
        assert not blob.exists()
        blob.stage_block_from_url("YQ==", elsewhere.url("/file"), source_offset=0, source_length=10)
