"""Page blobs by the unmodified SDK over HTTP: holes, overlapping writes, conditions, snapshots and what changed since."""

from __future__ import annotations

import random
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, BlobType, ContainerClient, SequenceNumberAction
from tests.blobs.test_sdk import code_of
from tests.blobs.test_store import tidy

from batchyard.blobs.store.files import INLINE_BYTES
from batchyard.blobs.store.local import LocalBlobStore

PAGE = 512
MIB = 1 << 20


@pytest.fixture
def pages(container: ContainerClient) -> BlobClient:
    blob = container.get_blob_client("disk.vhd")
    blob.create_page_blob(MIB, metadata={"k": "v"})
    return blob


def refused(call: Any) -> tuple[int | None, str]:
    with pytest.raises(HttpResponseError) as caught:
        call()
    return caught.value.status_code, code_of(caught.value)


def ranges(blob: BlobClient, **more: Any) -> list[tuple[int, int, bool]]:
    return [(one.start, one.end, one.cleared) for one in blob.list_page_ranges(**more)]


def test_a_new_page_blob_is_zeros(pages: BlobClient) -> None:
    found = pages.get_blob_properties()
    assert (found.size, found.blob_type, found.page_blob_sequence_number, found.metadata) == (MIB, BlobType.PAGEBLOB, 0, {"k": "v"})
    assert pages.download_blob().readall() == bytes(MIB)
    assert ranges(pages) == []


