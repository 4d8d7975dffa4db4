"""What the directory of a world holds: account, database, blobs; opened whole or not at all. That of the server has the registry too."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from batchyard import drivers
from batchyard.blobs.queues.schema import SCHEMA as QUEUES_SCHEMA
from batchyard.blobs.queues.store import QueueStore
from batchyard.blobs.store.local import LocalBlobStore
from batchyard.blobs.store.schema import SCHEMA
from batchyard.drivers.migrations import Chain
from batchyard.drivers.sqlite import build
from batchyard.engine.wakes import Wakes
from batchyard.server import account_file
from batchyard.server.account_file import AccountFile
from batchyard.server.refusals import Refused
from batchyard.store import accounts, migrate, storage
from batchyard.store.db import Database, open_store
from batchyard.store.migrate import NewerSchema
from batchyard.store.soundness import damage
from batchyard.store.tx import Taken, Tx

DATABASE, BLOBS, CATALOGUE, QUEUES = "batchyard.db", "blobs", "catalogue.db", "queues.db"
REGISTRY, ACCOUNTS, OPERATOR_KEY = "registry.db", "accounts", "operator.key"
MOVED = "moved.to"
"""Says which database the accounts of a state directory were moved into."""
SERVER_ID = "server.id"
"""File that says which of the servers that share a database this one is."""
DEFAULT = "."
"""Where the world of the default account lies: in the state directory itself."""
_DIRECTORIES = ("nodes", BLOBS, f"{BLOBS}/data")
_FILES = ("server.json", "reserve", account_file.UNFINISHED)
"""What a server makes when it is missing, and cannot where something else has the name."""


State = tuple[AccountFile, Database, LocalBlobStore, QueueStore]
"""What the directory of a world holds, open."""


def open_account(directory: Path, fresh: Callable[[], AccountFile] = account_file.fresh) -> AccountFile:
    """The account of a world's directory; new random keys when there is none yet. Raises Refused, also when what belongs to it is gone."""
    path, database = directory / account_file.NAME, directory / DATABASE
    account = account_file.read(path)
    if account is not None:
        for missing in (database, directory / BLOBS / CATALOGUE):
            if not missing.exists():
                shared = "start it with --database where its accounts lie in one, " if (directory / SERVER_ID).exists() else ""
                raise Refused(
                    f"{missing} is missing although there is an account: {shared}put it back, or take all of {directory} away to begin anew"
                )
        return account
    begun = account_file.read(directory / account_file.UNFINISHED)
    if begun is None and database.exists():
        raise Refused(f"{path} is missing although there is a database: put it back, or every client and node would lose its key")
    account = begun or fresh()
    account_file.store(directory / account_file.UNFINISHED, account)
    return account


def open_state(directory: Path, hub: Wakes, fresh: Callable[[], AccountFile] = account_file.fresh) -> State:
    """All that the directory holds, whole or not at all. Raises Refused."""
    try:
        _refuse_misplaced(directory)
        account = open_account(directory, fresh)
        if (directory / account_file.NAME).exists():
            _refuse_damage(directory)
        db = _open_database(directory / DATABASE, hub)
        try:
            store, queues = open_storage(directory / BLOBS, keep_private(directory / QUEUES))
        except BaseException:
            db.close()
            raise
        if not (directory / account_file.NAME).exists():
            account_file.finish(directory)
    except account_file.Unusable as error:
        raise Refused(str(error)) from None
    except NewerSchema as newer:
        raise Refused(f"what {directory} holds was written by a newer release ({newer}); install that one") from None
    except (OSError, sqlite3.Error, RuntimeError) as error:
        raise Refused(f"what {directory} holds cannot be opened ({error})") from None
    return account, db, store, queues


def open_storage(blobs: Path, beside: Path | str) -> tuple[LocalBlobStore, QueueStore]:
    """Blobs in a directory, and queues. Their catalogues are the files of that directory and `beside`, or, where that is the URL of a world
    in PostgreSQL, schemas beside it; then all servers of the world see the directory. Raises what a database raises, OSError, RuntimeError.
    """
    catalogue = drivers.beside(beside, BLOBS) if isinstance(beside, str) else None
    store = LocalBlobStore(blobs, catalogue)
    try:
        return store, QueueStore(drivers.beside(beside, "queues") if isinstance(beside, str) else beside)
    except BaseException:
        store.close()
        raise


def drop_storage(world: str) -> None:
    """Remove the catalogues beside a world in PostgreSQL; may be repeated. Raises Unusable, and what the database raises."""
    for name in (BLOBS, "queues"):
        drivers.drop(drivers.beside(world, name))


