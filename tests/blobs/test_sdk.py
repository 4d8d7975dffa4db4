"""The unmodified azure-storage-blob SDK over HTTP: what a client sees."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobBlock, BlobPrefix, BlobServiceClient, BlobType, ContainerClient, ContentSettings

from batchyard.blobs.store.files import INLINE_BYTES

SIZES = [0, 1, INLINE_BYTES, INLINE_BYTES + 1, (1 << 20) + 7, (4 << 20) + 1]


def code_of(error: HttpResponseError) -> str:
    return str(getattr(error.error_code, "value", error.error_code))


def block_id(number: int) -> str:
    return f"{number:08d}"


@pytest.mark.parametrize("size", SIZES)
def test_what_is_uploaded_comes_back(container: ContainerClient, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    blob = container.upload_blob(
        "a/b.bin", content, metadata={"who": "me"}, content_settings=ContentSettings("text/x", cache_control="no-cache")
    )
    assert blob.download_blob().readall() == content
    found = blob.get_blob_properties()
    assert (found.size, found.metadata, found.blob_type) == (size, {"who": "me"}, BlobType.BLOCKBLOB)
    assert (found.content_settings.content_type, found.content_settings.cache_control) == ("text/x", "no-cache")
    assert found.etag.startswith('"0x')


@pytest.mark.parametrize("name", ["..\\etc", "a b+c%20d", "ü/日本/😀", "x?y=z&w#v", "." * 3, "trailing/", "q'\"<&>", "a\\b", "tab\tcr\r"])
def test_hostile_names(container: ContainerClient, name: str) -> None:
    blob = container.get_blob_client(name)
    blob.upload_blob(b"content")
    assert [found.name for found in container.list_blobs()] == [name]
    assert container.get_blob_client(name).download_blob().readall() == b"content"
    container.delete_blob(name)
    assert list(container.list_blobs()) == []


def test_ranges(container: ContainerClient) -> None:
    content = bytes(range(256)) * 512
    blob = container.upload_blob("r", content)
    assert blob.download_blob(offset=5, length=10).readall() == content[5:15]
    assert blob.download_blob(offset=len(content) - 3, length=100).readall() == content[-3:]
    assert blob.download_blob(offset=7).readall() == content[7:]
    assert blob.download_blob(validate_content=True).readall() == content
    with pytest.raises(HttpResponseError) as caught:
        blob.download_blob(offset=len(content))
    assert (caught.value.status_code, code_of(caught.value)) == (416, "InvalidRange")


def test_create_only_and_conditions(container: ContainerClient) -> None:
    blob = container.upload_blob("c", b"one")
    first = blob.get_blob_properties()
    with pytest.raises(ResourceExistsError) as exists:
        blob.upload_blob(b"two")
    assert code_of(exists.value) == "BlobAlreadyExists"
    blob.upload_blob(b"two", overwrite=True, etag=first.etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceModifiedError):
        blob.upload_blob(b"three", overwrite=True, etag=first.etag, match_condition=MatchConditions.IfNotModified)
    assert blob.download_blob().readall() == b"two"
    with pytest.raises(HttpResponseError) as unchanged:
        blob.download_blob(etag=blob.get_blob_properties().etag, match_condition=MatchConditions.IfModified)
    assert unchanged.value.status_code == 304
    with pytest.raises(ResourceModifiedError):
        blob.delete_blob(if_unmodified_since=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(HttpResponseError) as not_since:
        blob.download_blob(if_modified_since=datetime.now(UTC) + timedelta(hours=1))
    assert not_since.value.status_code == 304


def test_not_found(service: BlobServiceClient, container: ContainerClient) -> None:
    with pytest.raises(ResourceNotFoundError) as blob:
        container.get_blob_client("none").download_blob()
    with pytest.raises(ResourceNotFoundError) as box:
        service.get_container_client("none").upload_blob("x", b"")
    with pytest.raises(HttpResponseError) as name:
        service.create_container("Not_A_Name")
    assert [code_of(e.value) for e in (blob, box, name)] == ["BlobNotFound", "ContainerNotFound", "InvalidResourceName"]
    assert not container.get_blob_client("none").exists()
    assert container.exists()


def test_blocks(container: ContainerClient) -> None:
    blob = container.get_blob_client("blocks")
    for number in range(3):
        blob.stage_block(block_id(number), bytes([number]) * 10, validate_content=True)
    assert not blob.exists()
    assert [b.id for b in blob.get_block_list("all")[1]] == [block_id(n) for n in range(3)]
    blob.commit_block_list([BlobBlock(block_id(n)) for n in (2, 0, 2)], metadata={"k": "v"})
    assert blob.download_blob().readall() == b"\2" * 10 + b"\0" * 10 + b"\2" * 10
    committed, waiting = blob.get_block_list("all")
    assert ([b.id for b in committed], waiting) == ([block_id(2), block_id(0), block_id(2)], [])
    blob.stage_block(block_id(9), b"new")
    blob.commit_block_list([BlobBlock(block_id(0)), BlobBlock(block_id(9))])
    assert blob.download_blob().readall() == b"\0" * 10 + b"new"
    with pytest.raises(HttpResponseError) as gone:
        blob.commit_block_list([BlobBlock(block_id(2))])
    assert code_of(gone.value) == "InvalidBlockList"
    blob.stage_block("longer-id-first", b"a")
    with pytest.raises(HttpResponseError) as odd:
        blob.stage_block("short", b"b")
    assert code_of(odd.value) == "InvalidBlobOrBlock"
    assert blob.download_blob().readall() == b"\0" * 10 + b"new"


def test_append_blob(container: ContainerClient) -> None:
    blob = container.get_blob_client("log")
    blob.create_append_blob()
    for number in range(5):
        answer = blob.append_block(f"line {number}\n".encode())
        assert (answer["blob_append_offset"], answer["blob_committed_block_count"]) == (str(number * 7), number + 1)
    assert blob.download_blob().readall() == b"".join(b"line %d\n" % n for n in range(5))
    assert blob.download_blob(offset=5, length=5).readall() == b"0\nlin"
    for wrong, code in (
        ({"appendpos_condition": 3}, "AppendPositionConditionNotMet"),
        ({"maxsize_condition": 36}, "MaxBlobSizeConditionNotMet"),
    ):
        with pytest.raises(HttpResponseError) as caught:
            blob.append_block(b"xx", **wrong)
        assert code_of(caught.value) == code
    container.upload_blob("block", b"")
    with pytest.raises(HttpResponseError) as kind:
        container.get_blob_client("block").append_block(b"x")
    assert code_of(kind.value) == "InvalidBlobType"


def test_metadata_and_headers(container: ContainerClient) -> None:
    blob = container.upload_blob("m", b"content")
    before = blob.get_blob_properties()
    blob.set_blob_metadata({"one": "1", "a_b": "2"})
    blob.set_http_headers(ContentSettings("text/plain", content_disposition="attachment", content_language="de"))
    after = blob.get_blob_properties()
    assert after.metadata == {"one": "1", "a_b": "2"}
    assert after.content_settings.content_disposition == "attachment"
    assert after.etag != before.etag
    assert blob.download_blob().readall() == b"content"


def test_containers(service: BlobServiceClient) -> None:
    for number in range(5):
        service.create_container(f"list-{number}", metadata={"n": str(number)})
    with pytest.raises(ResourceExistsError):
        service.create_container("list-0")
    found = list(service.list_containers("list-", include_metadata=True, results_per_page=2))
    assert [(c.name, c.metadata) for c in found] == [(f"list-{n}", {"n": str(n)}) for n in range(5)]
    box = service.get_container_client("list-3")
    box.set_container_metadata({"n": "x"})
    assert box.get_container_properties().metadata == {"n": "x"}
    for number in range(3):
        box.upload_blob(f"b{number}", b"x" * INLINE_BYTES * 2)
    box.delete_container()
    assert not box.exists()
    box.create_container()
    assert list(box.list_blobs()) == []


def test_listing(container: ContainerClient) -> None:
    names = ["a", "a/1", "a/2", "a/b/1", "b", "c/1"]
    for name in names:
        container.upload_blob(name, b"", metadata={"of": name.replace("/", "_")})
    assert [b.name for b in container.list_blobs(results_per_page=2)] == names
    assert [b.metadata["of"] for b in container.list_blobs(include=["metadata"])] == [n.replace("/", "_") for n in names]
    assert [b.name for b in container.list_blobs(name_starts_with="a/")] == ["a/1", "a/2", "a/b/1"]
    walked = [(type(b) is BlobPrefix, b.name) for b in container.walk_blobs(results_per_page=1)]
    assert walked == [(False, "a"), (True, "a/"), (False, "b"), (True, "c/")]


def test_copy(container: ContainerClient) -> None:
    for size in (10, INLINE_BYTES + 10):
        source = container.upload_blob("from", b"z" * size, overwrite=True, metadata={"k": "v"})
        target = container.get_blob_client("to")
        assert target.start_copy_from_url(source.url)["copy_status"] == "success"
        source.delete_blob()
        assert target.download_blob().readall() == b"z" * size
        assert target.get_blob_properties().metadata == {"k": "v"}


def test_what_is_not_served_says_so(service: BlobServiceClient, container: ContainerClient) -> None:
    blob = container.upload_blob("x", b"x")
    refused = [
        lambda: container.upload_blob("leased", b"", lease="00000000-0000-0000-0000-000000000000"),
        lambda: service.create_container("public", public_access="blob"),
        lambda: blob.set_legal_hold(True),
    ]
    for call in refused:
        with pytest.raises(HttpResponseError) as caught:
            call()
        assert caught.value.status_code in (400, 405, 409, 412)
    assert [b.name for b in container.list_blobs()] == ["x"]


def test_wrong_md5_leaves_nothing(container: ContainerClient) -> None:
    blob = container.get_blob_client("md5")
    wrong = base64.b64encode(b"0" * 16).decode()
    with pytest.raises(HttpResponseError) as caught:
        blob.upload_blob(b"content", headers={"Content-MD5": wrong})
    assert code_of(caught.value) == "Md5Mismatch"
    assert not blob.exists()


def test_service_answers(service: BlobServiceClient) -> None:
    assert service.get_account_information()["account_kind"] == "StorageV2"
    assert service.get_service_properties()["cors"] == []


def test_the_second_key_is_good_too(endpoint: Any, container: ContainerClient) -> None:
    old = endpoint.client({"account_name": endpoint.account, "account_key": endpoint.old_key})
    assert old.get_container_client(container.container_name).exists()
