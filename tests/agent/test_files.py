"""File requests stay below their base, whatever paths and links say."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batchyard.agent.places import beneath, files, removals
from batchyard.agent.places.layout import Layout
from batchyard.model.sync import FileHead, FileRequest


@pytest.fixture
def root(place: Path) -> Path:
    """A node's root with a task `base` full of traps, beside a secret."""
    base = place / "root/base"
    (base / "wd/sub").mkdir(parents=True)
    (base / "wd/file").write_text("content")
    (base / "wd/a").mkdir()
    (base / "wd/a/z").write_text("")
    (base / "wd/a.txt").write_text("")
    (place / "root/secret").write_text("secret")
    (place / "root/base2").mkdir()
    (place / "root/base2/f").write_text("secret")
    (base / "inside").symlink_to("wd/file")
    (base / "absolute").symlink_to(place / "root/secret")
    (base / "relative").symlink_to("../secret")
    (base / "up").symlink_to("..")
    (base / "sibling").symlink_to("../base2/f")
    (base / "loop").symlink_to("loop")
    (base / "root").symlink_to("/")
    os.mkfifo(base / "pipe")
    return place / "root"


def ask(root: Path, operation: str, path: str, **members: object) -> files.Found:
    base = members.pop("base", "base")
    return files.answer(str(root), FileRequest(id="1", operation=operation, base=base, path=path, **members))  # type: ignore[arg-type]


def content(found: files.Found) -> bytes:
    assert found.head.error is None
    try:
        return b"".join(files.read(found.fd, found.head.offset, found.head.length))
    finally:
        os.close(found.fd)


OUTSIDE = [
    "../secret",
    "wd/../../secret",
    "absolute",
    "relative",
    "up/secret",
    "sibling",
    "root/etc/passwd",
    "loop",
    "..",
    "a\0b",
    "wd/file/x",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("operation", ["get", "properties", "list"])
def test_what_is_outside_does_not_exist(root: Path, operation: str, path: str) -> None:
    assert ask(root, operation, path).head.error in ("FileNotFound", "IOError" if path == "loop" else "")


@pytest.mark.parametrize("path", ["../secret", "up/secret", "root/tmp", "..", "", "up/base2"])
def test_what_is_outside_cannot_be_deleted(root: Path, path: str) -> None:
    assert ask(root, "delete", path, recursive=True).head.error
    assert (root / "secret").exists()
    assert (root / "base2/f").exists()


@pytest.mark.parametrize("base", ["..", "/", "/etc", "base/../..", "base/up/.."])
def test_the_base_cannot_leave_the_root(root: Path, base: str) -> None:
    assert ask(root, "get", "etc/passwd", base=base).head.error == "FileNotFound"


@pytest.mark.parametrize("path", ["wd/file", "/wd/file", "wd//./file", "inside"])
def test_files_inside_are_read_links_that_stay_inside_too(root: Path, path: str) -> None:
    assert content(ask(root, "get", path)) == b"content"


@pytest.mark.parametrize(
    ("offset", "length", "expected"), [(0, None, b"content"), (3, None, b"tent"), (1, 3, b"ont"), (5, 99, b"nt"), (0, 0, b"")]
)
def test_ranges(root: Path, offset: int, length: int | None, expected: bytes) -> None:
    assert content(ask(root, "get", "wd/file", offset=offset, length=length)) == expected


@pytest.mark.parametrize("offset", [7, 8, -1])
def test_ranges_beyond_the_end_are_invalid(root: Path, offset: int) -> None:
    assert ask(root, "get", "wd/file", offset=offset).head.error == "InvalidRange"


def test_an_empty_file_can_be_read(root: Path) -> None:
    assert content(ask(root, "get", "wd/a.txt")) == b""


def test_a_growing_file_is_read_up_to_its_size_when_asked(root: Path) -> None:
    found = ask(root, "get", "wd/file")
    with (root / "base/wd/file").open("a") as file:
        file.write("more")
    assert content(found) == b"content"


@pytest.mark.parametrize("path", ["", "wd", "pipe", "wd/sub/"])
def test_directories_and_pipes_are_no_files(root: Path, path: str) -> None:
    assert ask(root, "get", path).head.error == "FileNotFound"


def test_pipes_sockets_and_links_have_no_properties_either(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "base/socket"))
    for path in ("pipe", "socket", "absolute"):
        for operation in ("get", "properties"):
            assert ask(root, operation, path).head.error in ("FileNotFound", "IOError" if operation == "get" and path == "socket" else "")


def test_properties(root: Path) -> None:
    entry = ask(root, "properties", "wd/file").head.entry
    assert entry is not None
    seen = (root / "base/wd/file").stat()
    assert (entry.name, entry.is_directory, entry.size, entry.mode) == ("wd/file", False, 7, seen.st_mode)
    assert entry.modified == seen.st_mtime_ns // 1000
    directory = ask(root, "properties", "").head.entry
    assert directory is not None
    assert directory.is_directory


