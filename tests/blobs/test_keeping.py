"""What can be had back: soft delete of blobs and containers, versions; by the unmodified SDK over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobBlock, BlobClient, BlobServiceClient, ContainerClient, RetentionPolicy, generate_container_sas
from tests.blobs.test_sdk import code_of
from tests.blobs.test_store import tidy

from batchyard.blobs.services import Properties
from batchyard.blobs.store.files import INLINE_BYTES
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.model.times import micros

BIG = INLINE_BYTES + 5
DAYS = 3


def set_extra(endpoint: Any, xml: str) -> None:
    """What Azure sets through its resource manager stands in the service's properties here."""
    answer = endpoint.send(
        "PUT", "/?restype=service&comp=properties", f"<StorageServiceProperties>{xml}</StorageServiceProperties>".encode()
    )
    assert answer.status_code == 202, answer.text


@pytest.fixture
def kept(endpoint: Any, service: BlobServiceClient) -> Iterator[None]:
    """Deleted blobs are kept."""
    service.set_service_properties(delete_retention_policy=RetentionPolicy(enabled=True, days=DAYS))
    yield
    endpoint.store.set_properties(endpoint.account, lambda before: Properties())


@pytest.fixture
def versions(endpoint: Any) -> Iterator[None]:
    """Versions are kept."""
    set_extra(endpoint, "<IsVersioningEnabled>true</IsVersioningEnabled>")
    yield
    endpoint.store.set_properties(endpoint.account, lambda before: Properties())


def put(container: ContainerClient, name: str, letter: str, size: int = BIG, **more: Any) -> BlobClient:
    return container.upload_blob(name, letter.encode() * size, overwrite=True, **more)


def read(blob: BlobClient, **more: Any) -> str:
    content = blob.download_blob(**more).readall().decode()
    assert len(set(content)) == 1
    return content[0]


def listed(container: ContainerClient, *include: str) -> list[tuple[str, bool, bool]]:
    """Name, whether a snapshot, whether deleted."""
    return [(b.name, b.snapshot is not None, bool(b.deleted)) for b in container.list_blobs(include=list(include), results_per_page=2)]


def code(call: Any) -> tuple[int | None, str]:
    with pytest.raises(HttpResponseError) as caught:
        call()
    return caught.value.status_code, code_of(caught.value)


@pytest.mark.usefixtures("kept")
def test_a_deleted_blob_comes_back_as_it_was(container: ContainerClient) -> None:
    blob = put(container, "a", "1", metadata={"k": "v"}, tags={"t": "u"})
    snapshot = blob.create_snapshot()
    put(container, "b", "b")
    blob.delete_blob(delete_snapshots="include")
    assert not blob.exists()
    assert listed(container) == [("b", False, False)]
    assert listed(container, "deleted") == [("a", False, True), ("b", False, False)]
    assert listed(container, "deleted", "snapshots") == [("a", True, True), ("a", False, True), ("b", False, False)]
    [gone, _] = container.list_blobs(include=["deleted"])
    assert (gone.remaining_retention_days, gone.deleted_time is not None) == (DAYS, True)
    blob.undelete_blob()
    assert read(blob) == "1"
    assert read(container.get_blob_client("a", snapshot=snapshot)) == "1"
    assert (blob.get_blob_properties().metadata, blob.get_blob_tags()) == ({"k": "v"}, {"t": "u"})
    assert listed(container, "deleted", "snapshots") == [("a", True, False), ("a", False, False), ("b", False, False)]
    blob.undelete_blob()
    assert code(lambda: container.get_blob_client("none").undelete_blob()) == (404, "BlobNotFound")


@pytest.mark.usefixtures("kept")
def test_what_is_overwritten_is_a_deleted_snapshot(container: ContainerClient) -> None:
    blob = put(container, "a", "1")
    put(container, "a", "2")
    blob.delete_blob()
    put(container, "a", "3")
    assert listed(container, "deleted", "snapshots") == [("a", True, True), ("a", True, True), ("a", False, False)]
    blob.undelete_blob()
    assert read(blob) == "3"
    found = [b.snapshot for b in container.list_blobs(include=["snapshots"]) if b.snapshot]
    assert [read(container.get_blob_client("a", snapshot=one)) for one in found] == ["1", "2"]


