"""Application packages on a node, the agent alone: what is hostile, missing, too large or away, and who may read what is there."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest
from storage_world import Container

from batchyard.agent.settings import AgentSettings
from batchyard.model.sync import Ended, FileHead, Order, Package, Removal, Sync


class FakeServer(Protocol):
    """What these tests need of the fixtures `server` and `node`."""

    wanted: dict[str, Order]
    setup: dict[str, Any]
    syncs: list[Sync]
    removals: list[Removal]

    def change(self) -> None: ...
    def order(self, attempt: str, command: str, *, job: str = "job", start: bool = False) -> None: ...
    async def end_of(self, attempt: str) -> Ended: ...
    async def until(self, what: Callable[[], Any]) -> Any: ...
    async def file(self, operation: str, path: str) -> tuple[FileHead, bytes]: ...


def packed(files: dict[str, str | bytes], mode: int = 0) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            file.writestr(info, content)
    return made.getvalue()


def package(container: Container, name: str, content: bytes, asked: str | None = "1") -> Package:
    """A package whose zip file is there."""
    container.client.upload_blob(f"{name}.zip", content, overwrite=True)
    url = container.sas("r").replace("/data?", f"/data/{name}.zip?")
    return Package(application=name, asked=asked, directory=f"{name}-1-00", url=url, bytes=len(content))


async def ran(server: FakeServer, attempt: str, script: str, *packages: Package, job: str = "job") -> Ended:
    """How an attempt with these packages ended."""
    server.order(attempt, f"/bin/sh -c '{script}'", job=job)
    server.wanted[attempt] = msgspec.structs.replace(server.wanted[attempt], packages=list(packages))
    return await server.end_of(attempt)


@pytest.fixture
def limited(server: FakeServer) -> None:
    """Packages may have a megabyte and fifty entries."""
    server.setup = {"package_bytes": 1 << 20, "package_entries": 50}


@pytest.fixture
def lacking(server: FakeServer) -> None:
    """The pool names a package that is not there."""
    server.setup = {"packages": [Package(application="none", asked=None)]}


async def said(server: FakeServer, path: str) -> bytes:
    return (await server.file("get", path))[1]


async def test_what_is_unpacked_is_for_all_to_read_and_for_nobody_to_change(
    node: FakeServer, settings: AgentSettings, container: Container
) -> None:
    one = package(container, "one", packed({"bin/x": "#!/bin/sh\necho ran"}, stat.S_IFREG | 0o700))
    script = "$AZ_BATCH_APP_PACKAGE_one_1/bin/x; touch $AZ_BATCH_APP_PACKAGE_one_1/bin/y 2>/dev/null && echo changed"
    end = await ran(node, "t.1", script, one)
    assert end.failure is None or end.exit_code == 1
    text = await said(node, "workitems/job/job-1/t/stdout.txt")
    assert text == (b"ran\n" if os.geteuid() == 0 else b"ran\nchanged\n"), "without root the tasks are the agent's own user"
    top = Path(settings.root) / "applications" / "one-1-00"
    assert stat.S_IMODE(top.stat().st_mode) == stat.S_IMODE((top / "bin").stat().st_mode) == 0o755
    assert top.stat().st_uid == os.geteuid()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "slip": (packed({"../../../shared/x": "x"}), "leads out of the package"),
    "link": (packed({"l": "/etc/passwd"}, stat.S_IFLNK | 0o777), "leads out of the package"),
    "bomb": (packed({"b": b"\0" * (2 << 20)}), "holds more than 1048576 bytes"),
    "many": (packed({f"f{n}": "" for n in range(60)}), "holds more than 50 entries"),
    "none": (b"no zip", "no zip file"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_hostile_fails_the_task_and_leaves_nothing(
    limited: None, node: FakeServer, settings: AgentSettings, name: str, container: Container
) -> None:
    content, why = HOSTILE[name]
    end = await ran(node, "t.1", "echo ran", package(container, name, content))
    assert end.failure is not None
    assert (end.failure.code, end.stage, end.exit_code) == ("ApplicationPackageError", "preprocessing", None)
    assert why in (end.failure.message or "")
    root = Path(settings.root)
    assert [*(root / "applications").iterdir()] == [*(root / "volatile/unpacking").iterdir()] == [*(root / "shared").iterdir()] == []


async def test_a_package_that_is_away_or_not_there_is_told_without_its_signature(node: FakeServer, container: Container) -> None:
    gone = package(container, "gone", packed({"a": "a"}))
    container.client.delete_blob("gone.zip")
    for nth, (each, category) in enumerate(((gone, "servererror"), (Package(application="none", asked="1"), "usererror"))):
        end = await ran(node, f"t{nth}.1", "echo ran", each)
        assert end.failure is not None
        assert (end.failure.code, end.failure.category) == ("ApplicationPackageError", category)
        assert "sig=" not in str(end.failure)


async def test_more_bytes_than_were_told_are_not_taken(node: FakeServer, container: Container) -> None:
    one = package(container, "one", packed({"a": "a"}))
    one.bytes -= 1
    end = await ran(node, "t.1", "echo ran", one)
    assert end.failure is not None
    assert "more than" in (end.failure.message or "")


async def test_what_failed_once_is_tried_again(node: FakeServer, settings: AgentSettings, container: Container) -> None:
    one = package(container, "one", packed({"a": "a"}))
    away, one.url = one.url, one.url.replace("/data/one.zip", "/data/not-yet.zip")
    end = await ran(node, "t.1", "echo ran", one)
    assert end.failure is not None
    one.url = away
    assert (await ran(node, "t.2", "cat $AZ_BATCH_APP_PACKAGE_one_1/a", one)).failure is None
    assert [path.name for path in (Path(settings.root) / "applications").iterdir()] == ["one-1-00"]


async def test_packages_go_with_the_last_job_that_named_them(node: FakeServer, settings: AgentSettings, container: Container) -> None:
    one = package(container, "one", packed({"a": "a"}))
    for job in ("first", "second"):
        assert (await ran(node, f"{job}.1", "true", one, job=job)).failure is None
    top = Path(settings.root) / "applications" / "one-1-00"
    for number, (job, left) in enumerate((("first", True), ("second", False)), 1):
        node.removals.append(Removal(number=number, directory=f"workitems/{job}/job-1"))
        node.change()
        await node.until(lambda: not node.removals)
        assert top.exists() == left


async def test_pool_packages_are_there_before_the_start_task_and_a_node_without_them_says_so(lacking: None, node: FakeServer) -> None:

    def problems() -> list[Any]:
        return [problem for sync in node.syncs for problem in sync.problems or () if problem.code == "ApplicationPackageError"]

    assert (await node.until(problems))[0].blocking
    end = await ran(node, "t.1", "echo ran")
    assert end.failure is not None
    assert (end.failure.code, end.outcome) == ("Unknown", "unknown"), "the task is given back, for another node"
    node.order("start.1", "/bin/sh -c true", start=True)
    end = await node.end_of("start.1")
    assert end.failure is not None
    assert end.failure.code == "ApplicationPackageError"
