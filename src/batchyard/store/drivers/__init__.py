"""Databases that hold a store, each behind the interface of `base`; the rest of the store knows none of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from batchyard.store.drivers.base import Connection, Driver, Wakes
from batchyard.store.drivers.sqlite import SqliteDriver
from batchyard.store.migrate import WORLD

T = TypeVar("T")

_MISSING = "PostgreSQL needs psycopg: pip install 'batchyard[postgres]'"


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
        raise Unusable(_MISSING) from None
    try:
        return PostgresDriver(str(location), on_wake, chain)
    except ValueError as error:
        raise Unusable(f"the database's URL cannot be used: {error}") from None


def schema(location: str) -> str:
    """The schema that a URL names. Raises Unusable."""
    try:
        from batchyard.store.drivers.postgres_words import locate
    except ImportError:
        raise Unusable(_MISSING) from None
    try:
        return locate(location).schema
    except ValueError as error:
        raise Unusable(f"the database's URL cannot be used: {error}") from None


def with_schema(location: str, name: str) -> str:
    """The URL of another schema of the same database."""
    parts = urlsplit(location)
    rest = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "schema"]
    return urlunsplit(parts._replace(query=urlencode([*rest, ("schema", name)], quote_via=quote)))


def peek(location: str, query: Callable[[Connection], T]) -> T | None:
    """What a query finds in a PostgreSQL store that is not open here; None when there is no such store. Raises what the database raises."""
    from batchyard.store.drivers import postgres

    return postgres.peek(location, query)


def away(error: BaseException) -> bool:
    """True for what PostgreSQL says, or nobody says, while it cannot be used for now."""
    from batchyard.store.drivers import postgres

    return postgres.passing(error)


def of_postgres(error: BaseException) -> bool:
    """True for any error of PostgreSQL."""
    found = sys.modules.get("psycopg")
    return found is not None and isinstance(error, found.Error)


def drop(location: Path | str) -> None:
    """Remove the schema of a store in PostgreSQL with all that it holds. Raises Unusable."""
    if not is_postgres(location):
        raise Unusable(f"{location} is a file: remove it and what lies beside it")
    from batchyard.store.drivers import postgres

    postgres.drop(str(location))