def test_writes_and_clears_anywhere(endpoint: Any, pages: BlobClient) -> None:
    """A blob and a bytearray live through the same changes."""
    chance, model = random.Random(7), bytearray(MIB)
    for number in range(60):
        begin = chance.randrange(0, MIB // PAGE) * PAGE
        size = min(chance.choice([1, 3, INLINE_BYTES // PAGE, INLINE_BYTES // PAGE + 1, 300]) * PAGE, MIB - begin)
        if chance.random() < 0.3:
            pages.clear_page(offset=begin, length=size)
            model[begin : begin + size] = bytes(size)
        else:
            content = bytes([number + 1]) * size
            pages.upload_page(content, offset=begin, length=size)
            model[begin : begin + size] = content
    assert pages.download_blob().readall() == model
    assert pages.download_blob(offset=1000, length=70_000).readall() == model[1000:71_000]
    written = bytearray(MIB)
    for start, end, cleared in ranges(pages):
        assert not cleared
        written[start : end + 1] = b"\1" * (end + 1 - start)
    assert all(bool(written[at]) or not model[at] for at in range(0, MIB, PAGE))
    assert all(bool(model[at]) or not written[at] for at in range(0, MIB, PAGE))
    store: LocalBlobStore = endpoint.store
    assert store.check() == 0
    pages.clear_page(offset=0, length=MIB)
    assert ranges(pages) == []
    assert pages.download_blob().readall() == bytes(MIB)


def test_upload_of_a_whole_blob(container: ContainerClient) -> None:
    content = bytes(PAGE * 3) + b"x" * PAGE + bytes(5 * MIB)
    blob = container.get_blob_client("whole")
    blob.upload_blob(content, blob_type="PageBlob")
    assert blob.download_blob().readall() == content
    assert container.list_blobs().next().blob_type == BlobType.PAGEBLOB


def test_lists_of_ranges_in_parts(pages: BlobClient) -> None:
    for number in (1, 3, 5, 6):
        pages.upload_page(b"a" * PAGE, offset=number * PAGE, length=PAGE)
    whole = [(512, 1023, False), (1536, 2047, False), (2560, 3583, False)]
    assert ranges(pages) == whole
    assert ranges(pages, results_per_page=1) == whole
    assert ranges(pages, offset=1536, length=1536) == [(1536, 2047, False), (2560, 3071, False)]


def test_size_and_sequence_number(pages: BlobClient) -> None:
    pages.upload_page(b"a" * MIB, offset=0, length=MIB)
    pages.resize_blob(2 * PAGE)
    assert pages.download_blob().readall() == b"a" * 2 * PAGE
    pages.resize_blob(4 * PAGE)
    assert pages.download_blob().readall() == b"a" * 2 * PAGE + bytes(2 * PAGE)
    assert pages.set_sequence_number(SequenceNumberAction.Update, "7")["blob_sequence_number"] == 7
    assert pages.set_sequence_number(SequenceNumberAction.Max, "5")["blob_sequence_number"] == 7
    assert pages.set_sequence_number(SequenceNumberAction.Increment)["blob_sequence_number"] == 8
    page: dict[str, Any] = {"page": b"b" * PAGE, "offset": 0, "length": PAGE}
    for wrong in ({"if_sequence_number_lte": 7}, {"if_sequence_number_lt": 8}, {"if_sequence_number_eq": 9}):
        assert refused(lambda wrong=wrong: pages.upload_page(**page, **wrong)) == (412, "SequenceNumberConditionNotMet")
        assert refused(lambda wrong=wrong: pages.clear_page(0, PAGE, **wrong)) == (412, "SequenceNumberConditionNotMet")
    assert pages.download_blob(0, PAGE).readall() == b"a" * PAGE
    pages.upload_page(**page, if_sequence_number_lte=8, if_sequence_number_lt=9, if_sequence_number_eq=8)
    assert pages.download_blob(0, PAGE).readall() == b"b" * PAGE
    pages.set_http_headers(None)
    assert pages.get_blob_properties().page_blob_sequence_number == 8


def test_what_does_not_fit_changes_nothing(endpoint: Any, container: ContainerClient, pages: BlobClient) -> None:
    before = pages.get_blob_properties().etag
    path = f"/{container.container_name}/disk.vhd?comp=page"

    def put(body: bytes, span: str, write: str = "update", **more: str) -> tuple[int, str]:
        answer = endpoint.send("PUT", path, body, x_ms_range=span, x_ms_page_write=write, **more)
        return answer.status_code, answer.headers.get("x-ms-error-code", "")

    assert put(b"a" * PAGE, f"bytes={MIB}-{MIB + 511}") == (416, "InvalidPageRange")
    assert put(b"a" * 100, "bytes=0-99") == (416, "InvalidPageRange")
    assert put(b"a" * PAGE, "bytes=1-512") == (416, "InvalidPageRange")
    assert put(b"a" * PAGE, "bytes=0-1023") == (400, "InvalidHeaderValue")
    assert put(b"a" * PAGE, "bytes=0-511", "erase") == (400, "InvalidHeaderValue")
    assert put(b"a" * PAGE, "bytes=0-511", "clear") == (400, "InvalidHeaderValue")
    assert put(b"", f"bytes=0-{5 * MIB - 1}") == (413, "RequestBodyTooLarge")
    assert put(b"a" * PAGE, "bytes=0-511", content_md5="AAAAAAAAAAAAAAAAAAAAAA==") == (400, "Md5Mismatch")
    assert put(b"a" * PAGE, "bytes=0-511", if_match='"0x1"') == (412, "ConditionNotMet")
    assert refused(lambda: pages.resize_blob(100)) == (400, "InvalidHeaderValue")
    assert refused(lambda: container.get_blob_client("odd").create_page_blob(513)) == (400, "InvalidHeaderValue")
    assert refused(lambda: pages.stage_block("YQ==", b"x")) == (409, "InvalidBlobType")
    assert refused(lambda: pages.append_block(b"x")) == (409, "InvalidBlobType")
    block = container.upload_blob("block", b"x")
    assert refused(lambda: block.upload_page(b"a" * PAGE, 0, PAGE)) == (409, "InvalidBlobType")
    assert refused(lambda: block.resize_blob(PAGE)) == (409, "InvalidBlobType")
    assert refused(lambda: list(block.list_page_ranges())) == (409, "InvalidBlobType")
    assert (pages.get_blob_properties().etag, ranges(pages)) == (before, [])


def test_a_snapshot_stays_and_tells_what_changed(pages: BlobClient, container: ContainerClient) -> None:
    big = INLINE_BYTES * 2
    pages.upload_page(b"a" * big, offset=0, length=big)
    pages.upload_page(b"b" * PAGE, offset=big, length=PAGE)
    pages.upload_page(b"c" * PAGE, offset=big + 2 * PAGE, length=PAGE)
    first = pages.create_snapshot()["snapshot"]
    assert ranges(pages, previous_snapshot=first) == []
    pages.upload_page(b"d" * PAGE, offset=PAGE, length=PAGE)
    pages.clear_page(offset=big, length=PAGE)
    pages.upload_page(b"e" * PAGE, offset=big + 5 * PAGE, length=PAGE)
    assert ranges(pages, previous_snapshot=first) == [
        (PAGE, 2 * PAGE - 1, False),
        (big, big + PAGE - 1, True),
        (big + 5 * PAGE, big + 6 * PAGE - 1, False),
    ]
    kept = container.get_blob_client("disk.vhd", snapshot=first)
    assert kept.download_blob(0, big + 3 * PAGE).readall() == b"a" * big + b"b" * PAGE + bytes(PAGE) + b"c" * PAGE
    second = pages.create_snapshot()["snapshot"]
    assert len(ranges(container.get_blob_client("disk.vhd", snapshot=second), previous_snapshot=first)) == 3
    with pytest.raises(HttpResponseError) as none:
        ranges(pages, previous_snapshot="2020-01-01T00:00:00.0000000Z")
    assert code_of(none.value) == "PreviousSnapshotNotFound"
    pages.delete_blob(delete_snapshots="include")


def test_copies_and_pages_from_urls(container: ContainerClient, pages: BlobClient) -> None:
    pages.upload_page(b"a" * INLINE_BYTES * 2, offset=0, length=INLINE_BYTES * 2)
    pages.upload_page(b"b" * PAGE, offset=PAGE, length=PAGE)
    pages.set_sequence_number(SequenceNumberAction.Update, "3")
    content = pages.download_blob().readall()
    copy = container.get_blob_client("copy")
    assert copy.start_copy_from_url(pages.url)["copy_status"] == "success"
    pages.delete_blob()
    assert copy.download_blob().readall() == content
    assert copy.get_blob_properties().page_blob_sequence_number == 3
    other = container.get_blob_client("other")
    other.create_page_blob(4 * PAGE)
    other.upload_pages_from_url(copy.url, offset=PAGE, length=2 * PAGE, source_offset=0)
    assert other.download_blob().readall() == bytes(PAGE) + content[: 2 * PAGE] + bytes(PAGE)
    with pytest.raises(HttpResponseError):
        other.upload_pages_from_url(copy.url, offset=0, length=2 * PAGE, source_offset=MIB - PAGE)


def test_files_of_pages_go_when_nothing_is_left_of_them(endpoint: Any, container: ContainerClient) -> None:
    store: LocalBlobStore = endpoint.store
    while store.purge(1000):
        pass
    tidy(store)
    before = _files(store)
    blob = container.get_blob_client("files")
    blob.create_page_blob(MIB)
    blob.upload_page(b"a" * MIB, offset=0, length=MIB)
    blob.upload_page(b"b" * PAGE, offset=PAGE * 10, length=PAGE)
    tidy(store)
    assert _files(store) == before + 1
    blob.clear_page(offset=0, length=MIB)
    tidy(store)
    assert _files(store) == before
    blob.upload_page(b"a" * MIB, offset=0, length=MIB)
    blob.upload_page(b"b" * PAGE, offset=PAGE * 10, length=PAGE)
    blob.delete_blob()
    tidy(store)
    assert _files(store) == before


def _files(store: LocalBlobStore) -> int:
    return sum(1 for found in store._files.path("00").parent.parent.rglob("*") if found.is_file())
