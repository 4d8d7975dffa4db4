"""Worlds from one database into another: from a directory into PostgreSQL and back, with no server at work.

Every database is copied in one transaction and compared before it is committed, the keys with it; a registry says where the world lies,
and is changed last. So whatever is killed in between leaves the old one in force. What was begun carries a mark and is made anew by who
comes again; what has no mark is somebody's and is left alone. The old one stays until it is removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from batchyard import drivers
from batchyard.blobs.queues.schema import SCHEMA as QUEUES_SCHEMA
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.blobs.store.schema import SCHEMA as BLOBS_SCHEMA
from batchyard.blobs.store.sharing import announce_place
from batchyard.disk import trees
from batchyard.drivers import copying
from batchyard.drivers.base import Connection, Driver, Use
from batchyard.drivers.copying import Sum
from batchyard.drivers.migrations import Chain
from batchyard.server import account_file
from batchyard.server.account_file import AccountFile
from batchyard.server.state import BLOBS, CATALOGUE, DATABASE, OPERATOR_KEY, QUEUES
from batchyard.server.stored import place_of
from batchyard.store.migrate import WORLD
from batchyard.store.storage import StorageRow

MARK = "moving"
"""File of a directory that is not a world yet."""
_ACCOUNT = "account"
_OF_SERVERS = frozenset({"place", "session", "doomed", "secret"})
"""Tables of what servers say of themselves, and of keys, which have a place of their own."""
_DATA, _CHUNK = "data", 1 << 20


class Unmovable(Exception):
    """A world that cannot be moved so; the message says why."""


class Place(NamedTuple):
    """Where a world lies: a directory, or the URL of a schema; and the directory of the bytes of its blobs.

    `storage` are its storage accounts beside the linked one.
    """

    at: Path | str
    blobs: Path
    storage: tuple[StorageRow, ...] = ()

    @property
    def shown(self) -> str:
        """The place as it may be printed, without a password."""
        return f"schema {drivers.schema(self.at)}" if isinstance(self.at, str) else str(self.at)

    def databases(self) -> tuple[tuple[str, Chain, Path | str], ...]:
        """Each of its databases: what it is called, its chain, where it lies. The store is the first: what it knows of is in the others."""
        found: tuple[Path | str, ...]
        if isinstance(self.at, str):
            found = self.at, drivers.beside(self.at, "queues"), drivers.beside(self.at, BLOBS)
        else:
            found = self.at / DATABASE, self.at / QUEUES, self.blobs / CATALOGUE
        own: Iterator[tuple[str, Chain, Path | str]] = zip(
            ("store", "queues", "blobs"), (WORLD, QUEUES_SCHEMA, BLOBS_SCHEMA), found, strict=True
        )
        beside = ((f"{name} of {row.slot}", *each) for row in self.storage for name, each in self._databases_of(row))
        return (*own, *beside)

    def _databases_of(self, row: StorageRow) -> Iterator[tuple[str, tuple[Chain, Path | str]]]:
        return zip(("queues", "blobs"), place_of(self.at, self.blobs, row).databases, strict=True)

    def content(self) -> tuple[tuple[Path, Path | str], ...]:
        """The directories of the bytes of its blobs, each with where its catalogue lies; the linked storage account's is the first."""
        catalogues = [location for name, _, location in self.databases() if name.startswith("blobs")]
        return tuple(zip((self.blobs, *(place_of(self.at, self.blobs, row).blobs for row in self.storage)), catalogues, strict=True))


Sums = dict[str, dict[str, Sum]]


def running_tasks(place: Place) -> int:
    """How many tasks a world runs just now."""
    with reading(place.databases()[0][2], WORLD) as store:
        (count,) = store.execute("SELECT count(*) FROM task WHERE state IN ('preparing', 'running')").fetchone()
    return int(count)


