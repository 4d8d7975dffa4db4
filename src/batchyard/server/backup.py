"""A state directory in one file, taken while its server works, and out of it again.

The archive is a tar: every SQLite file as SQLite copies it (one moment, whatever is written meanwhile), keys and settings, the data
files of blobs, and at the end a manifest with a digest of each. Databases of accounts are copied before those of blobs, so a task that
is there as completed has its output. Data files never change and go when nobody names them: they get a second name before they are
read, and a catalogue that names one which has gone meanwhile is copied again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec

from batchyard.blobs.store.schema import SCHEMA
from batchyard.disk import trees
from batchyard.drivers.sqlite import build
from batchyard.server.relocation import Wish, snapshot
from batchyard.server.state import MOVED

FORMAT = 1
MANIFEST = "batchyard-backup.json"
_CATALOGUE, _DATA = "catalogue.db", "data"
_LEFT_OUT = frozenset({"nodes", "lost+found"})
"""Directories of nodes: a server launches nodes anew, and makes what they ran again."""
_PASSING = frozenset({"server.json", "reserve"})
_PASSING_ENDS = ("lock", ".lock", ".log", "-wal", "-shm", "-journal", ".new")
_TRIES = 20
_CHUNK = 1 << 20


class Unusable(Exception):
    """A directory or an archive that cannot be used; the message says why."""


class Manifest(msgspec.Struct, rename="camel"):
    """What ends an archive: a digest (SHA-256) of every file before it, by name."""

    format: int
    with_blobs: bool
    digests: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Contents:
    """Files of a state directory by what becomes of them; `stores` are directories of blobs."""

    databases: list[Path]
    stores: list[Path]
    files: list[Path]
    directories: list[Path]


def backup(directory: Path, archive: Path, *, blobs: bool = True) -> int:
    """Write everything but the nodes to a new file, readable by its owner only; how many files. Raises Unusable, OSError, sqlite3.Error.

    Without `blobs` those of the account stay behind, and after a restore it has none.
    """
    if (directory / MOVED).exists():
        raise Unusable(f"its accounts are in a database; add: --database '{(directory / MOVED).read_text()}'")
    found = _contents(directory)
    if not found.databases:
        raise Unusable(f"{directory} holds no database: no server has worked there")
    part = archive.with_name(archive.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz" if archive.name.endswith("gz") else "w") as tar:
            count = _Writer(tar, directory).write(found, blobs=blobs)
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        os.link(part, archive)  # which never takes the place of another file
    except FileExistsError:
        raise Unusable(f"{archive} exists already") from None
    finally:
        part.unlink(missing_ok=True)
    trees.sync_directory(archive.parent)
    return count


def of_database(wish: Wish, archive: Path, *, blobs: bool = True) -> int:
    """The same where the accounts are in a database, as the directory that they would be in. Raises also what relocation does."""
    if archive.exists():
        raise Unusable(f"{archive} exists already")
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=wish.directory) as place:
        part = Path(place) / "state"
        snapshot(wish, part, content=blobs)
        return backup(part, archive, blobs=blobs)


def restore(archive: Path, directory: Path) -> int:
    """Fill a directory that is empty or not there; how many files. Nothing is there unless all of it is. Raises Unusable, OSError."""
    if directory.exists() and any(directory.iterdir()):
        raise Unusable(f"{directory} is not empty: restore into a new directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        count = _unpack(archive, place)
        place.chmod(0o711)
        for parent, _, _ in os.walk(place):
            trees.sync_directory(Path(parent))
        place.rename(directory)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    trees.sync_directory(directory.parent)
    return count


class _Writer:
    """An archive that is being written."""

    def __init__(self, tar: tarfile.TarFile, root: Path) -> None:
        self._tar, self._root = tar, root
        self._digests: dict[str, str] = {}

    def write(self, found: _Contents, *, blobs: bool) -> int:
        for path in found.directories:
            self._add_directory(path)
        for path in found.databases:
            with _copied(path) as copy:
                self._add(path, copy)
        for path in found.files:
            self._add(path, path)
        for store in found.stores:
            if not blobs:
                self._add_empty(store)
            else:
                with _held(store) as (catalogue, held):
                    self._add(store / _CATALOGUE, catalogue)
                    for name in sorted(os.listdir(held)):
                        self._add(store / _DATA / name[:2] / name, held / name)
        text = msgspec.json.encode(Manifest(FORMAT, blobs, self._digests))
        self._tar.addfile(_member(MANIFEST, len(text)), BytesIO(text))
        return len(self._digests)

    def _add_directory(self, path: Path) -> None:
        member = tarfile.TarInfo(path.relative_to(self._root).as_posix())
        member.type, member.mode = tarfile.DIRTYPE, path.stat().st_mode & 0o777
        self._tar.addfile(member)

    def _add_empty(self, store: Path) -> None:
        """Add a catalogue of nothing, as a server does not begin one where there is an account."""
        with tempfile.TemporaryDirectory() as place:
            empty = Path(place) / _CATALOGUE
            with closing(sqlite3.connect(empty, isolation_level=None)) as connection:
                build(connection, SCHEMA.newest, SCHEMA)
            self._add(store / _CATALOGUE, empty)

    def _add(self, path: Path, source: Path) -> None:
        """Add the content of `source` under the name of `path`."""
        name = path.relative_to(self._root).as_posix()
        with source.open("rb") as file:
            content = _Summed(file)
            self._tar.addfile(_member(name, os.fstat(file.fileno()).st_size), content)
        self._digests[name] = content.digest()


class _Summed:
    """A file whose digest is known once it was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sum = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        chunk = self._file.read(size)
        self._sum.update(chunk)
        return chunk

    def digest(self) -> str:
        """SHA-256 of what was read."""
        return self._sum.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _contents(root: Path) -> _Contents:
    found = _Contents([], [], [], [])
    for place, directories, files in os.walk(root):
        here = Path(place)
        if here != root:
            found.directories.append(here)
        is_store = _CATALOGUE in files and _DATA in directories
        if is_store:
            found.stores.append(here)
        directories[:] = sorted(d for d in directories if d not in _LEFT_OUT and not d.startswith(".") and not (is_store and d == _DATA))
        for name in sorted(files):
            path = here / name
            if name in _PASSING or name.endswith(_PASSING_ENDS) or name.startswith("server.log") or not path.is_file() or path.is_symlink():
                continue
            if name.endswith(".db"):
                if not (is_store and name == _CATALOGUE):
                    found.databases.append(path)
            else:
                found.files.append(path)
    return found


