"""Inputs that tasks of a node share: asked for each time, never handed out themselves, bounded, and whole after a crash."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lines import MB, Site, Wire
from storage_world import Container

from batchyard.agent.places import identity
from batchyard.agent.places.layout import Layout
from batchyard.agent.transfer import inputs as module
from batchyard.agent.transfer import storage
from batchyard.agent.transfer.failures import Failed
from batchyard.agent.transfer.inputs import Inputs, source_of
from batchyard.agent.transfer.staging import Staging
from batchyard.disk.space import Disk
from batchyard.model.common import ResourceFile

ROOM = Disk(1 << 40, 1 << 39, 0, 0)
Bring = Callable[..., Awaitable[bytes]]


@pytest.fixture
def layout(place: Path) -> Layout:
    made = Layout(str(place / "root"))
    made.make()
    return made


@pytest.fixture
def cache(layout: Layout) -> Inputs:
    made = Inputs(layout, lambda _: ROOM)
    made.learn(10 * MB)
    return made


@pytest.fixture
def bring(cache: Inputs, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bring]:
    """Brings a URL for a task of its own; the content."""
    monkeypatch.setattr(storage, "PAUSES_S", (0.01,))
    with ThreadPoolExecutor(8) as threads:

        async def bring(url: str, task: str, shared: Inputs = cache) -> bytes:
            working = place / task
            working.mkdir(exist_ok=True)
            await Staging(str(working), -1, threads, inputs=shared).all([ResourceFile(http_url=url, file_path="in")])
            return (working / "in").read_bytes()

        yield bring


def kept(layout: Layout) -> list[int]:
    """Sizes of what is in the cache, but for notes."""
    there = Path(layout.volatile, "inputs")
    return sorted(path.stat().st_size for path in there.iterdir() if path.suffix != ".note")


def put(container: Container, content: bytes, name: str = "a") -> None:
    container.client.upload_blob(name, content, overwrite=True)


def url_of(wire: Wire, container: Container, name: str = "a", permissions: str = "r") -> str:
    return wire.url(container.sas(permissions)).replace("data?", f"data/{name}?")


async def test_the_second_task_asks_and_gets_a_copy_of_its_own(
    bring: Bring,
    wire: Wire,
    container: Container,
    layout: Layout,
    place: Path,
) -> None:
    content = os.urandom(3 * MB)
    put(container, content)
    assert await bring(url_of(wire, container), "one") == content
    (place / "one/in").write_bytes(b"altered by the first task")
    assert await bring(url_of(wire, container), "two") == content
    assert await bring(url_of(wire, container), "three") == content
    assert len(wire.asked("if-none-match")) == 2
    assert kept(layout) == [3 * MB]
    [there] = [path for path in Path(layout.volatile, "inputs").iterdir() if path.suffix != ".note"]
    assert (there.stat().st_nlink, there.stat().st_mode & 0o777, there.parent.stat().st_mode & 0o777) == (1, 0o600, 0o700)


async def test_who_may_not_read_the_source_gets_nothing(bring: Bring, wire: Wire, container: Container, place: Path) -> None:
    put(container, b"secret")
    await bring(url_of(wire, container), "one")
    with pytest.raises(Failed) as caught:
        await bring(url_of(wire, container, permissions="w"), "two")
    assert caught.value.info.code == "BlobAccessDenied"
    assert os.listdir(place / "two") == []
    container.client.delete_blob("a")
    with pytest.raises(Failed) as caught:
        await bring(url_of(wire, container), "two")
    assert caught.value.info.code == "BlobNotFound"


async def test_another_version_takes_the_place_of_the_first(bring: Bring, wire: Wire, container: Container, layout: Layout) -> None:
    put(container, b"old")
    await bring(url_of(wire, container), "one")
    put(container, b"newer")
    assert await bring(url_of(wire, container), "two") == b"newer"
    assert kept(layout) == [5]


async def test_those_who_come_together_fetch_once(bring: Bring, wire: Wire, container: Container) -> None:
    put(container, b"x" * MB)
    found = await asyncio.gather(*(bring(url_of(wire, container), f"task{n}") for n in range(6)))
    assert set(found) == {b"x" * MB}
    assert len(wire.asked("if-none-match")) == 5


async def test_the_least_recently_used_gives_way(bring: Bring, wire: Wire, container: Container, layout: Layout) -> None:
    for name, size in (("a", 4), ("b", 5), ("c", 3)):
        put(container, b"x" * size * MB, name)
    for name in "abab":
        await bring(url_of(wire, container, name), "task")
    await bring(url_of(wire, container, "a"), "task")
    await bring(url_of(wire, container, "c"), "task")
    assert kept(layout) == [3 * MB, 4 * MB], "b went"
    put(container, b"x" * 11 * MB, "huge")
    assert len(await bring(url_of(wire, container, "huge"), "task")) == 11 * MB
    assert kept(layout) == [3 * MB, 4 * MB], "what could never be kept touches nothing"


async def test_a_disk_that_fills_up_takes_the_cache_first(
    bring: Bring,
    wire: Wire,
    container: Container,
    layout: Layout,
) -> None:
    free = [ROOM.free_bytes]
    shared = Inputs(layout, lambda _: Disk(ROOM.bytes, free[0], 0, 0))
    shared.learn(10 * MB)
    put(container, b"x" * MB)
    await bring(url_of(wire, container), "one", shared)
    free[0] = 3 << 30
    put(container, b"y" * MB, "b")
    assert await bring(url_of(wire, container, "b"), "two", shared) == b"y" * MB
    assert kept(layout) == []
    free[0] = ROOM.free_bytes
    await bring(url_of(wire, container), "one", shared)
    assert (shared.relieve(), len(kept(layout))) == (0, 1)
    free[0] = 3 << 30
    assert (shared.relieve(), kept(layout)) == (MB, [])


async def test_a_full_disk_costs_the_cache_and_not_the_task(
    bring: Bring,
    wire: Wire,
    container: Container,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(container, b"x" * MB)
    put(container, b"y" * MB, "b")
    await bring(url_of(wire, container), "one")
    pwrite, there = os.pwrite, Path(layout.volatile, "inputs")

    def full(fd: int, *rest: object) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(there)):
            raise OSError(28, "No space left on device")
        return pwrite(fd, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", full)
    assert await bring(url_of(wire, container, "b"), "two") == b"y" * MB
    assert os.listdir(there) == []


async def test_what_a_crash_left_is_used_or_removed(
    bring: Bring,
    wire: Wire,
    container: Container,
    layout: Layout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in "ab":
        put(container, name.encode() * MB, name)
        await bring(url_of(wire, container, name), "task")
    there = Path(layout.volatile, "inputs")
    (there / "0123.part").write_bytes(b"half")
    (there / "orphan").write_bytes(b"of no note")
    (there / "torn.note").write_bytes(b'{"etag":')
    (there / "astray.note").write_bytes(b'{"etag":"\\"1\\"","name":"../../token","bytes":1,"boot":"x"}')
    [torn] = [path for path in there.iterdir() if path.suffix == "" and path.read_bytes().startswith(b"bb")]
    torn.write_bytes(b"torn")
    again = Inputs(layout, lambda _: ROOM)
    again.learn(10 * MB)
    assert kept(layout) == [MB]
    assert len(os.listdir(there)) == 2
    before = len(wire.asked("if-none-match"))
    assert await bring(url_of(wire, container, "a"), "task", again) == b"a" * MB
    assert len(wire.asked("if-none-match")) == before + 1
    monkeypatch.setattr(module, "boot", lambda: "another life of the machine")
    Inputs(layout, lambda _: ROOM).learn(10 * MB)
    assert os.listdir(there) == []


async def test_content_that_is_not_what_was_written_is_not_handed_out(
    bring: Bring,
    wire: Wire,
    container: Container,
    layout: Layout,
) -> None:
    put(container, b"x" * MB)
    await bring(url_of(wire, container), "one")
    [content] = [path for path in Path(layout.volatile, "inputs").iterdir() if path.suffix == ""]
    os.link(content, content.with_suffix(".other"))
    assert await bring(url_of(wire, container), "two") == b"x" * MB
    assert not wire.asked("if-none-match")


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}, {"ETag": '"1"', "Cache-Control": "No-Store"}])
async def test_what_cannot_or_may_not_be_kept_is_not(headers: dict[str, str], bring: Bring, site: Site, layout: Layout) -> None:
    site.content, site.headers = b"content", headers
    assert await bring(site.url, "one") == await bring(site.url, "two") == b"content"
    assert kept(layout) == []


async def test_a_pool_that_no_longer_wants_it_has_the_room_back(
    bring: Bring,
    wire: Wire,
    container: Container,
    layout: Layout,
    cache: Inputs,
) -> None:
    put(container, b"x" * MB)
    await bring(url_of(wire, container), "one")
    cache.learn(0)
    assert kept(layout) == []
    assert await bring(url_of(wire, container), "two") == b"x" * MB
    assert kept(layout) == []


def test_a_source_is_the_same_whoever_signed_it_and_another_one_with_another_query() -> None:
    first = source_of("http://h/account/c/b?sv=1&sig=AAA&se=2&snapshot=3")
    assert first == source_of("http://h/account/c/b?sig=BBB&sv=2&snapshot=3")
    assert first != source_of("http://h/account/c/b?sig=BBB&snapshot=4")
    assert source_of("http://h/file?id=1&se=2") != source_of("http://h/file?id=1&se=3")
    assert identity.boot()
