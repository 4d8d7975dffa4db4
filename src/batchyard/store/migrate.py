"""Numbered migrations: each file of migrations/ is applied once, in order, in a transaction of its own."""

from __future__ import annotations

import sqlite3
from importlib import resources
from string import Template

_SQLITE = {"KEY": "INTEGER PRIMARY KEY", "NAME": "INTEGER PRIMARY KEY AUTOINCREMENT", "BYTES": "BLOB"}


class NewerSchema(Exception):
    """The database was written by a newer release."""


def migrations() -> list[tuple[int, str]]:
    """Number and SQL of every migration in order."""
    files = resources.files("batchyard.store").joinpath("migrations")
    return sorted((int(file.name[:4]), file.read_text(encoding="utf-8")) for file in files.iterdir() if file.name.endswith(".sql"))


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest version. Raises NewerSchema."""
    (at,) = connection.execute("PRAGMA user_version").fetchone()
    known = migrations()
    if at > known[-1][0]:
        raise NewerSchema(f"schema {at}, this release knows {known[-1][0]}")
    for number, sql in known:
        if number > at:
            _apply(connection, number, sql)


def build(connection: sqlite3.Connection, version: int) -> None:
    """Make in an empty database what one of that version holds; nothing for that of a newer release, which is not known here."""
    known = migrations()
    for number, sql in known:
        if number <= version <= known[-1][0]:
            _apply(connection, number, sql)


def _apply(connection: sqlite3.Connection, number: int, sql: str) -> None:
    connection.executescript(f"BEGIN;\n{Template(sql).substitute(_SQLITE)}\nPRAGMA user_version = {number};\nCOMMIT;")
