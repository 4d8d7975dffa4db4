"""What `batchyard migrate` does: one account to another place, or all of a state directory into PostgreSQL and out of it.

Nobody may be at work in the state directory; the caller holds its lock. What says where a world lies is changed when all of it is
there: the row of the registry for one account; for all, a file in the state directory, or the name of the one that is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from batchyard import config, drivers
from batchyard.disk import trees
from batchyard.drivers import copying
from batchyard.drivers.base import Connection
from batchyard.server import account_file, authority, moving, shared
from batchyard.server.moving import Move, Place, Sums, Unmovable
from batchyard.server.places import Places
from batchyard.server.state import ACCOUNTS, BLOBS, DEFAULT, MOVED, OPERATOR_KEY, REGISTRY
from batchyard.store import accounts, migrate, secrets, servers, storage
from batchyard.store.accounts import ACTIVE, AccountRow
from batchyard.store.db import Database, open_store
from batchyard.store.storage import StorageRow
from batchyard.store.tx import Tx

_AT_ONCE = 500
_SILENT_US = 30_000_000
_OF_SERVERS = ("server", "opening", "secret")


class Moved(NamedTuple):
    """An account that lies elsewhere now; without sums where it did so already."""

    account: str
    place: Place
    sums: Sums | None


class Wish(NamedTuple):
    """What is asked for."""

    directory: Path
    to: str
    database: str | None = None
    blobs: Path | None = None
    force: bool = False
    remove_old: bool = False

    @property
    def mark(self) -> str:
        """What is begun is known by this."""
        return f"batchyard moves {self.directory} here"


def account(wish: Wish, name: str) -> Moved:
    """Move one account. Raises Unmovable, copying.Differs, OSError, and what databases raise."""
    if wish.database is not None:
        raise Unmovable("with --database all accounts move together: say --all")
    with closing(_registry(wish.directory / REGISTRY)) as registry:
        row = registry.call(accounts.named, name)
        if row is None:
            raise Unmovable(f"there is no account {name}")
        if row.location == DEFAULT:
            raise Unmovable(f"{row.name} is the default account, whose place is that of its server: say --all")
        _check_active([row])
        places = Places(wish.directory, None, wish.blobs)
        target = msgspec.structs.replace(row, location=_location(wish))
        beside = _beside(row, registry.call(storage.of_account, row.pk))
        old, new = Place(*places.place(row), beside), Place(*places.place(target), beside)
        if target.location == row.location:
            _finish(wish, row.name, new)
            return Moved(row.name, new, None)
        if (other := registry.call(accounts.lying_at, target.location)) is not None:
            raise Unmovable(f"the account {other.name} lies there")
        _check_tasks(wish, [(row.name, old)])
        moving.remember(wish.directory, Move(row.name, str(old.at), str(old.blobs), str(new.at), str(new.blobs), beside))
        sums = moving.copy(old, new, wish.mark)
        registry.call(accounts.change, row, {"location": target.location})
        _finish(wish, row.name, new)
        return Moved(row.name, new, sums)


def all_accounts(wish: Wish) -> list[Moved]:
    """Move all accounts with their registry. Raises Unmovable, copying.Differs, OSError, and what databases raise."""
    return _into_database(wish) if drivers.is_postgres(wish.to) else _into_directory(wish)


def _into_database(wish: Wish) -> list[Moved]:
    if wish.database is not None:
        raise Unmovable("what lies in a database already can be moved into a directory only")
    _checked_url(wish.to)
    base = drivers.schema(wish.to)
    before, behind = Places(wish.directory, None), Places(wish.directory, wish.to, wish.blobs)
    with closing(_registry(wish.directory / REGISTRY)) as registry:
        rows = _all(registry)
        beside = _all_beside(registry, rows)
    _check_active(rows)
    targets = [msgspec.structs.replace(row, location=_in_database(row, base)) for row in rows]
    pairs = [
        (row.name, Place(*before.place(row), beside[row.pk]), Place(*behind.place(target), beside[row.pk]))
        for row, target in zip(rows, targets, strict=True)
    ]
    pairs = [(name, old, new) for name, old, new in pairs if old.at != new.at]
    place = drivers.with_schema(wish.to, f"{base}_registry")
    if (wish.directory / MOVED).exists():
        if (wish.directory / MOVED).read_text() != wish.to:
            raise Unmovable(f"the accounts of {wish.directory} were moved elsewhere: {(wish.directory / MOVED).read_text()}")
        return _finish_all(wish, pairs, place, {})
    _check_tasks(wish, [(name, old) for name, old, _ in pairs])
    server = shared.server_id(wish.directory)

    def adjust(store: Connection) -> None:
        store.execute("UPDATE node SET server = ?, version = version + 1 WHERE handle IS NOT NULL AND server IS NULL", (server,))

    done = {name: moving.copy(old, new, wish.mark, adjust) for name, old, new in pairs}
    if not drivers.reserve(place, wish.mark):
        raise Unmovable(f"the schema {drivers.schema(place)} is there already, and was not begun by this move")
    key = account_file.operator_key(wish.directory / OPERATOR_KEY)

    def enter(registry: Connection) -> None:
        _relocate(registry, rows, targets)
        registry.execute("INSERT INTO secret (name, content) VALUES (?, ?)", (shared.OPERATOR, key))

    _copy_registry(wish.directory / REGISTRY, place, enter)
    account_file.write_private(wish.directory / MOVED, wish.to.encode())
    return _finish_all(wish, pairs, place, done)


def _finish_all(wish: Wish, pairs: Sequence[tuple[str, Place, Place]], registry: str, done: dict[str, Sums]) -> list[Moved]:
    for _, old, new in pairs:
        moving.settle(new)
        if wish.remove_old:
            moving.remove(old, new)
    drivers.unmark(registry)
    if wish.remove_old:
        for end in ("", "-wal", "-shm"):
            (wish.directory / f"{REGISTRY}{end}").unlink(missing_ok=True)
    return [Moved(name, new, done.get(name)) for name, _, new in pairs]


def _into_directory(wish: Wish) -> list[Moved]:
    target = _new_directory(wish.to, wish.directory)
    part = target.with_name(f".{target.name}-all")
    place, pairs, done = _fetched(wish, part, hot=False)
    part.rename(target)
    trees.sync_directory(target.parent)
    moved = []
    for (name, old, new), sums in zip(pairs, done, strict=True):
        final = target / new.blobs.parent.relative_to(part)
        moved.append(Moved(name, Place(final, final / BLOBS, new.storage), sums))
        if wish.remove_old:
            moving.remove(old, moved[-1].place)
    if wish.remove_old:
        drivers.drop(place)
    return moved


def snapshot(wish: Wish, part: Path, *, content: bool) -> None:
    """A state directory with what a database holds now, whoever is at work there; `content` brings the bytes of blobs."""
    _fetched(wish, part, hot=True, content=content)


def _fetched(wish: Wish, part: Path, *, hot: bool, content: bool = True) -> tuple[str, list[tuple[str, Place, Place]], list[Sums]]:
    """A state directory of what a database holds: where its registry was, the worlds, and their sums."""
    if wish.database is None:
        raise Unmovable("all accounts of a directory move into a database; those of a database, which --database names, into a directory")
    _checked_url(wish.database)
    place = drivers.with_schema(wish.database, f"{drivers.schema(wish.database)}_registry")
    rows, beside, key = _in_registry(place, hot=hot)
    if part.exists():
        trees.remove_tree(part)
    targets = [msgspec.structs.replace(row, location=_in_directory(row)) for row in rows]
    pairs = _pairs(Places(wish.directory, wish.database, wish.blobs), part, rows, targets, beside)
    if not hot:
        _check_tasks(wish, [(name, old) for name, old, _ in pairs])
    done = []
    for _, old, new in pairs:
        done.append(moving.fetch(old, new.blobs.parent, wish.mark, _of_no_server, content=content))
        moving.settle(new)

    def enter(registry: Connection) -> None:
        known = {row.pk for row in rows}
        _forget_storage(registry, {each.pk for found in beside.values() for each in found})
        for (pk,) in registry.execute("SELECT pk FROM account").fetchall():
            if pk not in known:  # made since, or on its way in or out
                registry.execute("DELETE FROM account WHERE pk = ?", (pk,))
                registry.execute("DELETE FROM storage WHERE account_pk = ?", (pk,))
        _relocate(registry, rows, targets)

    _copy_registry(place, part / REGISTRY, enter)
    (part / REGISTRY).chmod(0o600)
    if key is not None:
        account_file.write_private(part / OPERATOR_KEY, f"{key}\n".encode())
    if (wish.directory / authority.DIRECTORY).is_dir():
        shutil.copytree(wish.directory / authority.DIRECTORY, part / authority.DIRECTORY)
    trees.sync_directory(part)
    return place, pairs, done


def _forget_storage(registry: Connection, known: Collection[int]) -> None:
    """What is neither linked to an account nor known was made since, or is on its way in or out."""
    sql = (
        "SELECT storage.pk FROM storage JOIN account ON account.pk = storage.account_pk WHERE lower(storage.name) <> lower(account.storage)"
    )
    for (pk,) in registry.execute(sql).fetchall():
        if pk not in known:
            registry.execute("DELETE FROM storage WHERE pk = ?", (pk,))


Beside = dict[int, tuple[StorageRow, ...]]
"""The storage accounts of each account beside its linked one."""


def _in_registry(place: str, *, hot: bool) -> tuple[list[AccountRow], Beside, str | None]:
    """The accounts that a registry knows, and the operator's key. Raises Unmovable when servers are at work and may not be."""
    if drivers.peek(place, lambda connection: True) is None:
        raise Unmovable(f"there is no schema {drivers.schema(place)}: no server has worked in that database")
    with closing(_registry(place)) as registry:
        rows = _all(registry)
        if not hot and (alive := registry.call(_alive)):
            raise Unmovable(f"servers are at work in the database: {', '.join(alive)}; end them first")
        key = registry.call(lambda tx: secrets.find(tx, shared.OPERATOR))
        beside = _all_beside(registry, rows, hot=hot)
    if hot:
        return [row for row in rows if row.state == ACTIVE], beside, key
    _check_active(rows)
    return rows, beside, key


