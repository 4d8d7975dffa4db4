"""Readers without a key: containers that are open to them, the root container, the static website; and what they do not learn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import BlobClient, BlobServiceClient, ContainerClient, PublicAccess, StaticWebsite
from tests.blobs.conftest import ACCOUNT, Clock, Endpoint, serve
from tests.blobs.test_sdk import code_of

from batchyard.blobs.store.local import LocalBlobStore

_numbers = itertools.count()


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server whose operator lets containers be opened."""
    yield from serve(LocalBlobStore(tmp_path_factory.mktemp("public") / "store"), Clock(), public=True)


def opened(server: Endpoint, access: PublicAccess | None) -> ContainerClient:
    box = server.client().create_container(f"box-{next(_numbers)}", public_access=access)
    box.upload_blob("a/x", b"content", tags={"k": "v"})
    return box


def test_blobs_that_are_open(open_server: Endpoint) -> None:
    box = opened(open_server, PublicAccess.BLOB)
    stranger = BlobClient(open_server.url, box.container_name, "a/x", retry_total=0)
    assert stranger.download_blob().readall() == b"content"
    assert stranger.download_blob(offset=2, length=3).readall() == b"nte"
    assert stranger.get_blob_properties().size == 7
    refused = [
        lambda: list(ContainerClient(open_server.url, box.container_name, retry_total=0).list_blobs()),
        lambda: ContainerClient(open_server.url, box.container_name, retry_total=0).get_container_properties(),
        lambda: stranger.get_blob_tags(),
        lambda: stranger.delete_blob(),
        lambda: stranger.upload_blob(b"", overwrite=True),
        lambda: stranger.set_blob_metadata({}),
        lambda: BlobServiceClient(open_server.url, retry_total=0).list_containers().next(),
    ]
    for call in refused:
        with pytest.raises(HttpResponseError) as caught:
            call()
        assert (caught.value.status_code, code_of(caught.value)) == (401, "NoAuthenticationInformation")
    with pytest.raises(ResourceNotFoundError):
        BlobClient(open_server.url, box.container_name, "none", retry_total=0).download_blob()


def test_containers_that_are_open(open_server: Endpoint) -> None:
    box = opened(open_server, PublicAccess.CONTAINER)
    stranger = ContainerClient(open_server.url, box.container_name, retry_total=0)
    assert [blob.name for blob in stranger.list_blobs()] == ["a/x"]
    assert stranger.get_container_properties().public_access == "container"
    assert stranger.download_blob("a/x").readall() == b"content"
    assert [found.public_access for found in open_server.client().list_containers(box.container_name)] == ["container"]
    for call in (
        lambda: stranger.upload_blob("new", b""),
        lambda: stranger.get_container_access_policy(),
        lambda: stranger.delete_container(),
    ):
        with pytest.raises(HttpResponseError) as caught:
            call()
        assert caught.value.status_code == 401
    assert box.get_container_access_policy()["public_access"] == "container"
    box.set_container_access_policy({})
    with pytest.raises(HttpResponseError) as caught:
        stranger.download_blob("a/x")
    assert caught.value.status_code == 401


def test_what_is_closed_is_like_what_is_not_there(open_server: Endpoint, http: httpx.Client) -> None:
    box = opened(open_server, None)
    answers = {
        (found.status_code, found.text)
        for path in (f"/{box.container_name}/a/x", f"/{box.container_name}/none", "/nobox/x", "/", "/Bad_Name/x", "/x")
        for found in [http.get(f"{open_server.url}{path}")]
    }
    assert len(answers) == 1
    assert answers.pop()[0] == 401
    assert http.get(f"{open_server.url.replace(ACCOUNT, 'stranger')}/box/x").status_code == 401


def test_a_copy_of_what_is_open_needs_no_signature(open_server: Endpoint, http: httpx.Client) -> None:
    box, closed = opened(open_server, PublicAccess.BLOB), opened(open_server, None)
    to = closed.get_blob_client("copy")
    to.upload_blob_from_url(box.get_blob_client("a/x").url)
    assert to.download_blob().readall() == b"content"


def test_where_the_operator_does_not_let_nothing_is_opened(service: BlobServiceClient, container: ContainerClient) -> None:
    for call in (
        lambda: service.create_container("opened", public_access=PublicAccess.BLOB),
        lambda: container.set_container_access_policy({}, public_access=PublicAccess.CONTAINER),
        lambda: service.set_service_properties(static_website=StaticWebsite(enabled=True, index_document="i")),
    ):
        with pytest.raises(HttpResponseError) as caught:
            call()
        assert (caught.value.status_code, code_of(caught.value)) == (409, "PublicAccessNotPermitted")


def test_the_root_container(open_server: Endpoint, http: httpx.Client) -> None:
    service = open_server.client()
    root = service.create_container("$root", public_access=PublicAccess.BLOB)
    root.upload_blob("page.html", b"root", overwrite=True)
    assert [blob.name for blob in root.list_blobs()] == ["page.html"]
    assert http.get(f"{open_server.url}/page.html").content == b"root"
    assert open_server.send("GET", "/page.html").content == b"root"
    assert open_server.send("PUT", "/other.html", b"new", x_ms_blob_type="BlockBlob").status_code == 201
    assert service.get_blob_client("$root", "other.html").download_blob().readall() == b"new"
    assert service.get_container_client("$root").get_container_properties().name == "$root"
    with pytest.raises(HttpResponseError):
        service.create_container("$other")


def test_a_website(open_server: Endpoint, http: httpx.Client) -> None:
    service = open_server.client()

    def page(path: str, method: str = "GET") -> tuple[int, bytes, str]:
        url = f"http://{open_server.host}:{open_server.port}{path}"
        found = http.request(method, url, headers={"host": f"{ACCOUNT}.web.example.com"})
        return found.status_code, found.content, found.headers.get("content-type", "")

    web = service.create_container("$web")
    for name, content in {"index.html": b"start", "docs/index.html": b"docs", "a.css": b"css", "gone.html": b"gone"}.items():
        web.upload_blob(name, content, headers={"x-ms-blob-content-type": "text/html"})
    assert page("/index.html")[0] == 404
    service.set_service_properties(
        static_website=StaticWebsite(enabled=True, index_document="index.html", error_document404_path="gone.html")
    )
    found = service.get_service_properties()["static_website"]
    assert (found.enabled, found.index_document, found.error_document404_path) == (True, "index.html", "gone.html")
    assert page("/") == (200, b"start", "text/html")
    assert [page(path)[:2] for path in ("/docs/", "/docs", "/a.css", "/none", "/none/")] == [
        (200, b"docs"),
        (200, b"docs"),
        (200, b"css"),
        (404, b"gone"),
        (404, b"gone"),
    ]
    assert page("/a.css", "HEAD")[:2] == (200, b"")
    assert page("/a.css", "PUT")[0] == 405
    assert page("/?comp=list&restype=container")[1] == b"start"
    service.set_service_properties(static_website=StaticWebsite(enabled=True, index_document="index.html"))
    assert page("/none")[0] == 404
    service.set_service_properties(static_website=StaticWebsite(enabled=False))
    assert page("/")[0] == 404


def test_a_stranger_is_no_page_of_a_website(endpoint: Any, http: httpx.Client) -> None:
    found = http.get(f"http://{endpoint.host}:{endpoint.port}/x", headers={"host": f"{ACCOUNT}.web.example.com"})
    assert found.status_code == 404
