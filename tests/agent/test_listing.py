"""Pages of a tree: together they are the whole list, and a page of a large directory does not read it anew."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchyard.agent.places import files, listing
from batchyard.model.sync import FileEntry, FileRequest

NAMES = st.sampled_from(["a", "a.txt", "a b", "a0", "a-", "b", "ä", "日", "z" * 50, "\udcff", "A"])
TREES = st.recursive(st.just(None), lambda inner: st.dictionaries(NAMES, inner, max_size=5), max_leaves=25)


def grow(directory: Path, tree: object) -> None:
    for name, inner in tree.items() if isinstance(tree, dict) else ():
        if inner is None:
            (directory / name).write_text("x")
        else:
            (directory / name).mkdir()
            grow(directory / name, inner)


def page(root: Path, after: str, limit: int | None, *, recursive: bool = True) -> list[FileEntry]:
    return list(files.entries(str(root), FileRequest(id="1", operation="list", recursive=recursive, after=after, limit=limit)))


@settings(deadline=None, max_examples=60)
@given(tree=st.dictionaries(NAMES, TREES, max_size=5), limit=st.integers(1, 7), recursive=st.booleans())
def test_pages_together_are_the_whole_list_in_order(tree: object, limit: int, recursive: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        grow(Path(place), tree)
        whole = [entry.name for entry in page(Path(place), "", None, recursive=recursive)]
        assert whole == sorted(set(whole))
        assert len(whole) == (sum(1 for _ in Path(place).rglob("*")) if recursive else len(os.listdir(place)))
        found: list[str] = []
        while some := page(Path(place), found[-1] if found else "", limit, recursive=recursive):
            assert len(some) <= limit
            found += [entry.name for entry in some]
        assert found == whole


@pytest.mark.parametrize("gone", ["b", "b/c"])
def test_a_page_goes_on_behind_what_was_removed_meanwhile(tmp_path: Path, gone: str) -> None:
    grow(tmp_path, {"a": None, "b": {"c": None, "d": None}, "e": None})
    assert [entry.name for entry in page(tmp_path, "", 3)] == ["a", "b", "b/c"]
    (tmp_path / "b/c").unlink()
    if gone == "b":
        (tmp_path / "b/d").unlink()
        (tmp_path / "b").rmdir()
    assert [entry.name for entry in page(tmp_path, "b/c", 3)] == (["e"] if gone == "b" else ["b/d", "e"])


def test_a_large_directory_is_read_once_for_all_its_pages_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        (tmp_path / f"{number:02}").write_text("x")
    monkeypatch.setattr(listing, "_LARGE", 50)
    read: list[int] = []
    real = os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda fd: read.append(fd) or real(fd))

    def all_names() -> list[str]:
        found: list[str] = []
        while some := page(tmp_path, found[-1] if found else "", 10):
            found += [entry.name for entry in some]
        return found

    def pages(ns: int) -> int:
        """How often the directory was read for all its pages, having changed at that time."""
        os.utime(tmp_path, ns=(ns, ns))
        monkeypatch.setattr(listing, "_SETTLED_NS", -(10**12))
        read.clear()
        assert all_names() == sorted(os.listdir(tmp_path))
        return len(read)

    assert pages(10**18) == 1
    (tmp_path / "new").write_text("x")
    assert pages(2 * 10**18 // 2 + 1) == 1
    assert "new" in all_names()
    monkeypatch.setattr(listing, "_MOST_KEPT", 10)
    assert pages(10**18 + 2) > 5


def test_a_directory_that_has_just_changed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_LARGE", 1)
    monkeypatch.setattr(listing, "_SETTLED_NS", 10**18)
    (tmp_path / "a").write_text("x")
    state = tmp_path.stat()
    assert [entry.name for entry in page(tmp_path, "", None)] == ["a"]
    (tmp_path / "b").write_text("x")
    os.utime(tmp_path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert [entry.name for entry in page(tmp_path, "", None)] == ["a", "b"]
