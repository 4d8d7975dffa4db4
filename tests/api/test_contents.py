"""Small blobs below many prefixes in one answer, over raw signed HTTP."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient
from tests.api.conftest import Json, Raw, Yard, task, unique
from tests.conftest import Server, wait_for

from batchyard.api.own import contents
from batchyard.blobs.base import BlobDraft, BlobRef, Conditions, ContainerRef
from batchyard.blobs.store.local import LocalBlobStore

LARGE = contents.LARGEST + 1


@pytest.fixture(scope="module")
def container(server: Server) -> Iterator[ContainerClient]:
    """A container of the linked storage."""
    made = BlobServiceClient.from_connection_string(server.storage_connection_string).create_container(unique("contents"))
    for name, content in (("a/1", b"one"), ("a/deep/2", b""), ("ab", b"no"), ("b/large", bytes(LARGE)), ("é/3", b"\xff\x00")):
        made.upload_blob(name, content)
    yield made
    made.delete_container()


def ask(raw: Raw, account: str, container: str, prefixes: list[str]) -> list[Json]:
    answer = raw("POST", f"/batchyard/v1/storage/{account}/{container}/contents", {"prefixes": prefixes})
    assert answer.status == 200, answer.body
    found: list[Json] = answer.json["value"]
    return found


def held(below: Json) -> dict[str, bytes | None]:
    return {one["name"]: None if one.get("content") is None else base64.b64decode(one["content"]) for one in below["blobs"]}


def test_what_is_below_each_prefix_in_the_order_of_the_request(raw: Raw, container: ContainerClient) -> None:
    found = ask(raw, container.account_name, container.container_name, ["b/", "a/", "é/", "none/"])
    assert [held(below) for below in found] == [{"b/large": None}, {"a/1": b"one", "a/deep/2": b""}, {"é/3": b"\xff\x00"}, {}]
    assert all(below["whole"] for below in found)
    properties = container.get_blob_client("a/1").get_blob_properties()
    one = found[1]["blobs"][0]
    assert (one["contentLength"], one["eTag"].strip('"')) == (3, properties.etag.strip('"'))
    assert one["lastModified"][:19] == properties.last_modified.strftime("%Y-%m-%dT%H:%M:%S")


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    store, box = LocalBlobStore(tmp_path / "store"), ContainerRef("acct", "box")
    try:
        store.create_container(box, {}, 1)
        for name, size in ((f"{number:04}", contents.LARGEST if number < 70 else 0) for number in range(contents.MOST_BLOBS + 1)):
            upload = store.put(BlobRef("acct", "box", name), BlobDraft(), Conditions())
            if size:
                upload.write(bytes(size))
            upload.commit(1)
        reading = contents.Reading(store, box)
        first, rest, none = reading.below("00"), reading.below(""), reading.below("")
    finally:
        store.close()
    there = [one.name for one in first.blobs if one.content is not None]
    assert (len(first.blobs), len(there), first.whole) == (100, contents.MOST_BYTES // contents.LARGEST + 30, True)
    assert (len(rest.blobs), rest.whole) == (contents.MOST_BLOBS - 100, False)
    assert (none.blobs, none.whole) == ([], False)


def test_a_container_that_is_not_there_holds_nothing_and_another_account_is_not_known(raw: Raw, container: ContainerClient) -> None:
    assert [held(below) for below in ask(raw, container.account_name, "nosuch", ["a"])] == [{}]
    path = f"/batchyard/v1/storage/another/{container.container_name}/contents"
    raw("POST", path, {"prefixes": ["a"]}).assert_error(404, "ResourceNotFound")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"prefixes": []}, "InvalidPropertyValue"),
        ({"prefixes": ["a"] * 101}, "InvalidPropertyValue"),
        ({}, "MissingRequiredProperty"),
        ({"prefixes": [1]}, "InvalidRequestBody"),
        ({"prefixes": ["a"], "more": 1}, "InvalidRequestBody"),
    ],
)
def test_what_is_refused(raw: Raw, container: ContainerClient, body: dict[str, object], error: str) -> None:
    raw("POST", f"/batchyard/v1/storage/{container.account_name}/{container.container_name}/contents", body).assert_error(400, error)


def test_the_token_of_a_task_opens_no_storage(yard: Yard, raw: Raw, container: ContainerClient) -> None:
    job_id = yard.job(task("t", "echo $AZ_BATCH_AUTHENTICATION_TOKEN > token; sleep 600", authenticationTokenSettings={"access": ["job"]}))
    seen = wait_for(lambda: (found := raw("GET", f"/jobs/{job_id}/tasks/t/files/wd%2Ftoken")).status == 200 and found.body, "its token")
    path = f"/batchyard/v1/storage/{container.account_name}/{container.container_name}/contents"
    answer = raw("POST", path, {"prefixes": ["a"]}, headers={"authorization": f"Bearer {seen.decode().strip()}"})
    answer.assert_error(403, "InsufficientAccountPermissions")
