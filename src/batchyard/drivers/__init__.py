"""Databases that hold a store or a catalogue, each behind the interface of `base`; whose tables they are knows none of them."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from batchyard.drivers.base import Connection, Driver, Use, Wakes
from batchyard.drivers.migrations import NewerSchema
from batchyard.drivers.sqlite import SqliteDriver


class Unusable(Exception):
    """A location where no database can be; the message is a sentence that says what to change."""


T = TypeVar("T")

_NO_PSYCOPG = "PostgreSQL needs psycopg: pip install 'batchyard[postgres]'"


def is_postgres(location: Path | str) -> bool:
    """True for the URL of a PostgreSQL server; everything else is the path of a file."""
    return isinstance(location, str) and location.startswith(("postgres://", "postgresql://"))


def opened(location: Path | str, use: Use, on_wake: Wakes | None = None) -> Driver:
    """The database at a location, with the newest schema of its chain; `on_wake` hears what other servers' commits wake.

    Raises Unusable, NewerSchema, and what the database raises.
    """
    if not is_postgres(location):
        return SqliteDriver(Path(location), use)
    try:
        from batchyard.drivers.postgres import PostgresDriver
    except ImportError:
        raise Unusable(_NO_PSYCOPG) from None
    try:
        return PostgresDriver(str(location), use, on_wake)
    except ValueError as error:
        raise Unusable(f"the database's URL cannot be used: {error}") from None


def beside(location: str, name: str) -> str:
    """Where what belongs to a store in PostgreSQL lies: the schema beside it that is called as the store's and `_NAME`. Raises Unusable."""
    try:
        from batchyard.drivers import postgres_words
    except ImportError:
        raise Unusable(_NO_PSYCOPG) from None
    try:
        return postgres_words.beside(location, name)
    except ValueError as error:
        raise Unusable(f"the database's URL cannot be used: {error}") from None


def schema(location: str) -> str:
    """The schema that a URL names. Raises Unusable."""
    try:
        from batchyard.drivers.postgres_words import locate
    except ImportError:
        raise Unusable(_NO_PSYCOPG) from None
    try:
        return locate(location).schema
    except ValueError as error:
        raise Unusable(f"the database's URL cannot be used: {error}") from None


def with_schema(location: str, name: str) -> str:
    """The URL of another schema of the same database."""
    parts = urlsplit(location)
    rest = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != "schema"]
    return urlunsplit(parts._replace(query=urlencode([*rest, ("schema", name)], quote_via=quote)))


def reserve(location: str, mark: str) -> bool:
    """Make a schema of PostgreSQL and mark it; one with that mark is made anew. False for a schema that is there otherwise."""
    from batchyard.drivers import postgres

    return postgres.reserve(location, mark)


def unmark(location: str) -> None:
    """Take the mark from a schema: it is what it was to be."""
    from batchyard.drivers import postgres

    postgres.unmark(location)


def peek(location: str, query: Callable[[Connection], T]) -> T | None:
    """What a query finds in a PostgreSQL store that is not open here; None when there is no such store. Raises what the database raises."""
    from batchyard.drivers import postgres

    return postgres.peek(location, query)


def away(error: BaseException) -> bool:
    """True for what PostgreSQL says, or nobody says, while it cannot be used for now."""
    from batchyard.drivers import postgres

    return postgres.passing(error)


def of_postgres(error: BaseException) -> bool:
    """True for any error of PostgreSQL."""
    found = sys.modules.get("psycopg")
    return found is not None and isinstance(error, found.Error)


def of_database(error: BaseException) -> bool:
    """True for any error of a database, for one whose schema is too new, and for a location where none can be."""
    return isinstance(error, sqlite3.Error | NewerSchema | Unusable) or of_postgres(error)


def drop(location: Path | str) -> None:
    """Remove the schema of a store in PostgreSQL with all that it holds. Raises Unusable."""
    if not is_postgres(location):
        raise Unusable(f"{location} is a file: remove it and what lies beside it")
    from batchyard.drivers import postgres

    postgres.drop(str(location))
