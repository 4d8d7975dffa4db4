"""A world in a schema of PostgreSQL, which several servers have open at once, and the registry beside it.

What lets callers in must be the same for all of them, so it lies in the database: the keys of an account in its world, the operator's
and the servers' own, and their authority, in the registry. What a state directory has of it is a copy, for the commands of that machine.
"""

from __future__ import annotations

import secrets as random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from batchyard import drivers
from batchyard.engine.wakes import Wakes
from batchyard.server import account_file
from batchyard.server.account_file import AccountFile
from batchyard.server.refusals import Refused
from batchyard.server.state import DATABASE, MOVED, OPERATOR_KEY, SERVER_ID, State, adopt, drop_storage, open_storage
from batchyard.store import migrate, secrets
from batchyard.store.db import Database, StoreUnavailable, open_store, peek
from batchyard.store.migrate import NewerSchema
from batchyard.store.reader import Reader
from batchyard.store.tx import Taken, Tx

KEYS = "keys"
"""Topic of a world: its account has other keys."""
_ACCOUNT, OPERATOR, _CLUSTER, _AUTHORITY = "account", "operator", "servers", "authority"


def open_world(location: str, home: Path, blobs: Path, hub: Wakes, fresh: Callable[[], AccountFile] = account_file.fresh) -> State:
    """The world in a schema, made there when it is new; `home` is for what this server alone has of it. Raises Refused, OSError."""
    with _refusing(location):
        db = open_store(location, hub)
        try:
            text = db.call(secrets.first, _ACCOUNT, account_file.encoded(fresh()).decode())
            account = account_file.decoded(text, f"the account in schema {drivers.schema(location)}")
            home.mkdir(mode=0o711, parents=True, exist_ok=True)
            blobs.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            store, queues = open_storage(blobs, location)
        except BaseException:
            db.close()
            raise
    return account, db, store, queues


def open_default(directory: Path, location: str, blobs: Path, hub: Wakes) -> State:
    """The world of the default account, with a copy of its keys in the state directory. Raises Refused."""
    moved = (directory / MOVED).read_text() if (directory / MOVED).exists() else None
    if moved is not None and not _same(moved, location):
        raise Refused(f"the accounts of {directory} were moved elsewhere: start it with --database '{moved}'")
    if moved is None and (directory / DATABASE).exists():
        raise Refused(f"{directory / DATABASE} holds the account already: see `batchyard migrate`, or choose another --dir")
    try:
        state = open_world(location, directory, blobs, hub)
        keep_copy(directory, state[0])
    except (OSError, RuntimeError) as error:
        raise Refused(f"what {directory} holds cannot be used ({error})") from None
    return state


def _same(one: str, other: str) -> bool:
    """True for URLs of the same schema on the same server, whoever connects and how."""

    def place(url: str) -> tuple[object, ...]:
        parts = urlsplit(url)
        hosts = [value for name, value in parse_qsl(parts.query) if name in ("host", "port")]
        return parts.hostname, parts.port, parts.path, hosts, drivers.schema(url)

    return place(one) == place(other)


def keep_copy(directory: Path, account: AccountFile) -> None:
    """The account beside the server, where the commands of this machine look for it. Raises OSError."""
    path = directory / account_file.NAME
    with suppress(account_file.Unusable):
        if account_file.read(path) == account:
            return
    account_file.store(path, account)


def open_registry(location: str, account: AccountFile, now: int) -> Database:
    """The registry in a schema, which knows the default account. Raises Refused."""
    with _refusing(location):
        registry = open_store(location, lambda topics: None, migrate.REGISTRY)
        try:
            registry.call(adopt, account, now)
        except BaseException as error:
            registry.close()
            if isinstance(error, Taken):
                raise Refused(f"the {error} of the account of this server is that of another account in the database") from None
            raise
    return registry


def operator_key(directory: Path, registry: Database) -> str:
    """The key of who makes and removes accounts, the same for all servers, with a copy in the state directory. Raises Refused."""
    path = directory / OPERATOR_KEY
    try:
        key = account_file.valid_key(registry.call(secrets.first, OPERATOR, account_file.new_key()), "the operator's key in the database")
        with suppress(FileNotFoundError, UnicodeDecodeError):
            if path.read_text(encoding="ascii").strip() == key:
                return key
        account_file.write_private(path, f"{key}\n".encode())
    except (account_file.Unusable, OSError) as error:
        raise Refused(str(error)) from None
    return key


def cluster_key(registry: Database) -> bytes:
    """What the servers know one another by."""
    return registry.call(secrets.first, _CLUSTER, account_file.new_key()).encode()


def authority(registry: Database, own: str) -> str:
    """Key and certificate of the authority that vouches for all servers: the first one's."""
    return registry.call(secrets.first, _AUTHORITY, own)


def server_id(directory: Path) -> str:
    """Which server this is, the same in every life of it: a state directory has one server at a time. Raises OSError."""
    path = directory / SERVER_ID
    with suppress(FileNotFoundError, UnicodeDecodeError):
        if found := path.read_text(encoding="ascii").strip():
            return found
    made = random.token_hex(8)
    account_file.write_private(path, made.encode())
    return made


def keys(location: str) -> AccountFile | None:
    """The account of a world that need not be open here; None when there is none. Raises Unusable, StoreUnavailable."""
    text = peek(location, lambda reader: secrets.find(reader, _ACCOUNT))
    return None if text is None else account_file.decoded(text, "the account in the database")


def keys_in(reader: Reader) -> AccountFile:
    """The account of a world. Raises Unusable."""
    return account_file.decoded(secrets.find(reader, _ACCOUNT) or "", "the account in the database")


def change_keys(location: str, change: Callable[[AccountFile], AccountFile]) -> AccountFile:
    """Put other keys in the place of those of a world; every server hears of it. Raises Refused, Unusable."""
    with _refusing(location):
        db = open_store(location)
        try:
            return db.call(_change_keys, change)
        finally:
            db.close()


def _change_keys(tx: Tx, change: Callable[[AccountFile], AccountFile]) -> AccountFile:
    account = change(account_file.decoded(secrets.find(tx, _ACCOUNT) or "", "the account in the database"))
    secrets.keep(tx, _ACCOUNT, account_file.encoded(account).decode())
    tx.wake(KEYS)
    return account


def remove(location: str) -> None:
    """Remove a world with all that it holds. Raises Refused."""
    with _refusing(location):
        drop_storage(location)
        drivers.drop(location)


def exists(location: str) -> bool:
    """True when there is a store in the schema. Raises Refused."""
    with _refusing(location):
        return peek(location, lambda reader: True) is not None


@contextmanager
def _refusing(location: str) -> Iterator[None]:
    """What PostgreSQL refuses is said in one sentence, without the URL, which may have a password."""
    try:
        yield
    except NewerSchema as newer:
        raise Refused(f"the database was written by a newer release ({newer}); install that one") from None
    except (drivers.Unusable, account_file.Unusable, RuntimeError) as error:
        raise Refused(str(error)) from None
    except Exception as error:
        if not drivers.of_postgres(error) and not isinstance(error, StoreUnavailable):
            raise
        raise Refused(f"the database with schema {drivers.schema(location)} cannot be used ({' '.join(str(error).split())})") from None
