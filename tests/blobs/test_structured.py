"""Structured messages: the newest SDKs send and read content in segments with their CRC64; what is wrong with one leaves nothing."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from azure.storage.blob import BlobBlock, ContainerClient
from azure.storage.blob._shared.streams import (  # type: ignore[import-untyped, unused-ignore]
    StructuredMessageDecoder,
    StructuredMessageEncodeStream,
    StructuredMessageProperties,
)
from azure.storage.filedatalake import DataLakeServiceClient
from hypothesis import given
from hypothesis import strategies as st
from tests.blobs.conftest import ACCOUNT, KEY

from batchyard.blobs.base import BlobError
from batchyard.blobs.edge.structured import FORM, Unpacker

CONTENT = bytes(range(256)) * 40_000  # more than two segments


def message(content: bytes, segment_bytes: int = 4 << 20) -> bytes:
    stream = StructuredMessageEncodeStream(io.BytesIO(content), len(content), StructuredMessageProperties.CRC64, segment_size=segment_bytes)
    return bytes(stream.read())


def test_the_sdk_sends_and_reads_them(container: ContainerClient) -> None:
    blob = container.get_blob_client("blob")
    blob.upload_blob(io.BytesIO(CONTENT), length=len(CONTENT), validate_content="crc64")
    assert blob.download_blob(validate_content="crc64").readall() == CONTENT
    assert blob.download_blob(offset=5_000_000, length=4_500_000, validate_content="crc64").readall() == CONTENT[5_000_000:9_500_000]
    blob.stage_block("YQ==", io.BytesIO(CONTENT[:5_000_000]), 5_000_000, validate_content="crc64")
    blob.commit_block_list([BlobBlock("YQ==")])
    assert blob.download_blob().readall() == CONTENT[:5_000_000]
    blob.upload_blob(b"", overwrite=True)
    assert blob.download_blob(validate_content="crc64").readall() == b""


def test_append_and_page_blobs_take_them(container: ContainerClient) -> None:
    log = container.get_blob_client("log")
    log.create_append_blob()
    log.append_block(io.BytesIO(b"abc"), 3, validate_content="crc64")
    disk = container.get_blob_client("disk")
    disk.create_page_blob(1024)
    disk.upload_page(b"p" * 512, 512, 512, validate_content="crc64")
    assert log.download_blob(validate_content="crc64").readall() == b"abc"
    assert disk.download_blob(validate_content="crc64").readall() == bytes(512) + b"p" * 512


def test_files_take_them(endpoint: Any, container: ContainerClient) -> None:
    lake = DataLakeServiceClient(endpoint.url, credential={"account_name": ACCOUNT, "account_key": KEY})
    file = lake.get_file_system_client(container.container_name).create_file("d/f")
    file.append_data(io.BytesIO(CONTENT), 0, len(CONTENT), validate_content="crc64")
    file.flush_data(len(CONTENT))
    assert file.download_file(validate_content="crc64").readall() == CONTENT


def put(endpoint: Any, container: ContainerClient, body: bytes, **headers: str) -> httpx.Response:
    given = {"x_ms_blob_type": "BlockBlob", "x_ms_structured_body": FORM, "x_ms_structured_content_length": "100", **headers}
    answer: httpx.Response = endpoint.send("PUT", f"/{container.container_name}/wrong", body, **given)
    return answer


GOOD = message(bytes(100), 40)
WRONG = {
    "a bit of content": (GOOD[:30] + b"\1" + GOOD[31:], {}, "Crc64Mismatch"),
    "the sum of a segment": (GOOD[:63] + b"\1" + GOOD[64:], {}, "Crc64Mismatch"),
    "the sum of all": (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), {}, "Crc64Mismatch"),
    "its version": (b"\2" + GOOD[1:], {}, "InvalidInput"),
    "its properties": (GOOD[:9] + b"\0" + GOOD[10:], {}, "InvalidInput"),
    "no segment": (GOOD[:11] + b"\0" + GOOD[12:], {}, "InvalidInput"),
    "the number of a segment": (GOOD[:13] + b"\2" + GOOD[14:], {}, "InvalidInput"),
    "fewer segments": (GOOD[:11] + b"\2" + GOOD[12:], {}, "Crc64Mismatch"),
    "more segments": (GOOD[:11] + b"\4" + GOOD[12:], {}, "InvalidInput"),
    "its length": (GOOD + b"\0", {}, "InvalidInput"),
    "cut short": (GOOD[:-1], {}, "InvalidInput"),
    "a huge segment": (GOOD[:15] + b"\xff" * 8 + GOOD[23:], {}, "InvalidInput"),
    "less content than said": (GOOD, {"x_ms_structured_content_length": "101"}, "InvalidInput"),
    "more content than said": (GOOD, {"x_ms_structured_content_length": "99"}, "InvalidInput"),
    "no length of the content": (GOOD, {"x_ms_structured_content_length": ""}, "MissingRequiredHeader"),
    "another form": (GOOD, {"x_ms_structured_body": "XSM/2.0; properties=crc64"}, "InvalidHeaderValue"),
    "a length alone": (GOOD, {"x_ms_structured_body": ""}, "InvalidHeaderValue"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_one_leaves_nothing(endpoint: Any, container: ContainerClient, case: str) -> None:
    body, headers, code = WRONG[case]
    answer = put(endpoint, container, body, **headers)
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, code)
    assert list(container.list_blobs(include=["uncommittedblobs"])) == []
    assert put(endpoint, container, GOOD).status_code == 201
    assert container.download_blob("wrong").readall() == bytes(100)


def test_operations_without_content_and_other_sums_refuse_them(endpoint: Any, container: ContainerClient) -> None:
    container.upload_blob("a", b"x")
    path = f"/{container.container_name}/a"

    def code(method: str, query: str = "", **headers: str) -> tuple[int, str]:
        answer = endpoint.send(method, f"{path}{query}", b"", x_ms_structured_body=FORM, **headers)
        return answer.status_code, answer.headers.get("x-ms-error-code", "")

    assert code("HEAD") == (400, "UnsupportedHeader")
    assert code("PUT", "?comp=metadata") == (400, "UnsupportedHeader")
    assert code("PUT", "", x_ms_copy_source=f"{endpoint.url}{path}") == (400, "UnsupportedHeader")
    assert code("GET", "", range="bytes=0-0", x_ms_range_get_content_md5="true") == (400, "InvalidHeaderValue")


@given(st.binary(max_size=300), st.integers(1, 100), st.lists(st.integers(1, 50), min_size=1))
def test_a_message_is_taken_apart_wherever_it_is_cut(content: bytes, segment_bytes: int, cuts: list[int]) -> None:
    packed = message(content, segment_bytes)
    unpacker, found, at = Unpacker(len(packed), len(content)), b"", 0
    while at < len(packed):
        size = cuts[at % len(cuts)]
        found += unpacker.feed(packed[at : at + size])
        at += size
    unpacker.finish()
    assert found == content
    assert StructuredMessageDecoder(iter([packed]), len(packed)).read() == content


@given(st.binary(max_size=120))
def test_what_is_no_message_is_refused(noise: bytes) -> None:
    unpacker = Unpacker(len(noise), 5)
    with pytest.raises(BlobError):  # noqa: PT012
        unpacker.feed(noise)
        unpacker.finish()