def copy(old: Place, new: Place, source: str, adjust: Callable[[Connection], object] = lambda store: None) -> Sums:
    """Make a world in an empty place what another one is; the sums of each table. `source` is the mark of what is begun.

    `adjust` changes what is different there, in the same transaction. Raises Unmovable, copying.Differs, OSError, and what databases raise.
    """
    if isinstance(new.at, Path):
        return fetch(old, new.at, source, adjust)
    account = _keys(old)
    for _, _, location in new.databases():
        if not drivers.reserve(str(location), source):
            raise Unmovable(f"the schema {drivers.schema(str(location))} is there already, and was not begun by this move")
    for (there, known), (here, _) in zip(old.content(), new.content(), strict=True):
        if here != there:
            _begin(here, source)
            _fill(there, here, known)
    homes = iter(new.content())

    def finish(name: str, target: Connection) -> None:
        if name.startswith("blobs"):
            target.execute("INSERT INTO place (id) VALUES (?)", (announce_place(next(homes)[0]),))
        if name == "store":
            text = account_file.encoded(account).decode()
            target.execute("INSERT INTO secret (name, content) VALUES (?, ?)", (_ACCOUNT, text))
            adjust(target)

    return _copied(old, new, finish)


def settle(new: Place) -> None:
    """The move is over: what was made is nobody's to make anew. May be repeated."""
    if isinstance(new.at, Path):
        (new.at / MARK).unlink(missing_ok=True)
        return
    for _, _, location in new.databases():
        drivers.unmark(str(location))
    for blobs, _ in new.content():
        (blobs / MARK).unlink(missing_ok=True)


def remove(old: Place, kept: Place) -> None:
    """Take the databases and keys of an old place away, and its bytes unless the new one has them. May be repeated."""
    if isinstance(old.at, str):
        for _, _, location in old.databases():
            drivers.drop(str(location))
    else:
        names = [str(location) for _, _, location in old.databases()]
        names += [] if (old.at / OPERATOR_KEY).exists() else [str(old.at / account_file.NAME)]  # a state directory keeps a copy
        for name in (f"{name}{end}" for name in names for end in ("", "-wal", "-shm")):
            Path(name).unlink(missing_ok=True)
    for blobs in {blobs for blobs, _ in old.content()} - {blobs for blobs, _ in kept.content()}:
        if blobs.exists():
            trees.remove_tree(blobs)


def fetch(old: Place, new: Path, source: str, adjust: Callable[[Connection], object], *, content: bool = True) -> Sums:
    """A world in a directory, filled beside it and given its name when it is whole; `content` brings the bytes of the blobs.

    Servers may be at work in the old one if it is in PostgreSQL: each database is copied as of one moment, the blobs' last, and none of
    the bytes goes meanwhile.
    """
    account = _keys(old)
    if new.exists() and any(new.iterdir()):
        if not (new / MARK).is_file() or (new / MARK).read_text() != source:
            raise Unmovable(f"{new} is not empty, and was not begun by this move")
        shutil.rmtree(new)
    part = new.with_name(f".{new.name}-{MARK}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o711, parents=True)
    _write(part / MARK, source.encode())
    made = Place(part, part / BLOBS, old.storage)
    for blobs, _ in made.content():
        (blobs / _DATA).mkdir(mode=0o700, parents=True)

    def finish(name: str, target: Connection) -> None:
        if name == "store":
            adjust(target)

    with _held(old):
        sums = _copied(old, made, finish)
        for (there, _), (here, known) in zip(old.content(), made.content(), strict=True):
            if content:
                _fill(there, here, known)
    account_file.store(part / account_file.NAME, account)
    for directory, _, names in os.walk(part):
        for name in names:
            os.chmod(os.path.join(directory, name), 0o600)
        trees.sync_directory(Path(directory))
    part.rename(new)
    trees.sync_directory(new.parent)
    return sums


def _copied(old: Place, new: Place, finish: Callable[[str, Connection], None]) -> Sums:
    sums: Sums = {}
    for (name, chain, source), (_, _, target) in zip(old.databases(), new.databases(), strict=True):
        if isinstance(source, Path) and not source.exists():
            if not name.startswith("queues"):
                raise Unmovable(f"{source} is missing")
            continue  # of a release that had none
        with reading(source, chain) as reader, writing(target, chain) as writer:
            sums[name] = copying.copy(reader, writer, chain, _OF_SERVERS)
            finish(name, writer)
            writer.settle()
    return sums


def _begin(new: Path, mark: str) -> None:
    """An empty directory with a mark. Raises Unmovable for one that holds something else."""
    if new.exists() and any(new.iterdir()) and (not (new / MARK).is_file() or (new / MARK).read_text() != mark):
        raise Unmovable(f"{new} is not empty, and was not begun by this move")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700, parents=True)
    _write(new / MARK, mark.encode())


