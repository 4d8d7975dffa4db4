"""Copies, and blocks that come from other blobs: who may read the source, and what is told of the copy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, ContainerClient, ContentSettings, StandardBlobTier, generate_blob_sas

from batchyard.blobs.edge import sas


def code(call: Callable[[], object]) -> tuple[int | None, str]:
    """Status and code of the error that a call gets."""
    with pytest.raises(HttpResponseError) as caught:
        call()
    assert caught.value.response is not None
    return caught.value.status_code, caught.value.response.headers["x-ms-error-code"]


@pytest.fixture
def source(container: ContainerClient) -> BlobClient:
    settings = ContentSettings(content_type="text/x", cache_control="no-store")
    return container.upload_blob("source", b"0123456789" * 10_000, metadata={"Kept": "yes"}, content_settings=settings, tags={"a": "b"})


def test_a_copy_is_done_and_says_so(container: ContainerClient, source: BlobClient) -> None:
    target = container.get_blob_client("target")
    told = target.start_copy_from_url(source.url)
    assert told["copy_status"] == "success"
    for seen in (
        target.get_blob_properties(),
        target.download_blob().properties,
        next(iter(container.list_blobs("target", include=["copy"]))),
    ):
        assert (seen.copy.id, seen.copy.status, seen.copy.progress) == (told["copy_id"], "success", "100000/100000")
        assert seen.copy.source == source.url
        assert seen.copy.completion_time is not None
    seen = target.get_blob_properties()
    assert (seen.metadata, seen.content_settings.content_type, seen.tag_count) == ({"Kept": "yes"}, "text/x", None)
    assert code(lambda: target.abort_copy(told["copy_id"])) == (409, "NoPendingCopyOperation")


def test_put_blob_from_url_has_headers_of_its_own(container: ContainerClient, source: BlobClient) -> None:
    target = container.get_blob_client("target")
    settings = ContentSettings(content_type="application/y")
    own = {"metadata": {"own": "1"}, "tags": {"c": "d"}, "standard_blob_tier": StandardBlobTier.COOL}
    target.upload_blob_from_url(source.url, content_settings=settings, **own)
    seen = target.get_blob_properties()
    assert (seen.content_settings.content_type, seen.content_settings.cache_control) == ("application/y", None)
    assert (seen.metadata, seen.blob_tier, target.get_blob_tags()) == ({"own": "1"}, "Cool", {"c": "d"})
    assert target.download_blob().readall() == b"0123456789" * 10_000
    target.start_copy_from_url(source.url, requires_sync=True)
    assert target.get_blob_properties().metadata == {"Kept": "yes"}
    assert code(lambda: target.upload_blob_from_url(source.url, overwrite=False)) == (409, "BlobAlreadyExists")


def test_blocks_from_urls(container: ContainerClient, source: BlobClient) -> None:
    target = container.get_blob_client("target")
    target.stage_block_from_url("YQ==", source.url, source_offset=1, source_length=3)
    target.stage_block_from_url("Yg==", source.url)
    target.commit_block_list(["YQ==", "Yg=="])
    assert target.download_blob().readall() == b"123" + b"0123456789" * 10_000
    wrong = bytearray(16)
    assert code(lambda: target.stage_block_from_url("Yw==", source.url, source_content_md5=wrong)) == (400, "Md5Mismatch")
    log = container.get_blob_client("log")
    log.create_append_blob()
    for _ in range(2):
        log.append_block_from_url(source.url, source_offset=8, source_length=4)
    assert log.download_blob().readall() == b"89018901"
    assert code(lambda: log.append_block_from_url(source.url, source_offset=100_000, source_length=1)) == (416, "InvalidRange")
    assert log.get_blob_properties().size == 8


def test_conditions_on_the_source(container: ContainerClient, source: BlobClient) -> None:
    target = container.get_blob_client("target")
    etag = source.get_blob_properties().etag
    conditions = {"source_etag": etag, "source_match_condition": MatchConditions.IfModified}
    assert code(lambda: target.start_copy_from_url(source.url, **conditions)) == (412, "SourceConditionNotMet")
    assert not target.exists()
    target.start_copy_from_url(source.url, source_etag=etag, source_match_condition=MatchConditions.IfNotModified)


def test_the_source_is_judged_by_its_own_signature(endpoint: Any, container: ContainerClient, source: BlobClient) -> None:
    other = endpoint.client().create_container(container.container_name + "-2")
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    def signed(permission: str, **changes: Any) -> str:
        given = {"account_key": endpoint.key, "expiry": tomorrow, **changes}
        return f"{source.url}?{generate_blob_sas(endpoint.account, container.container_name, 'source', permission=permission, **given)}"

    writer = ContainerClient(
        endpoint.url, other.container_name, sas.container_sas(endpoint.account, endpoint.key, other.container_name, "w", tomorrow)
    )
    for client in (other, writer):
        target = client.get_blob_client("target")
        target.start_copy_from_url(signed("r"))
        assert other.get_blob_client("target").get_blob_properties().copy.source == source.url, "nobody reads a signature there"
        refused = [signed("w"), signed("r").partition("&sig=")[0] + "&sig=AAAA", signed("r", expiry=datetime(2020, 1, 1, tzinfo=UTC))]
        for url in refused:
            assert code(lambda target=target, url=url: target.start_copy_from_url(url)) == (403, "CannotVerifyCopySource"), url
            assert code(lambda target=target, url=url: target.stage_block_from_url("YQ==", url)) == (403, "CannotVerifyCopySource")
    assert code(lambda: writer.get_blob_client("t").start_copy_from_url(source.url)) == (403, "CannotVerifyCopySource")
    missing = other.get_blob_client("nothing").url
    assert code(lambda: other.get_blob_client("t").start_copy_from_url(missing)) == (404, "CannotVerifyCopySource")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_names_of_this_machine_are_one_endpoint(endpoint: Any, container: ContainerClient, source: BlobClient, host: str) -> None:
    target = container.get_blob_client("target")
    target.start_copy_from_url(source.url.replace("127.0.0.1", host))
    assert target.get_blob_properties().size == 100_000
    # The endpoint of these tests has nobody who fetches from elsewhere.
    assert code(lambda: target.start_copy_from_url(source.url.replace("127.0.0.1", "elsewhere.example")))[0] == 400
    assert code(lambda: target.start_copy_from_url(source.url.replace(str(endpoint.port), "1")))[0] == 400


def test_batches(container: ContainerClient, source: BlobClient) -> None:
    for name in ("a", "b/ä c", "d"):
        container.upload_blob(name, b"x")
    answers = list(container.delete_blobs("a", "none", "b/ä c", raise_on_any_failure=False))
    assert [answer.status_code for answer in answers] == [202, 404, 202]
    assert answers[1].headers["x-ms-error-code"] == "BlobNotFound"
    assert [found.name for found in container.list_blobs()] == ["d", "source"]
    container.set_standard_blob_tier_blobs("Cool", "d", "source")
    assert {found.blob_tier for found in container.list_blobs()} == {"Cool"}


def test_a_batch_of_a_sas_and_what_it_may_not(endpoint: Any, container: ContainerClient, source: BlobClient) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for letters, wanted in (("rl", 403), ("rld", 202)):
        token = sas.container_sas(endpoint.account, endpoint.key, container.container_name, letters, tomorrow)
        client = ContainerClient(endpoint.url, container.container_name, token)
        [answer] = client.delete_blobs("source", raise_on_any_failure=False)
        assert answer.status_code == wanted


PARTS = {
    "no deletion": b"PUT /{account}/{box}/source HTTP/1.1\r\n",
    "a read": b"GET /{account}/{box}/source HTTP/1.1\r\n",
    "another account": b"DELETE /other/{box}/source HTTP/1.1\r\n",
    "another container": b"DELETE /{account}/other/source HTTP/1.1\r\n",
    "a container": b"DELETE /{account}/{box}?restype=container HTTP/1.1\r\n",
    "nonsense": b"\0\r\n",
    "a header": b"DELETE /{account}/{box}/source HTTP/1.1\r\nno header\r\n",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_batch_with_a_part_that_is_none_does_nothing(
    endpoint: Any, http: httpx.Client, container: ContainerClient, source: BlobClient, part: str
) -> None:
    token = sas.container_sas(endpoint.account, endpoint.key, container.container_name, "rwdl", datetime.now(UTC) + timedelta(days=1))
    good = b"DELETE /{account}/{box}/source?" + token.encode() + b" HTTP/1.1\r\n"
    head = b"--b\r\nContent-Type: application/http\r\n\r\n"
    body = head + good + b"\r\n\r\n" + head + PARTS[part] + b"\r\n\r\n--b--\r\n"
    body = body.replace(b"{account}", endpoint.account.encode()).replace(b"{box}", container.container_name.encode())
    url = f"{endpoint.url}/{container.container_name}?restype=container&comp=batch&{token}"
    answer = http.post(url, content=body, headers={"content-type": "multipart/mixed; boundary=b"})
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "InvalidInput")
    assert source.exists()


@pytest.mark.parametrize("body", [b"", b"--b--\r\n", b"x" * 100, b"\xff" * 1000])
def test_a_batch_that_is_none(endpoint: Any, http: httpx.Client, container: ContainerClient, body: bytes) -> None:
    token = sas.container_sas(endpoint.account, endpoint.key, container.container_name, "rwdl", datetime.now(UTC) + timedelta(days=1))
    url = f"{endpoint.url}/{container.container_name}?restype=container&comp=batch&{token}"
    assert http.post(url, content=body, headers={"content-type": "multipart/mixed; boundary=b"}).status_code == 400


@pytest.mark.parametrize("said", ["b/+=1?", '"b/+=1?"', "b/+=1?; charset=utf-8"])
def test_the_boundary_of_a_batch_need_not_be_quoted(
    endpoint: Any, http: httpx.Client, container: ContainerClient, source: BlobClient, said: str
) -> None:
    """object_store's is random base64 and stands as it is."""
    token = sas.container_sas(endpoint.account, endpoint.key, container.container_name, "rwdl", datetime.now(UTC) + timedelta(days=1))
    line = f"DELETE /{endpoint.account}/{container.container_name}/source?{token} HTTP/1.1"
    body = f"--b/+=1?\r\nContent-Type: application/http\r\n\r\n{line}\r\n\r\n\r\n--b/+=1?--\r\n".encode()
    url = f"{endpoint.url}/{container.container_name}?restype=container&comp=batch&{token}"
    answer = http.post(url, content=body, headers={"content-type": f"multipart/mixed; boundary={said}"})
    assert (answer.status_code, b"HTTP/1.1 202" in answer.content) == (202, True), answer.text
    assert not source.exists()