def test_lists_are_sorted_as_whole_paths_and_leave_links_and_pipes_out(root: Path) -> None:
    def names(path: str, recursive: bool) -> list[str]:
        return [
            each.name
            for each in files.entries(str(root), FileRequest(id="1", operation="list", base="base", path=path, recursive=recursive))
        ]

    assert names("", False) == ["wd"]
    everything = ["wd", "wd/a", "wd/a.txt", "wd/a/z", "wd/file", "wd/sub"]
    assert names("", True) == everything == sorted(everything)
    assert names("wd", False) == ["wd/a", "wd/a.txt", "wd/file", "wd/sub"]
    assert ask(root, "list", "missing").head.error == "FileNotFound"


def test_names_that_are_not_utf8_can_be_listed(root: Path) -> None:
    (root / "base/wd/sub" / os.fsdecode(b"\xff")).write_text("")
    found = list(files.entries(str(root), FileRequest(id="1", operation="list", base="base", path="wd/sub")))
    assert [each.name for each in found] == ["wd/sub/\ufffd"]


def test_delete(root: Path) -> None:
    assert ask(root, "delete", "wd").head == FileHead(error="OperationInvalidForCurrentState")
    assert ask(root, "delete", "wd/file").head == FileHead()
    assert ask(root, "delete", "wd/sub").head == FileHead()
    assert ask(root, "delete", "wd/file").head.error == "FileNotFound"
    assert ask(root, "delete", "absolute").head == FileHead()
    (root / "base/wd/out").symlink_to("/")
    assert ask(root, "delete", "wd", recursive=True).head == FileHead()
    assert not (root / "base/wd").exists()
    assert (root / "secret").exists()


def nest(top: Path, levels: int) -> None:
    """As many directories in one another, with a file in each."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_directories_are_deleted_however_deep_they_are(root: Path) -> None:
    (root / "base/deep").mkdir()
    nest(root / "base/deep", 1_200)
    assert ask(root, "delete", "deep", recursive=True).head == FileHead()
    assert not (root / "base/deep").exists()


def test_what_cannot_be_deleted_keeps_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "stays", "z"):
        (root / "base/wd/sub" / name).write_text("")
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int) -> None:
        if path == "stays":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    assert ask(root, "delete", "wd", recursive=True).head.error == "IOError"
    assert [path.name for path in sorted((root / "base/wd").rglob("*"))] == ["sub", "stays"]


def test_the_trash_is_emptied_of_deep_directories(place: Path) -> None:
    rooms = Layout(str(place / "node"))
    rooms.make()
    task = place / "node/workitems/job/job-1/task"
    task.mkdir(parents=True)
    nest(task, 250)
    removals.move_away(rooms, ["workitems", "job", "job-1", "task"])
    removals.empty(rooms, threading.Event())
    assert not task.exists()
    assert os.listdir(place / "node/volatile/removed") == []


def test_links_that_lead_below_the_base_in_roundabout_ways(root: Path) -> None:
    base = root / "base"
    (base / "wd/sub/there").symlink_to("../../wd/./sub/../a")
    (base / "whole").symlink_to(base / "wd")
    (base / "self").symlink_to(base)
    (base / "chain").symlink_to("self/whole/sub/there/../file")
    assert content(ask(root, "get", "chain")) == b"content"
    assert content(ask(root, "get", "self/self/whole/file")) == b"content"
    assert ask(root, "properties", "wd/sub/there/z").head.entry is not None
    (root.parent / "alias").symlink_to(root)
    assert content(ask(root.parent / "alias", "get", "whole/file")) == b"content"


@pytest.mark.parametrize("path", ["up/up/secret", "self/../secret", "wd/file/..", "l0"])
def test_roundabout_ways_do_not_lead_outside(root: Path, path: str) -> None:
    (root / "base/self").symlink_to(root / "base")
    for each in range(60):
        (root / f"base/l{each}").symlink_to(f"l{each + 1}")
    (root / "base/l60").symlink_to("wd/file")
    assert ask(root, "get", path).head.error


@pytest.mark.parametrize("opened", [beneath.open_below, beneath.by_steps])
def test_descriptors_below_a_directory_are_found_without_any_link(root: Path, opened: Callable[[int, list[str], int], int]) -> None:
    (root / "base/wd/link").symlink_to("sub")
    with beneath.directory(str(root / "base")) as base:
        for names in ([], ["wd"], ["wd", "sub"], ["wd", "file"]):
            fd = opened(base, names, os.O_RDONLY)
            assert os.path.samestat(os.fstat(fd), (root / "base").joinpath(*names).stat())
            os.close(fd)
        for names in (["inside"], ["up", "secret"], ["wd", "link"], ["wd", "link", "x"], ["root", "etc"]):
            with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
                opened(base, names, os.O_RDONLY)


def test_a_base_that_is_a_link_is_refused(root: Path) -> None:
    (root / "link").symlink_to("base")
    assert ask(root, "get", "wd/file", base="link").head.error
    with pytest.raises(NotADirectoryError), beneath.directory(str(root / "link")):
        pass