@pytest.mark.usefixtures("kept")
def test_blocks_of_what_is_overwritten_are_the_new_blob_s_too(endpoint: Any, container: ContainerClient) -> None:
    blob = container.get_blob_client("blocks")
    for number in "12":
        blob.stage_block(number * 4, number.encode() * BIG)
    blob.commit_block_list([BlobBlock("1111"), BlobBlock("2222")])
    blob.commit_block_list([BlobBlock("2222"), BlobBlock("2222")])
    assert blob.download_blob().readall() == b"2" * BIG * 2
    blob.undelete_blob()
    [old] = [b.snapshot for b in container.list_blobs(include=["snapshots"]) if b.snapshot]
    before = container.get_blob_client("blocks", snapshot=old)
    assert before.download_blob().readall() == b"1" * BIG + b"2" * BIG
    blob.delete_blob(delete_snapshots="only")
    while endpoint.store.expire_deleted(100, micros(datetime.now(UTC)) + 2 * DAYS * 86_400_000_000):
        pass
    assert blob.download_blob().readall() == b"2" * BIG * 2


@pytest.mark.usefixtures("kept")
def test_what_was_kept_for_long_enough_is_gone_with_its_files(endpoint: Any, container: ContainerClient) -> None:
    store: LocalBlobStore = endpoint.store
    now = micros(datetime.now(UTC))
    while store.expire_deleted(100, now + 400 * 86_400_000_000):
        pass
    blob = put(container, "a", "1")
    put(container, "a", "2")
    blob.delete_blob()
    due = store.next_expiry()
    assert due is not None
    assert abs(due - now - DAYS * 86_400_000_000) < 60_000_000
    assert not store.expire_deleted(100, due - 1)
    blob.undelete_blob()
    assert read(blob) == "2"
    blob.delete_blob(delete_snapshots="include")
    store.expire_deleted(1, now + 2 * DAYS * 86_400_000_000)
    store.expire_deleted(100, now + 2 * DAYS * 86_400_000_000)
    assert store.next_expiry() is None
    assert listed(container, "deleted", "snapshots") == []
    assert code(blob.undelete_blob) == (404, "BlobNotFound")
    tidy(store)
    assert store._files.sweep(store._known_files) == 0


def test_without_a_policy_what_is_deleted_is_gone(container: ContainerClient) -> None:
    blob = put(container, "a", "1")
    blob.delete_blob()
    assert listed(container, "deleted", "versions", "snapshots") == []
    with pytest.raises(ResourceNotFoundError):
        blob.undelete_blob()


def history(container: ContainerClient, name: str) -> list[tuple[str, bool]]:
    """Content and whether current, of all versions."""
    found = [b for b in container.list_blobs(include=["versions"], results_per_page=1) if b.name == name]
    return [(read(container.get_blob_client(name), version_id=b.version_id), bool(b.is_current_version)) for b in found]


@pytest.mark.usefixtures("versions")
def test_versions_are_kept_read_and_promoted(container: ContainerClient) -> None:
    first = put(container, "a", "1").get_blob_properties().version_id
    blob = put(container, "a", "2")
    third = blob.upload_blob(b"3" * BIG, overwrite=True)["version_id"]
    assert history(container, "a") == [("1", False), ("2", False), ("3", True)]
    assert read(blob, version_id=first) == "1"
    old = blob.get_blob_properties(version_id=first)
    assert (old.version_id, old.is_current_version) == (first, None)
    now = blob.get_blob_properties()
    assert (now.version_id, now.is_current_version) == (third, True)
    assert listed(container) == [("a", False, False)]
    blob.start_copy_from_url(f"{blob.url}?versionid={first}")
    assert history(container, "a") == [("1", False), ("2", False), ("3", False), ("1", True)]
    blob.delete_blob(version_id=third)
    assert history(container, "a") == [("1", False), ("2", False), ("1", True)]
    current = blob.get_blob_properties().version_id
    assert code(lambda: blob.delete_blob(version_id=current)) == (403, "OperationNotAllowedOnRootBlob")
    assert code(lambda: read(blob, version_id=third)) == (404, "BlobNotFound")


@pytest.mark.usefixtures("versions")
def test_a_deleted_blob_has_versions_only(container: ContainerClient) -> None:
    blob = put(container, "a", "1")
    put(container, "a", "2")
    blob.delete_blob()
    assert not blob.exists()
    assert history(container, "a") == [("1", False), ("2", False)]
    [only] = container.list_blobs(include=["deletedwithversions"])
    assert (only.has_versions_only, read(blob, version_id=only.version_id)) == (True, "2")
    put(container, "a", "3")
    assert history(container, "a") == [("1", False), ("2", False), ("3", True)]


