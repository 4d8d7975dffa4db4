"""Downloads that are cut off, changed and damaged on their way, from the storage endpoint and from plain web servers."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from azure.storage.blob import ContentSettings
from azure.storage.extensions import checksums
from lines import MB, Site, Wire, wire_to
from storage_world import Container

from batchyard.agent.transfer import storage
from batchyard.agent.transfer.failures import Failed
from batchyard.agent.transfer.staging import Staging
from batchyard.model.common import ResourceFile

Stage = Callable[..., Awaitable[None]]


@pytest.fixture
def working(place: Path) -> Path:
    (place / "wd").mkdir()
    return place / "wd"


@pytest.fixture
def stage(working: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(storage, "PAUSES_S", (0.01, 0.01))
    with ThreadPoolExecutor(8) as threads:

        async def stage(*files: dict[str, Any]) -> None:
            await Staging(str(working), -1, threads).all(msgspec.convert(list(files), list[ResourceFile]))

        yield stage


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


async def test_a_blob_that_is_cut_off_goes_on_where_it_was(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    content = os.urandom(8 * MB)
    etag = container.client.upload_blob("large", content).get_blob_properties().etag
    wire.cuts = [2 * MB, 3 * MB]
    await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert (working / "large").read_bytes() == content
    starts = [int(each.removeprefix("bytes=").removesuffix("-")) for each in wire.asked("range")]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1]
    assert wire.asked("if-match") == [etag.lower()] * 2
    assert os.listdir(working) == ["large"]


async def test_who_gets_on_is_not_given_up(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    content = os.urandom(20 * MB)
    container.client.upload_blob("large", content)
    wire.cuts = [3 * MB] * 6
    await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert (working / "large").read_bytes() == content
    assert not wire.cuts


async def test_a_blob_that_changes_midway_begins_anew(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    old, new = b"o" * 8 * MB, b"n" * 6 * MB
    container.client.upload_blob("large", old)
    wire.cuts, wire.on_cut = [3 * MB], lambda: container.client.upload_blob("large", new, overwrite=True)
    await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert (working / "large").read_bytes() == new


async def test_a_blob_that_goes_midway_is_told_as_such(stage: Stage, wire: Wire, container: Container, working: Path) -> None:
    container.client.upload_blob("large", b"o" * 8 * MB)
    wire.cuts, wire.on_cut = [3 * MB], lambda: container.client.delete_blob("large")
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": wire.url(container.sas("r")).replace("data?", "data/large?"), "filePath": "large"})
    assert caught.value.info.code == "BlobNotFound"
    assert os.listdir(working) == []


async def test_a_blob_that_is_not_what_its_md5_says_is_refused(stage: Stage, container: Container, working: Path) -> None:
    blob = container.client.upload_blob("a", b"content")
    blob.set_http_headers(ContentSettings(content_md5=bytearray(hashlib.md5(b"another").digest())))
    with pytest.raises(Failed) as caught:
        await stage({"storageContainerUrl": container.sas("rl")})
    assert (caught.value.info.code, caught.value.info.category) == ("BlobDownloadMiscError", "servererror")
    assert "MD5" in caught.value.info.message
    assert os.listdir(working) == []


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
async def test_a_web_server_that_cannot_name_versions_is_asked_for_the_whole_again(
    etag: str, stage: Stage, site: Site, working: Path
) -> None:
    site.content, site.headers = os.urandom(4 * MB), {"ETag": etag} if etag else {}
    with wire_to(site.url) as wire:
        wire.cuts = [2 * MB]
        await stage({"httpUrl": wire.url(site.url), "filePath": "file"})
    assert (working / "file").read_bytes() == site.content
    assert site.asked == [None, None]


@pytest.mark.parametrize("parts", [True, False])
async def test_a_web_server_with_versions_is_asked_for_the_rest(parts: bool, stage: Stage, site: Site, working: Path) -> None:
    site.content, site.parts = os.urandom(4 * MB), parts
    site.headers = {"ETag": '"one"', "Content-MD5": md5(site.content)}
    with wire_to(site.url) as wire:
        wire.cuts = [2 * MB]
        await stage({"httpUrl": wire.url(site.url), "filePath": "file"})
    assert (working / "file").read_bytes() == site.content
    assert site.asked[0] is None
    assert re.fullmatch(r"bytes=\d+-", site.asked[1] or "")


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("Content-MD5", md5(b"content"), True),
        ("Content-MD5", md5(b"another"), False),
        ("Content-MD5", "no checksum", True),
        ("x-ms-content-crc64", base64.b64encode(checksums.crc64.compute(b"content", 0).to_bytes(8, "little")).decode(), True),
        ("x-ms-content-crc64", base64.b64encode(bytes(8)).decode(), False),
    ],
)
async def test_a_checksum_has_to_hold_where_the_server_gives_one(
    name: str, value: str, *, taken: bool, stage: Stage, site: Site, working: Path
) -> None:
    site.content, site.headers = b"content", {name: value}
    if taken:
        await stage({"httpUrl": site.url, "filePath": "file"})
        assert (working / "file").read_bytes() == b"content"
        return
    with pytest.raises(Failed) as caught:
        await stage({"httpUrl": site.url, "filePath": "file"})
    assert caught.value.info.code == "BlobDownloadMiscError"
    assert "SECRET" not in msgspec.json.encode(caught.value.info).decode()
    assert len(site.asked) == 3  # it may have been damaged on its way
    assert os.listdir(working) == []


async def test_content_comes_as_it_is_stored(stage: Stage, site: Site, working: Path) -> None:
    site.content, site.headers = b"\x1f\x8b no gzip", {"Content-Encoding": "gzip"}
    await stage({"httpUrl": site.url, "filePath": "file"})
    assert (working / "file").read_bytes() == site.content


async def test_what_one_url_was_given_lets_no_other_in(stage: Stage, site: Site, working: Path) -> None:
    site.content, site.headers = b"x", {"Set-Cookie": "session=theirs; Path=/"}
    for name in ("one", "two"):
        await stage({"httpUrl": site.url, "filePath": name})
    assert site.cookies == [None, None]


async def test_a_container_of_many_pages_comes_as_a_whole(
    stage: Stage, wire: Wire, container: Container, working: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "NAMES", 7)
    wanted = {f"d{n % 3}/{n:02} %#ä.txt" for n in range(40)}
    for name in wanted:
        container.client.upload_blob(name, name.encode())
    await stage({"storageContainerUrl": wire.url(container.sas("rl")), "filePath": "in"})
    assert {str(path.relative_to(working / "in")): path.read_text() for path in working.rglob("*.txt")} == {name: name for name in wanted}
    assert sum("comp=list" in head for head in wire.heads) == 6


async def test_no_more_than_a_page_of_a_container_is_held_in_memory(
    stage: Stage, container: Container, working: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "NAMES", 20)
    for n in range(120):
        container.client.upload_blob(f"{n:04}", b"x")
    most, blob_url = 0, storage.blob_url

    def counted(url: str, name: str) -> str:
        nonlocal most
        most = max(most, int(name) - len(os.listdir(working)))
        return blob_url(url, name)

    monkeypatch.setattr(storage, "blob_url", counted)
    await stage({"storageContainerUrl": container.sas("rl")})
    assert len(os.listdir(working)) == 120
    assert most <= 20
