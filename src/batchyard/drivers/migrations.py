"""Numbered migrations, the same for every driver: each file of a directory is applied once, in order, forwards only.

`${KEY}`, `${NAME}` and `${BYTES}` are words of a driver: an integer key in arrival order, the same and never given a second time, and
binary text. What stands in a line that ends in `-- SQLite` is done there only: in PostgreSQL there is nothing of before it.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple


class NewerSchema(Exception):
    """The database was written by a newer release."""


class Chain(NamedTuple):
    """What makes the tables of a kind of database: a directory of a package."""

    package: str
    directory: str = "migrations"

    def migrations(self) -> list[tuple[int, str]]:
        """Number and SQL of every migration in order."""
        files = resources.files(self.package).joinpath(self.directory)
        return sorted((int(file.name[:4]), file.read_text(encoding="utf-8")) for file in files.iterdir() if file.name.endswith(".sql"))

    @property
    def newest(self) -> int:
        """The version that this release makes."""
        return self.migrations()[-1][0]

    def pending(self, at: int) -> list[tuple[int, str]]:
        """The migrations that a database of that version lacks. Raises NewerSchema."""
        known = self.migrations()
        if at > known[-1][0]:
            raise NewerSchema(f"schema {at}, this release knows {known[-1][0]}")
        return [(number, sql) for number, sql in known if number > at]