@pytest.mark.usefixtures("versions")
def test_metadata_make_a_version_and_tags_do_not(container: ContainerClient) -> None:
    blob = put(container, "a", "1", metadata={"n": "1"}, tags={"t": "1"})
    first = blob.get_blob_properties().version_id
    second = blob.set_blob_metadata({"n": "2"})["version_id"]
    assert first < second
    blob.set_blob_tags({"t": "2"})
    assert history(container, "a") == [("1", False), ("1", True)]
    assert [blob.get_blob_properties(version_id=one).metadata["n"] for one in (first, second)] == ["1", "2"]
    assert [blob.get_blob_tags(version_id=one)["t"] for one in (first, second)] == ["1", "2"]
    blob.delete_blob(version_id=first)
    assert read(blob) == "1"


@pytest.mark.usefixtures("versions")
def test_a_lease_is_the_current_blob_s(container: ContainerClient) -> None:
    blob = put(container, "a", "1")
    lease = blob.acquire_lease(-1)
    blob.upload_blob(b"2", overwrite=True, lease=lease)
    first, now = (b for b in container.list_blobs(include=["versions"]))
    assert now.lease.state == "leased"
    blob.delete_blob(version_id=first.version_id)
    assert blob.get_blob_properties().lease.state == "leased"


@pytest.mark.usefixtures("versions")
def test_deleted_versions_come_back(endpoint: Any, service: BlobServiceClient, container: ContainerClient) -> None:
    service.set_service_properties(delete_retention_policy=RetentionPolicy(enabled=True, days=DAYS))
    blob = put(container, "a", "1")
    first = blob.get_blob_properties().version_id
    put(container, "a", "2")
    blob.delete_blob(version_id=first)
    assert history(container, "a") == [("2", True)]
    assert [(bool(b.deleted), b.version_id == first) for b in container.list_blobs(include=["versions", "deleted"])] == [
        (True, True),
        (False, False),
    ]
    blob.undelete_blob()
    assert history(container, "a") == [("1", False), ("2", True)]


@pytest.mark.usefixtures("versions")
def test_deleting_a_version_needs_its_own_permission(endpoint: Any, container: ContainerClient) -> None:
    first = put(container, "a", "1").get_blob_properties().version_id
    put(container, "a", "2")
    for letters, refused in (("d", True), ("xd", False)):
        token = generate_container_sas(
            endpoint.account,
            container.container_name,
            account_key=endpoint.key,
            permission=letters,
            expiry=datetime.now(UTC) + timedelta(hours=1),
        )
        blob = BlobClient(endpoint.url, container.container_name, "a", credential=token, retry_total=0)
        if refused:
            assert code(lambda blob=blob: blob.delete_blob(version_id=first)) == (403, "AuthorizationPermissionMismatch")
        else:
            blob.delete_blob(version_id=first)
    assert history(container, "a") == [("2", True)]


def test_deleted_containers_come_back(endpoint: Any, service: BlobServiceClient) -> None:
    set_extra(endpoint, "<ContainerDeleteRetentionPolicy><Enabled>true</Enabled><Days>2</Days></ContainerDeleteRetentionPolicy>")
    try:
        for number in range(3):
            box = service.create_container("kept-box", metadata={"n": str(number)})
            put(box, "a", str(number))
            box.delete_container()
        assert not box.exists()
        found = list(service.list_containers("kept-box", include_deleted=True, results_per_page=1))
        assert [(c.name, c.deleted) for c in found] == [("kept-box", True)] * 3
        assert {c.version for c in found} == {c.version for c in service.list_containers("kept", include_deleted=True)}
        assert len({c.version for c in found}) == 3
        assert list(service.list_containers("kept-box")) == []
        contents = set()
        for one in found:
            back = service.undelete_container("kept-box", one.version)
            contents.add(read(back.get_blob_client("a")))
            with pytest.raises(ResourceExistsError):
                service.undelete_container("kept-box", one.version)
            back.delete_container()
        assert contents == {"0", "1", "2"}
        assert code(lambda: service.undelete_container("kept-box", "none")) == (404, "ContainerNotFound")
        while endpoint.store.expire_deleted(100, micros(datetime.now(UTC)) + 3 * 86_400_000_000) or endpoint.store.purge(100):
            pass
        assert list(service.list_containers("kept-box", include_deleted=True)) == []
    finally:
        endpoint.store.set_properties(endpoint.account, lambda before: Properties())
