"""Where worlds lie on this machine: the one place that knows what the location in a row of the registry means.

An account's world is a directory below `accounts/` of the state directory or, where the operator said so, anywhere else; that of the
default account is the state directory itself, and the nodes of all are below it, because only this machine has them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from batchyard import config, drivers
from batchyard.disk import space
from batchyard.disk.trees import remove_tree, sync_directory
from batchyard.engine.wakes import Wakes
from batchyard.server import account_file, shared, stored
from batchyard.server.account_file import AccountFile
from batchyard.server.refusals import Refused
from batchyard.server.state import ACCOUNTS, BLOBS, DATABASE, DEFAULT, QUEUES, State, open_registry, open_state, operator_key
from batchyard.server.stored import Stored
from batchyard.store.accounts import AccountRow
from batchyard.store.db import Database
from batchyard.store.storage import StorageRow

KEYS_KNOWN_S = 5.0
"""How long the keys of a closed world in a database are believed: so late a server that heard nothing may learn of another key."""
_NODES, _SCHEMA, _DEFAULT_NAME = "nodes", "schema:", "batchyard"


class Places:
    """The worlds below and beside one state directory, or in a `database`; `blobs` is a directory of the blobs of all."""

    def __init__(self, directory: Path, database: str | None = None, blobs: Path | None = None) -> None:
        self._directory, self._database, self._blobs = directory, database, blobs
        self._base = "" if database is None else drivers.schema(database)
        self._keys: dict[str, tuple[float, AccountFile]] = {}
        """Of worlds in a database, and until when they are believed."""

    @property
    def shared(self) -> bool:
        """True where several servers may have the same accounts."""
        return self._database is not None

    def begin(self, hub: Wakes) -> State:
        """What the world of the default account holds. Raises Refused."""
        if self._database is None:
            return open_state(self._directory, hub)
        return shared.open_default(self._directory, self._database, self._blobs_in(self._directory, _DEFAULT_NAME), hub)

    def registry(self, account: AccountFile, now: int) -> Database:
        """Which accounts there are. Raises Refused."""
        if self._database is None:
            return open_registry(self._directory, account, now)
        return shared.open_registry(drivers.with_schema(self._database, f"{self._base}_registry"), account, now)

    def operator_key(self, registry: Database) -> str:
        """The key of who makes and removes accounts. Raises Refused."""
        return operator_key(self._directory) if self._database is None else shared.operator_key(self._directory, registry)

    def chosen(self, name: str, location: str | None) -> str:
        """The location of a new account. Raises ValueError with what is wrong with what the operator named."""
        if location is None:
            return f"{ACCOUNTS}/{name}" if self._database is None else f"{_SCHEMA}{self._base}_account_{name}"
        if drivers.is_postgres(location):
            return _chosen_database(location)
        if self._database is not None:
            raise ValueError("Servers that share a database cannot share a directory: a location is the URL of a PostgreSQL database")
        path = Path(location)
        if not path.is_absolute() or ".." in path.parts or "\0" in location:
            raise ValueError("A location is the absolute path of a directory, or the URL of a PostgreSQL database")
        path = path.parent.resolve() / path.name
        if path.is_relative_to(self._directory.resolve()):
            raise ValueError("The server has the places in its state directory to give")
        if not path.parent.is_dir():
            raise ValueError("The directory that it would be in is not there")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError("There is something already")
        return str(path)

    def make(self, row: AccountRow) -> None:
        """Make the world of a new account, with its keys and databases. Raises Refused, OSError."""
        path, database = self._home(row), self._store(row)
        for directory in (self._directory / ACCOUNTS, self.nodes(row).parent, path):
            directory.mkdir(mode=0o711, exist_ok=True)
            sync_directory(directory.parent)
        if database is not None and shared.exists(database):
            raise Refused(f"the schema {drivers.schema(database)} is not empty")
        if database is None and any(path.iterdir()):
            raise Refused(f"{path} is not empty")
        for part in self.open(row, Wakes())[1:]:
            part.close()

    def open(self, row: AccountRow, hub: Wakes) -> State:
        """What the world of an account holds. Raises Refused."""
        home, database = self._home(row), self._store(row)

        def fresh() -> AccountFile:
            return account_file.fresh(row.name, row.storage)

        if database is None:
            return open_state(home, hub, fresh)
        return shared.open_world(database, home, self._blobs_in(home, row.name), hub, fresh)

    def secrets(self, row: AccountRow) -> AccountFile:
        """Keys of an account whose world need not be open. Raises Unusable, StoreUnavailable."""
        database = self._store(row)
        if database is None:
            return _there(account_file.read(self._home(row) / account_file.NAME), row)
        until, account = self._keys.get(row.name, (0.0, None))
        if account is None or time.monotonic() >= until:
            account = _there(shared.keys(database), row)
            self._believe(row, account)
        return account

    def change_keys(self, row: AccountRow, change: Callable[[AccountFile], AccountFile]) -> AccountFile:
        """Put other keys in the place of those of an account. Raises Unusable, Refused, OSError, StoreUnavailable."""
        database = self._store(row)
        if database is not None:
            account = shared.change_keys(database, change)
            self._believe(row, account)
            return account
        account = change(self.secrets(row))
        account_file.store(self._home(row) / account_file.NAME, account)
        return account

    def learn_keys(self, row: AccountRow, account: AccountFile) -> None:
        """Another server may have renewed keys of a world in a database. Raises OSError."""
        self._believe(row, account)
        if row.location == DEFAULT:
            shared.keep_copy(self._directory, account)

    def stored(self, row: AccountRow, storage: StorageRow) -> Stored:
        """The place of a storage account in the world of an account that it is not linked to."""
        return stored.place_of(*self.place(row), storage)

    def make_storage(self, row: AccountRow, storage: StorageRow) -> AccountFile:
        """Make the place of a new storage account, and then its keys; the keys of the world. Raises what `change_keys` does."""
        stored.make(self.stored(row, storage))
        return self.change_keys(row, lambda account: account_file.with_storage(account, storage.slot))

    def forget_storage(self, row: AccountRow, storage: StorageRow) -> AccountFile:
        """Take the keys of a storage account away; may be repeated. Raises what `change_keys` does."""
        return self.change_keys(row, lambda account: account_file.without_storage(account, storage.slot))

    def place(self, row: AccountRow) -> tuple[Path | str, Path]:
        """Where a world lies, a directory or the URL of a schema, and the directory of its blobs."""
        home, database = self._home(row), self._store(row)
        name = _DEFAULT_NAME if row.location == DEFAULT else row.name
        return (home, home / BLOBS) if database is None else (database, self._blobs_in(home, name))

    @staticmethod
    def in_schema(name: str) -> str:
        """The location of a world in a schema of the servers' own database."""
        return f"{_SCHEMA}{name}"

    def is_shared(self, row: AccountRow) -> bool:
        """True for a world that several servers may have open."""
        return self._store(row) is not None

    def _believe(self, row: AccountRow, account: AccountFile) -> None:
        now = time.monotonic()
        self._keys = {name: found for name, found in self._keys.items() if found[0] > now}
        self._keys[row.name] = now + KEYS_KNOWN_S, account

    def _home(self, row: AccountRow) -> Path:
        """The directory of what this machine has of a world."""
        if self._store(row) is None:
            return self._directory / row.location
        return self._directory if row.location == DEFAULT else self._directory / ACCOUNTS / row.name

    def _store(self, row: AccountRow) -> str | None:
        """The URL of a world in PostgreSQL; None for one in a directory."""
        if drivers.is_postgres(row.location):
            return row.location
        if self._database is None:
            return None
        return self._database if row.location == DEFAULT else drivers.with_schema(self._database, row.location.removeprefix(_SCHEMA))

    def _blobs_in(self, home: Path, name: str) -> Path:
        return home / BLOBS if self._blobs is None else self._blobs / name

    def nodes(self, row: AccountRow) -> Path:
        """The directory of an account's nodes."""
        return (self._directory if row.location == DEFAULT else self._directory / ACCOUNTS / row.name) / _NODES

    def room(self, row: AccountRow) -> space.Room | None:
        """The room of a world on a disk of its own; None for one that shares the server's."""
        path = self._home(row)
        return None if path.stat().st_dev == self._directory.stat().st_dev else space.Room(path)

    def count_nodes(self) -> int:
        """Nodes of all accounts."""
        return sum(1 for nodes in self._all_nodes() for home in nodes.iterdir() if home.is_dir())

    def remove(self, row: AccountRow, storages: Iterable[StorageRow]) -> None:
        """Take a world away with its storage accounts, its keys last; what is not the server's stays. May be repeated.

        Raises OSError, Refused.
        """
        if row.location == DEFAULT:
            raise ValueError("the default account stays")
        path, database = self._home(row), self._store(row)
        for storage in storages:
            if not storage.is_linked(row):
                stored.remove(self.stored(row, storage))
        for directory in (self._blobs_in(path, row.name), path / _NODES, self.nodes(row)):
            _gone(directory)
        for name in (f"{file}{end}" for file in (DATABASE, QUEUES) for end in ("", "-wal", "-shm")):
            (path / name).unlink(missing_ok=True)
        for name in ("reserve", account_file.UNFINISHED, f"{account_file.NAME}.part"):
            (path / name).unlink(missing_ok=True)
        (path / account_file.NAME).unlink(missing_ok=True)
        if database is not None:
            shared.remove(database)
            self._keys.pop(row.name, None)
        for directory in (path, self.nodes(row).parent):
            with contextlib.suppress(OSError):  # not empty, or gone
                directory.rmdir()

    def _all_nodes(self) -> Iterator[Path]:
        for nodes in (self._directory / _NODES, *(self._directory / ACCOUNTS).glob(f"*/{_NODES}")):
            if nodes.is_dir():
                yield nodes


def _gone(path: Path) -> None:
    if path.exists():
        remove_tree(path)


def _there(account: AccountFile | None, row: AccountRow) -> AccountFile:
    if account is None:
        raise account_file.Unusable(f"the keys of {row.name} are missing")
    return account


def _chosen_database(location: str) -> str:
    """A database for an account. Raises ValueError; what it says of the URL has no password."""
    try:
        config.database(location)
        if config.has_password(location):
            raise ValueError("A location is kept and shown, so it says no password: put that into ~/.pgpass of every server")
        if "schema=" not in location:
            raise ValueError("The URL has to name a schema of the account's own, as postgresql://host/database?schema=name")
        if shared.exists(location):
            raise ValueError("There is an account already")
    except (config.Misconfigured, Refused) as error:
        raise ValueError(str(error)) from None
    return location