def _all_beside(registry: Database, rows: Sequence[AccountRow], *, hot: bool = False) -> Beside:
    """Raises Unmovable for one that is on its way in or out, unless servers are at work: then it is left out."""
    return {row.pk: _beside(row, registry.call(storage.of_account, row.pk), hot=hot) for row in rows}


def _beside(row: AccountRow, found: Sequence[StorageRow], *, hot: bool = False) -> tuple[StorageRow, ...]:
    for each in found:
        if each.state != ACTIVE and not hot:
            raise Unmovable(f"the storage account {each.name} is {each.state}: start the server, which goes on with that, and end it")
    return tuple(each for each in found if each.is_beside(row))


def _pairs(
    before: Places, part: Path, rows: Sequence[AccountRow], targets: Sequence[AccountRow], beside: Beside
) -> list[tuple[str, Place, Place]]:
    """Where each world of a database lies and is to lie, the default account's first, whose directory holds the others."""
    pairs = []
    for row, made in sorted(zip(rows, targets, strict=True), key=lambda pair: pair[0].location != DEFAULT):
        if made.location == DEFAULT or made.location.startswith(f"{ACCOUNTS}/"):
            home = part if made.location == DEFAULT else part / made.location
            found = beside[row.pk]
            pairs.append((row.name, Place(*before.place(row), found), Place(home, home / BLOBS, found)))
    return pairs