@contextmanager
def _held(place: Place) -> Iterator[None]:
    """No bytes go that a look into the catalogue finds."""
    if isinstance(place.at, Path):  # nobody is at work there
        yield
        return
    with ExitStack() as stack:
        for blobs, catalogue in place.content():
            stack.enter_context(stack.enter_context(closing(LocalBlobStore(blobs, str(catalogue)))).held())
        yield


def _fill(old: Path, new: Path, known: Path | str) -> None:
    """Give the bytes that a catalogue names a second name in another directory, or copy them where that cannot be."""
    with reading(known, BLOBS_SCHEMA) as catalogue:
        sql = "SELECT file FROM segments WHERE file IS NOT NULL UNION SELECT file FROM staged"
        names = [name for (name,) in catalogue.execute(sql)]
    for name in names:
        _twin(old / _DATA / name[:2] / name, new / _DATA / name[:2] / name)
    for directory, _, _ in os.walk(new):
        trees.sync_directory(Path(directory))


def _twin(old: Path, new: Path) -> None:
    new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        os.link(old, new)
    except FileNotFoundError:
        return  # lost before; reading the blob says so
    except OSError:
        with old.open("rb") as source, new.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
            target.flush()
            os.fsync(target.fileno())


def _keys(place: Place) -> AccountFile:
    """The account of a world. Raises Unmovable."""
    try:
        if isinstance(place.at, Path):
            found = account_file.read(place.at / account_file.NAME)
        else:
            with reading(place.at, WORLD) as store:
                row = store.execute("SELECT content FROM secret WHERE name = ?", (_ACCOUNT,)).fetchone()
            found = None if row is None else account_file.decoded(row[0], "the account in the database")
    except account_file.Unusable as error:
        raise Unmovable(str(error)) from None
    if found is None:
        raise Unmovable(f"{place.shown} has no keys: it is no world")
    return found


@contextmanager
def reading(location: Path | str, chain: Chain) -> Iterator[Connection]:
    """A snapshot of a database that is there."""
    if isinstance(location, Path) and not location.exists():
        raise Unmovable(f"{location} is missing")
    with closing(drivers.opened(location, Use(chain))) as driver, driver.reading() as connection:
        yield connection


@contextmanager
def writing(location: Path | str, chain: Chain) -> Iterator[Connection]:
    """A database in a transaction of its own, which is undone unless all goes well."""
    driver: Driver = drivers.opened(location, Use(chain))
    try:
        connection = driver.journal.begin()
        try:
            yield connection
            driver.journal.commit(())
        except BaseException as error:
            driver.journal.abandon(error)
            raise
    finally:
        driver.close()


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    trees.sync_directory(path.parent)


class Move(msgspec.Struct, frozen=True):
    """A move as a state directory remembers it, for who goes on with it or removes what was left."""

    account: str
    old: str
    old_blobs: str
    new: str
    new_blobs: str
    storage: tuple[StorageRow, ...] = ()

    @property
    def places(self) -> tuple[Place, Place]:
        return self._place(self.old, self.old_blobs), self._place(self.new, self.new_blobs)

    def _place(self, at: str, blobs: str) -> Place:
        return Place(at if drivers.is_postgres(at) else Path(at), Path(blobs), self.storage)


def remember(directory: Path, move: Move) -> None:
    """Write a move down before it is made."""
    _write(directory / f"moved-{move.account}.json", msgspec.json.encode(move))


def remembered(directory: Path, account: str) -> Move | None:
    """The last move of an account, None when there was none. Raises Unmovable."""
    try:
        return msgspec.json.decode((directory / f"moved-{account}.json").read_bytes(), type=Move)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Unmovable(f"{directory / f'moved-{account}.json'} is damaged ({error})") from None


def forget(directory: Path, account: str) -> None:
    """There is nothing left of the old place."""
    (directory / f"moved-{account}.json").unlink(missing_ok=True)
