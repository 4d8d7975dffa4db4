"""Numbered migrations, the same for every driver: each file of a directory is applied once, in order, forwards only.

`${KEY}`, `${NAME}` and `${BYTES}` are words of a driver; the first migration says what they mean.
"""

from __future__ import annotations

from importlib import resources

WORLD, REGISTRY = "migrations", "registry"
"""What a database holds: the world of one account, or which accounts there are."""


class NewerSchema(Exception):
    """The database was written by a newer release."""


def migrations(chain: str = WORLD) -> list[tuple[int, str]]:
    """Number and SQL of every migration in order."""
    files = resources.files("batchyard.store").joinpath(chain)
    return sorted((int(file.name[:4]), file.read_text(encoding="utf-8")) for file in files.iterdir() if file.name.endswith(".sql"))


def pending(at: int, chain: str = WORLD) -> list[tuple[int, str]]:
    """The migrations that a database of that version lacks. Raises NewerSchema."""
    known = migrations(chain)
    if at > known[-1][0]:
        raise NewerSchema(f"schema {at}, this release knows {known[-1][0]}")
    return [(number, sql) for number, sql in known if number > at]