def _of_no_server(store: Connection) -> None:
    """A directory has one server, and it does not know of others."""
    store.execute("UPDATE node SET server = NULL, version = version + 1 WHERE server IS NOT NULL")


def _registry(location: Path | str) -> Database:
    if isinstance(location, Path) and not location.exists():
        raise Unmovable(f"{location} is missing: no server of this release has worked there")
    return open_store(location, chain=migrate.REGISTRY)


def _copy_registry(old: Path | str, new: Path | str, finish: Callable[[Connection], None]) -> None:
    with moving.reading(old, migrate.REGISTRY) as source, moving.writing(new, migrate.REGISTRY) as target:
        copying.copy(source, target, migrate.REGISTRY, _OF_SERVERS)
        finish(target)
        target.settle()


def _relocate(registry: Connection, rows: Sequence[AccountRow], targets: Sequence[AccountRow]) -> None:
    for row, target in zip(rows, targets, strict=True):
        if row.location != target.location:
            registry.execute("UPDATE account SET location = ?, version = version + 1 WHERE pk = ?", (target.location, row.pk))


def _in_database(row: AccountRow, base: str) -> str:
    if row.location == DEFAULT or drivers.is_postgres(row.location):
        return row.location
    return Places.in_schema(f"{base}_account_{row.name}")


def _in_directory(row: AccountRow) -> str:
    return row.location if row.location == DEFAULT or drivers.is_postgres(row.location) else f"{ACCOUNTS}/{row.name}"


def _all(registry: Database) -> list[AccountRow]:
    def pages() -> Iterator[AccountRow]:
        after = 0
        while found := registry.call(accounts.page, after, _AT_ONCE):
            yield from found
            after = found[-1].pk

    return list(pages())


def _alive(tx: Tx) -> list[str]:
    now = tx.moment()
    return [row.url for row in servers.every(tx) if row.seen > now - _SILENT_US]


def _check_active(rows: Sequence[AccountRow]) -> None:
    for row in rows:
        if row.state != ACTIVE:
            raise Unmovable(f"the account {row.name} is {row.state}: start the server, which goes on with that, and end it")


def _check_tasks(wish: Wish, worlds: Sequence[tuple[str, Place]]) -> None:
    for name, place in worlds:
        if not wish.force and (running := moving.running_tasks(place)):
            raise Unmovable(f"{running} tasks of {name} run; wait for them, or move it all the same with --force")


def _finish(wish: Wish, name: str, new: Place) -> None:
    """What follows the change of the registry; may be repeated."""
    moving.settle(new)
    move = moving.remembered(wish.directory, name)
    if move is not None and move.places[1] == new and wish.remove_old:
        moving.remove(move.places[0], new)
        moving.forget(wish.directory, name)


def _location(wish: Wish) -> str:
    if not drivers.is_postgres(wish.to):
        return str(_new_directory(wish.to, wish.directory))
    _checked_url(wish.to)
    if "schema=" not in wish.to:
        raise Unmovable("the URL has to name a schema of the account's own, as postgresql://host/database?schema=name")
    return wish.to


def _new_directory(to: str, state: Path) -> Path:
    path = Path(to).absolute()
    path = path.parent.resolve() / path.name
    if path.is_relative_to(state.resolve()):
        raise Unmovable(f"the server has the places in {state} to give: name a directory elsewhere")
    if not path.parent.is_dir():
        raise Unmovable(f"{path.parent} is not there")
    return path


def _checked_url(url: str) -> None:
    try:
        config.database(url)
    except config.Misconfigured as error:
        raise Unmovable(str(error)) from None
    if config.has_password(url):
        raise Unmovable("a place is kept and shown, so it says no password: put that into ~/.pgpass")
