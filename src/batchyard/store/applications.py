"""Rows of applications and of their packages."""

from __future__ import annotations

from typing import Any

import msgspec

from batchyard.store.reader import Change, Reader, Statement, columns
from batchyard.store.tx import Tx, Versioned


class ApplicationRow(msgspec.Struct):
    """A row of `application`."""

    pk: int
    id: str
    display_name: str | None
    allow_updates: int
    default_version: str | None
    created: int
    modified: int
    version: int


class PackageRow(msgspec.Struct):
    """A row of `application_package`."""

    pk: int
    application_pk: int
    name: str
    blob: str
    bytes: int
    created: int
    version: int


ROWS = Versioned("application", ApplicationRow, states=())
_COLUMNS, _PACKAGE = columns(ApplicationRow), columns(PackageRow)
_BY_ID = Statement(f"SELECT {_COLUMNS} FROM application WHERE lower(id) = :key", ApplicationRow)
_PAGE = Statement(f"SELECT {_COLUMNS} FROM application WHERE pk > :after ORDER BY pk LIMIT :n", ApplicationRow)
_USABLE = Statement(
    f"SELECT {_COLUMNS} FROM application WHERE pk > :after"
    " AND EXISTS (SELECT 1 FROM application_package WHERE application_pk = application.pk) ORDER BY pk LIMIT :n",
    ApplicationRow,
)
_COUNT = Statement("SELECT count(*) FROM application", int)
_DELETE = Change("DELETE FROM application WHERE pk = :pk")
_PACKAGES = Statement(f"SELECT {_PACKAGE} FROM application_package WHERE application_pk = :pk ORDER BY pk", PackageRow)
_BY_NAME = Statement(f"SELECT {_PACKAGE} FROM application_package WHERE application_pk = :pk AND lower(name) = :key", PackageRow)
_BLOBS = Statement("SELECT blob FROM application_package", str)
_DELETE_PACKAGE = Change("DELETE FROM application_package WHERE pk = :pk")
_DELETE_PACKAGES = Change("DELETE FROM application_package WHERE application_pk = :pk")


def find(reader: Reader, application_id: str) -> ApplicationRow | None:
    """Application by id, case-insensitively."""
    return reader.first(_BY_ID, key=application_id.lower())


def page(reader: Reader, after: int, n: int, *, usable: bool = False) -> list[ApplicationRow]:
    """The next `n` applications behind key `after`; with `usable` only those that have a package."""
    return reader.all(_USABLE if usable else _PAGE, after=after, n=n)


def count(reader: Reader) -> int:
    """How many applications there are."""
    return reader.first(_COUNT) or 0


def add(tx: Tx, **values: Any) -> int:
    """Insert an application; its key."""
    return tx.insert("application", **values)


def move(tx: Tx, row: ApplicationRow, **changes: Any) -> ApplicationRow:
    """Change an application that nobody changed since it was read; the application as it is then."""
    return tx.move(ROWS, row, changes)


def delete(tx: Tx, pk: int) -> None:
    """Remove an application and its packages."""
    tx.change(_DELETE_PACKAGES, pk=pk)
    tx.change(_DELETE, pk=pk)


def packages(reader: Reader, application_pk: int) -> list[PackageRow]:
    """All packages of an application, the oldest first."""
    return reader.all(_PACKAGES, pk=application_pk)


def package(reader: Reader, application_pk: int, name: str) -> PackageRow | None:
    """Package of an application by its version, case-insensitively."""
    return reader.first(_BY_NAME, pk=application_pk, key=name.lower())


def blobs(reader: Reader) -> set[str]:
    """Names of all packages' blobs."""
    return set(reader.all(_BLOBS))


def add_package(tx: Tx, **values: Any) -> int:
    """Insert a package; its key."""
    return tx.insert("application_package", **values)


def delete_package(tx: Tx, pk: int) -> None:
    """Remove a package."""
    tx.change(_DELETE_PACKAGE, pk=pk)
