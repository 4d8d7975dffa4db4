"""`batchyard app`: programs and data that nodes unpack, as zip files with versions (docs/applications.md)."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from batchyard.cli import output
from batchyard.cli.client import Client
from batchyard.cli.layout import Column
from batchyard.cli.problem import Problem, Usage
from batchyard.cli.streams import confirmed, many

Shown = Mapping[str, Any]
_AT = ("batchyard", "v1", "applications")
_COLUMNS = (
    Column("APPLICATION", lambda found, now: found["id"], keep=9),
    Column("DEFAULT", lambda found, now: found.get("defaultVersion", "")),
    Column("VERSIONS", lambda found, now: " ".join(package["version"] for package in found["packages"]), keep=8),
    Column("NAME", lambda found, now: found.get("displayName", "")),
)


def add(batch: Client, *, application: str, version: str, source: Path, default: bool) -> None:
    """Upload a zip file, or a directory as one, as a version of an application."""
    with _zipped(source) as file:
        batch.upload(*_AT, application, "versions", version, file=file)
    if default:
        batch.change("PATCH", *_AT, application, body={"defaultVersion": version})
    print(f"{application} {version}")


@contextlib.contextmanager
def _zipped(source: Path) -> Iterator[IO[bytes]]:
    """The zip file to send. Raises Usage, Problem."""
    try:
        if source.is_dir():
            with tempfile.TemporaryFile() as file:
                _zip(source, file)
                file.seek(0)
                yield file
        else:
            with source.open("rb") as file:
                if not zipfile.is_zipfile(file):
                    raise Usage(f"{source} is no zip file; name a directory to have it made into one")
                file.seek(0)
                yield file
    except OSError as error:
        raise Problem(f"{error.filename or source}: {error.strerror}") from None


def _zip(directory: Path, file: IO[bytes]) -> None:
    """All of a directory, with its links and with the permission to execute. Raises OSError."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for parent, directories, names in os.walk(directory):
            directories.sort()
            here = os.path.relpath(parent, directory)
            links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
            if here != "." and not names and not directories:
                made.write(parent, here + "/")
            for name in sorted([*names, *links]):
                path, shown = os.path.join(parent, name), os.path.normpath(os.path.join(here, name))
                if os.path.islink(path):
                    link = zipfile.ZipInfo(shown)
                    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                    made.writestr(link, os.readlink(path))
                elif os.path.isfile(path):
                    info = zipfile.ZipInfo.from_file(path, shown, strict_timestamps=False)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    with open(path, "rb") as content, made.open(info, "w") as packed:
                        while chunk := content.read(1 << 20):
                            packed.write(chunk)


def list_(batch: Client, *, shown: Shown) -> None:
    """List the applications and their versions."""
    output.show(lambda: batch.raw(*_AT), _COLUMNS, shown)


def show(batch: Client, *, applications: Sequence[str], shown: Shown) -> None:
    """Show applications."""
    found = [batch.get(*_AT, application) for application in applications]
    output.entries([{name: value for name, value in each.items() if name != "odata.metadata"} for each in found], _COLUMNS, shown)


def default(batch: Client, *, application: str, version: str | None, off: bool) -> None:
    """Say which version is meant where none is named, or that none is."""
    if (version is None) != off:
        raise Usage("name a version, or say --off")
    batch.change("PATCH", *_AT, application, body={"defaultVersion": version})
    print(f"{application} has no default version" if version is None else f"{application} {version} is the default version")


def delete(batch: Client, *, application: str, versions: Sequence[str], yes: bool | None) -> None:
    """Delete versions of an application; all of it when none is named."""
    lost = [*versions] or [package["version"] for package in batch.get(*_AT, application)["packages"]]
    confirmed(f"Delete {many(len(lost), 'version')} of {application}{'' if versions else ', and itself'}?", yes=bool(yes))
    for version in versions:
        batch.delete(*_AT, application, "versions", version)
        print(f"{application} {version} is deleted")
    if not versions:
        batch.delete(*_AT, application)
        print(f"{application} is deleted")
