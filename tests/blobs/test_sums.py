"""CRC64: what a client says is compared, and ranges come with theirs; the sums are those of the SDK's own library."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from azure.storage.blob import BlobBlock, ContainerClient
from azure.storage.blob._shared.validation import calculate_crc64_bytes  # type: ignore[import-untyped, unused-ignore]

CONTENT = bytes(range(256)) * 5000


def crc(content: bytes) -> str:
    return base64.b64encode(calculate_crc64_bytes(content)).decode()


def test_the_sum_is_the_service_s() -> None:
    assert calculate_crc64_bytes(b"123456789").hex() == "8898790a86148bae"  # the check value of CRC-64/NVME, little-endian


def test_uploads_of_the_sdk_are_compared(container: ContainerClient) -> None:
    blob = container.get_blob_client("sdk")
    blob.upload_blob(CONTENT[:100], validate_content="crc64")
    blob.stage_block("YQ==", CONTENT, validate_content="crc64")
    blob.commit_block_list([BlobBlock("YQ==")], validate_content="crc64")
    assert blob.download_blob().readall() == CONTENT
    log = container.get_blob_client("log")
    log.create_append_blob()
    log.append_block(CONTENT, validate_content="crc64")
    assert log.download_blob().readall() == CONTENT


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        ("", b"content", {"x_ms_blob_type": "BlockBlob"}),
        ("?comp=block&blockid=YQ==", b"content", {}),
        ("?comp=blocklist", b"<BlockList></BlockList>", {}),
        ("?comp=appendblock", b"content", {}),
    ],
)
def test_another_sum_than_said_leaves_nothing(
    endpoint: Any, container: ContainerClient, query: str, body: bytes, headers: dict[str, str]
) -> None:
    blob = container.get_blob_client("wrong")
    if "append" in query:
        blob.create_append_blob()

    def put(said: str, **more: str) -> tuple[int, str]:
        answer = endpoint.send("PUT", f"/{container.container_name}/wrong{query}", body, x_ms_content_crc64=said, **headers, **more)
        return answer.status_code, answer.headers.get("x-ms-error-code", answer.headers.get("x-ms-content-crc64", ""))

    assert put(crc(body + b".")) == (400, "Crc64Mismatch")
    assert put("AAAA") == (400, "InvalidCrc64")
    assert put("?") == (400, "InvalidCrc64")
    assert put(crc(body), content_md5="1B2M2Y8AsgTpgAmY7PhCfg==")[0] == 400
    assert blob.get_blob_properties().size == 0 if "append" in query else not blob.exists()
    assert put(crc(body)) == (201, crc(body))


def test_sums_of_sources(endpoint: Any, container: ContainerClient) -> None:
    source = container.upload_blob("from", CONTENT)
    to = f"/{container.container_name}/to?comp=block&blockid=YQ=="

    def put(said: str) -> tuple[int, str]:
        headers = {"x_ms_copy_source": source.url, "x_ms_source_range": "bytes=0-99", "x_ms_source_content_crc64": said}
        answer = endpoint.send("PUT", to, **headers)
        return answer.status_code, answer.headers.get("x-ms-error-code", "")

    assert put(crc(CONTENT)) == (400, "Crc64Mismatch")
    assert put(crc(CONTENT[:100])) == (201, "")


def test_ranges_come_with_their_sum(endpoint: Any, container: ContainerClient) -> None:
    container.upload_blob("r", CONTENT)

    def get(**headers: str) -> httpx.Response:
        answer: httpx.Response = endpoint.send("GET", f"/{container.container_name}/r", x_ms_range_get_content_crc64="true", **headers)
        return answer

    answer = get(x_ms_range="bytes=5-104")
    assert (answer.status_code, answer.content, answer.headers["x-ms-content-crc64"]) == (206, CONTENT[5:105], crc(CONTENT[5:105]))
    assert "content-md5" not in answer.headers
    assert get().headers["x-ms-error-code"] == "InvalidHeaderValue"
    assert get(x_ms_range="bytes=0-9", x_ms_range_get_content_md5="true").headers["x-ms-error-code"] == "InvalidHeaderValue"


def test_more_than_four_mebibytes_are_not_summed(endpoint: Any, container: ContainerClient) -> None:
    container.upload_blob("big", bytes((4 << 20) + 1))
    answer = endpoint.send("GET", f"/{container.container_name}/big", x_ms_range="bytes=0-", x_ms_range_get_content_crc64="true")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "OutOfRangeInput")