def open_registry(directory: Path, account: AccountFile, now: int) -> Database:
    """The registry of a state directory, which knows its default account; made when there are no other accounts. Raises Refused.

    A directory of a release that had one account becomes one of this release by that alone, and nothing of it is moved.
    """
    path = directory / REGISTRY
    try:
        begun = path.exists() and path.stat().st_size > 0
        if begun and (wrong := damage(path, lambda model, version: build(model, version, migrate.REGISTRY))):
            raise Refused(f"{path} is damaged ({wrong}): put a copy of it back")
        registry = _open_database(path, lambda topics: None, migrate.REGISTRY)
        try:
            orphans = sorted((directory / ACCOUNTS).glob(f"*/{account_file.NAME}"))
            if orphans and registry.call(accounts.lying_at, DEFAULT) is None:
                raise Refused(f"{path} does not know the accounts in {directory / ACCOUNTS}: put a copy of it back")
            registry.call(adopt, account, now)
        except BaseException:
            registry.close()
            raise
    except Taken as taken:
        raise Refused(f"the {taken} of the account of {directory} is that of another account of it") from None
    except (OSError, sqlite3.Error) as error:
        raise Refused(f"{path} cannot be opened ({error})") from None
    return registry


def operator_key(directory: Path) -> str:
    """The key of who makes and removes accounts, made at the first start. Raises Refused."""
    try:
        return account_file.operator_key(directory / OPERATOR_KEY)
    except (account_file.Unusable, OSError) as error:
        raise Refused(str(error)) from None


def adopt(tx: Tx, account: AccountFile, now: int) -> None:
    """Enter the default account, or what its file says by now. Raises Taken."""
    row = accounts.lying_at(tx, DEFAULT)
    if row is None:
        enter_account(tx, name=account.name, state=accounts.ACTIVE, location=DEFAULT, storage=account.storage_name, created=now)
        return
    named, storing = accounts.named(tx, account.name), storage.named(tx, account.storage_name)
    if named is not None and named.pk != row.pk:
        raise Taken("name")
    if storing is not None and (storing.account_pk != row.pk or not storing.is_linked(row)):
        raise Taken("storage")
    if (row.name, row.storage) != (account.name, account.storage_name):
        storage.rename(tx, row.pk, row.storage, account.storage_name)
        accounts.change(tx, row, {"name": account.name, "storage": account.storage_name})


def enter_account(tx: Tx, **values: Any) -> accounts.AccountRow:
    """Enter an account with the storage account that is linked to it. Raises Taken."""
    row = accounts.add(tx, **values)
    storage.add(tx, name=row.storage, account_pk=row.pk, state=storage.ACTIVE, created=row.created)
    return row


def _refuse_misplaced(directory: Path) -> None:
    """Raises Refused for a file where a directory is needed, or the other way round, whose use would fail later."""
    if (directory / MOVED).exists():
        raise Refused(f"the accounts of {directory} were moved: start it with --database '{(directory / MOVED).read_text()}'")
    for names, kind, is_kind in ((_DIRECTORIES, "directory", Path.is_dir), (_FILES, "file", Path.is_file)):
        for path in (directory / name for name in names):
            if path.exists() and not is_kind(path):
                raise Refused(f"{path} is no {kind}, and a server needs one there: take it away")


def _refuse_damage(directory: Path) -> None:
    """What belongs to an account holds what its server left there, and is not filled anew. Raises Refused, OSError, sqlite3.Error."""
    refuse_damaged(directory / DATABASE, migrate.WORLD)
    refuse_damaged(directory / BLOBS / CATALOGUE, SCHEMA)
    queues = directory / QUEUES
    if queues.exists() and queues.stat().st_size:  # earlier releases did not make it, and a crash may have come between
        refuse_damaged(queues, QUEUES_SCHEMA, least=0)


def refuse_damaged(path: Path, chain: Chain, *, least: int = 1) -> None:
    """Raises Refused for a database that does not hold what was left there, at `least` that version; OSError, sqlite3.Error."""
    if wrong := damage(path, lambda model, version: build(model, max(version, least), chain)):
        raise Refused(f"{path} is damaged ({wrong}): put a copy of it back")


def keep_private(database: Path) -> Path:
    """The database, readable by its owner only: tasks of other users pass through its directory. SQLite's own files take its mode."""
    database.touch(mode=0o600)
    for path in (database, *(database.with_name(database.name + end) for end in ("-wal", "-shm"))):
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o600)
    return database


def _open_database(path: Path, on_wake: Callable[[Iterable[str]], None], chain: Chain = migrate.WORLD) -> Database:
    try:
        return open_store(keep_private(path), on_wake, chain)
    except NewerSchema as newer:
        raise Refused(f"{path} was written by a newer release ({newer}); install that one") from None