@contextmanager
def _copied(database: Path) -> Iterator[Path]:
    """A copy of a database as of one moment, beside it for as long as it is needed."""
    descriptor, name = tempfile.mkstemp(prefix=".backup-", dir=database.parent)
    os.close(descriptor)
    copy = Path(name)
    try:
        own = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(own, uri=True, timeout=30)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        yield copy
    finally:
        for path in (copy, copy.with_name(copy.name + "-wal"), copy.with_name(copy.name + "-shm")):
            path.unlink(missing_ok=True)


@contextmanager
def _held(store: Path) -> Iterator[tuple[Path, Path]]:
    """A copy of a catalogue, and a directory in which every data file that it names has a second name."""
    with open(store / "backup.lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unusable(f"another backup of {store} is under way") from None
        held = store / ".backup-held"
        shutil.rmtree(held, ignore_errors=True)  # of a backup that was killed
        held.mkdir(mode=0o700)
        try:
            before: set[str] = set()
            for _ in range(_TRIES):
                with _copied(store / _CATALOGUE) as catalogue:
                    wanted = _named(catalogue)
                    gone = _link(store / _DATA, held, wanted)
                    if gone == before:  # none, or those that were lost before; reading them says so
                        for name in set(os.listdir(held)) - wanted:
                            (held / name).unlink()
                        yield catalogue, held
                        return
                    before = gone
            raise Unusable(f"the blobs of {store} change faster than they can be held; try again")
        finally:
            shutil.rmtree(held, ignore_errors=True)


def _named(catalogue: Path) -> set[str]:
    """The data files that a catalogue names."""
    with closing(sqlite3.connect(catalogue)) as connection:
        sql = "SELECT file FROM segments WHERE file IS NOT NULL UNION SELECT file FROM staged"
        return {file for (file,) in connection.execute(sql)}


def _link(data: Path, held: Path, names: set[str]) -> set[str]:
    """Give each file a second name; those that are not there."""
    gone = set()
    for name in names - set(os.listdir(held)):
        try:
            os.link(data / name[:2] / name, held / name)
        except FileNotFoundError:
            gone.add(name)
    return gone


def _unpack(archive: Path, place: Path) -> int:
    digests: dict[str, str] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name == MANIFEST:
                    manifest = _manifest(tar, member)
                    continue
                path = place.joinpath(*_checked(member))
                if member.isdir():
                    path.mkdir(mode=member.mode & 0o711, parents=True, exist_ok=True)
                else:
                    digests[member.name] = _write(tar, member, path)
    except (tarfile.TarError, EOFError, msgspec.MsgspecError) as error:
        raise Unusable(f"{archive} is no backup, or damaged ({str(error).partition(chr(10))[0]})") from error
    if manifest is None:
        raise Unusable(f"{archive} is no backup, or cut short: its manifest is missing")
    if manifest.format != FORMAT:
        raise Unusable(f"{archive} was written by a newer release (format {manifest.format}); install that one")
    if digests != manifest.digests:
        wrong = sorted(name for name in digests.keys() | manifest.digests.keys() if digests.get(name) != manifest.digests.get(name))
        raise Unusable(f"{archive} is damaged: {', '.join(wrong[:3])}{' ...' * (len(wrong) > 3)} is not what was written")
    return len(digests)


def _manifest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Manifest:
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.TarError("the manifest is no file")
    return msgspec.json.decode(file.read(), type=Manifest)


def _checked(member: tarfile.TarInfo) -> tuple[str, ...]:
    """The parts of a name that stays below the directory. Raises TarError for others, and for what is neither file nor directory."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in member.name or not (member.isreg() or member.isdir()):
        raise tarfile.TarError(f"{member.name!r} is nothing that a backup holds")
    return path.parts


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str:
    source = tar.extractfile(member)
    assert source is not None
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
    summed = _Summed(source)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        while chunk := summed.read(_CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return summed.digest()
