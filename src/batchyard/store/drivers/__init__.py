"""Databases that hold a store, each behind the interface of `base`; the rest of the store knows none of them."""

from __future__ import annotations

from pathlib import Path

from batchyard.store.drivers.base import Driver, Wakes
from batchyard.store.drivers.sqlite import SqliteDriver
from batchyard.store.migrate import WORLD


class Unusable(Exception):
    """A location where no store can be; the message is a sentence that says what to change."""


def is_postgres(location: Path | str) -> bool:
    """True for the URL of a PostgreSQL server; everything else is the path of a file."""
    return isinstance(location, str) and location.startswith(("postgres://", "postgresql://"))


def opened(location: Path | str, on_wake: Wakes, chain: str = WORLD) -> Driver:
    """The database at a location, with the newest schema of its chain. Raises Unusable, NewerSchema, and what the database raises."""
    if not is_postgres(location):
        return SqliteDriver(Path(location), chain)
    try:
        from batchyard.store.drivers.postgres import PostgresDriver
    except ImportError:
        raise Unusable("PostgreSQL needs psycopg: pip install 'batchyard[postgres]'") from None
    try:
        return PostgresDriver(str(location), on_wake, chain)
    except ValueError as error:
        raise Unusable(f"the database's URL cannot be used: {error}") from None


def drop(location: Path | str) -> None:
    """Remove the schema of a store in PostgreSQL with all that it holds. Raises Unusable."""
    if not is_postgres(location):
        raise Unusable(f"{location} is a file: remove it and what lies beside it")
    from batchyard.store.drivers import postgres

    postgres.drop(str(location))
