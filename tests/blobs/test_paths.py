"""Files and directories by the unmodified azure-storage-file-datalake over HTTP, and how they look to who asks for blobs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import ContainerClient
from azure.storage.filedatalake import DataLakeServiceClient, FileSystemClient

from batchyard.blobs.services import Properties
from batchyard.blobs.store.files import INLINE_BYTES

BIG = INLINE_BYTES + 7


@pytest.fixture
def lake(endpoint: Any, container: ContainerClient) -> FileSystemClient:
    """The container as a file system."""
    credential = {"account_name": endpoint.account, "account_key": endpoint.key}
    return DataLakeServiceClient(endpoint.url, credential=credential, retry_total=0).get_file_system_client(container.container_name)


@pytest.fixture
def hierarchical(endpoint: Any) -> Iterator[None]:
    body = b"<StorageServiceProperties><IsHnsEnabled>true</IsHnsEnabled></StorageServiceProperties>"
    assert endpoint.send("PUT", "/?restype=service&comp=properties", body).status_code == 202
    yield
    endpoint.store.set_properties(endpoint.account, lambda before: Properties())


def refused(call: Callable[[], object]) -> tuple[int | None, str]:
    with pytest.raises(HttpResponseError) as caught:
        call()
    assert caught.value.response is not None
    return caught.value.status_code, caught.value.response.headers["x-ms-error-code"]


def paths(lake: FileSystemClient, path: str | None = None, *, recursive: bool = True, page: int | None = None) -> list[tuple[str, bool]]:
    return [(one.name, bool(one.is_directory)) for one in lake.get_paths(path, recursive, max_results=page)]


def test_a_file_grows_by_appends_and_flushes(lake: FileSystemClient, container: ContainerClient) -> None:
    file = lake.create_file("a/b.txt", metadata={"k": "v"})
    file.append_data(b"one" * BIG, 0, 3 * BIG)
    file.append_data(b"two", 3 * BIG, 3)
    assert file.get_file_properties().size == 0
    file.flush_data(3 * BIG + 3)
    file.append_data(b"three", 3 * BIG + 3, 5, flush=True)
    whole = b"one" * BIG + b"two" + b"three"
    assert file.download_file().readall() == whole
    assert container.download_blob("a/b.txt").readall() == whole
    seen = file.get_file_properties()
    assert (seen.size, seen.metadata) == (len(whole), {"k": "v"})
    assert refused(lambda: file.flush_data(5)) == (400, "InvalidFlushPosition")
    file.append_data(b"gap", len(whole) + 10, 3)
    assert refused(lambda: file.flush_data(len(whole) + 13)) == (400, "InvalidFlushPosition")
    assert file.download_file().readall() == whole
    assert refused(lambda: lake.get_file_client("none").append_data(b"x", 0, 1)) == (404, "PathNotFound")
    file.upload_data(b"new" * BIG, overwrite=True)
    assert file.download_file().readall() == b"new" * BIG


def test_a_blob_that_was_put_grows_too(lake: FileSystemClient, container: ContainerClient) -> None:
    container.upload_blob("small", b"abc")
    file = lake.get_file_client("small")
    file.append_data(b"def", 3, 3, flush=True)
    assert container.download_blob("small").readall() == b"abcdef"
    assert container.get_blob_client("small").get_blob_properties().content_settings.content_md5 is None


def test_directories(lake: FileSystemClient, container: ContainerClient) -> None:
    directory = lake.create_directory("d", metadata={"k": "v"})
    assert directory.exists()
    assert directory.get_directory_properties().metadata == {"k": "v", "hdi_isfolder": "true"}
    directory.create_file("f")
    directory.create_sub_directory("e").create_file("g")
    assert paths(lake) == [("d", True), ("d/e", True), ("d/e/g", False), ("d/f", False)]
    assert paths(lake, recursive=False) == [("d", True)]
    assert paths(lake, "d", recursive=False) == [("d/e", True), ("d/f", False)]
    assert paths(lake, page=1) == paths(lake)
    assert refused(lambda: lake.create_file("d")) == (409, "PathAlreadyExists")
    assert refused(lambda: lake.create_directory("d/f")) == (409, "PathAlreadyExists")
    assert refused(lambda: lake.create_directory("d", match_condition=MatchConditions.IfMissing)) == (409, "PathAlreadyExists")
    directory.set_metadata({"n": "2"})
    lake.create_directory("d")
    assert refused(lambda: paths(lake, "none")) == (404, "PathNotFound")
    assert refused(lambda: paths(lake, "d/f")) in [(404, "PathNotFound")]


def test_directories_that_are_only_names(lake: FileSystemClient, container: ContainerClient) -> None:
    for name in ("x/y/1", "x/y/2", "x-1", "x/z", "top"):
        container.upload_blob(name, b"")
    wanted = [("top", False), ("x-1", False), ("x", True), ("x/y", True), ("x/y/1", False), ("x/y/2", False), ("x/z", False)]
    assert paths(lake) == wanted
    assert paths(lake, page=1) == wanted
    assert paths(lake, recursive=False) == [("top", False), ("x-1", False), ("x", True)]
    lake.create_directory("x")
    assert sorted(paths(lake)) == sorted(wanted)
    assert sorted(paths(lake, page=1)) == sorted(wanted)
    assert sorted(paths(lake, recursive=False)) == [("top", False), ("x", True), ("x-1", False)]


def test_a_directory_is_deleted_with_all_below(endpoint: Any, lake: FileSystemClient, container: ContainerClient) -> None:
    for number in range(600):
        container.upload_blob(f"d/{number:03d}", b"")
    container.upload_blob("d-other", b"kept")
    answer = endpoint.send("DELETE", f"/{lake.file_system_name}/d?recursive=false")
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (409, "DirectoryNotEmpty")
    lake.delete_directory("d")
    assert [blob.name for blob in container.list_blobs()] == ["d-other"]
    assert refused(lambda: lake.delete_directory("d")) == (404, "PathNotFound")
    lake.delete_file("d-other")
    assert list(container.list_blobs()) == []


def test_a_file_is_renamed(lake: FileSystemClient, container: ContainerClient) -> None:
    file = lake.create_file("from ü")
    file.upload_data(b"x" * BIG, overwrite=True)
    container.get_blob_client("from ü").set_blob_tags({"t": "1"})
    container.upload_blob("to", b"before")
    snapshot = container.get_blob_client("from ü").create_snapshot()
    moved = file.rename_file(f"{lake.file_system_name}/to")
    assert moved.download_file().readall() == b"x" * BIG
    assert [blob.name for blob in container.list_blobs()] == ["to"]
    assert [blob.name for blob in container.find_blobs_by_tags("\"t\" = '1'")] == ["to"]
    assert snapshot
    moved.rename_file(f"{lake.file_system_name}/new/name")
    assert container.get_blob_client("new/name").exists()
    assert refused(lambda: moved.rename_file(f"{lake.file_system_name}/x")) == (404, "SourcePathNotFound")
    container.upload_blob("other", b"o")
    client = lake.get_file_client("new/name")
    with pytest.raises(HttpResponseError):
        client.rename_file(f"{lake.file_system_name}/other", match_condition=MatchConditions.IfMissing)
    assert container.download_blob("other").readall() == b"o"


def test_a_directory_is_renamed_in_one_step(lake: FileSystemClient, container: ContainerClient) -> None:
    for number in range(50):
        container.upload_blob(f"old/{number % 3}/{number}", str(number).encode())
    container.upload_blob("old-other", b"")
    lake.create_directory("old")
    seen: set[tuple[int, int]] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            names = [blob.name for blob in container.list_blobs()]
            seen.add((sum(name.startswith("old/") for name in names), sum(name.startswith("new/") for name in names)))

    watching = threading.Thread(target=watch)
    watching.start()
    moved = lake.get_directory_client("old").rename_directory(f"{lake.file_system_name}/new")
    over.set()
    watching.join()
    assert seen <= {(50, 0), (0, 50)}
    assert moved.exists()
    assert {blob.name for blob in container.list_blobs("new/")} == {f"new/{number % 3}/{number}" for number in range(50)}
    assert container.download_blob("new/1/7").readall() == b"7"
    assert [blob.name for blob in container.list_blobs("old")] == ["old-other"]
    assert refused(lambda: moved.rename_directory(f"{lake.file_system_name}/new/below")) == (409, "InvalidSourceOrDestination")
    container.upload_blob("full/x", b"")
    assert refused(lambda: moved.rename_directory(f"{lake.file_system_name}/full")) == (409, "PathAlreadyExists")
    assert refused(lambda: moved.rename_directory(f"{lake.file_system_name}/old-other")) == (409, "PathAlreadyExists")
    container.get_blob_client("new/1/7").acquire_lease(-1)
    assert refused(lambda: moved.rename_directory(f"{lake.file_system_name}/again")) == (412, "LeaseIdMissing")
    assert refused(lambda: lake.delete_directory("new")) == (412, "LeaseIdMissing")


def test_a_rename_between_file_systems(endpoint: Any, lake: FileSystemClient, container: ContainerClient) -> None:
    other = endpoint.client().create_container(f"{container.container_name}-2")
    container.upload_blob("d/f", b"content", tags={"t": "2"})
    lake.get_directory_client("d").rename_directory(f"{other.container_name}/e")
    assert other.download_blob("e/f").readall() == b"content"
    assert [blob.name for blob in other.find_blobs_by_tags("\"t\" = '2'")] == ["e/f"]
    assert list(container.list_blobs()) == []


@pytest.mark.usefixtures("hierarchical")
def test_a_hierarchical_account_makes_directories_with_what_is_put_into_them(
    endpoint: Any, lake: FileSystemClient, container: ContainerClient
) -> None:
    container.upload_blob("a/b/c", b"")
    assert paths(lake) == [("a", True), ("a/b", True), ("a/b/c", False)]
    container.delete_blob("a/b/c")
    assert paths(lake) == [("a", True), ("a/b", True)]
    lake.get_directory_client("a/b").rename_directory(f"{lake.file_system_name}/x/y")
    assert paths(lake) == [("a", True), ("x", True), ("x/y", True)]
    assert endpoint.client().get_account_information()["is_hns_enabled"] is True
    assert lake.get_directory_client("/").get_access_control()["owner"] == "$superuser"


def test_a_flat_account_says_so(lake: FileSystemClient) -> None:
    assert refused(lambda: lake.get_directory_client("/").get_access_control()) == (400, "HierarchicalNamespaceNotEnabled")


def test_errors_are_json_and_say_what_is_not_served(endpoint: Any, lake: FileSystemClient) -> None:
    answer = endpoint.send("PUT", f"/{lake.file_system_name}/f?resource=file", x_ms_permissions="0777")
    assert (answer.status_code, json.loads(answer.content)["error"]["code"]) == (400, "UnsupportedHeader")
    assert refused(lambda: lake.get_file_client("f").set_access_control(permissions="0777"))[0] == 400
    assert refused(lambda: lake.get_file_client("f").append_data(b"", 0, 0)) == (404, "PathNotFound")
    with pytest.raises(HttpResponseError):
        DataLakeServiceClient(endpoint.url, retry_total=0).get_file_system_client(lake.file_system_name).create_file("x")
