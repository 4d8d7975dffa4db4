"""Use cases of applications and their packages (contract 4.6); the zip file itself was stored before, as a blob of its own."""

from __future__ import annotations

from batchyard.engine.checks import demands
from batchyard.model.application import ApplicationPatch, ApplicationPut
from batchyard.model.errors import BatchError, invalid_property
from batchyard.rules import packages
from batchyard.store import applications as rows
from batchyard.store.applications import ApplicationRow, PackageRow
from batchyard.store.reader import Reader
from batchyard.store.tx import Tx

_NAMES = "1 to 64 letters, digits, hyphens and underscores"

Shown = tuple[ApplicationRow, list[PackageRow]]
"""An application and its packages."""


def check_names(application_id: str, version: str | None = None) -> None:
    """Refuse names that none may have. Raises InvalidPropertyValue."""
    if not packages.is_application(application_id):
        raise invalid_property("applicationId", application_id[:100], f"The id of an application is {_NAMES}")
    if version is not None and not packages.is_version(version):
        raise invalid_property("version", version[:100], f"A version is {_NAMES}, or dots")


def get(reader: Reader, application_id: str) -> Shown:
    """An application. Raises ApplicationNotFound."""
    row = _find(reader, application_id)
    return row, rows.packages(reader, row.pk)


def usable(reader: Reader, application_id: str) -> Shown:
    """An application that has a package. Raises ApplicationNotFound."""
    found = get(reader, application_id)
    if not found[1]:
        raise BatchError("ApplicationNotFound")
    return found


def page(reader: Reader, after: int, n: int, *, usable: bool) -> list[Shown]:
    """The next `n` applications behind a key."""
    return [(row, rows.packages(reader, row.pk)) for row in rows.page(reader, after, n, usable=usable)]


def put(tx: Tx, application_id: str, wish: ApplicationPut, now: int) -> tuple[Shown, bool]:
    """Make an application, or give it these properties; whether it is new. Raises OperationInvalidForCurrentState."""
    check_names(application_id)
    old = rows.find(tx, application_id)
    demands.a_display_name(wish.display_name)
    values = {"display_name": wish.display_name, "allow_updates": int(wish.allow_updates is not False)}
    if old is None:
        _add(tx, application_id, now, **values)
    else:
        rows.move(tx, old, modified=max(now, old.modified + 1), **values)
    return get(tx, application_id), old is None


def patch(tx: Tx, application_id: str, wish: ApplicationPatch, now: int) -> Shown:
    """Change properties of an application. Raises ApplicationNotFound, InvalidPropertyValue."""
    row, changes = _find(tx, application_id), dict[str, object]()
    if isinstance(wish.display_name, str | None):
        demands.a_display_name(wish.display_name)
        changes["display_name"] = wish.display_name
    if isinstance(wish.allow_updates, bool | None):
        changes["allow_updates"] = int(wish.allow_updates is not False)
    if isinstance(wish.default_version, str):
        package = rows.package(tx, row.pk, wish.default_version)
        if package is None:
            raise invalid_property("defaultVersion", wish.default_version[:100], "The application has no package of this version")
        changes["default_version"] = package.name
    elif wish.default_version is None:
        changes["default_version"] = None
    rows.move(tx, row, modified=max(now, row.modified + 1), **changes)
    tx.log(now, "application", row.pk, "changed", cause=", ".join(sorted(changes)))
    return get(tx, application_id)


def check_room(reader: Reader, application_id: str, version: str) -> None:
    """Refuse a package that could not be added, before its content comes. Raises OperationInvalidForCurrentState."""
    check_names(application_id, version)
    row = rows.find(reader, application_id)
    if row is None:
        _check_count(reader)
        return
    if rows.package(reader, row.pk, version) is not None:
        _check_updates(row)
    elif len(rows.packages(reader, row.pk)) >= packages.MOST_VERSIONS:
        raise _not_now(f"An application has at most {packages.MOST_VERSIONS} packages")


def add_package(tx: Tx, application_id: str, version: str, blob: str, size: int, now: int) -> tuple[Shown, str | None]:
    """Add a package, or replace one; with the name of the blob that nobody needs any more. Raises OperationInvalidForCurrentState."""
    check_room(tx, application_id, version)
    row = rows.find(tx, application_id) or _add(tx, application_id, now)
    old = rows.package(tx, row.pk, version)
    if old is not None:
        rows.delete_package(tx, old.pk)
    rows.add_package(tx, application_pk=row.pk, name=version if old is None else old.name, blob=blob, bytes=size, created=now)
    rows.move(tx, row, modified=max(now, row.modified + 1))
    tx.log(now, "application", row.pk, "package added" if old is None else "package replaced", cause=version)
    return get(tx, application_id), None if old is None else old.blob


def delete(tx: Tx, application_id: str, now: int) -> list[str]:
    """Delete an application and its packages; the names of their blobs. Raises ApplicationNotFound, OperationInvalidForCurrentState."""
    row, found = get(tx, application_id)
    if found:
        _check_updates(row)
    rows.delete(tx, row.pk)
    tx.log(now, "application", row.pk, "deleted")
    return [package.blob for package in found]


def delete_package(tx: Tx, application_id: str, version: str, now: int) -> str:
    """Delete a package, the default one too; its blob's name. Raises ApplicationNotFound, ResourceNotFound, OperationInvalid…"""
    row = _find(tx, application_id)
    package = rows.package(tx, row.pk, version)
    if package is None:
        raise BatchError("ResourceNotFound")
    _check_updates(row)
    rows.delete_package(tx, package.pk)
    default = None if row.default_version == package.name else row.default_version
    rows.move(tx, row, modified=max(now, row.modified + 1), default_version=default)
    tx.log(now, "application", row.pk, "package deleted", cause=version)
    return package.blob


def _find(reader: Reader, application_id: str) -> ApplicationRow:
    row = rows.find(reader, application_id)
    if row is None:
        raise BatchError("ApplicationNotFound")
    return row


def _add(tx: Tx, application_id: str, now: int, **values: object) -> ApplicationRow:
    _check_count(tx)
    pk = rows.add(tx, id=application_id, created=now, modified=now, **values)
    tx.log(now, "application", pk, "added")
    return _find(tx, application_id)


def _check_count(reader: Reader) -> None:
    if rows.count(reader) >= packages.MOST_APPLICATIONS:
        raise _not_now(f"An account has at most {packages.MOST_APPLICATIONS} applications")


def _check_updates(row: ApplicationRow) -> None:
    if not row.allow_updates:
        raise _not_now("The application does not allow that its packages are replaced or deleted: allowUpdates is false")


def _not_now(reason: str) -> BatchError:
    return BatchError("OperationInvalidForCurrentState", Reason=reason)
