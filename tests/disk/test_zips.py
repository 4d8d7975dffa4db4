"""Zip files of strangers: what is in them is unpacked, and nothing gets out of the directory or beyond the limits."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from batchyard.disk import zips
from batchyard.disk.zips import Limits, Refused

LIMITS = Limits(1 << 20, 100)


def packed(*entries: tuple[str, bytes | str] | tuple[str, bytes | str, int], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip file of names, contents and modes of Unix."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file, warnings.catch_warnings(action="ignore"):
        for name, content, *mode in entries:
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            info.create_system, info.external_attr = (3, mode[0] << 16) if mode else (0, 0)
            file.writestr(info, content)
    return made.getvalue()


def link(name: str, to: str) -> tuple[str, str, int]:
    return name, to, stat.S_IFLNK | 0o777


def unpacked(content: bytes, target: Path, limits: Limits = LIMITS, check: Callable[[], None] = lambda: None) -> Path:
    target.mkdir(exist_ok=True)
    opened, entries = zips.look_through(io.BytesIO(content), limits)
    zips.unpack(opened, entries, str(target), limits, check)
    return target


def test_files_directories_and_permissions(tmp_path: Path) -> None:
    content = packed(
        ("bin/run", "#!/bin/sh\n", stat.S_IFREG | 0o755),
        ("data/deep/a.txt", "a", stat.S_IFREG | 0o600),
        ("setuid", "x", stat.S_IFREG | 0o6744),
        ("empty/", "", stat.S_IFDIR | 0o700),
        ("./dotted//b", "b"),
        ("of\\windows\\c.exe", "c"),
    )
    there = unpacked(content, tmp_path / "t")
    modes = {str(path.relative_to(there)): stat.S_IMODE(path.stat().st_mode) for path in there.rglob("*") if path.is_file()}
    assert modes == {"bin/run": 0o755, "data/deep/a.txt": 0o644, "setuid": 0o755, "dotted/b": 0o755, "of/windows/c.exe": 0o755}
    assert (there / "empty").is_dir()
    assert stat.S_IMODE((there / "empty").stat().st_mode) == 0o755


def test_links_to_what_lies_inside_are_kept(tmp_path: Path) -> None:
    content = packed(("lib/a.so.1", "a"), link("lib/a.so", "a.so.1"), link("bin/up", "../lib/a.so.1"), link("all", "lib"))
    there = unpacked(content, tmp_path / "t")
    assert (there / "lib/a.so").read_text() == (there / "bin/up").read_text() == (there / "all/a.so").read_text() == "a"


HOSTILE = {
    "above": packed(("../x", "x")),
    "above, deep": packed(("a/../../x", "x")),
    "above, of windows": packed(("..\\x", "x")),
    "absolute": packed(("/x", "x")),
    "a drive": packed(("C:\\x", "x")),
    "no name": packed(("", "x")),
    "only dots": packed((".", "x")),
    "a link above": packed(link("l", "../x")),
    "a link above, deep": packed(("a/f", ""), link("a/l", "../../x")),
    "an absolute link": packed(link("l", "/etc/passwd")),
    "an empty link": packed(link("l", "")),
    "a link down and up": packed(("d/f", ""), link("l", "d/../../x")),
    "through links, which mean less than they seem to": packed(("a/b/f", ""), link("a/b/c", "../.."), link("l", "a/b/c/../..")),
    "a file below a link": packed(link("l", "d"), ("l/x", "x"), ("d/y", "")),
    "a file below a file": packed(("a", ""), ("a/b", "")),
    "a directory where a file is": packed(("a", ""), ("a/", "")),
    "twice": packed(("a", "1"), ("a", "2")),
    "twice, spelled otherwise": packed(("a/b", "1"), ("a//b", "2")),
    "a device": packed(("d", "", stat.S_IFCHR | 0o666)),
    "a pipe": packed(("p", "", stat.S_IFIFO | 0o666)),
    "too long a name": packed(("x" * 256, "")),
    "too deep": packed(("a/" * 201 + "x", "")),
    "too many": packed(*((f"f{n}", "") for n in range(101))),
    "too large": packed(("a", b"\0" * (1 << 20)), ("b", "x")),
    "another method": packed(("a", "a"), method=zipfile.ZIP_LZMA),
    "no zip": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_hostile_is_refused_and_leaves_nothing_outside(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        unpacked(content, tmp_path / "t")
    assert str(refused.value)[0].isupper() or str(refused.value)[0] == "'"
    assert os.listdir(tmp_path) == ["t"]


def test_a_file_that_lies_about_its_size_stops_at_the_limit(tmp_path: Path) -> None:
    """Both heads say one byte; what is deflated is larger than all that is allowed."""
    large = b"\0" * (4 << 20)
    content = bytearray(packed(("bomb", large)))
    for mark, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(mark) + at
        content[place : place + 4] = struct.pack("<I", 1)
    with pytest.raises(Refused):
        unpacked(bytes(content), tmp_path / "t")
    assert sum(path.stat().st_size for path in (tmp_path / "t").rglob("*")) <= LIMITS.bytes


def test_what_a_file_holds_counts_and_not_what_it_says_of_it(tmp_path: Path) -> None:
    """Twenty names for the same hundred thousand bytes."""
    content = packed(*((f"f{n}", os.urandom(1000) * 100) for n in range(20)))
    with pytest.raises(Refused, match="more than 1048576 bytes"):
        unpacked(content, tmp_path / "t")


def test_damage_is_told(tmp_path: Path) -> None:
    content = bytearray(packed(("a", os.urandom(10_000)), method=zipfile.ZIP_STORED))
    content[5_000] ^= 1
    with pytest.raises(Refused, match="'a' is damaged"):
        unpacked(bytes(content), tmp_path / "t")
    with pytest.raises(Refused):
        unpacked(bytes(content[:5_000] + content[6_000:]), tmp_path / "u")


def test_a_directory_of_the_file_that_is_large_is_not_read(tmp_path: Path) -> None:
    """Its end says so many bytes; nothing of that size is taken into memory."""
    content = bytearray(packed(("a", "a")))
    end = content.index(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", 200 << 20)
    with pytest.raises(Refused, match="directory is larger"):
        unpacked(bytes(content), tmp_path / "t")


def test_no_bytes_however_wrong_are_an_error_of_another_kind(tmp_path: Path) -> None:
    whole = packed(("a/b", "hello" * 100), link("l", "a/b"), ("c/", ""))
    for at in range(len(whole)):
        wrong = bytearray(whole)
        wrong[at] ^= 0xFF
        try:
            unpacked(bytes(wrong), tmp_path / str(at))
        except (Refused, OSError):
            continue


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    content = bytearray(packed(("a", "a")))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(Refused, match="encrypted"):
        unpacked(bytes(content), tmp_path / "t")


def test_unpacking_ends_when_it_is_told_to(tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def check() -> None:
        if (tmp_path / "t" / "b").exists():
            raise Enough

    with pytest.raises(Enough):
        unpacked(packed(("a", "a"), ("b", "b"), ("c", "c")), tmp_path / "t", check=check)
    assert not (tmp_path / "t" / "c").exists()


def test_large_files_in_the_form_of_64_bits_are_counted_too(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for n in range(3):
            with file.open(f"f{n}", "w", force_zip64=True) as one:
                one.write(b"x")
    assert len(list(unpacked(made.getvalue(), tmp_path / "t").iterdir())) == 3
    with pytest.raises(Refused, match="more than 2 entries"):
        unpacked(made.getvalue(), tmp_path / "u", Limits(100, 2))
